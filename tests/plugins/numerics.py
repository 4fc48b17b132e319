"""The model ``tiny`` for tests of the numeric core, and an independent float64 implementation to compare it with."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from tinkex_actors.config import Config
from tinkex_actors.engine.core import Adapter, BaseModel, Example, LoraSpec
from tinkex_actors.engine.core.lora import leaves
from tinkex_actors.engine.models.catalog import load_model

Floats = npt.NDArray[np.float64]


def cache_dir() -> Path:
    """Return the cache folder of the environment: weights and compiled programs are kept there between runs."""
    return Config.from_environment().cache_dir


@cache
def tiny() -> BaseModel:
    """Return the model ``tiny``, loaded once."""
    return load_model("tiny", cache_dir=cache_dir())


def adapter(rank: int = 8, seed: int = 0, scale: float = 0.05, **flags: bool) -> Adapter:
    """Return an adapter of ``tiny`` whose ``A`` and ``B`` are all random, so that every gradient is alive."""
    spec = LoraSpec(rank=rank, seed=seed, **flags)
    size = sum(math.prod(shape) for _, shape in leaves(tiny().config, spec))
    params = np.random.default_rng(seed).standard_normal(size).astype(np.float32) * np.float32(scale)
    return Adapter(spec, jnp.asarray(params))


def tokens(length: int, seed: int = 0) -> npt.NDArray[np.int32]:
    """Return random tokens of ``tiny``."""
    return np.random.default_rng(seed).integers(0, tiny().config.vocab, length).astype(np.int32)


def next_token_example(length: int, seed: int = 0) -> Example:
    """Return an example that predicts each next token, with uneven weights."""
    ids = tokens(length + 1, seed)
    weights = np.random.default_rng(seed + 1).uniform(0.1, 1.0, length).astype(np.float32)
    return Example(ids[:-1], {"target_tokens": ids[1:].astype(np.int64), "weights": weights})


def pairs_of(held: Adapter, params: Floats | None = None) -> dict[str, tuple[Floats, Floats]]:
    """Return an adapter's ``(A, B)`` by map, in float64, from its own or from given flat parameters."""
    flat = np.asarray(held.params, np.float64) if params is None else params
    found: dict[str, Floats] = {}
    start = 0
    for name, shape in leaves(tiny().config, held.spec):
        size = math.prod(shape)
        found[name] = flat[start : start + size].reshape(shape)
        start += size
    return {name[:-2]: (array, found[f"{name[:-2]}.b"]) for name, array in found.items() if name.endswith(".a")}


def reference_logits(ids: npt.NDArray[np.int32], held: Adapter | None = None, params: Floats | None = None) -> Floats:
    """Run ``tiny`` over one row in plain float64 numpy, one head and one layer at a time: ``[T, vocab]``."""
    base = tiny()
    config, weights = base.config, base.weights
    pairs = {} if held is None else pairs_of(held, params)
    scale = 0.0 if held is None else held.spec.scale
    embedding = np.asarray(weights.embedding, np.float64)
    x = embedding[ids]
    for layer in range(config.layers):

        def linear(y: Floats, name: str, layer: int = layer) -> Floats:
            out = y @ np.asarray(getattr(weights.layers, name)[layer], np.float64)
            if name in pairs:
                a, b = pairs[name]
                out = out + scale * ((y @ a[layer]) @ b[layer])
            return out

        h = _norm(x, np.asarray(weights.layers.attn_norm[layer], np.float64))
        x = x + linear(_attention(linear(h, "q"), linear(h, "k"), linear(h, "v")), "o")
        h = _norm(x, np.asarray(weights.layers.ffn_norm[layer], np.float64))
        gate = linear(h, "gate")
        x = x + linear(gate / (1 + np.exp(-gate)) * linear(h, "up"), "down")
    h = _norm(x, np.asarray(weights.final_norm, np.float64))
    logits = h @ embedding.T
    if "unembed" in pairs:
        a, b = pairs["unembed"]
        logits = logits + scale * ((h @ a) @ b)
    return logits


def log_softmax(logits: Floats) -> Floats:
    """Return normalised logprobs along the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _norm(x: Floats, gain: Floats) -> Floats:
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + tiny().config.eps) * gain


def _attention(q: Floats, k: Floats, v: Floats) -> Floats:
    config = tiny().config
    width, group = config.head_dim, config.heads // config.kv_heads
    length = len(q)
    out = np.zeros_like(q)
    for head in range(config.heads):
        own = slice(head * width, (head + 1) * width)
        shared = slice(head // group * width, (head // group + 1) * width)
        scores = _turned(q[:, own]) @ _turned(k[:, shared]).T / math.sqrt(width)
        scores[np.triu_indices(length, 1)] = -np.inf
        out[:, own] = np.exp(log_softmax(scores)) @ v[:, shared]
    return out


def _turned(x: Floats) -> Floats:
    config = tiny().config
    half = config.head_dim // 2
    angles = np.arange(len(x))[:, None] * config.theta ** (-np.arange(half) / half)
    first, second = x[:, :half], x[:, half:]
    turned = (first + 1j * second) * np.exp(1j * angles)
    return np.concatenate([turned.real, turned.imag], axis=1)
