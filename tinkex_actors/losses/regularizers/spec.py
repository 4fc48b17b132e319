"""One term of a regularized loss: a regularizer, its weight and its name."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp

from tinkex_actors.errors import InputError, LossError, TinkexError
from tinkex_actors.losses.regularizers.base import Regularizer
from tinkex_actors.losses.regularizers.schedules import Schedule

__all__ = ["RegularizerSpec", "check_names"]


@dataclass(frozen=True, slots=True, eq=False)
class RegularizerSpec:
    """One term of a regularized loss.

    Args:
        fn: a regularizer of this package; or a function ``fn(data, logprobs) -> (value, metrics)``, or
            ``fn(data, logprobs, options)``; or an object with ``compute(data, logprobs, options)``. A value that is no
            scalar is summed. With ``is_async``: a coroutine function of the same arguments, which fetches what it
            needs and returns one of these, the pure part, which is then differentiated; or a ``(value, metrics)``,
            which is a constant: it has no gradient, and its gradient norm is None.
        weight: its factor, 0 or more: a number, or a function of the step (``linear``, ``cosine``, or your own).
        name: what its metrics are called; no colon in it.
        is_async: whether ``fn`` is a coroutine function. Such terms are awaited by the client, not here.
        options: for functions that take three arguments.

    Raises:
        InputError: any of these is not as said.
    """

    fn: Any
    weight: float | Schedule
    name: str
    is_async: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip() or ":" in self.name:
            raise InputError(f"RegularizerSpec: name is {self.name!r}; expected text without a colon, such as 'l1'.")
        where = f"RegularizerSpec {self.name!r}"
        if not callable(self.fn) and not callable(getattr(self.fn, "compute", None)):
            raise InputError(
                f"{where}: fn is a {type(self.fn).__name__}; expected a regularizer, a function of (data, logprobs), "
                "or an object with compute(data, logprobs, options)."
            )
        if not callable(self.weight):
            _check_weight(where, self.weight)
        if not self.is_async and _is_coroutine_function(self.fn):
            raise InputError(f"{where}: fn is a coroutine function. Pass is_async=True.")

    def weight_at(self, step: int) -> float:
        """Return the weight at a step.

        Raises:
            InputError: a schedule that gives no number of 0 or more there.
        """
        if not callable(self.weight):
            return float(self.weight)
        found = self.weight(step)
        _check_weight(f"RegularizerSpec {self.name!r} at step {step}", found)
        return float(found)

    def evaluate(self, data: Sequence[Any], logprobs: Any, mask: Any = None, key: Any = None) -> tuple[Any, Any]:
        """Return the term's value, a scalar, without its weight, and its metrics. Traceable where ``fn`` is.

        Raises:
            LossError: ``fn`` failed, or returned something else; its name is in the message.
        """
        try:
            value, metrics = self._result(self.call(data, logprobs, mask, key))
            return jnp.sum(jnp.asarray(value)), metrics
        except (TinkexError, jax.errors.JAXTypeError):
            raise
        except Exception as error:
            raise LossError(f"regularizer {self.name!r} failed: {type(error).__name__}: {error}") from error

    def call(self, data: Sequence[Any], logprobs: Any, mask: Any = None, key: Any = None) -> Any:
        """Return what ``fn`` returns: for an asynchronous one, what is to be awaited."""
        if isinstance(self.fn, Regularizer):
            return self.fn(data, logprobs, mask, key=key)
        compute = getattr(self.fn, "compute", None)
        function: Callable[..., Any] = compute if callable(compute) else self.fn
        arguments: list[Any] = [data, logprobs]
        if _positional(function) >= 3:
            arguments.append(self.options)
        if mask is None:
            return function(*arguments)
        if "mask" not in inspect.signature(function).parameters:
            raise InputError(
                f"regularizer {self.name!r} got a mask and has no parameter of that name. Add mask=None to it, or give "
                "the logprobs as a list of arrays, which needs no mask."
            )
        return function(*arguments, mask=mask)

    def with_result(self, found: Any) -> RegularizerSpec:
        """Return the term whose coroutine has returned ``found``: synchronous, with its pure part or its constant."""
        if callable(found) or callable(getattr(found, "compute", None)):
            return replace(self, fn=found, is_async=False)
        return replace(self, fn=Constant(*self._result(found)), is_async=False)

    def _result(self, result: Any) -> tuple[Any, Mapping[str, Any]]:
        if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], Mapping):
            raise LossError(
                f"regularizer {self.name!r} returned a {type(result).__name__}; expected (value, metrics), metrics "
                "being a dict, or {} for none."
            )
        return result[0], result[1]


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """What an asynchronous term computed by itself: a value that logprobs no longer move.

    Args:
        value: the number.
        metrics: its metrics.
    """

    value: Any
    metrics: Mapping[str, Any]

    def __call__(self, data: Sequence[Any], logprobs: Any, mask: Any = None) -> tuple[Any, Mapping[str, Any]]:
        """Return them."""
        return self.value, self.metrics


def check_names(specs: Sequence[RegularizerSpec]) -> None:
    """Refuse terms that are no terms, and names that two of them have.

    Raises:
        InputError: naming the duplicates.
    """
    for place, spec in enumerate(specs):
        if not isinstance(spec, RegularizerSpec):
            raise InputError(
                f"regularizers[{place}] is a {type(spec).__name__}; expected RegularizerSpec(fn, weight, name)."
            )
    names = [spec.name for spec in specs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"duplicate regularizer names: {', '.join(twice)}. Give each term a name of its own.")


def _is_coroutine_function(fn: Any) -> bool:
    """Whether calling it gives something to await."""
    compute = getattr(fn, "compute", None)
    return any(inspect.iscoroutinefunction(one) for one in (fn, compute, type(fn).__dict__.get("__call__")))


def _check_weight(where: str, weight: object) -> None:
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < math.inf:
        raise InputError(f"{where}: its weight is {weight!r}; expected a finite number, 0 or more.")


def _positional(function: Callable[..., Any]) -> int:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(
        parameter.kind in kinds and name not in ("mask", "key")
        for name, parameter in inspect.signature(function).parameters.items()
    )
