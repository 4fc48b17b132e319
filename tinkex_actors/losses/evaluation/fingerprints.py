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


def fingerprint(function: Callable[..., Any]) -> tuple[Hashable, list[object]]:
    """Return a value that is equal for functions of one code with equal captured values.

    Numbers, texts and numpy arrays are compared by value, also in lists, dicts, and attributes of objects that can be
    called or whose method the function is; functions by their own fingerprint; everything else by identity.

    Args:
        function: a function, a method, a ``functools.partial`` or an object with ``__call__``.

    Returns:
        The value, and the objects that it knows by identity: keep them as long as the value.
    """
    reader = _Reader()
    return reader.read(function), reader.kept


class _Reader:
    def __init__(self) -> None:
        self.kept: list[object] = []
        self._met: dict[int, int] = {}

    def read(self, value: Any) -> Hashable:
        if isinstance(value, _PLAIN):
            return type(value), repr(value)
        if isinstance(value, np.ndarray) and not value.dtype.hasobject:
            return value.shape, value.dtype.str, value.tobytes()
        if isinstance(value, (tuple, list)):
            return type(value), tuple(map(self.read, value))
        if isinstance(value, dict):
            return dict, tuple((self.read(key), self.read(part)) for key, part in value.items())
        if isinstance(value, functools.partial):
            return functools.partial, self.read((value.func, value.args, value.keywords))
        if isinstance(value, types.MethodType):
            return "method", self.read(value.__func__), self._object(value.__self__)
        if isinstance(value, types.FunctionType):
            return self._once(value, self._function)
        if callable(value) and not isinstance(value, (type, types.BuiltinFunctionType)):
            return self._object(value)
        return self._identity(value)

    def _object(self, value: object) -> Hashable:
        return self._once(value, lambda owner: (self._identity(owner), self.read(getattr(owner, "__dict__", {}))))

    def _once(self, value: Any, read: Callable[[Any], Hashable]) -> Hashable:
        # Functions refer to each other, and to themselves.
        if (place := self._met.get(id(value))) is not None:
            return "met", place
        self._met[id(value)] = len(self._met)
        self.kept.append(value)
        return read(value)

    def _function(self, function: Any) -> Hashable:
        cells = [_contents(cell) for cell in function.__closure__ or ()]
        used = {name: function.__globals__[name] for name in function.__code__.co_names if name in function.__globals__}
        read = {name: value for name, value in used.items() if not isinstance(value, types.ModuleType)}
        return function.__code__, self.read((cells, function.__defaults__, function.__kwdefaults__, read))

    def _identity(self, value: object) -> Hashable:
        self.kept.append(value)
        return "identity", id(value)


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled in yet
        return None
