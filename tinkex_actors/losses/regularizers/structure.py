"""Regularizers of how things relate: a pair of views, the rows of a matrix, and a loss to its inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import lax

from tinkex_actors.errors import InputError
from tinkex_actors.losses.regularizers.base import (
    Metrics,
    Reduction,
    Regularizer,
    choose,
    measures,
    reduce_samples,
    safe_norm,
)
from tinkex_actors.losses.regularizers.reading import field_rows, shaped_as

__all__ = ["Consistency", "GradientPenalty", "Orthogonality"]

# Reference 1.28: the least norm that is divided by.
_NORM_FLOOR = 1e-8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Consistency(Regularizer):
    """How far the logprobs a are from those of another view of the same tokens, b (``consistency``).

    ``mse`` is ``R((a - b)^2)``, ``l1`` is ``R(|a - b|)``, ``cosine`` is one minus the cosine between all of a and all
    of b, ``kl`` is half of each direction's divergence over the last axis, with nothing cut or left out. b passes no
    gradient.

    Args:
        pair_field: where each datum has b in ``loss_fn_inputs``, one number for each logprob.
        metric: ``"mse"``, ``"l1"``, ``"cosine"`` or ``"kl"``.
        reduction: R, ``"mean"``, ``"sum"`` or ``"none"``.
        parity: true gives the gradient of the original's adapter, which is zero.

    Metrics: ``consistency_metric`` as a word.
    """

    name: ClassVar[str] = "consistency"
    pair_field: str = "original_logprobs"
    metric: Literal["mse", "l1", "cosine", "kl"] = "mse"
    reduction: Reduction = "mean"
    parity: bool = False

    def __post_init__(self) -> None:
        choose("Consistency", "metric", self.metric, ("mse", "l1", "cosine", "kl"))
        choose("Consistency", "reduction", self.reduction, ("mean", "sum", "none"))

    @property
    def field(self) -> str | None:
        """See ``Regularizer.field``."""
        return self.pair_field

    def read(self, data: Sequence[Any], logprobs: Any, values: jax.Array) -> Any:
        """See ``Regularizer.read``."""
        rows = field_rows("Consistency", data, self.pair_field, logprobs)
        return shaped_as("Consistency", self.pair_field, rows, values)

    def evaluate(
        self, values: jax.Array, present: jax.Array | None, reference: Any, key: Any
    ) -> tuple[jax.Array, Metrics]:
        """See ``Regularizer.evaluate``."""
        own = lax.stop_gradient(values) if self.parity else values
        other = lax.stop_gradient(jnp.asarray(reference, values.dtype))
        if present is not None:
            own, other = jnp.where(present, own, 0), jnp.where(present, other, 0)
        value = self._distance(own, other, present)
        return value, measures(value, consistency_metric=self.metric)

    def _distance(self, own: jax.Array, other: jax.Array, present: jax.Array | None) -> jax.Array:
        if self.metric == "mse":
            return reduce_samples((own - other) ** 2, present, self.reduction)
        if self.metric == "l1":
            return reduce_samples(jnp.abs(own - other), present, self.reduction)
        if self.metric == "cosine":
            norms = jnp.maximum(safe_norm(own), _NORM_FLOOR) * jnp.maximum(safe_norm(other), _NORM_FLOOR)
            return 1 - (own * other).sum() / norms
        # Half the sum of both directions: sum((p - q) * (log p - log q)) / 2.
        samples = 0.5 * ((jnp.exp(own) - jnp.exp(other)) * (own - other)).sum(axis=-1)
        return reduce_samples(samples, None if present is None else present.any(axis=-1), self.reduction)


@dataclass(frozen=True, slots=True, kw_only=True)
class Orthogonality(Regularizer):
    """How much the rows of a matrix M overlap, by ``G = M M^T`` (``orthogonality``).

    ``soft`` is the sum of ``G_ij^2`` over i != j, ``hard`` is ``|G - I|^2``, ``spectral`` is
    ``(trace G - n)^2`` plus ``soft``, with n rows. One row overlaps with nothing: ``soft`` is 0, and so are the others
    once it is normalised. Rows of tokens, ``[T_i]``, are one row when they come as a list; give an array
    ``[rows, columns]`` to compare them.

    Args:
        mode: ``"soft"``, ``"hard"`` or ``"spectral"``.
        normalize: divide each row by its length, or by 1e-8 where that is less.
        axis: what becomes a row. ``"rows"``: two dimensions as they are, more flattened to ``[all others, last]``.
            ``"sequence"``: ``[b, s, v]`` becomes ``[s, b * v]``. ``"vocabulary"``: ``[b, s, v]`` becomes
            ``[v, b * s]``, two dimensions are transposed.

    Metrics: ``orthogonality``, the value.
    """

    name: ClassVar[str] = "orthogonality"
    mode: Literal["soft", "hard", "spectral"] = "soft"
    normalize: bool = True
    axis: Literal["rows", "sequence", "vocabulary"] = "rows"

    def __post_init__(self) -> None:
        choose("Orthogonality", "mode", self.mode, ("soft", "hard", "spectral"))
        choose("Orthogonality", "axis", self.axis, ("rows", "sequence", "vocabulary"))

    def evaluate(
        self, values: jax.Array, present: jax.Array | None, reference: Any, key: Any
    ) -> tuple[jax.Array, Metrics]:
        """See ``Regularizer.evaluate``."""
        matrix = self._rows(values if present is None else jnp.where(present, values, 0))
        counted = jnp.ones(matrix.shape[0], bool) if present is None else self._rows(present).any(axis=-1)
        if self.normalize:
            square = jnp.maximum((matrix * matrix).sum(axis=-1, keepdims=True), _NORM_FLOOR**2)
            matrix = matrix / jnp.sqrt(square)
        gram = matrix @ matrix.T
        diagonal = jnp.diagonal(gram)
        # Rows that a mask empties are zero, so that they add nothing here.
        soft = (gram * gram).sum() - (diagonal * diagonal).sum()
        if self.mode == "hard":
            value = soft + jnp.where(counted, (diagonal - 1) ** 2, 0).sum()
        elif self.mode == "spectral":
            value = soft + (diagonal.sum() - counted.sum()) ** 2
        else:
            value = soft
        return value, measures(value, orthogonality=value)

    def _rows(self, values: jax.Array) -> jax.Array:
        if self.axis == "sequence" and values.ndim == 3:
            return jnp.swapaxes(values, 0, 1).reshape(values.shape[1], -1)
        if self.axis == "vocabulary" and values.ndim in (2, 3):
            return values.reshape(-1, values.shape[-1]).T
        return values.reshape(-1, values.shape[-1])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GradientPenalty(Regularizer):
    """``(|d loss_fn(z) / dz| - target_norm)^2``: holds a loss's steepness near a number (``gradient_penalty``).

    Gulrajani et al. 2017, "Improved Training of Wasserstein GANs". A loss of constant gradient, such as a sum, has a
    constant penalty, whose own gradient is zero.

    What a mask leaves out is cut out, so that ``loss_fn`` does not see it: whole samples where the mask has whole
    samples, else z is one row of what is left. The mask itself has to be a plain array, not a traced one.

    Args:
        loss_fn: a JAX function of one tensor; what is no scalar is summed.
        mode: ``"output"`` takes z for the logprobs themselves; ``"interpolated"`` takes
            ``z = e * logprobs + (1 - e) * reference`` with one e, uniform in [0, 1).
        target_norm: the norm wanted.
        reference_field: where each datum has the reference in ``loss_fn_inputs``; for ``"interpolated"``.
        key: where e comes from: a JAX key or a seed. It is the same at every call; the call's own ``key`` replaces it.

    Metrics: none.
    """

    name: ClassVar[str] = "gradient_penalty"
    loss_fn: Callable[[jax.Array], Any]
    mode: Literal["output", "interpolated"] = "output"
    target_norm: float = 1.0
    reference_field: str = "reference_logprobs"
    key: Any = None

    def __post_init__(self) -> None:
        choose("GradientPenalty", "mode", self.mode, ("output", "interpolated"))
        if not callable(self.loss_fn):
            raise InputError(
                f"GradientPenalty: loss_fn is a {type(self.loss_fn).__name__}; expected a JAX function of one tensor."
            )

    @property
    def field(self) -> str | None:
        """See ``Regularizer.field``."""
        return self.reference_field if self.mode == "interpolated" else None

    def read(self, data: Sequence[Any], logprobs: Any, values: jax.Array) -> Any:
        """See ``Regularizer.read``."""
        if self.field is None:
            return None
        rows = field_rows("GradientPenalty", data, self.reference_field, logprobs)
        return shaped_as("GradientPenalty", self.reference_field, rows, values)

    @property
    def reads_rows(self) -> bool:
        """False: what a loss of its own makes of padding cannot be known."""
        return False

    def evaluate(
        self, values: jax.Array, present: jax.Array | None, reference: Any, key: Any
    ) -> tuple[jax.Array, Metrics]:
        """See ``Regularizer.evaluate``."""
        point = values
        if self.mode == "interpolated":
            share = jax.random.uniform(self._key(key), (), values.dtype)
            point = share * values + (1 - share) * lax.stop_gradient(jnp.asarray(reference, values.dtype))
        if present is not None:
            point = _kept(point, present)
        slope = jax.grad(lambda z: jnp.sum(self.loss_fn(z)))(point)
        return (safe_norm(slope) - self.target_norm) ** 2, {}

    def _key(self, given: Any) -> Any:
        key = self.key if given is None else given
        if key is None:
            raise InputError(
                "GradientPenalty: mode 'interpolated' draws a number, and there is no key. Pass key= (a JAX key or a "
                "seed), here or to the call."
            )
        return jax.random.key(key) if isinstance(key, int) else key


def _kept(values: jax.Array, present: jax.Array) -> jax.Array:
    if isinstance(present, jax.core.Tracer):
        raise InputError(
            "GradientPenalty: the mask is traced, so that what it leaves out cannot be cut out. Pass a plain array, or "
            "leave the mask out."
        )
    rows = present.any(axis=-1)
    return values[rows] if bool((present.all(axis=-1) == rows).all()) and values.ndim > 1 else values[present]
