"""The model ``tiny``: seeded random weights, for tests, examples and throughput measurements.

It knows nothing, but it is a whole decoder: every code path of a real model runs on it, in milliseconds.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from tinkex_actors.engine.core.architecture import LayerWeights, ModelConfig, Weights
from tinkex_actors.engine.core.model import BaseModel
from tinkex_actors.tokenizers import ByteTokenizer

__all__ = ["TINY_CONFIG", "load_tiny"]

TINY_CONFIG = ModelConfig(
    layers=2, hidden=64, heads=4, kv_heads=2, ffn=128, vocab=512, theta=10000.0, eps=1e-5, context_length=2048
)

_SEED = 20240917
# A trained model's last norm has gains far above 1, and its rows of the head are short; a random model with gain 1
# would need learning rates a hundred times the API's default before its loss moved.
_FINAL_GAIN = 16.0
_EMBEDDING_SCALE = 0.01


def load_tiny() -> BaseModel:
    """Return the model ``tiny``; the same bits on every machine."""
    rng = np.random.default_rng(_SEED)
    config = TINY_CONFIG

    def normal(shape: tuple[int, ...], scale: float) -> npt.NDArray[np.float32]:
        return rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)

    linears = {
        name: jnp.asarray(normal((config.layers, fan_in, fan_out), 1.0 / math.sqrt(fan_in)))
        for name, (fan_in, fan_out) in config.linear_shapes().items()
    }
    ones = jnp.ones((config.layers, config.hidden), jnp.float32)
    embedding = jnp.asarray(normal((config.vocab, config.hidden), _EMBEDDING_SCALE))
    final_norm = jnp.full((config.hidden,), _FINAL_GAIN, jnp.float32)
    weights = Weights(LayerWeights(attn_norm=ones, ffn_norm=ones, **linears), embedding, final_norm)
    return BaseModel("tiny", config, ByteTokenizer(config.vocab), weights)
