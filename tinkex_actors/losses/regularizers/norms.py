"""Regularizers that keep numbers small: L1, L2, both, and the size of the whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from tinkex_actors.errors import InputError
from tinkex_actors.losses.regularizers.base import Metrics, Regularizer, choose, measures, reduce_samples, safe_norm
from tinkex_actors.losses.regularizers.reading import Target, check_target, target_tensor

__all__ = ["L1", "L2", "ElasticNet", "OutputMagnitude"]

_REDUCTIONS = ("sum", "mean")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Norm(Regularizer):
    target: Target = "logprobs"
    reduction: Literal["sum", "mean"] = "sum"
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_target(type(self).__name__, self.target)
        choose(type(self).__name__, "reduction", self.reduction, _REDUCTIONS)

    def select(self, data: Sequence[Any], logprobs: Any, mask: Any) -> tuple[jax.Array, jax.Array | None]:
        return target_tensor(type(self).__name__, self.target, data, logprobs, mask)

    @property
    def reads_rows(self) -> bool:
        return not isinstance(self.target, tuple)


@dataclass(frozen=True, slots=True, kw_only=True)
class L1(_Norm):
    """``scale * R(|x|)``: pulls numbers to 0 with equal force, however small (``l1_sparsity``).

    Args:
        target: what x is: ``"logprobs"``, ``"probs"``, or ``("field", NAME)`` of the first datum.
        reduction: R, ``"sum"`` or ``"mean"``.
        scale: the factor, 1.28's lambda.

    Metrics: ``l1_raw`` is ``R(|x|)``, ``l1_mean`` the mean of ``|x|``.
    """

    name: ClassVar[str] = "l1_sparsity"

    def evaluate(
        self, values: jax.Array, present: jax.Array | None, reference: Any, key: Any
    ) -> tuple[jax.Array, Metrics]:
        """See ``Regularizer.evaluate``."""
        sizes = jnp.abs(values)
        raw = reduce_samples(sizes, present, self.reduction)
        return self.scale * raw, measures(raw, l1_raw=raw, l1_mean=reduce_samples(sizes, present, "mean"))


@dataclass(frozen=True, slots=True, kw_only=True)
class L2(_Norm):
    """``scale * R(y^2)`` with ``y = x - center``: pulls large numbers hardest (``l2_weight_decay``).

    Args:
        target: as for ``L1``.
        reduction: R, ``"sum"`` or ``"mean"``.
        scale: the factor.
        clip: y is cut to ``[-clip, clip]`` first; None cuts nothing.
        center: None, a number, or ``"mean"`` for the mean of x (which the gradient passes through).

    Metrics: ``l2_raw`` is ``R(y^2)``, ``l2_mean`` the mean of ``x^2``, without center; ``center`` as a number or
    ``"none"``.
    """

    name: ClassVar[str] = "l2_weight_decay"
    clip: float | None = None
    center: float | Literal["mean"] | None = None

    def __post_init__(self) -> None:
        # dataclass(slots=True) makes a new class, which zero-argument super() does not know.
        _Norm.__post_init__(self)
        if self.clip is not None and not self.clip > 0:
            raise InputError(f"L2: clip is {self.clip!r}; expected a number above 0, or None.")
        if isinstance(self.center, str) and self.center != "mean":
            raise InputError(f"L2: center is {self.center!r}; expected None, 'mean' or a number.")

    def evaluate(
        self, values: jax.Array, present: jax.Array | None, reference: Any, key: Any
    ) -> tuple[jax.Array, Metrics]:
        """See ``Regularizer.evaluate``."""
        center: Any = "none"
        moved = values
        if self.center is not None:
            center = reduce_samples(values, present, "mean") if self.center == "mean" else self.center
            moved = values - center
        if self.clip is not None:
            moved = jnp.clip(moved, -self.clip, self.clip)
        raw = reduce_samples(moved * moved, present, self.reduction)
        mean = reduce_samples(values * values, present, "mean")
        return self.scale * raw, measures(raw, l2_raw=raw, l2_mean=mean, center=center)


@dataclass(frozen=True, slots=True, kw_only=True)
class ElasticNet(_Norm):
    """``scale * (a * R(|x|) + (1 - a) * R(x^2))``: L1 and L2 mixed (Zou and Hastie 2005; ``elastic_net``).

    Args:
        target: as for ``L1``.
        reduction: R, ``"sum"`` or ``"mean"``.
        scale: the factor.
        l1_ratio: a, from 0 (all L2) to 1 (all L1).

    Metrics: ``elastic_net`` is the value, ``l1_ratio`` the option.
    """

    name: ClassVar[str] = "elastic_net"
    l1_ratio: float = 0.5

    def __post_init__(self) -> None:
        _Norm.__post_init__(self)
        if not 0 <= self.l1_ratio <= 1:
            raise InputError(f"ElasticNet: l1_ratio is {self.l1_ratio!r}; expected 0 to 1.")

    def evaluate(
        self, values: jax.Array, present: jax.Array | None, reference: Any, key: Any
    ) -> tuple[jax.Array, Metrics]:
        """See ``Regularizer.evaluate``."""
        mixed = self.l1_ratio * jnp.abs(values) + (1 - self.l1_ratio) * values * values
        value = self.scale * reduce_samples(mixed, present, self.reduction)
        return value, measures(value, elastic_net=value, l1_ratio=self.l1_ratio)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputMagnitude(_Norm):
    """``scale * (sqrt(R(x^2)) - target_norm)^2``: holds the size of the whole near a number; a cheap stand-in for
    ``GradientPenalty``.

    Args:
        target: as for ``L1``.
        reduction: R, ``"mean"`` (the root mean square) or ``"sum"`` (the L2 norm).
        scale: the factor.
        target_norm: the size wanted.

    Metrics: ``output_magnitude`` is ``sqrt(R(x^2))``.
    """

    name: ClassVar[str] = "output_magnitude"
    reduction: Literal["sum", "mean"] = "mean"
    target_norm: float = 1.0

    def evaluate(
        self, values: jax.Array, present: jax.Array | None, reference: Any, key: Any
    ) -> tuple[jax.Array, Metrics]:
        """See ``Regularizer.evaluate``."""
        counted = values if present is None else jnp.where(present, values, 0)
        size = safe_norm(counted)
        if self.reduction == "mean":
            count = values.size if present is None else jnp.maximum(present.sum(), 1)
            size = size / jnp.sqrt(jnp.asarray(count, values.dtype))
        return self.scale * (size - self.target_norm) ** 2, measures(size, output_magnitude=size)
