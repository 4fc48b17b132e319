"""Low-rank adapters: their spec, their layout in one flat vector, and their training state.

A linear map ``y = x W`` becomes ``y = x W + (alpha / rank) (x A) B`` (LoRA, Hu et al. 2021). All ``A`` and ``B`` of an
adapter live in one flat float32 vector, so that the optimizer, clipping and saving are each one operation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from tinkex_actors.engine.core.architecture import ModelConfig
from tinkex_actors.engine.core.model import BaseModel
from tinkex_actors.errors import InputError

__all__ = [
    "LORA_ALPHA",
    "MAX_RANK",
    "Adapter",
    "LoraPair",
    "LoraSpec",
    "by_layer",
    "flatten",
    "layer_pairs",
    "leaves",
    "new_adapter",
    "unflatten",
]

LORA_ALPHA = 32.0
"""Numerator of the adapter's scale, as on the hosted service: the scale is ``LORA_ALPHA / rank``."""

MAX_RANK = 256
"""The largest rank the engine accepts."""

_ATTENTION = ("q", "k", "v", "o")
_MLP = ("gate", "up", "down")


@dataclass(frozen=True, slots=True)
class LoraSpec:
    """Which linear maps are adapted, at what rank, from which seed.

    Args:
        rank: inner width of the low-rank maps, 1 to ``MAX_RANK``; 32 is the API's default.
        seed: seed of the initial ``A``, any integer of at most 64 bits.
        train_attn: adapt q, k, v and o.
        train_mlp: adapt gate, up and down.
        train_unembed: adapt the output head.

    Raises:
        InputError: the rank is out of range, or nothing would be trained.
    """

    rank: int = 32
    seed: int = 0
    train_attn: bool = True
    train_mlp: bool = True
    train_unembed: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.rank <= MAX_RANK:
            raise InputError(f"lora rank: expected 1 to {MAX_RANK}, got {self.rank}; choose a rank in that range")
        if not (self.train_attn or self.train_mlp or self.train_unembed):
            raise InputError("lora: train_attn, train_mlp and train_unembed are all false; set at least one of them")

    @property
    def scale(self) -> float:
        """The factor on the low-rank term."""
        return LORA_ALPHA / self.rank

    @property
    def shape(self) -> LoraSpec:
        """The spec with seed 0: what compiled functions are specialised on, shared by adapters of other seeds."""
        return replace(self, seed=0)


class LoraPair(NamedTuple):
    """``A`` and ``B`` of one map: float32 ``[layers, in, rank]``, ``[layers, rank, out]``; the head has no layers."""

    a: jax.Array
    b: jax.Array


@dataclass(frozen=True, slots=True)
class Adapter:
    """One adapter and its training state. Immutable: training returns a new one, so a reference is a snapshot.

    Args:
        spec: what is adapted.
        params: float32 ``[P]``, every ``A`` and ``B`` in the order of ``leaves``.
        gradient: float32 ``[P]``, the sum over all ``forward_backward`` since the last ``optim_step``; None for zero.
        first_moment: float32 ``[P]``, Adam's ``m``; None for zero.
        second_moment: float32 ``[P]``, Adam's ``v``; None for zero.
        steps: number of optimizer steps taken.
    """

    spec: LoraSpec
    params: jax.Array
    gradient: jax.Array | None = None
    first_moment: jax.Array | None = None
    second_moment: jax.Array | None = None
    steps: int = 0

    def weights_only(self) -> Adapter:
        """Return the adapter without gradient, moments and step count: what a sampler needs."""
        return Adapter(self.spec, self.params)


@lru_cache(maxsize=64)
def leaves(config: ModelConfig, spec: LoraSpec) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Return the ``(name, shape)`` of every array in an adapter's flat vector, in order: ``q.a``, ``q.b``, ..."""
    return tuple(_leaves(config, spec))


def _leaves(config: ModelConfig, spec: LoraSpec) -> Iterator[tuple[str, tuple[int, ...]]]:
    names = (_ATTENTION if spec.train_attn else ()) + (_MLP if spec.train_mlp else ())
    shapes = config.linear_shapes()
    for name in names:
        fan_in, fan_out = shapes[name]
        yield f"{name}.a", (config.layers, fan_in, spec.rank)
        yield f"{name}.b", (config.layers, spec.rank, fan_out)
    if spec.train_unembed:
        yield "unembed.a", (config.hidden, spec.rank)
        yield "unembed.b", (spec.rank, config.vocab)


def unflatten(flat: jax.Array, config: ModelConfig, spec: LoraSpec) -> dict[str, LoraPair]:
    """Cut a flat vector into its pairs, by the name of the adapted map (``unembed`` is the head). Traceable."""
    arrays: dict[str, jax.Array] = {}
    start = 0
    for name, shape in leaves(config, spec):
        end = start + math.prod(shape)
        arrays[name] = flat[start:end].reshape(shape)
        start = end
    return _pairs(arrays)


def _pairs(arrays: dict[str, jax.Array]) -> dict[str, LoraPair]:
    return {name[:-2]: LoraPair(arrays[name], arrays[f"{name[:-2]}.b"]) for name in arrays if name.endswith(".a")}


def flatten(pairs: dict[str, LoraPair], config: ModelConfig, spec: LoraSpec) -> jax.Array:
    """Join pairs into the flat vector that ``unflatten`` cuts. Traceable."""
    arrays = {f"{name}.{side}": getattr(pair, side) for name, pair in pairs.items() for side in ("a", "b")}
    return jnp.concatenate([arrays[name].reshape(-1) for name, _ in leaves(config, spec)])


def by_layer(flat: npt.NDArray[np.float32], config: ModelConfig, spec: LoraSpec) -> npt.NDArray[np.float32]:
    """Return a copy of a flat vector with a row per layer, float32 ``[layers, Q]``, without the unembedding."""
    rows = [np.empty((config.layers, 0), np.float32)]
    start = 0
    for name, shape in leaves(config, spec):
        size = math.prod(shape)
        if not name.startswith("unembed"):
            rows.append(flat[start : start + size].reshape(config.layers, -1))
        start += size
    return np.concatenate(rows, axis=1)


def layer_pairs(row: jax.Array, config: ModelConfig, spec: LoraSpec) -> dict[str, LoraPair]:
    """Cut a row of ``by_layer`` into the layer's pairs, ``[in, rank]`` and ``[rank, out]``. Traceable."""
    arrays: dict[str, jax.Array] = {}
    start = 0
    for name, (_, *shape) in leaves(config, spec):
        if not name.startswith("unembed"):
            end = start + math.prod(shape)
            arrays[name] = row[start:end].reshape(shape)
            start = end
    return _pairs(arrays)


def new_adapter(base: BaseModel, spec: LoraSpec) -> Adapter:
    """Return a fresh adapter: ``A`` uniform in +-1/sqrt(fan_in) from the seed, ``B`` zero, so it changes nothing yet.

    Args:
        base: the model it adapts.
        spec: what is adapted.
    """
    rng = np.random.default_rng(spec.seed % 2**64)
    parts = []
    for name, shape in leaves(base.config, spec):
        if name.endswith(".a"):
            bound = 1.0 / math.sqrt(shape[-2])
            parts.append(rng.uniform(-bound, bound, math.prod(shape)).astype(np.float32))
        else:
            parts.append(np.zeros(math.prod(shape), np.float32))
    return Adapter(spec, jnp.asarray(np.concatenate(parts)))
