"""The compiled pieces of sampling: reading a prompt, seating it in a row, and drawing the next token of every row.

Rows are decoded side by side, each at its own place in its own text; the token at position ``p`` has slot ``p`` of its
row's cache. So what a row computes depends on the row alone and on the shape of the batch, to the last bit: neither on
its neighbours nor on when it came.

Every layer runs in the same compiled program, called once per layer. In one program for all of them, a scan would copy
each layer's weights out of their stack for every token, which costs more than using them, and an unrolled one would
take many times as long to compile.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import lax

from tinkex_actors.engine.core.architecture import Ends, LayerWeights, ModelConfig
from tinkex_actors.engine.core.attention import attend_cached, attend_causal, rotary_tables
from tinkex_actors.engine.core.batching import length_bucket
from tinkex_actors.engine.core.forward import Lora, decoder_layer, logits, rms_norm
from tinkex_actors.engine.core.lora import Adapter, LoraPair, LoraSpec, by_layer, layer_pairs, unflatten
from tinkex_actors.engine.core.model import BaseModel

__all__ = ["Choice", "Layered", "Rows", "cut", "draw", "empty", "head", "read", "regroup", "seat"]

# Running sums are taken over so many tokens at a time, and over these blocks.
_BLOCK = 256


class _Layer(NamedTuple):
    """One layer's weights, and its row of ``lora.by_layer`` where there is an adapter."""

    weights: LayerWeights
    adapter: jax.Array | None


class Layered(NamedTuple):
    """A model with an adapter, cut for decoding."""

    config: ModelConfig
    spec: LoraSpec | None
    layers: tuple[_Layer, ...]
    ends: Ends
    unembed: LoraPair | None


class _Cache(NamedTuple):
    """Keys ``[rows, kv_heads, head_dim, S]`` and values ``[rows, kv_heads, S, head_dim]`` of a layer, float32."""

    k: jax.Array
    v: jax.Array


class Rows(NamedTuple):
    """Texts that are decoded: what the last layer made of each one's last token, float32 ``[rows, hidden]``, and keys
    and values of every layer, with slots for ``S`` tokens."""

    hidden: jax.Array
    caches: tuple[_Cache, ...]


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


def cut(base: BaseModel, adapter: Adapter | None) -> Layered:
    """Return a model, with an adapter or without, cut for decoding. The adapter is copied, the model is not."""
    if adapter is None:
        return Layered(base.config, None, tuple(_Layer(layer, None) for layer in base.layers), base.ends, None)
    spec = adapter.spec.shape
    rows = by_layer(np.asarray(adapter.params), base.config, spec)
    layers = tuple(_Layer(layer, jnp.asarray(row)) for layer, row in zip(base.layers, rows, strict=True))
    return Layered(base.config, spec, layers, base.ends, _unembed(adapter.params, base.config, spec))


# --- prompts -----------------------------------------------------------------------------------------------------
def read(model: Layered, tokens: npt.NDArray[np.int32]) -> Rows:
    """Read one prompt, int32 ``[P]``, padded to its bucket.

    Returns:
        One row without its axis: ``hidden`` is ``[hidden]``, keys are ``[kv_heads, head_dim, T]`` and values
        ``[kv_heads, T, head_dim]``; those of the padding mean nothing.
    """
    padded = np.zeros(length_bucket(tokens.size), np.int32)
    padded[: tokens.size] = tokens
    x, tables = _enter(model.ends.embedding, padded, model.config)
    caches = []
    for layer in model.layers:
        x, cache = _read_layer(x, layer, tables, model.config, model.spec)
        caches.append(cache)
    return Rows(jax.device_put(np.asarray(x)[tokens.size - 1]), tuple(caches))


def empty(rows: int, capacity: int, config: ModelConfig) -> Rows:
    """Return rows with nobody in them and room for ``capacity`` tokens each."""
    keys, values = (config.head_dim, capacity), (capacity, config.head_dim)
    caches = tuple(
        _Cache(*(_zeros(rows, config.kv_heads, *shape) for shape in (keys, values))) for _ in range(config.layers)
    )
    return Rows(_zeros(rows, config.hidden), caches)


def _zeros(*shape: int) -> jax.Array:
    # jnp.zeros would compile a program for every shape. It must be memory of JAX's own, since it will be given away.
    zeros: jax.Array = jax.device_put(np.zeros(shape, np.float32), may_alias=False)
    return zeros


def seat(rows: Rows, prompt: Rows, row: int) -> Rows:
    """Put a prompt of ``read`` into a row; ``rows`` is consumed."""
    at = np.int32(row)
    caches = tuple(_seat_layer(cache, own, at) for cache, own in zip(rows.caches, prompt.caches, strict=True))
    return Rows(_seat_hidden(rows.hidden, prompt.hidden, at), caches)


