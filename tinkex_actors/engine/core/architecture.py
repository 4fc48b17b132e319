"""The shape of a decoder: what the compiled functions are specialised on, and the arrays they take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax

__all__ = ["LayerWeights", "ModelConfig", "Weights"]


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A Llama-style decoder: RMSNorm, rotary positions, grouped-query attention, SwiGLU, tied head.

    Hashable, because every compiled function is specialised on it.

    Args:
        layers: number of decoder layers.
        hidden: width of the residual stream.
        heads: query heads; ``hidden`` must be a multiple of it.
        kv_heads: key and value heads; ``heads`` must be a multiple of it.
        ffn: width of the feed-forward layer.
        vocab: number of token ids.
        theta: base of the rotary frequencies (RoFormer, Su et al. 2021).
        eps: added to the mean square in RMSNorm.
        context_length: the most tokens (prompt and answer together) that the engine will process.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int
    theta: float
    eps: float
    context_length: int

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads

    @property
    def kv_width(self) -> int:
        """Width of the keys (and of the values) of one token."""
        return self.kv_heads * self.head_dim

    @property
    def parameters(self) -> int:
        """Number of weights, the tied head counted once."""
        linears = sum(fan_in * fan_out for fan_in, fan_out in self.linear_shapes().values())
        return self.layers * (linears + 2 * self.hidden) + self.vocab * self.hidden + self.hidden

    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """Return ``(fan_in, fan_out)`` of the seven linear maps of a layer, by name."""
        hidden, ffn, kv_width = self.hidden, self.ffn, self.kv_width
        return {
            "q": (hidden, hidden),
            "k": (hidden, kv_width),
            "v": (hidden, kv_width),
            "o": (hidden, hidden),
            "gate": (hidden, ffn),
            "up": (hidden, ffn),
            "down": (ffn, hidden),
        }


class LayerWeights(NamedTuple):
    """All layers, stacked: linear maps float32 ``[layers, in, out]``, norms float32 ``[layers, hidden]``."""

    attn_norm: jax.Array
    q: jax.Array
    k: jax.Array
    v: jax.Array
    o: jax.Array
    ffn_norm: jax.Array
    gate: jax.Array
    up: jax.Array
    down: jax.Array


class Weights(NamedTuple):
    """A frozen base model: the layers, the embedding float32 ``[vocab, hidden]`` (also the head), the last norm."""

    layers: LayerWeights
    embedding: jax.Array
    final_norm: jax.Array
