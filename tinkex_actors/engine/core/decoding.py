"""The compiled pieces of sampling: prefill, copying the cache to rows, and a chunk of decoded tokens."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from tinkex_actors.engine.core.architecture import ModelConfig, Weights
from tinkex_actors.engine.core.forward import KeyValueCache, Lora, hidden_states, logits, next_hidden
from tinkex_actors.engine.core.lora import LoraSpec, unflatten

__all__ = ["CHUNKS", "Choice", "DecodeState", "decode_chunk", "prefill", "spread"]

CHUNKS = (1, 4, 16)
"""How many tokens one compiled call may decode. Stops are looked for in between; short answers take the short calls."""


class DecodeState(NamedTuple):
    """Rows in decoding: logits of the next token float32 ``[B, vocab]``, the cache, the next token's position."""

    scores: jax.Array
    cache: KeyValueCache
    position: jax.Array


class Choice(NamedTuple):
    """How tokens are drawn; traced, so that other values do not recompile.

    ``seed`` is uint32 ``[2]``, high half first; ``first_row`` int32, the sample index of row 0; ``temperature``
    float32, 0 for the likeliest token; ``top_k`` int32, the vocabulary's size for no limit; ``top_p`` float32, above 1
    for no limit.
    """

    seed: jax.Array
    first_row: jax.Array
    temperature: jax.Array
    top_k: jax.Array
    top_p: jax.Array


@partial(jax.jit, static_argnums=(4, 5))
def prefill(
    weights: Weights,
    params: jax.Array | None,
    tokens: jax.Array,
    length: jax.Array,
    config: ModelConfig,
    spec: LoraSpec | None,
) -> tuple[jax.Array, KeyValueCache]:
    """Read one prompt.

    Args:
        weights: the base model.
        params: the adapter's flat vector, or None for the base model alone.
        tokens: int32 ``[1, T]``, padded on the right.
        length: int32 scalar, tokens before the padding.
        config: the model's shape.
        spec: the adapter's shape, None with ``params``.

    Returns:
        The logits after the last token float32 ``[vocab]``, and the cache of all ``T`` positions. Those of the padding
        are overwritten, or hidden by the position, in decoding.
    """
    lora = _lora(params, config, spec)
    hidden, cache = hidden_states(weights, lora, tokens, config)
    last = lax.dynamic_slice_in_dim(hidden, length - 1, 1)
    return logits(weights, lora, last)[0], cache


@partial(jax.jit, static_argnums=(3, 4))
def spread(scores: jax.Array, cache: KeyValueCache, length: jax.Array, rows: int, capacity: int) -> DecodeState:
    """Copy a prefilled prompt to ``rows`` rows with room for ``capacity`` positions."""
    room = capacity - cache.k.shape[2]
    widths = ((0, 0), (0, rows - 1), (0, max(room, 0)), (0, 0), (0, 0))
    k, v = (jnp.pad(part[:, :, :capacity], widths, mode="constant") for part in cache)
    k, v = (jnp.broadcast_to(part[:, :1], part.shape) for part in (k, v))
    return DecodeState(jnp.broadcast_to(scores, (rows, scores.shape[0])), KeyValueCache(k, v), length)


@partial(jax.jit, static_argnums=(5, 6, 7, 8), donate_argnums=(2,))
def decode_chunk(
    weights: Weights,
    params: jax.Array | None,
    state: DecodeState,
    choice: Choice,
    first_index: jax.Array,
    config: ModelConfig,
    spec: LoraSpec | None,
    truncated: bool,
    chunk: int,
) -> tuple[DecodeState, jax.Array, jax.Array]:
    """Draw ``chunk`` tokens per row.

    The noise of a token depends on the seed, its sample index and its index in the answer only, so an answer does not
    depend on how many rows are decoded beside it, beyond the last bits of the logits.

    Args:
        weights: the base model.
        params: the adapter's flat vector, or None.
        state: the rows; consumed.
        choice: how tokens are drawn.
        first_index: int32 scalar, index in the answer of the first token drawn here.
        config: the model's shape.
        spec: the adapter's shape, None with ``params``.
        truncated: whether ``top_k`` or ``top_p`` limit the choice; a sort of the vocabulary per token.
        chunk: one of ``CHUNKS``.

    Returns:
        The state after the chunk, the tokens int32 ``[B, chunk]``, and their logprobs float32, the log-softmax
        of the untempered, untruncated logits.
    """
    lora = _lora(params, config, spec)

    def step(state: DecodeState, index: jax.Array) -> tuple[DecodeState, tuple[jax.Array, jax.Array]]:
        tokens = _draw(state.scores, choice, index, truncated)
        picked = jnp.take_along_axis(state.scores, tokens[:, None], axis=1)[:, 0]
        logprobs = picked - jax.nn.logsumexp(state.scores, axis=-1)
        hidden, cache = next_hidden(weights, lora, tokens, state.position, state.cache, config)
        return DecodeState(logits(weights, lora, hidden), cache, state.position + 1), (tokens, logprobs)

    state, (tokens, logprobs) = lax.scan(step, state, first_index + jnp.arange(chunk, dtype=jnp.int32))
    return state, tokens.T, logprobs.T


def _draw(scores: jax.Array, choice: Choice, index: jax.Array, truncated: bool) -> jax.Array:
    greedy = choice.temperature <= 0
    tempered = scores / jnp.where(greedy, 1.0, choice.temperature)
    root = jax.random.wrap_key_data(choice.seed, impl="threefry2x32")
    rows = choice.first_row + jnp.arange(scores.shape[0], dtype=jnp.int32)
    keys = jax.vmap(lambda row: jax.random.fold_in(jax.random.fold_in(root, row), index))(rows)
    # Adding Gumbel noise and taking the largest draws from the softmax (Gumbel-max).
    noise = jax.vmap(lambda key: jax.random.gumbel(key, scores.shape[1:]))(keys)
    if not truncated:
        drawn = jnp.argmax(tempered + noise, axis=-1)
    else:
        order = jnp.argsort(tempered, axis=-1, descending=True, stable=True)
        ranked = jnp.take_along_axis(tempered, order, axis=-1)
        kept = _keep(ranked, choice.top_k, choice.top_p)
        rank = jnp.argmax(jnp.where(kept, ranked + noise, -jnp.inf), axis=-1)
        drawn = jnp.take_along_axis(order, rank[:, None], axis=-1)[:, 0]
    return jnp.where(greedy, jnp.argmax(scores, axis=-1), drawn).astype(jnp.int32)


def _keep(ranked: jax.Array, top_k: jax.Array, top_p: jax.Array) -> jax.Array:
    within_k = jnp.arange(ranked.shape[-1]) < top_k
    probabilities = jax.nn.softmax(jnp.where(within_k, ranked, -jnp.inf), axis=-1)
    # The nucleus is the smallest set that reaches top_p, so a token stays while those before it fall short; the
    # likeliest always stays (Holtzman et al. 2020).
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    nucleus = (before < top_p) | (jnp.arange(ranked.shape[-1]) == 0)
    return within_k & nucleus


def _lora(params: jax.Array | None, config: ModelConfig, spec: LoraSpec | None) -> Lora | None:
    if params is None or spec is None:
        return None
    return Lora(unflatten(params, config, spec), spec.scale)
