"""When two functions compute the same: the same code, over the same captured values.

A loss is often made anew for each step (``lambda data, logprobs: loss(data, logprobs, beta)``). What was compiled for
the last one serves the next where nothing that it captured has changed; where a captured number has changed, it does
not, and the loss is compiled again instead of computing with yesterday's number.
"""

from __future__ import annotations

import copy
import functools
import types
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import numpy as np

__all__ = ["Snapshot", "fingerprint", "is_filled"]

_PLAIN = (bool, int, float, complex, str, bytes, type(None))


def fingerprint(function: Callable[..., Any]) -> tuple[Hashable, list[object]]:
    """Return a value that is equal for functions of one code with equal captured values.

    Numbers, texts and numpy arrays are compared by value, also in lists, deques, sets, dicts, and attributes of objects
    that can be called or whose method the function is; functions by their own fingerprint; everything else by identity.

    Args:
        function: a function, a method, a ``functools.partial`` or an object with ``__call__``.

    Returns:
        The value, and the objects that it knows by identity: keep them as long as the value.
    """
    reader = _Reader()
    return reader.read(function), reader.kept


class Snapshot:
    """What a function has captured, as it was before a call, so that a call that was but a trial leaves nothing behind.

    Args:
        function: as for ``fingerprint``.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        reader = _Reader(self)
        self._containers: list[tuple[Any, Any]] = []
        self._cells: list[tuple[types.CellType, Any]] = []
        self._globals: list[tuple[dict[str, Any], str, Any]] = []
        self._before = reader.read(function)
        self._kept = reader.kept

    def changed(self) -> bool:
        """Whether anything of it is no longer as it was."""
        return fingerprint(self._function)[0] != self._before

    def restore(self) -> None:
        """Put everything back."""
        for cell, contents in self._cells:
            cell.cell_contents = contents
        for names, name, value in self._globals:
            if names.get(name) is not value:
                names[name] = value
        for container, copied in self._containers:
            if isinstance(container, np.ndarray):
                container[...] = copied
                continue
            container.clear()
            (container.extend if isinstance(container, (list, deque)) else container.update)(copied)

    def hold(self, container: Any) -> None:
        """Remember what is in a container."""
        if not isinstance(container, np.ndarray) or container.flags.writeable:
            self._containers.append((container, copy.copy(container)))

    def hold_names(self, function: Any, names: Iterable[str]) -> None:
        """Remember what a function's closure and its module's names stand for."""
        self._cells += [(cell, cell.cell_contents) for cell in function.__closure__ or () if is_filled(cell)]
        self._globals += [(function.__globals__, name, function.__globals__[name]) for name in names]


class _Reader:
    def __init__(self, snapshot: Snapshot | None = None) -> None:
        self.kept: list[object] = []
        self._met: dict[int, int] = {}
        self._snapshot = snapshot

    def read(self, value: Any) -> Hashable:
        if isinstance(value, _PLAIN):
            return type(value), repr(value)
        if self._snapshot is not None and isinstance(value, (np.ndarray, list, deque, set, dict)):
            self._snapshot.hold(value)
        if isinstance(value, np.ndarray) and not value.dtype.hasobject:
            return value.shape, value.dtype.str, value.tobytes()
        if isinstance(value, (tuple, list, deque)):
            return type(value), tuple(map(self.read, value))
        if isinstance(value, (set, frozenset)):
            return type(value), frozenset(map(self.read, value))
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
        if self._snapshot is not None:
            self._snapshot.hold_names(function, read)
        return function.__code__, self.read((cells, function.__defaults__, function.__kwdefaults__, read))

    def _identity(self, value: object) -> Hashable:
        self.kept.append(value)
        return "identity", id(value)


def _contents(cell: types.CellType) -> Any:
    return cell.cell_contents if is_filled(cell) else None


def is_filled(cell: types.CellType) -> bool:
    """Whether a closure's cell has a value yet."""
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
