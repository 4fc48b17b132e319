"""Adapters and optimizers (protocol 2.5, 1.7.10)."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, Literal

import msgspec

from tinkex_actors.errors import InputError

__all__ = ["AdamOptimizerConfig", "AdamParams", "LoraConfig"]


class AdamOptimizerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The choice of AdamW when a model is created; the settings come with each step, in ``AdamParams``."""

    type: Literal["adamw"] = "adamw"


class AdamParams(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one AdamW step. Weight decay is decoupled.

    Args:
        learning_rate: step size, >= 0; default 1e-4.
        beta1: decay of the mean of gradients, in [0, 1); default 0.9.
        beta2: decay of the mean of squared gradients, in [0, 1); default 0.95.
        eps: added to the denominator, >= 0; default 1e-12.
        weight_decay: fraction of the weights removed for each unit of learning rate, >= 0; default 0.
        grad_clip_norm: the global gradient norm is cut to this; 0 (the default) leaves it alone.

    Raises:
        InputError: for values outside these ranges, NaN or infinity.
    """

    learning_rate: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-12
    weight_decay: float = 0.0
    grad_clip_norm: float = 0.0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "eps", "weight_decay", "grad_clip_norm"):
            _check(self, name, math.inf)
        for name in ("beta1", "beta2"):
            _check(self, name, 1.0)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _check(params: AdamParams, name: str, below: float) -> None:
    value: Any = getattr(params, name)
    if not _is_number(value) or not 0 <= value < below:
        wanted = "a finite number >= 0" if math.isinf(below) else f"a number in [0, {below:g})"
        raise InputError(f"AdamParams: {name} must be {wanted}, got {value!r}.")
    if type(value) not in (float, int):
        # A schedule's numpy scalar is a number to everybody but the encoder.
        msgspec.structs.force_setattr(params, name, float(value))


class LoraConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The adapter to train.

    Args:
        rank: the adapter's rank, >= 1.
        seed: of its initial weights; None leaves the choice to the server.
        train_unembed: adapt the unembedding.
        train_mlp: adapt the MLP (and MoE) layers.
        train_attn: adapt the attention layers.

    Raises:
        InputError: for a rank below 1, or with all three parts off.
    """

    rank: int
    seed: int | None = None
    train_unembed: bool = True
    train_mlp: bool = True
    train_attn: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.rank, int) or isinstance(self.rank, bool) or self.rank < 1:
            raise InputError(f"LoraConfig: rank must be an integer >= 1, got {self.rank!r}.")
        if not (self.train_unembed or self.train_mlp or self.train_attn):
            raise InputError(
                "LoraConfig: nothing to train: train_unembed, train_mlp and train_attn are all false. Turn one on."
            )
