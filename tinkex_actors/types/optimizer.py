"""Adapters and optimizers (protocol 2.5, 1.7.10)."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from msgspec import Meta
from msgspec.structs import force_setattr

from tinkex_actors.errors import InputError
from tinkex_actors.types._record import Record, as_number

__all__ = [
    "AdamOptimizerConfig",
    "AdamParams",
    "DimuonOptimizerConfig",
    "DimuonParams",
    "LoraConfig",
    "OptimParams",
    "OptimizerConfig",
]


class AdamOptimizerConfig(Record, frozen=True, kw_only=True):
    """The choice of AdamW when a model is created; the settings come with each step, in ``AdamParams``."""

    type: Literal["adamw"] = "adamw"


class AdamParams(Record, frozen=True, kw_only=True):
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


class DimuonOptimizerConfig(Record, frozen=True, kw_only=True):
    """The choice of Dimuon when a model is created; the settings come with each step, in ``DimuonParams``."""

    version: Annotated[int, Meta(ge=1)] = 1
    type: Literal["dimuon"] = "dimuon"


class DimuonParams(Record, frozen=True, kw_only=True):
    """Settings of one Dimuon step.

    Args:
        learning_rate: step size, >= 0; required.
        grad_clip_norm: the global gradient norm is cut to this; 0 (the default) or less leaves it alone.
        beta1: decay of the mean of gradients, in [0, 1); default 0.9.

    Raises:
        InputError: for values outside these ranges, NaN or infinity.
    """

    learning_rate: float
    grad_clip_norm: float = 0.0
    beta1: float = 0.9
    type: Literal["dimuon"] = "dimuon"

    def __post_init__(self) -> None:
        _check(self, "learning_rate", math.inf)
        _check(self, "grad_clip_norm", math.inf, -math.inf)
        _check(self, "beta1", 1.0)
        super().__post_init__()


# The set of optimizers is open: one without a type of its own is a dict with its name under "type".
OptimizerConfig = AdamOptimizerConfig | DimuonOptimizerConfig | dict[str, Any]
OptimParams = AdamParams | DimuonParams | dict[str, Any]


def optimizer_config(owner: str, config: Any) -> OptimizerConfig:
    """Return the optimizer's choice as its type where it has one.

    Args:
        owner: the record it stands in, for the message.
        config: an ``OptimizerConfig``.

    Raises:
        InputError: for anything else, or a dict without a text ``type``.
    """
    if isinstance(config, dict) and isinstance(config.get("type"), str):
        if config == {"type": "adamw"}:
            return AdamOptimizerConfig()
        if config["type"] == "dimuon" and config.keys() <= {"type", "version"}:
            return DimuonOptimizerConfig(**config)
        return config
    if isinstance(config, (AdamOptimizerConfig, DimuonOptimizerConfig)):
        return config
    raise InputError(
        f"{owner}: optimizer_config must be an AdamOptimizerConfig, a DimuonOptimizerConfig or a dict with its name "
        f"under 'type', got {config!r}."
    )


def _check(params: AdamParams | DimuonParams, name: str, below: float, least: float = 0.0) -> None:
    value: Any = getattr(params, name)
    plain = as_number(value)
    if plain is None or not math.isfinite(plain) or not least <= plain < below:
        wanted = "a finite number" if math.isinf(below) else f"a number in [0, {below:g})"
        wanted += " >= 0" if math.isinf(below) and least == 0 else ""
        raise InputError(f"{type(params).__name__}: {name} must be {wanted}, got {value!r}.")
    if plain is not value:
        # A schedule's numpy scalar is a number to everybody but the encoder.
        force_setattr(params, name, plain)


class LoraConfig(Record, frozen=True, kw_only=True):
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

    rank: Annotated[int, Meta(ge=1)]
    seed: int | None = None
    train_unembed: bool = True
    train_mlp: bool = True
    train_attn: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.train_unembed or self.train_mlp or self.train_attn):
            raise InputError(
                "LoraConfig: nothing to train: train_unembed, train_mlp and train_attn are all false. Turn one on."
            )
