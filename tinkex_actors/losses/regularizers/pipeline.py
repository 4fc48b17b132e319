"""A base loss and weighted regularizers as one loss, with every part's share told.

``total = base + sum(weight_i * value_i)``. A pipeline is a loss for ``forward_backward_custom``; and ``compute``
reports on a batch without training.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from tinkex_actors.errors import InputError, LossError, TinkexError
from tinkex_actors.losses.batch_loss import BatchLoss
from tinkex_actors.losses.evaluation.result import Evaluation
from tinkex_actors.losses.evaluation.verdicts import check_gradients, check_metrics
from tinkex_actors.losses.regularizers.fused import FusedTerms
from tinkex_actors.losses.regularizers.gradients import norm, pull_back, weighted_sum
from tinkex_actors.losses.regularizers.report import Share, metrics_of, output_of
from tinkex_actors.losses.regularizers.spec import RegularizerSpec, check_names
from tinkex_actors.runtime.log import Logger
from tinkex_actors.types import CustomLossOutput, Datum

__all__ = ["BaseLoss", "RegularizerPipeline"]

_log = Logger("tinkex_actors.losses")

BaseLoss = Callable[[Any, Any], tuple[Any, Mapping[str, Any]]]
"""``base(data, logprobs) -> (scalar, metrics)``, or a ``BatchLoss``."""


class RegularizerPipeline:
    """A base loss plus weighted regularizers.

    ::

        pipeline = RegularizerPipeline(
            [RegularizerSpec(L1(), 0.01, "l1"), RegularizerSpec(KLDivergence(reference_field="ref"), 0.1, "kl")],
            base_loss=importance_sampling(),
            track_grad_norms=True,
        )
        out = await training.forward_backward_custom(batch, pipeline)
        print(out.metrics["kl/contribution:mean"], out.metrics["kl/grad_norm:mean"])

    With a ``BatchLoss`` for a base, and regularizers of this package that read logprobs and fields of the data, all of
    it is one compiled program; weights are its arguments, so that a schedule compiles nothing. Anything else runs
    uncompiled.

    Args:
        regularizers: the terms; their names differ.
        base_loss: what they are added to. ``compute`` may be given another.
        track_grad_norms: report the L2 norm of each term's gradient, of the base's and of the whole.
        parallel: run terms at the same time where the client runs them (``compute_regularized``).
        timeout: seconds that one term may take there.

    Raises:
        InputError: terms that are none, duplicate names, or a base loss that does not take (data, logprobs).
    """

    def __init__(
        self,
        regularizers: Sequence[RegularizerSpec] = (),
        base_loss: BaseLoss | None = None,
        *,
        track_grad_norms: bool = False,
        parallel: bool = True,
        timeout: float = 30.0,
    ) -> None:
        check_names(regularizers)
        if base_loss is not None:
            check_base(base_loss)
        if not timeout > 0:
            raise InputError(f"RegularizerPipeline: timeout is {timeout!r}; expected seconds above 0.")
        self.regularizers = tuple(regularizers)
        self.base_loss = base_loss
        self.track_grad_norms = track_grad_norms
        self.parallel = parallel
        self.timeout = timeout
        self.name = " + ".join(["base", *(spec.name for spec in self.regularizers)])
        self._step = 0
        self._fused = (
            FusedTerms(base_loss, self.regularizers, track_grad_norms)
            if isinstance(base_loss, BatchLoss) and FusedTerms.can_hold(self.regularizers)
            else None
        )

    def at(self, step: int) -> RegularizerPipeline:
        """Return the same pipeline with its schedules at ``step``; programs already compiled serve it as well."""
        moved = copy.copy(self)
        moved._step = step
        return moved

    @property
    def weights(self) -> dict[str, float]:
        """Each term's weight at this step."""
        return {spec.name: spec.weight_at(self._step) for spec in self.regularizers}

    @property
    def asynchronous(self) -> tuple[RegularizerSpec, ...]:
        """The terms that have to be awaited before anything can be computed."""
        return tuple(spec for spec in self.regularizers if spec.is_async)

    def with_results(self, found: Mapping[str, Any]) -> RegularizerPipeline:
        """Return a pipeline whose asynchronous terms are replaced by what their coroutines returned, by name."""
        specs = [spec.with_result(found[spec.name]) if spec.is_async else spec for spec in self.regularizers]
        return RegularizerPipeline(
            specs,
            self.base_loss,
            track_grad_norms=self.track_grad_norms,
            parallel=self.parallel,
            timeout=self.timeout,
        ).at(self._step)

    # --- as a loss ---------------------------------------------------------------------------------------------------
    def __call__(self, data: Sequence[Any], logprobs: Any) -> tuple[jax.Array, dict[str, Any]]:
        """Return the total and its parts as metrics; differentiable in ``logprobs``."""
        base = self._base(None)
        self._require_synchronous()
        value, metrics = base(data, logprobs)
        shares, total = [], jnp.asarray(value)
        for spec in self.regularizers:
            found, own = spec.evaluate(data, logprobs)
            weight = spec.weight_at(self._step)
            shares.append(Share(spec.name, found, weight, own))
            total = total + weight * found
        return total, metrics_of(value, metrics, shares, total)

    def value_and_grad(self, data: Sequence[Datum], logprobs: Sequence[npt.NDArray[Any]]) -> Evaluation:
        """Return the total, its gradient and its parts at one batch of checked arrays: one pass forward, one back.

        Raises:
            InputError: there is no base loss.
            LossError: a term failed, or has to be awaited first.
            ShapeMismatchError: a field does not fit the logprobs.
            NonFiniteLossError: NaN or infinity; the datum and the token are named.
        """
        base = self._base(None)
        self._require_synchronous()
        weights = [1.0, *self.weights.values()]
        if self._fused is not None:
            found = self._fused.run(data, logprobs, weights)
        else:
            terms = [lambda at: base(data, at), *(self._term(spec, data) for spec in self.regularizers)]
            at = [jnp.asarray(row) for row in logprobs]
            found = _walk(terms, at, weights, norms=self.track_grad_norms, readable=True)
        values, metrics, norms, total_norm, gradients = found
        shares = [
            Share(spec.name, value, weight, own, grad_norm)
            for spec, value, weight, own, grad_norm in zip(
                self.regularizers, values[1:], weights[1:], metrics[1:], norms[1:], strict=True
            )
        ]
        loss = float(sum(weight * float(value) for weight, value in zip(weights, values, strict=True)))
        rows = [np.asarray(row) for row in gradients]
        check_gradients(self.name, loss, rows, logprobs)
        told = metrics_of(values[0], metrics[0], shares, loss, norms[0], total_norm)
        return Evaluation(loss, rows, check_metrics(self.name, told))

    # --- as a report -------------------------------------------------------------------------------------------------
    def compute(
        self,
        data: Sequence[Any],
        logprobs: Any,
        base_loss: BaseLoss | None = None,
        *,
        mask: Any = None,
        key: Any = None,
    ) -> CustomLossOutput:
        """Return the total and each part's value, contribution and, where tracked, gradient norm.

        Args:
            data: the batch; may be empty where nothing reads it.
            logprobs: a list of arrays, or one array.
            base_loss: instead of the pipeline's own.
            mask: for the regularizers: true where a number counts. A base loss has to know by itself.
            key: a JAX key or a seed, for regularizers that draw.

        Raises:
            InputError: no base loss, or one that does not take (data, logprobs).
            LossError: a term failed, or has to be awaited (``compute_regularized`` does); its name is in the message.
        """
        self._require_synchronous()
        value, metrics = self.base_part(data, logprobs, base_loss)
        shares = [self.share(spec, data, logprobs, mask=mask, key=key) for spec in self.regularizers]
        return self.report(data, logprobs, base_loss, value, metrics, shares, mask=mask, key=key)

    def base_part(
        self, data: Sequence[Any], logprobs: Any, base_loss: BaseLoss | None = None
    ) -> tuple[float, Mapping[str, Any]]:
        """Return the base loss and its metrics."""
        base = self._base(base_loss)
        try:
            result = base(data, _arrays(logprobs))
            value, metrics = result
            return float(jnp.sum(jnp.asarray(value))), dict(metrics)
        except TinkexError:
            raise
        except Exception as error:
            raise LossError(
                f"the base loss failed: {type(error).__name__}: {error}; it takes (data, logprobs) and returns "
                "(value, metrics)."
            ) from error

    def share(
        self, spec: RegularizerSpec, data: Sequence[Any], logprobs: Any, *, mask: Any = None, key: Any = None
    ) -> Share:
        """Return one term's value, weight and metrics, without its gradient norm."""
        value, metrics = spec.evaluate(data, _arrays(logprobs), mask, key)
        return Share(spec.name, float(value), spec.weight_at(self._step), metrics)

    def report(
        self,
        data: Sequence[Any],
        logprobs: Any,
        base_loss: BaseLoss | None,
        value: float,
        metrics: Mapping[str, Any],
        shares: Sequence[Share],
        *,
        mask: Any = None,
        key: Any = None,
    ) -> CustomLossOutput:
        """Return the report of parts that are already computed; gradient norms are computed here, where tracked."""
        if not self.track_grad_norms:
            return output_of(value, metrics, shares)
        base = self._base(base_loss)
        terms = [lambda at: base(data, at), *(self._term(spec, data, mask, key) for spec in self.regularizers)]
        weights = [1.0, *(share.weight for share in shares)]
        norms, total = self._norms(terms, _arrays(logprobs), weights)
        told = [share._replace(grad_norm=found) for share, found in zip(shares, norms[1:], strict=True)]
        return output_of(value, metrics, told, norms[0], total)

    def _norms(
        self, terms: Sequence[Callable[[Any], Any]], at: Any, weights: Sequence[float]
    ) -> tuple[list[float | None], float | None]:
        constant = [False, *(_is_constant(spec) for spec in self.regularizers)]
        try:
            *_, norms, total, _ = _walk(terms, at, weights, norms=True)
            return [None if fixed else float(n) for fixed, n in zip(constant, norms, strict=True)], float(total)
        except Exception:  # one term that cannot be differentiated: find out which, and tell the others' norms
            found: list[float | None] = []
            for place, term in enumerate(terms):
                try:
                    found.append(None if constant[place] else float(norm(pull_back([_plain(term)], at)[2])))
                except Exception as error:
                    name = "base loss" if place == 0 else self.regularizers[place - 1].name
                    _log.warning("regularizer.no_gradient", regularizer=name, why=f"{type(error).__name__}: {error}")
                    found.append(None)
            return found, None

    def _term(
        self, spec: RegularizerSpec, data: Sequence[Any], mask: Any = None, key: Any = None
    ) -> Callable[[Any], tuple[Any, Any]]:
        return lambda at: spec.evaluate(data, at, mask, key)

    def _base(self, given: BaseLoss | None) -> BaseLoss:
        if given is not None:
            check_base(given)
            return given
        if self.base_loss is None:
            raise InputError(
                "RegularizerPipeline has no base loss. Pass base_loss=, a function of (data, logprobs) or a BatchLoss."
            )
        return self.base_loss

    def _require_synchronous(self) -> None:
        if self.asynchronous:
            names = ", ".join(spec.name for spec in self.asynchronous)
            raise LossError(
                f"regularizers that are awaited: {names}. Use forward_backward_custom, or `await "
                "compute_regularized(system, pipeline, data, logprobs)`."
            )

    def __repr__(self) -> str:
        return f"<RegularizerPipeline {self.name}>"


