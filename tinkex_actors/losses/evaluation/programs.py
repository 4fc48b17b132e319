"""What has been compiled, kept for losses that are made anew for each step."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from tinkex_actors.losses.evaluation.fingerprints import fingerprint

__all__ = ["ProgramCache", "ShapeCount"]

T = TypeVar("T")

_KEPT = 64
_MANY = 8


class ProgramCache(Generic[T]):
    """The last 64 functions' programs, found by what the functions compute. Used by several threads.

    Args:
        make: makes the program of a function.
    """

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make = make
        self._entries: OrderedDict[Hashable, tuple[T, list[object]]] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, function: Callable[..., Any], *also: Hashable) -> T:
        """Return the program of a function of this code and these captured values; ``also`` tells others apart."""
        same, kept = fingerprint(function)
        key = (same, also)
        with self._lock:
            entry = self._entries.pop(key, None) or (self._make(function), kept)
            self._entries[key] = entry
            while len(self._entries) > _KEPT:
                self._entries.popitem(last=False)
        return entry[0]


class ShapeCount:
    """The shapes that a program was compiled for."""

    def __init__(self) -> None:
        self._seen: set[int] = set()  # hashes: the shapes of a large batch are long
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._seen)

    def __contains__(self, shapes: Hashable) -> bool:
        return hash(shapes) in self._seen

    def note(self, shapes: Hashable) -> bool:
        """Count shapes; True where they are the first of too many (more than 8)."""
        with self._lock:
            known = len(self._seen)
            self._seen.add(hash(shapes))
            return known == _MANY < len(self._seen)
