"""Logprobs of a given text: of its own tokens, of chosen alternatives, and of the likeliest ones."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import lax

from tinkex_actors.engine.core.architecture import ModelConfig, Weights
from tinkex_actors.engine.core.batching import check_tokens, length_bucket
from tinkex_actors.engine.core.forward import Lora, hidden_states, logits
from tinkex_actors.engine.core.lora import Adapter, LoraSpec, unflatten
from tinkex_actors.engine.core.model import BaseModel
from tinkex_actors.errors import InputError

__all__ = ["MAX_TOPK", "Topk", "prompt_logprobs", "topk_prompt"]

MAX_TOPK = 128
"""The most alternatives per position that ``topk_prompt`` returns."""


_EMPTY_LOGPROB = -99999.0


class Topk(NamedTuple):
    """The likeliest tokens at each position of a prompt, best first: ids int32 and logprobs float32, both ``[P, k]``.

    Row 0 has no tokens before it: it holds the protocol's empty cells (2.4), id 0 with -99999.
    """

    token_ids: npt.NDArray[np.int32]
    logprobs: npt.NDArray[np.float32]


def prompt_logprobs(base: BaseModel, adapter: Adapter | None, tokens: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    """Return the logprob of every token of a prompt given those before it: float32 ``[P]``, the first NaN.

    Args:
        base: the model.
        adapter: the adapter to apply, or None.
        tokens: int32 ``[P]``.

    Raises:
        InputError: an empty prompt, one that is too long, or an id that the model does not have.
    """
    padded = _padded(base, tokens)
    targets = np.zeros_like(padded)
    targets[:, :-1] = padded[:, 1:]
    flat, spec = _parts(adapter)
    found = np.asarray(_target_logprobs(base.weights, flat, padded, targets, base.config, spec))
    return np.concatenate([np.array([np.nan], np.float32), found[: tokens.size - 1]])


def topk_prompt(base: BaseModel, adapter: Adapter | None, tokens: npt.NDArray[np.int32], k: int) -> Topk:
    """Return the ``k`` likeliest tokens at every position of a prompt, given the tokens before it.

    Args:
        base: the model.
        adapter: the adapter to apply, or None.
        tokens: int32 ``[P]``.
        k: 1 to ``MAX_TOPK``.

    Raises:
        InputError: as ``prompt_logprobs``, or ``k`` out of range.
    """
    if not 1 <= k <= MAX_TOPK:
        raise InputError(f"topk_prompt_logprobs: expected 1 to {MAX_TOPK}, got {k}")
    padded = _padded(base, tokens)
    flat, spec = _parts(adapter)
    # Padded to a power of two, so that neighbouring k share a compilation.
    width = 1 << (k - 1).bit_length()
    ids, values = _topk_logprobs(base.weights, flat, padded, base.config, spec, width)
    kept = slice(tokens.size - 1)
    none = np.full((1, k), _EMPTY_LOGPROB, np.float32)
    return Topk(
        np.concatenate([np.zeros((1, k), np.int32), np.asarray(ids)[kept, :k]]),
        np.concatenate([none, np.asarray(values)[kept, :k]]),
    )


def _padded(base: BaseModel, tokens: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    check_tokens(tokens, base.config, "prompt")
    padded = np.zeros((1, length_bucket(tokens.size)), np.int32)
    padded[0, : tokens.size] = tokens
    return padded


def _parts(adapter: Adapter | None) -> tuple[jax.Array | None, LoraSpec | None]:
    return (None, None) if adapter is None else (adapter.params, adapter.spec.shape)


def _scores(
    weights: Weights, flat: jax.Array | None, tokens: jax.Array, config: ModelConfig, spec: LoraSpec | None
) -> jax.Array:
    lora = None if flat is None or spec is None else Lora(unflatten(flat, config, spec), spec.scale)
    hidden, _ = hidden_states(weights, lora, tokens, config)
    return logits(weights, lora, hidden)


@partial(jax.jit, static_argnums=(4, 5))
def _target_logprobs(
    weights: Weights,
    flat: jax.Array | None,
    tokens: jax.Array,
    targets: jax.Array,
    config: ModelConfig,
    spec: LoraSpec | None,
) -> jax.Array:
    scores = _scores(weights, flat, tokens, config, spec)
    picked = jnp.take_along_axis(scores, targets.reshape(-1, 1), axis=1)[:, 0]
    return picked - jax.nn.logsumexp(scores, axis=-1)


@partial(jax.jit, static_argnums=(3, 4, 5))
def _topk_logprobs(
    weights: Weights,
    flat: jax.Array | None,
    tokens: jax.Array,
    config: ModelConfig,
    spec: LoraSpec | None,
    width: int,
) -> tuple[jax.Array, jax.Array]:
    scores = _scores(weights, flat, tokens, config, spec)
    values, ids = lax.top_k(scores, width)
    return ids, values - jax.nn.logsumexp(scores, axis=-1, keepdims=True)