def regroup(rows: Rows, indices: npt.NDArray[np.int32]) -> Rows:
    """Return other rows: those at ``indices``, int32 ``[B']``."""
    return Rows(
        _take(rows.hidden, indices), tuple(_Cache(*(_take(x, indices) for x in cache)) for cache in rows.caches)
    )


# --- tokens ------------------------------------------------------------------------------------------------------
def draw(model: Layered, rows: Rows, choice: Choice, offset: int, truncated: bool) -> tuple[Rows, jax.Array, jax.Array]:
    """Draw the next token of every row, and run it through the layers.

    The random number behind a token depends on the seed, its sample index and its index in the answer only.

    Args:
        model: of ``cut``.
        rows: the rows; consumed.
        choice: where the rows stood, and how their tokens are drawn.
        offset: tokens that were drawn since.
        truncated: whether ``top_k`` or ``top_p`` limit the choice; a sort of the vocabulary per token.

    Returns:
        The rows after it, the tokens int32 ``[B]``, and their logprobs float32 ``[B]``, the log-softmax of the
        untempered, untruncated logits. Rows with nobody in them give tokens that mean nothing.
    """
    tokens, logprobs, x, tables, positions = _draw(
        model.ends, model.unembed, rows.hidden, choice, np.int32(offset), model.config, model.spec, truncated
    )
    caches = []
    for layer, held in zip(model.layers, rows.caches, strict=True):
        cache, x = _next_layer(held, x, layer, tables, positions, model.config, model.spec)
        caches.append(cache)
    return Rows(x, tuple(caches)), tokens, logprobs


def head(
    ends: Ends, unembed: LoraPair | None, hidden: jax.Array, config: ModelConfig, spec: LoraSpec | None
) -> jax.Array:
    """Return the logits ``[B, vocab]`` of the token after what ``Rows.hidden`` stands for."""
    lora = None if unembed is None or spec is None else Lora({"unembed": unembed}, spec.scale)
    return logits(ends, lora, rms_norm(hidden, ends.final_norm, config.eps))


# --- programs ----------------------------------------------------------------------------------------------------
_Tables = tuple[jax.Array, jax.Array]


@partial(jax.jit, static_argnums=2)
def _enter(embedding: jax.Array, tokens: jax.Array, config: ModelConfig) -> tuple[jax.Array, _Tables]:
    return embedding[tokens], rotary_tables(jnp.arange(tokens.shape[0]), config)


@partial(jax.jit, static_argnums=(3, 4))
def _read_layer(
    x: jax.Array, layer: _Layer, tables: _Tables, config: ModelConfig, spec: LoraSpec | None
) -> tuple[jax.Array, _Cache]:
    def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, _Cache]:
        return attend_causal(q, k, v, 1, config), _Cache(k.transpose(1, 2, 0), v.transpose(1, 0, 2))

    return decoder_layer(x, layer.weights, _lora(layer, config, spec), tables, config, attend)


@partial(jax.jit, donate_argnums=0)
def _seat_layer(held: _Cache, prompt: _Cache, row: jax.Array) -> _Cache:
    zero = jnp.zeros((), jnp.int32)
    k, v = (
        lax.dynamic_update_slice(x, own[None], (row, zero, zero, zero)) for x, own in zip(held, prompt, strict=True)
    )
    return _Cache(k, v)


@partial(jax.jit, donate_argnums=0)
def _seat_hidden(held: jax.Array, prompt: jax.Array, row: jax.Array) -> jax.Array:
    written: jax.Array = lax.dynamic_update_index_in_dim(held, prompt, row, 0)
    return written


@jax.jit
def _take(held: jax.Array, indices: jax.Array) -> jax.Array:
    return held[indices]


@partial(jax.jit, donate_argnums=0, static_argnums=(5, 6))
def _next_layer(
    held: _Cache,
    x: jax.Array,
    layer: _Layer,
    tables: _Tables,
    positions: jax.Array,
    config: ModelConfig,
    spec: LoraSpec | None,
) -> tuple[_Cache, jax.Array]:
    rows = jnp.arange(x.shape[0])

    def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, _Cache]:
        # Rows with nobody in them may stand behind the last slot; what they would write is dropped.
        cache = _Cache(held.k.at[rows, :, :, positions].set(k), held.v.at[rows, :, positions].set(v))
        return attend_cached(q, *cache, positions, config), cache

    x, cache = decoder_layer(x, layer.weights, _lora(layer, config, spec), tables, config, attend)
    return cache, x


