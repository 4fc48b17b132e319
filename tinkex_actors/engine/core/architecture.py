"""The shape of a decoder: what the compiled functions are specialised on, and the arrays they take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax

__all__ = ["Ends", "LayerWeights", "ModelConfig", "RopeScaling", "Weights"]


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How rotary frequencies are stretched for contexts beyond those a model was first trained on.

    Args:
        kind: ``linear``, every frequency divided by ``factor``; or ``llama3``, only the low ones (Llama 3.1).
        factor: how far.
        low_freq_factor: ``llama3``: wavelengths above ``original_context / low_freq_factor`` are divided whole,
        high_freq_factor: those below ``original_context / high_freq_factor`` not at all, with a ramp in between.
        original_context: ``llama3``: tokens of the first training.
    """

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A Llama-style decoder: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

    Hashable, because every compiled function is specialised on it.

    Args:
        layers: number of decoder layers.
        hidden: width of the residual stream.
        heads: query heads.
        kv_heads: key and value heads; ``heads`` must be a multiple of it.
        ffn: width of the feed-forward layer.
        vocab: number of token ids.
        theta: base of the rotary frequencies (RoFormer, Su et al. 2021).
        eps: added to the mean square in RMSNorm.
        context_length: the most tokens (prompt and answer together) that the engine will process.
        head_width: width of one attention head; None for ``hidden / heads``.
        attention_biases: which of q, k, v and o have a bias (Qwen 2: the first three).
        query_key_norm: whether each head's query and key go through an RMSNorm before the rotation (Qwen 3).
        tied: whether the head is the embedding.
        rope_scaling: how rotary frequencies are stretched; None for not at all.
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
    head_width: int | None = None
    attention_biases: tuple[str, ...] = ()
    query_key_norm: bool = False
    tied: bool = True
    rope_scaling: RopeScaling | None = None

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads if self.head_width is None else self.head_width

    @property
    def query_width(self) -> int:
        """Width of the queries of one token."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Width of the keys (and of the values) of one token."""
        return self.kv_heads * self.head_dim

    @property
    def parameters(self) -> int:
        """Number of weights, a tied head counted once."""
        shapes = self.linear_shapes()
        layer = sum(fan_in * fan_out for fan_in, fan_out in shapes.values()) + 2 * self.hidden
        layer += sum(shapes[name][1] for name in self.attention_biases)
        layer += 2 * self.head_dim if self.query_key_norm else 0
        return self.layers * layer + (1 if self.tied else 2) * self.vocab * self.hidden + self.hidden

    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """Return ``(fan_in, fan_out)`` of the seven linear maps of a layer, by name."""
        hidden, ffn, kv_width = self.hidden, self.ffn, self.kv_width
        return {
            "q": (hidden, self.query_width),
            "k": (hidden, kv_width),
            "v": (hidden, kv_width),
            "o": (self.query_width, hidden),
            "gate": (hidden, ffn),
            "up": (hidden, ffn),
            "down": (ffn, hidden),
        }


class LayerWeights(NamedTuple):
    """All layers, stacked: linear maps float32 ``[layers, in, out]``, norms float32 ``[layers, hidden]``.

    What a model may lack is None: biases float32 ``[layers, out]``, head norms float32 ``[layers, head_dim]``.
    """

    attn_norm: jax.Array
    q: jax.Array
    k: jax.Array
    v: jax.Array
    o: jax.Array
    ffn_norm: jax.Array
    gate: jax.Array
    up: jax.Array
    down: jax.Array
    q_bias: jax.Array | None = None
    k_bias: jax.Array | None = None
    v_bias: jax.Array | None = None
    o_bias: jax.Array | None = None
    q_norm: jax.Array | None = None
    k_norm: jax.Array | None = None


class Weights(NamedTuple):
    """A frozen base model: the layers, the embedding float32 ``[vocab, hidden]``, the last norm, and the head.

    ``head`` is float32 ``[vocab, hidden]``; None where it is the embedding.
    """

    layers: LayerWeights
    embedding: jax.Array
    final_norm: jax.Array
    head: jax.Array | None = None


class Ends(NamedTuple):
    """What of ``Weights`` lies before and after the layers."""

    embedding: jax.Array
    final_norm: jax.Array
    head: jax.Array | None
