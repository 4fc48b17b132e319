"""When two functions compute the same: the same code, over the same captured values.

A loss is often made anew for each step (``lambda data, logprobs: loss(data, logprobs, beta)``). What was compiled for
the last one serves the next where nothing that it captured has changed; where a captured number has changed, it does
not, and the loss is compiled again instead of computing with yesterday's number.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

__all__ = ["fingerprint"]

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_DEPTH = 4


def fingerprint(function: Callable[..., Any]) -> tuple[Hashable, list[object]]:
    """Return a value that is equal for functions of one code with equal captured values.

    Numbers, texts and numpy arrays are compared by value, also in attributes of the object a method belongs to and in
    lists and dicts; functions by their own fingerprint; everything else by identity.

    Args:
        function: a function, a method, a ``functools.partial`` or an object with ``__call__``.

    Returns:
        The value, and the objects that it knows by identity: keep them as long as the value.
    """
    kept: list[object] = [function]
    return _Reader(kept).read(function, _DEPTH), kept


class _Reader:
    def __init__(self, kept: list[object]) -> None:
        self._kept = kept

    def read(self, value: Any, depth: int) -> Hashable:
        if isinstance(value, _PLAIN):
            return type(value), repr(value)
        if isinstance(value, np.ndarray):
            return value.shape, value.dtype.str, value.tobytes()
        if depth == 0:
            return self._identity(value)
        match value:
            case tuple() | list():
                return type(value), tuple(self.read(part, depth - 1) for part in value)
            case dict():
                pairs = ((self.read(key, depth - 1), self.read(part, depth - 1)) for key, part in value.items())
                return dict, tuple(pairs)
            case functools.partial():
                return functools.partial, self.read((value.func, value.args, value.keywords), depth)
            case types.MethodType():
                return "method", self._function(value.__func__, depth), self._attributes(value.__self__, depth - 1)
            case types.FunctionType():
                return self._function(value, depth)
        if callable(value) and not isinstance(value, (type, types.BuiltinFunctionType)):
            return self._attributes(value, depth - 1)
        return self._identity(value)

    def _function(self, function: Any, depth: int) -> Hashable:
        cells = [_contents(cell) for cell in function.__closure__ or ()]
        used = {name: function.__globals__[name] for name in function.__code__.co_names if name in function.__globals__}
        read = {name: value for name, value in used.items() if not isinstance(value, types.ModuleType)}
        captured = (cells, function.__defaults__, function.__kwdefaults__, read)
        return function.__code__, self.read(captured, depth - 1)

    def _attributes(self, owner: object, depth: int) -> Hashable:
        return self._identity(owner), self.read(dict(getattr(owner, "__dict__", {})), depth)

    def _identity(self, value: object) -> Hashable:
        self._kept.append(value)
        return "identity", id(value)


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled in yet
        return None
