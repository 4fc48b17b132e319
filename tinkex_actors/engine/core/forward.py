"""The decoder as pure functions: hidden states of whole rows, hidden states of one new token, logits.

Activations stay flat, ``[rows * T, hidden]``; only attention sees rows. On two CPU cores that alone is a third faster
than three-dimensional activations. Layers run under ``lax.scan``, so compile time does not depend on their number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from tinkex_actors.engine.core.architecture import LayerWeights, ModelConfig, Weights
from tinkex_actors.engine.core.attention import attend_cached, attend_causal, rotary_tables, rotate
from tinkex_actors.engine.core.lora import LoraPair

__all__ = ["KeyValueCache", "Lora", "hidden_states", "logits", "next_hidden"]

S = TypeVar("S")


class Lora(NamedTuple):
    """An adapter as the forward pass sees it: the pairs by map, and the factor on them."""

    pairs: dict[str, LoraPair]
    scale: float


class KeyValueCache(NamedTuple):
    """Keys and values of every layer: float32 ``[layers, rows, S, kv_heads, head_dim]``."""

    k: jax.Array
    v: jax.Array


def hidden_states(
    weights: Weights,
    lora: Lora | None,
    tokens: jax.Array,
    config: ModelConfig,
    shared: int = 0,
) -> tuple[jax.Array, KeyValueCache]:
    """Run whole rows, each from position 0.

    Padding to the right of a row never reaches the tokens before it, since attention is causal. A prefix that all rows
    share is run once: its keys and values serve every row, and the gradients of all rows meet in it.

    Args:
        weights: the base model.
        lora: the adapter, or None.
        tokens: int32 ``[B, T]``.
        config: the model's shape.
        shared: how many tokens at the start are the same in every row; row 0's are taken.

    Returns:
        The normed hidden states float32 ``[shared + B * (T - shared), hidden]``: the shared ones, then each row's own.
        And all keys and values with ``S = T``. What the caller does not use is not computed.
    """
    rows, length = tokens.shape
    flat = jnp.concatenate([tokens[0, :shared], tokens[:, shared:].reshape(-1)])
    own_positions = jnp.tile(jnp.arange(shared, length), rows)
    tables = rotary_tables(jnp.concatenate([jnp.arange(shared), own_positions]), config)

    def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, KeyValueCache]:
        cache = KeyValueCache(*(_by_row(x, rows, shared) for x in (k, v)))
        if not shared:
            return attend_causal(q, k, v, rows, config), cache
        before = (k[:shared], v[:shared])
        first = attend_causal(q[:shared], *before, 1, config)
        rest = attend_causal(q[shared:], k[shared:], v[shared:], rows, config, before)
        return jnp.concatenate([first, rest]), cache

    def body(x: jax.Array, inputs: tuple[LayerWeights, dict[str, LoraPair]]) -> tuple[jax.Array, KeyValueCache]:
        layer, pairs = inputs
        return _layer(x, layer, _scaled(lora, pairs), tables, config, attend)

    saved = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    x, cache = lax.scan(
        jax.checkpoint(body, policy=saved),
        weights.embedding[flat],
        (weights.layers, _layer_pairs(lora)),
    )
    return _rms_norm(x, weights.final_norm, config.eps), cache


def next_hidden(
    weights: Weights,
    lora: Lora | None,
    tokens: jax.Array,
    slot: jax.Array,
    positions: jax.Array,
    cache: KeyValueCache,
    config: ModelConfig,
) -> tuple[jax.Array, KeyValueCache]:
    """Run one new token per row over what the cache holds of the row's tokens before.

    All rows write to the same slot, wherever each stands in its own text: one slice is written, not one per row.

    Args:
        weights: the base model.
        lora: the adapter, or None.
        tokens: int32 ``[B]``.
        slot: int32 scalar, the slot of the cache that these tokens get.
        positions: int32 ``[B]``, how many tokens each row has before; they lie in the slots before ``slot``.
        cache: keys and values, a ring of slots (see ``attend_cached``).
        config: the model's shape.

    Returns:
        The normed hidden states float32 ``[B, hidden]`` and the cache with this slot written.
    """
    tables = rotary_tables(positions, config)
    zero = jnp.zeros((), jnp.int32)

    def body(
        carry: tuple[jax.Array, KeyValueCache, jax.Array], inputs: tuple[LayerWeights, dict[str, LoraPair]]
    ) -> tuple[tuple[jax.Array, KeyValueCache, jax.Array], None]:
        x, held, index = carry
        layer, pairs = inputs

        def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, KeyValueCache]:
            at = (index, zero, slot, zero, zero)
            written = KeyValueCache(
                lax.dynamic_update_slice(held.k, k[None, :, None], at),
                lax.dynamic_update_slice(held.v, v[None, :, None], at),
            )
            own_k = lax.dynamic_index_in_dim(written.k, index, 0, keepdims=False)
            own_v = lax.dynamic_index_in_dim(written.v, index, 0, keepdims=False)
            return attend_cached(q, own_k, own_v, slot, positions, config), written

        x, held = _layer(x, layer, _scaled(lora, pairs), tables, config, attend)
        return (x, held, index + 1), None

    start = (weights.embedding[tokens], cache, zero)
    (x, cache, _), _ = lax.scan(body, start, (weights.layers, _layer_pairs(lora)))
    return _rms_norm(x, weights.final_norm, config.eps), cache


def logits(weights: Weights, lora: Lora | None, hidden: jax.Array) -> jax.Array:
    """Return float32 ``[N, vocab]``: the head, plus the unembedding adapter where there is one."""
    head = weights.embedding if weights.head is None else weights.head
    out = lax.dot_general(hidden, head, (((1,), (1,)), ((), ())))
    if lora is not None and "unembed" in lora.pairs:
        pair = lora.pairs["unembed"]
        out = out + ((hidden @ pair.a) @ pair.b) * lora.scale
    return out


def _by_row(x: jax.Array, rows: int, shared: int) -> jax.Array:
    """Return ``[rows, T, ...]`` of a flat array that holds the shared tokens once."""
    own = x[shared:].reshape(rows, -1, *x.shape[1:])
    return jnp.concatenate([jnp.broadcast_to(x[:shared], (rows, shared, *x.shape[1:])), own], axis=1)


def _layer(
    x: jax.Array,
    layer: LayerWeights,
    lora: Lora | None,
    tables: tuple[jax.Array, jax.Array],
    config: ModelConfig,
    attend: Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, S]],
) -> tuple[jax.Array, S]:
    count = x.shape[0]
    h = _rms_norm(x, layer.attn_norm, config.eps)
    q = _linear(h, layer.q, lora, "q", layer.q_bias).reshape(count, config.heads, config.head_dim)
    k = _linear(h, layer.k, lora, "k", layer.k_bias).reshape(count, config.kv_heads, config.head_dim)
    v = _linear(h, layer.v, lora, "v", layer.v_bias).reshape(count, config.kv_heads, config.head_dim)
    if layer.q_norm is not None and layer.k_norm is not None:
        q, k = _rms_norm(q, layer.q_norm, config.eps), _rms_norm(k, layer.k_norm, config.eps)
    mixed, state = attend(rotate(q, tables), rotate(k, tables), v)
    x = x + _linear(mixed, layer.o, lora, "o", layer.o_bias)
    h = _rms_norm(x, layer.ffn_norm, config.eps)
    gated = jax.nn.silu(_linear(h, layer.gate, lora, "gate")) * _linear(h, layer.up, lora, "up")
    return x + _linear(gated, layer.down, lora, "down"), state


def _linear(x: jax.Array, weight: jax.Array, lora: Lora | None, name: str, bias: jax.Array | None = None) -> jax.Array:
    y = x @ weight
    if bias is not None:
        y = y + bias
    if lora is not None and name in lora.pairs:
        pair = lora.pairs[name]
        y = y + ((x @ pair.a) @ pair.b) * lora.scale
    return y


def _rms_norm(x: jax.Array, gain: jax.Array, eps: float) -> jax.Array:
    return x * lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps) * gain


def _layer_pairs(lora: Lora | None) -> dict[str, LoraPair]:
    return {name: pair for name, pair in lora.pairs.items() if name != "unembed"} if lora is not None else {}


def _scaled(lora: Lora | None, pairs: dict[str, LoraPair]) -> Lora | None:
    return Lora(pairs, lora.scale) if lora is not None else None
