"""The compiled pieces of sampling: reading a prompt, seating it in a row, and a chunk of decoded tokens.

Rows are decoded side by side, each at its own place in its own text. Their cache is a ring: a new token of every row
goes to the same slot, and a row sees as many slots before it as it has tokens. So a row may begin at any time, and one
slice of the cache is written per token, not one per row.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from tinkex_actors.engine.core.architecture import ModelConfig, Weights
from tinkex_actors.engine.core.forward import KeyValueCache, Lora, hidden_states, logits, next_hidden
from tinkex_actors.engine.core.lora import LoraSpec, unflatten

__all__ = ["CHUNKS", "Choice", "DecodeState", "decode_chunk", "empty", "prefill", "regroup", "seat"]

CHUNKS = (1, 4, 16)
"""How many tokens one compiled call may decode. Stops are looked for in between; short answers take the short calls."""


class DecodeState(NamedTuple):
    """Rows in decoding: logits of the next token float32 ``[B, vocab]``, and the cache, a ring of ``S`` slots."""

    scores: jax.Array
    cache: KeyValueCache


class Choice(NamedTuple):
    """Where each row stands and how its tokens are drawn; arrays ``[B]``, traced, so that values do not recompile.

    ``positions`` int32, tokens that the row has; ``seeds`` uint32 ``[B, 2]``, high half first; ``samples`` int32, which
    of its request's answers it is; ``indices`` int32, the next token's index in the answer; ``temperature`` float32, 0
    for the likeliest token; ``top_k`` int32, the vocabulary's size for no limit; ``top_p`` float32, above 1 for none.
    """

    positions: jax.Array
    seeds: jax.Array
    samples: jax.Array
    indices: jax.Array
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
        The logits after the last token float32 ``[vocab]``, and the cache of all ``T`` positions, padding included.
    """
    lora = _lora(params, config, spec)
    hidden, cache = hidden_states(weights, lora, tokens, config)
    last = lax.dynamic_slice_in_dim(hidden, length - 1, 1)
    return logits(weights, lora, last)[0], cache


@partial(jax.jit, static_argnums=(0, 1, 2))
def empty(rows: int, capacity: int, config: ModelConfig) -> DecodeState:
    """Return ``rows`` rows with nobody in them and room for ``capacity`` tokens each."""
    shape = (config.layers, rows, capacity, config.kv_heads, config.head_dim)
    return DecodeState(jnp.zeros((rows, config.vocab)), KeyValueCache(jnp.zeros(shape), jnp.zeros(shape)))


@partial(jax.jit, donate_argnums=(0,))
def seat(
    state: DecodeState, scores: jax.Array, cache: KeyValueCache, length: jax.Array, slot: jax.Array, row: jax.Array
) -> DecodeState:
    """Put a prompt that was read into a row.

    Args:
        state: the rows; consumed.
        scores: float32 ``[vocab]``, of ``prefill``.
        cache: of ``prefill``; what lies behind ``length`` comes along, where nobody looks.
        length: int32 scalar, the prompt's tokens, at most the ring's capacity.
        slot: int32 scalar, where the next token goes: the prompt ends before it.
        row: int32 scalar.
    """
    capacity = state.cache.k.shape[2]
    zero = jnp.zeros((), jnp.int32)
    source = jnp.minimum((jnp.arange(capacity) - (slot - length)) % capacity, cache.k.shape[2] - 1)

    def written(held: jax.Array, prompt: jax.Array) -> jax.Array:
        return lax.dynamic_update_slice(held, jnp.take(prompt, source, axis=2), (zero, row, zero, zero, zero))

    held = KeyValueCache(written(state.cache.k, cache.k), written(state.cache.v, cache.v))
    return DecodeState(lax.dynamic_update_slice(state.scores, scores[None], (row, zero)), held)


@jax.jit
def regroup(state: DecodeState, rows: jax.Array) -> DecodeState:
    """Return other rows: those of ``state`` at the indices ``rows``, int32 ``[B']``. The slots stay what they are."""
    k, v = (jnp.take(part, rows, axis=1) for part in state.cache)
    return DecodeState(state.scores[rows], KeyValueCache(k, v))


@partial(jax.jit, static_argnums=(5, 6, 7, 8), donate_argnums=(2,))
def decode_chunk(
    weights: Weights,
    params: jax.Array | None,
    state: DecodeState,
    choice: Choice,
    slot: jax.Array,
    config: ModelConfig,
    spec: LoraSpec | None,
    truncated: bool,
    chunk: int,
) -> tuple[DecodeState, jax.Array, jax.Array]:
    """Draw ``chunk`` tokens per row.

    The noise of a token depends on the seed, its sample index and its index in the answer only, so an answer does not
    depend on how many rows are decoded beside it, beyond the last bits of the logits. With ``truncated`` it goes to the
    tokens by their rank.

    Args:
        weights: the base model.
        params: the adapter's flat vector, or None.
        state: the rows; consumed.
        choice: where the rows stand, and how their tokens are drawn.
        slot: int32 scalar, where the first token goes; the ring wraps.
        config: the model's shape.
        spec: the adapter's shape, None with ``params``.
        truncated: whether ``top_k`` or ``top_p`` limit the choice; a sort of the vocabulary per token.
        chunk: one of ``CHUNKS``.

    Returns:
        The state after the chunk, the tokens int32 ``[B, chunk]``, and their logprobs float32, the log-softmax
        of the untempered, untruncated logits. Rows with nobody in them give tokens that mean nothing.
    """
    lora = _lora(params, config, spec)
    capacity = state.cache.k.shape[2]

    def step(state: DecodeState, offset: jax.Array) -> tuple[DecodeState, tuple[jax.Array, jax.Array]]:
        tokens = _draw(state.scores, choice, choice.indices + offset, truncated)
        picked = jnp.take_along_axis(state.scores, tokens[:, None], axis=1)[:, 0]
        logprobs = picked - jax.nn.logsumexp(state.scores, axis=-1)
        at = (slot + offset) % capacity
        hidden, cache = next_hidden(weights, lora, tokens, at, choice.positions + offset, state.cache, config)
        return DecodeState(logits(weights, lora, hidden), cache), (tokens, logprobs)

    state, (tokens, logprobs) = lax.scan(step, state, jnp.arange(chunk, dtype=jnp.int32))
    return state, tokens.T, logprobs.T


def _draw(scores: jax.Array, choice: Choice, indices: jax.Array, truncated: bool) -> jax.Array:
    greedy = choice.temperature <= 0
    tempered = scores / jnp.where(greedy, 1.0, choice.temperature)[:, None]

    # Adding Gumbel noise and taking the largest draws from the softmax (Gumbel-max).
    def noise_of(seed: jax.Array, sample: jax.Array, index: jax.Array) -> jax.Array:
        root = jax.random.wrap_key_data(seed, impl="threefry2x32")
        return jax.random.gumbel(jax.random.fold_in(jax.random.fold_in(root, sample), index), scores.shape[1:])

    noise = jax.vmap(noise_of)(choice.seeds, choice.samples, indices)
    if not truncated:
        drawn = jnp.argmax(tempered + noise, axis=-1)
    else:
        order = jnp.argsort(tempered, axis=-1, descending=True, stable=True)
        ranked = jnp.take_along_axis(tempered, order, axis=-1)
        kept = _keep(ranked, choice.top_k[:, None], choice.top_p[:, None])
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
