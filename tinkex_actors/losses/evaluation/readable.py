"""Arrays that can be read while a gradient is taken of them.

JAX knows the numbers of an array that it differentiates uncompiled, and gives them to ``if``, ``bool()``, ``int()`` and
``item()``, but not to ``float()``, ``numpy.asarray``, ``tolist()`` or a format. A loss of somebody's own does all of
these, if only for its metrics. Here a trace is laid over JAX's own: each operation goes through to it, and its result
is wrapped as an array that gives its numbers to whoever asks. What is computed from such a number is a constant to the
gradient. numpy's functions are carried out by their namesakes in ``jax.numpy``, so that they cut nothing off.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import set_current_trace, take_current_trace

__all__ = ["namesake", "reading"]


def reading(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a function of arrays that hands readable ones to ``function``; for ``jax.value_and_grad``, uncompiled.

    Args:
        function: of an array, or of lists of arrays; what it returns is a tree of arrays.
    """

    def read(given: Any) -> Any:
        with take_current_trace() as outer:
            trace = _ReadableTrace(outer)
            with set_current_trace(trace):  # type: ignore[no-untyped-call]
                result = function(jax.tree.map(trace.wrap, given))
            return jax.tree.map(trace.lower, result)

    return read


def namesake(name: str, method: str = "__call__") -> Any:
    """Return what ``jax.numpy`` or ``jax.scipy.special`` has under the name of one of numpy's functions.

    Raises:
        TypeError: neither has it.
    """
    found = getattr(jnp, name, None) or getattr(jax.scipy.special, name, None)
    if method != "__call__":
        found = getattr(found, method, None)
    if found is None:
        raise TypeError(f"numpy.{name} has no counterpart in jax.numpy for what was asked")
    return found


class _ReadableArray(jax.core.Tracer[Any]):
    """An array that is being differentiated, and whose numbers can be read."""

    __slots__ = ("value",)

    def __init__(self, trace: _ReadableTrace, value: Any) -> None:
        super().__init__(trace, jax.typeof(value))
        self.value = value

    def to_concrete_value(self) -> Any:
        value = self.value
        return value.to_concrete_value() if isinstance(value, jax.core.Tracer) else value  # type: ignore[no-untyped-call]

    def __float__(self) -> float:
        return float(self.to_concrete_value())

    def __array__(self, dtype: Any = None, context: None = None, copy: bool | None = None) -> Any:
        return np.array(self.to_concrete_value(), dtype)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if options.pop("out", None) is not None:
            raise TypeError(f"numpy.{ufunc.__name__} cannot write what a gradient goes through into a numpy array")
        return namesake(ufunc.__name__, method)(*inputs, **options)

    def __array_function__(self, func: Any, _types: Any, args: Any, kwargs: Any) -> Any:
        return namesake(func.__name__)(*args, **kwargs)

    def tolist(self) -> Any:
        return self.to_concrete_value().tolist()

    def __format__(self, spec: str) -> str:
        return format(self.to_concrete_value(), spec)

    def __repr__(self) -> str:
        return repr(self.to_concrete_value())


class _ReadableTrace(jax.core.Trace):
    """Passes every operation to the trace below, and wraps what comes back."""

    def __init__(self, outer: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._outer = outer

    def wrap(self, value: Any) -> Any:
        # What no gradient goes through is a plain array already.
        return _ReadableArray(self, value) if isinstance(value, jax.core.Tracer) else value

    def lower(self, value: Any) -> Any:
        return value.value if isinstance(value, _ReadableArray) and value._trace is self else value

    def stage_value(self, value: Any) -> Any:
        return value

    def process_primitive(self, primitive: Any, tracers: Any, params: Any, /) -> Any:
        with set_current_trace(self._outer):  # type: ignore[no-untyped-call]
            found = primitive.bind(*map(self.lower, tracers), **params)
        return list(map(self.wrap, found)) if primitive.multiple_results else self.wrap(found)

    def process_call(self, primitive: Any, fun: Any, tracers: Any, params: Any, /) -> Any:
        return self.process_primitive(primitive, tracers, {**params, "subfuns": (fun,)})

    def process_custom_jvp_call(self, primitive: Any, fun: Any, jvp: Any, tracers: Any, /, **params: Any) -> Any:
        return self.process_primitive(primitive, tracers, {**params, "subfuns": (fun, jvp)})

    def process_custom_vjp_call(
        self, primitive: Any, fun: Any, fwd: Any, bwd: Any, tracers: Any, /, **params: Any
    ) -> Any:
        return self.process_primitive(primitive, tracers, {**params, "subfuns": (fun, fwd, bwd)})
