"""Regularizers of distributions: their entropy, and how far they are from another one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import lax

from tinkex_actors.errors import InputError
from tinkex_actors.losses.regularizers.base import Metrics, Reduction, Regularizer, choose, measures, reduce_samples
from tinkex_actors.losses.regularizers.reading import field_rows, shaped_as

__all__ = ["Entropy", "JensenShannon", "KLDivergence"]

_REDUCTIONS = ("mean", "sum", "none")
# Reference 1.28: what is less likely adds nothing that could be seen.
_LOGPROB_FLOOR, _PROB_FLOOR, _RATIO_LIMIT = -50.0, 1e-10, 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Entropy(Regularizer):
    """The entropy ``H = -sum(e^x * x)`` over the last axis, made small or large (``entropy``).

    Entries of -50 and less count as 0. The entropy of a one-dimensional input is one number, over all of it.

    Args:
        mode: ``"minimize"`` gives +H, for sharper distributions; ``"maximize"`` gives -H, for broader ones.
        reduction: over samples: ``"mean"``, ``"sum"`` or ``"none"``.
        normalize: divide by ``log K``, K being the length of the last axis; a single outcome is left as it is.
        temperature: where it is not 1, x is first replaced by ``x / T - logsumexp(x / T)``.

    Metrics: ``entropy`` is H, reduced (``none``: the mean); ``temperature``; ``mode`` as a word.
    """

    name: ClassVar[str] = "entropy"
    mode: Literal["minimize", "maximize"] = "minimize"
    reduction: Reduction = "mean"
    normalize: bool = False
    temperature: float = 1.0

    def __post_init__(self) -> None:
        choose("Entropy", "mode", self.mode, ("minimize", "maximize"))
        choose("Entropy", "reduction", self.reduction, _REDUCTIONS)
        if not self.temperature > 0:
            raise InputError(f"Entropy: temperature is {self.temperature!r}; expected a number above 0.")

    def evaluate(
        self, values: jax.Array, present: jax.Array | None, reference: Any, key: Any
    ) -> tuple[jax.Array, Metrics]:
        """See ``Regularizer.evaluate``."""
        counted = _samples(present)
        if self.temperature != 1.0:
            values = values / self.temperature
            # A sample without entries is left out below; until then it stands for zeros, which are finite.
            shut = values if present is None else jnp.where(present | ~present.any(-1, keepdims=True), values, -jnp.inf)
            values = values - jax.nn.logsumexp(shut, axis=-1, keepdims=True)
        alive = values > _LOGPROB_FLOOR
        if present is not None:
            alive = alive & present
        inner = jnp.where(alive, values, 0)
        entropy = -(jnp.exp(inner) * inner).sum(axis=-1)
        if self.normalize:
            outcomes = values.shape[-1] if present is None else present.sum(axis=-1)
            outcomes = jnp.asarray(outcomes, values.dtype)
            entropy = entropy / jnp.where(outcomes > 1, jnp.log(jnp.maximum(outcomes, 2)), 1)
        reduced = reduce_samples(entropy, counted, self.reduction)
        metrics = measures(reduced, entropy=reduced, mode=self.mode, temperature=self.temperature)
        return (reduced if self.mode == "minimize" else -reduced), metrics


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Divergence(Regularizer):
    reference_logprobs: Any = None
    reference_field: str | None = None
    compute_reference: Callable[[Sequence[Any]], Any] | None = None
    reduction: Reduction = "mean"
    parity: bool = False

    def __post_init__(self) -> None:
        owner = type(self).__name__
        choose(owner, "reduction", self.reduction, _REDUCTIONS)
        ways = (self.reference_logprobs, self.reference_field, self.compute_reference)
        given = sum(way is not None for way in ways)
        if given != 1:
            raise InputError(
                f"{owner}: {'no reference' if not given else f'{given} references'}; expected exactly one of "
                "reference_logprobs, reference_field and compute_reference."
            )

    @property
    def field(self) -> str | None:
        return self.reference_field

    @property
    def reads_rows(self) -> bool:
        return self.reference_field is not None

    def read(self, data: Sequence[Any], logprobs: Any, values: jax.Array) -> Any:
        owner = type(self).__name__
        if self.reference_field is not None:
            rows = field_rows(owner, data, self.reference_field, logprobs)
            return shaped_as(owner, self.reference_field, rows, values)
        given = self.reference_logprobs if self.compute_reference is None else self.compute_reference(data)
        rows = [jnp.asarray(row) for row in (given if isinstance(given, (list, tuple)) else [given])]
        if rows and all(row.ndim == 0 for row in rows):
            rows = [jnp.stack(rows)]
        return shaped_as(owner, "the reference", rows, values)

    def _pair(self, values: jax.Array, present: jax.Array | None, reference: Any) -> tuple[jax.Array, jax.Array]:
        own = lax.stop_gradient(values) if self.parity else values
        other = lax.stop_gradient(jnp.asarray(reference, values.dtype))
        if present is not None:
            own, other = jnp.where(present, own, -jnp.inf), jnp.where(present, other, -jnp.inf)
        return own, other


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KLDivergence(_Divergence):
    """``sum(p * (log p - log q))`` over the last axis, between the logprobs and a reference (``kl_divergence``).

    The difference of logprobs is cut to +-100, and terms with p of 1e-10 and less are left out. The reference passes
    no gradient. What is no distribution (the logprobs of chosen tokens, which need not add up to 1) can be negative.

    Args:
        reference_logprobs: the other one: an array shaped as the logprobs, or a list of rows.
        reference_field: or where each datum has it in ``loss_fn_inputs``.
        compute_reference: or what computes it from the data.
        reduction: over samples: ``"mean"``, ``"sum"`` or ``"none"``.
        direction: ``"forward"`` takes the logprobs for p; ``"reverse"`` takes the reference for p.
        symmetric: half of each direction, whatever ``direction`` says.
        parity: true gives the gradient of the original's adapter, which is zero.

    Metrics: ``kl_divergence`` (reduced), ``kl_max`` and ``kl_min`` over samples, ``kl_symmetric`` as 0 or 1, and
    ``kl_direction`` as a word.
    """

    name: ClassVar[str] = "kl_divergence"
    direction: Literal["forward", "reverse"] = "forward"
    symmetric: bool = False

    def __post_init__(self) -> None:
        _Divergence.__post_init__(self)
        choose("KLDivergence", "direction", self.direction, ("forward", "reverse"))

    def evaluate(
        self, values: jax.Array, present: jax.Array | None, reference: Any, key: Any
    ) -> tuple[jax.Array, Metrics]:
        """See ``Regularizer.evaluate``."""
        own, other = self._pair(values, present, reference)
        if self.symmetric:
            samples = 0.5 * (_kl(own, other) + _kl(other, own))
        else:
            samples = _kl(own, other) if self.direction == "forward" else _kl(other, own)
        counted = _samples(present)
        reduced = reduce_samples(samples, counted, self.reduction)
        high = samples if counted is None else jnp.where(counted, samples, -jnp.inf)
        low = samples if counted is None else jnp.where(counted, samples, jnp.inf)
        return reduced, measures(
            reduced,
            kl_divergence=reduced,
            kl_direction=self.direction,
            kl_symmetric=float(self.symmetric),
            kl_max=high.max(),
            kl_min=low.min(),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class JensenShannon(_Divergence):
    """``(KL(p, m) + KL(q, m)) / 2`` with ``m = (p + q) / 2``: symmetric, and at most log 2 for distributions.

    Lin 1991, "Divergence measures based on the Shannon entropy". m is at least 1e-10; the reference passes no
    gradient.

    Args:
        reference_logprobs: the other one: an array shaped as the logprobs, or a list of rows.
        reference_field: or where each datum has it in ``loss_fn_inputs``.
        compute_reference: or what computes it from the data.
        reduction: over samples: ``"mean"``, ``"sum"`` or ``"none"``.
        parity: true gives no gradient.

    Metrics: ``js_divergence``, reduced.
    """

    name: ClassVar[str] = "jensen_shannon"

    def evaluate(
        self, values: jax.Array, present: jax.Array | None, reference: Any, key: Any
    ) -> tuple[jax.Array, Metrics]:
        """See ``Regularizer.evaluate``."""
        own, other = self._pair(values, present, reference)
        middle = jnp.log(jnp.maximum(0.5 * (jnp.exp(own) + jnp.exp(other)), _PROB_FLOOR))
        samples = 0.5 * (_kl(own, middle) + _kl(other, middle))
        reduced = reduce_samples(samples, _samples(present), self.reduction)
        return reduced, measures(reduced, js_divergence=reduced)


def _kl(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    """Return ``sum(p * clip(log p - log q))`` over the last axis. ``-inf`` is a probability of 0."""
    alive = log_p > jnp.log(_PROB_FLOOR)
    inner = jnp.where(alive, log_p, 0)
    # Where q is 0 the ratio is at its limit; a plain difference would be infinite there, and its gradient NaN.
    reached = log_q > -jnp.inf
    ratio = jnp.clip(inner - jnp.where(reached, log_q, 0), -_RATIO_LIMIT, _RATIO_LIMIT)
    ratio = jnp.where(reached, ratio, _RATIO_LIMIT)
    return jnp.where(alive, jnp.exp(inner) * ratio, 0).sum(axis=-1)


def _samples(present: jax.Array | None) -> jax.Array | None:
    """Return which samples have an entry that counts."""
    return None if present is None else present.any(axis=-1)