def check_base(base: object) -> None:
    """Refuse a base loss that does not take (data, logprobs).

    Raises:
        InputError: it is no function of two arguments.
    """
    import inspect

    if not callable(base):
        raise InputError(f"base_loss is a {type(base).__name__}; expected a function of (data, logprobs).")
    try:
        inspect.signature(base).bind(None, None)
    except TypeError as error:
        name = getattr(base, "__name__", type(base).__name__)
        raise InputError(f"base_loss {name} does not take two arguments, (data, logprobs): {error}.") from error
    except ValueError:
        return


def _walk(
    terms: Sequence[Callable[[Any], Any]], at: Any, weights: Sequence[float], *, norms: bool, readable: bool = False
) -> Any:
    values, metrics, gradients = pull_back([_numbers(term) for term in terms], at, readable=readable)
    total = weighted_sum(gradients, weights)
    if not norms:
        return values, metrics, [None] * len(values), None, total
    return values, metrics, [norm(gradient) for gradient in gradients], norm(total), total


def _numbers(term: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, dict[str, Any]]]:
    def numbers(at: Any) -> tuple[Any, dict[str, Any]]:
        value, metrics = term(at)
        return value, {name: number for name, number in metrics.items() if not isinstance(number, str)}

    return numbers


def _plain(term: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, dict[str, Any]]]:
    return lambda at: (term(at)[0], {})


def _is_constant(spec: RegularizerSpec) -> bool:
    from tinkex_actors.losses.regularizers.spec import Constant

    return isinstance(spec.fn, Constant)


def _arrays(logprobs: Any) -> Any:
    if isinstance(logprobs, (list, tuple)):
        return [jnp.asarray(row) for row in logprobs]
    return jnp.asarray(logprobs)
