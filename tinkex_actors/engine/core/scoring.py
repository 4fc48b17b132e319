"""Logprobs of a given text: of its own tokens, of chosen ones, of the likeliest ones, and of others drawn."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

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

__all__ = [
    "MAX_CELLS",
    "MAX_TOPK",
    "Alternatives",
    "Topk",
    "draw_alternatives",
    "prompt_logprobs",
    "target_logprobs",
    "topk_prompt",
]

MAX_TOPK = 128
"""The most alternatives per position that ``topk_prompt`` returns."""


MAX_CELLS = 262_144
"""The most tokens that ``target_logprobs`` scores, and ``draw_alternatives`` draws, for one prompt."""

_EMPTY_LOGPROB = -99999.0


class Topk(NamedTuple):
    """The likeliest tokens at each position of a prompt, best first: ids int32 and logprobs float32, both ``[P, k]``.

    Row 0 has no tokens before it: it holds the protocol's empty cells (2.4), id 0 with -99999.
    """

    token_ids: npt.NDArray[np.int32]
    logprobs: npt.NDArray[np.float32]


class Alternatives(NamedTuple):
    """Tokens drawn at each position of a prompt: ids int32 and their logprobs float32, both ``[P - 1, k]``.

    Row ``i`` stands where the prompt has token ``i + 1``. Logprobs are the model's own, at temperature 1.
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
    found = target_logprobs(base, adapter, tokens, tokens[1:, None])
    return np.concatenate([np.array([np.nan], np.float32), found[:, 0]])


def target_logprobs(
    base: BaseModel, adapter: Adapter | None, tokens: npt.NDArray[np.int32], targets: npt.NDArray[np.integer[Any]]
) -> npt.NDArray[np.float32]:
    """Return the logprobs of chosen tokens at each position of a prompt, given the prompt before it.

    Args:
        base: the model.
        adapter: the adapter to apply, or None.
        tokens: int32 ``[P]``.
        targets: ids ``[P - 1, K]``; row ``i`` stands where the prompt has token ``i + 1``. -1 leaves a cell out.

    Returns:
        float32 ``[P - 1, K]``, 0 where a cell was left out.

    Raises:
        InputError: as ``prompt_logprobs``; targets of another shape, too many, or ids that the model does not have.
    """
    padded = _padded(base, tokens)
    rows = tokens.size - 1
    if targets.ndim != 2 or targets.shape[0] != rows:
        raise InputError(
            f"target_prompt_logprobs: expected shape [{rows}, K] for a prompt of {tokens.size} tokens, got "
            f"{list(targets.shape)}"
        )
    if targets.size > MAX_CELLS:
        raise InputError(f"target_prompt_logprobs: expected at most {MAX_CELLS} cells, got {targets.size}")
    if targets.size and not (targets.min() >= -1 and targets.max() < base.config.vocab):
        raise InputError(
            f"target_prompt_logprobs: expected ids of 0 to {base.config.vocab - 1}, or -1 for none, got "
            f"{targets.min()} to {targets.max()}"
        )
    width = 1 << max(targets.shape[1] - 1, 0).bit_length()
    asked = np.zeros((padded.shape[1], width), np.int32)
    asked[:rows, : targets.shape[1]] = np.maximum(targets, 0)
    flat, spec = _parts(adapter)
    found = np.asarray(_target_logprobs(base.weights, flat, padded, asked, base.config, spec))
    return np.where(targets >= 0, found[:rows, : targets.shape[1]], np.float32(0))


def draw_alternatives(
    base: BaseModel,
    adapter: Adapter | None,
    tokens: npt.NDArray[np.int32],
    k: int,
    *,
    temperature: float,
    seed: int,
) -> Alternatives:
    """Draw ``k`` tokens at each position of a prompt, independently, given the prompt before it.

    Equal arguments give equal draws.

    Args:
        base: the model.
        adapter: the adapter to apply, or None.
        tokens: int32 ``[P]``.
        k: draws per position, 1 or more.
        temperature: divides the logits; 0 takes the likeliest token each time.
        seed: any integer.

    Raises:
        InputError: as ``prompt_logprobs``, or too many draws.
    """
    if k < 1 or tokens.size * k > MAX_CELLS:
        raise InputError(
            f"prompt_alt_tokens_k: expected 1 or more, and at most {MAX_CELLS} draws for the prompt, got {k} for each "
            f"of {tokens.size} tokens"
        )
    padded = _padded(base, tokens)
    flat, spec = _parts(adapter)
    high_low = np.array([seed >> 32 & 0xFFFFFFFF, seed & 0xFFFFFFFF], np.uint32)
    ids, values = _alternatives(base.weights, flat, padded, high_low, np.float32(temperature), base.config, spec, k)
    kept = slice(tokens.size - 1)
    return Alternatives(np.asarray(ids)[kept], np.asarray(values)[kept])


def topk_prompt(
    base: BaseModel,
    adapter: Adapter | None,
    tokens: npt.NDArray[np.int32],
    k: int,
    *,
    field: str = "topk_prompt_logprobs",
) -> Topk:
    """Return the ``k`` likeliest tokens at every position of a prompt, given the tokens before it.

    Args:
        base: the model.
        adapter: the adapter to apply, or None.
        tokens: int32 ``[P]``.
        k: 1 to ``MAX_TOPK``, and no more than the model has tokens.
        field: what the request calls ``k``, for the message of its refusal.

    Raises:
        InputError: as ``prompt_logprobs``, or ``k`` out of range.
    """
    most = min(MAX_TOPK, base.config.vocab)
    if not 1 <= k <= most:
        raise InputError(f"{field}: expected 1 to {most}, got {k}")
    padded = _padded(base, tokens)
    flat, spec = _parts(adapter)
    # Padded to a power of two, so that neighbouring k share a compilation.
    width = min(1 << (k - 1).bit_length(), base.config.vocab)
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
    hidden = hidden_states(weights, lora, tokens, config)
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
    return jnp.take_along_axis(scores, targets, axis=1) - jax.nn.logsumexp(scores, axis=-1, keepdims=True)


@partial(jax.jit, static_argnums=(5, 6, 7))
def _alternatives(
    weights: Weights,
    flat: jax.Array | None,
    tokens: jax.Array,
    seed: jax.Array,
    temperature: jax.Array,
    config: ModelConfig,
    spec: LoraSpec | None,
    k: int,
) -> tuple[jax.Array, jax.Array]:
    scores = _scores(weights, flat, tokens, config, spec)
    greedy = temperature <= 0
    tempered = scores / jnp.where(greedy, 1.0, temperature)
    root = jax.random.wrap_key_data(seed, impl="threefry2x32")

    def draw(index: jax.Array) -> jax.Array:
        noise = jax.random.gumbel(jax.random.fold_in(root, index), scores.shape)
        return jnp.argmax(jnp.where(greedy, scores, tempered + noise), axis=-1)

    # One draw after the other: noise for all of them at once would be k times the logits.
    ids = lax.map(draw, jnp.arange(k)).T
    values = jnp.take_along_axis(scores, ids, axis=1) - jax.nn.logsumexp(scores, axis=-1, keepdims=True)
    return ids.astype(jnp.int32), values


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
