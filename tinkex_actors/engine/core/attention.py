"""Attention: over a whole row at once (training, prefill) and of one new token over a cache (decoding)."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from tinkex_actors.engine.core.architecture import ModelConfig, RopeScaling

__all__ = ["attend_cached", "attend_causal", "rotary_tables", "rotate"]

_QUERY_BLOCK = 128
# Large and finite: -inf would turn a fully masked row into NaN, and NaN * 0 stays NaN in the gradient.
_MASKED = -1e30


def rotary_tables(positions: jax.Array, config: ModelConfig) -> tuple[jax.Array, jax.Array]:
    """Return cosines and sines, float32 ``[N, 1, head_dim / 2]``, of the rotary angles at integer positions ``[N]``."""
    half = jnp.arange(0, config.head_dim, 2, dtype=jnp.float32) / config.head_dim
    frequencies = config.theta ** (-half)
    if config.rope_scaling is not None:
        frequencies = _stretched(frequencies, config.rope_scaling)
    angles = positions[:, None, None].astype(jnp.float32) * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def _stretched(frequencies: jax.Array, scaling: RopeScaling) -> jax.Array:
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    # Llama 3.1: with r turns over the original context, the share of the unscaled frequency goes from 0 to 1 as r goes
    # from low_freq_factor to high_freq_factor.
    turns = scaling.original_context * frequencies / (2 * math.pi)
    share = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    share = jnp.clip(share, 0.0, 1.0)
    return (1 - share) * frequencies / scaling.factor + share * frequencies


def rotate(x: jax.Array, tables: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Turn the pairs ``(i, i + head_dim / 2)`` of every head by the angles of its position (the half-split layout)."""
    cos, sin = tables
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def attend_causal(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    rows: int,
    config: ModelConfig,
    before: tuple[jax.Array, jax.Array] | None = None,
) -> jax.Array:
    """Attend every token of a row to itself and the tokens before it.

    Queries go in blocks of 128, each against its static prefix of keys, so that masked keys beyond the block cost
    nothing; each block is recomputed in the backward pass, so that long rows do not keep their score matrices.

    Args:
        q: rotated queries ``[rows * T, heads, head_dim]``.
        k: rotated keys ``[rows * T, kv_heads, head_dim]``.
        v: values, shaped like the keys.
        rows: number of rows.
        config: the model's shape.
        before: rotated keys and values ``[P, kv_heads, head_dim]`` of a prefix that all rows share and see whole.

    Returns:
        float32 ``[rows * T, heads * head_dim]``.
    """
    length = q.shape[0] // rows
    shared = 0 if before is None else before[0].shape[0]
    kv_heads, group, width = config.kv_heads, config.heads // config.kv_heads, config.head_dim
    q = q.reshape(rows, length, kv_heads, group, width).transpose(0, 2, 3, 1, 4) * (1.0 / math.sqrt(width))
    k = k.reshape(rows, length, kv_heads, width).transpose(0, 2, 1, 3)
    v = v.reshape(rows, length, kv_heads, width).transpose(0, 2, 1, 3)
    if before is not None:
        k, v = _after_prefix(before[0], k), _after_prefix(before[1], v)

    def block(q_block: jax.Array, k_prefix: jax.Array, v_prefix: jax.Array) -> jax.Array:
        count, seen = q_block.shape[3], k_prefix.shape[2]
        scores = jnp.einsum("bkmd,bksd->bkms", q_block.reshape(rows, kv_heads, group * count, width), k_prefix)
        scores = scores.reshape(rows, kv_heads, group, count, seen)
        visible = jnp.arange(seen)[None] <= jnp.arange(seen - count, seen)[:, None]
        weights = jax.nn.softmax(jnp.where(visible, scores, _MASKED), axis=-1)
        mixed = jnp.einsum("bkms,bksd->bkmd", weights.reshape(rows, kv_heads, group * count, seen), v_prefix)
        return mixed.reshape(rows, kv_heads, group, count, width)

    run = jax.checkpoint(block) if length > _QUERY_BLOCK else block
    parts = []
    for start in range(0, length, _QUERY_BLOCK):
        end = min(start + _QUERY_BLOCK, length)
        parts.append(run(q[:, :, :, start:end], k[:, :, : shared + end], v[:, :, : shared + end]))
    mixed = parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=3)
    return mixed.transpose(0, 3, 1, 2, 4).reshape(rows * length, config.query_width)


def _after_prefix(prefix: jax.Array, own: jax.Array) -> jax.Array:
    rows, heads, _, width = own.shape
    spread = jnp.broadcast_to(prefix.transpose(1, 0, 2), (rows, heads, prefix.shape[0], width))
    return jnp.concatenate([spread, own], axis=2)


def attend_cached(q: jax.Array, k: jax.Array, v: jax.Array, positions: jax.Array, config: ModelConfig) -> jax.Array:
    """Attend one query per row to what the row has in the cache.

    Heads come first in the cache and the keys' slots last, so that both products run over what lies together: with 16
    rows of 512 slots this takes a fifth of the time of slots first.

    Args:
        q: rotated queries ``[rows, heads, head_dim]``.
        k: cached keys ``[rows, kv_heads, head_dim, S]``, that of position ``p`` in slot ``p``, the new one included.
        v: cached values ``[rows, kv_heads, S, head_dim]``.
        positions: int32 ``[rows]``, where the new token of each row is. What the slots after it hold does not matter,
            not even to the last bits of the result, as long as it is finite.
        config: the model's shape.

    Returns:
        float32 ``[rows, heads * head_dim]``.
    """
    rows, _, capacity, _ = v.shape
    q = q.reshape(rows, config.kv_heads, config.heads // config.kv_heads, config.head_dim)
    scores = jnp.einsum("bkgd,bkds->bkgs", q, k) * (1.0 / math.sqrt(config.head_dim))
    visible = (jnp.arange(capacity) <= positions[:, None])[:, None, None]
    weights = jax.nn.softmax(jnp.where(visible, scores, _MASKED), axis=-1)
    return jnp.einsum("bkgs,bksd->bkgd", weights, v).reshape(rows, config.query_width)