@partial(jax.jit, static_argnums=(5, 6, 7))
def _draw(
    ends: Ends,
    unembed: LoraPair | None,
    hidden: jax.Array,
    choice: Choice,
    offset: jax.Array,
    config: ModelConfig,
    spec: LoraSpec | None,
    truncated: bool,
) -> tuple[jax.Array, jax.Array, jax.Array, _Tables, jax.Array]:
    scores = head(ends, unembed, hidden, config, spec)
    tokens = _pick(scores, choice, choice.indices + offset, truncated)
    picked = jnp.take_along_axis(scores, tokens[:, None], axis=1)[:, 0]
    logprobs = picked - jax.nn.logsumexp(scores, axis=-1)
    positions = choice.positions + offset
    return tokens, logprobs, ends.embedding[tokens], rotary_tables(positions, config), positions


@partial(jax.jit, static_argnums=(1, 2))
def _unembed(params: jax.Array, config: ModelConfig, spec: LoraSpec) -> LoraPair | None:
    return unflatten(params, config, spec).get("unembed")


def _lora(layer: _Layer, config: ModelConfig, spec: LoraSpec | None) -> Lora | None:
    if layer.adapter is None or spec is None:
        return None
    return Lora(layer_pairs(layer.adapter, config, spec), spec.scale)


def _pick(scores: jax.Array, choice: Choice, indices: jax.Array, truncated: bool) -> jax.Array:
    greedy = choice.temperature <= 0
    tempered = scores / jnp.where(greedy, 1.0, choice.temperature)[:, None]

    def share_of(seed: jax.Array, sample: jax.Array, index: jax.Array) -> jax.Array:
        root = jax.random.wrap_key_data(seed, impl="threefry2x32")
        return jax.random.uniform(jax.random.fold_in(jax.random.fold_in(root, sample), index))

    shares = jax.vmap(share_of)(choice.seeds, choice.samples, indices)
    if not truncated:
        drawn = _at_share(jnp.exp(tempered - tempered.max(axis=-1, keepdims=True)), shares)
    else:
        order = jnp.argsort(tempered, axis=-1, descending=True, stable=True)
        ranked = jnp.take_along_axis(tempered, order, axis=-1)
        kept = _keep(ranked, choice.top_k[:, None], choice.top_p[:, None])
        rank = _at_share(jnp.where(kept, jnp.exp(ranked - ranked[:, :1]), 0.0), shares)
        drawn = jnp.take_along_axis(order, rank[:, None], axis=-1)[:, 0]
    return jnp.where(greedy, jnp.argmax(scores, axis=-1), drawn).astype(jnp.int32)


def _at_share(weights: jax.Array, shares: jax.Array) -> jax.Array:
    """Return where in each row of ``weights`` ``[B, V]`` its running sum passes a share of its total: int32 ``[B]``.

    One random number a row, where Gumbel noise takes one a token: with 16 rows that noise took a quarter of a step.
    """
    rows, size = weights.shape
    blocks = jnp.pad(weights, ((0, 0), (0, -size % _BLOCK))).reshape(rows, -1, _BLOCK)
    sums = jnp.cumsum(blocks.sum(axis=-1), axis=-1)
    target = shares * sums[:, -1]
    block = _first_past(sums, target)
    before = jnp.where(block > 0, jnp.take_along_axis(sums, jnp.maximum(block - 1, 0)[:, None], axis=1)[:, 0], 0.0)
    inside = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    # What has no weight is never found, however the sums are rounded.
    running = jnp.where(inside > 0, jnp.cumsum(inside, axis=-1), -1.0)
    return block * _BLOCK + _first_past(running, jnp.maximum(target - before, 0.0))


def _first_past(sums: jax.Array, target: jax.Array) -> jax.Array:
    # Where rounding leaves none past the target, the last one stands in.
    past = sums > target[:, None]
    return jnp.where(past.any(axis=-1), jnp.argmax(past, axis=-1), jnp.argmax(sums, axis=-1))


def _keep(ranked: jax.Array, top_k: jax.Array, top_p: jax.Array) -> jax.Array:
    within_k = jnp.arange(ranked.shape[-1]) < top_k
    probabilities = jax.nn.softmax(jnp.where(within_k, ranked, -jnp.inf), axis=-1)
    # The nucleus is the smallest set that reaches top_p, so a token stays while those before it fall short; the
    # likeliest always stays (Holtzman et al. 2020).
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    nucleus = (before < top_p) | (jnp.arange(ranked.shape[-1]) == 0)
    return within_k & nucleus
