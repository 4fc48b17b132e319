"""In which order a model's requests run: by number, whatever order they came in (protocol 6.2, 6.3).

Rules, all of them:

1. Numbers start at 1 (number 0 is the model's creation) and run without holes.
2. A request runs when every lower number is completed: handed out, or rejected.
3. A hole that stays open for longer than ``patience`` seconds while others wait behind it fails everything that waits;
   the numbers go on after the last of them. What arrives late for a passed number is refused.

Plain data and arithmetic: the caller brings the clock.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

__all__ = ["GAP_PATIENCE", "Abandoned", "Ordering"]

ItemT = TypeVar("ItemT")

# Longer than the 45 s an HTTP exchange of the official client may hang (protocol 4.2) before it is sent again.
GAP_PATIENCE = 60.0


class Abandoned(msgspec.Struct, Generic[ItemT], frozen=True):
    """What :meth:`Ordering.expire` gave up.

    Attributes:
        missing: the lowest number that never came.
        items: the requests that waited behind it, in order.
    """

    missing: int
    items: list[ItemT]


class Ordering(Generic[ItemT]):
    """The numbers of one model.

    Args:
        patience: seconds a hole may stay open while something waits behind it.
    """

    __slots__ = ("_blocked_since", "_next", "_patience", "_waiting")

    def __init__(self, patience: float = GAP_PATIENCE) -> None:
        self._next = 1
        self._patience = patience
        # A waiting number's item, or None once the number is rejected and only its turn is outstanding.
        self._waiting: dict[int, ItemT | None] = {}
        self._blocked_since: float | None = None

    @property
    def next_seq(self) -> int:
        """The lowest number that is not completed."""
        return self._next

    @property
    def waiting(self) -> int:
        """How many numbers have come and cannot run yet."""
        return len(self._waiting)

    def passed(self, seq: int) -> bool:
        """Whether ``seq`` can no longer be handed in: it is completed, or it waits already."""
        return seq < self._next or seq in self._waiting

    def take_number(self) -> int:
        """Return the number for a request that carries none: after everything that has come so far."""
        return max(self._waiting, default=self._next - 1) + 1

    def arrive(self, seq: int, item: ItemT, now: float) -> list[ItemT]:
        """Hand in request ``seq``; return what may run now, in order.

        Raises:
            ValueError: the number has passed (see :meth:`passed`), or is below 1.
        """
        if self.passed(seq):
            raise ValueError(f"seq_id {seq} has passed: expected {self._next} or a later one that has not come yet")
        return self._put(seq, item, now)

    def reject(self, seq: int, now: float) -> list[ItemT]:
        """Complete ``seq`` by its rejection; return what may run now, in order. A number that has passed is ignored."""
        return [] if self.passed(seq) else self._put(seq, None, now)

    def expire(self, now: float) -> Abandoned[ItemT] | None:
        """Give up on a hole that is open for longer than the patience; return who waited behind it, or None."""
        if self._blocked_since is None or now - self._blocked_since < self._patience:
            return None
        missing = self._next
        items = [item for _, item in sorted(self._waiting.items()) if item is not None]
        self._next = max(self._waiting) + 1
        self._waiting.clear()
        self._blocked_since = None
        return Abandoned(missing, items)

    def _put(self, seq: int, item: ItemT | None, now: float) -> list[ItemT]:
        self._waiting[seq] = item
        ready: list[ItemT] = []
        before = self._next
        while self._next in self._waiting:
            found = self._waiting.pop(self._next)
            self._next += 1
            if found is not None:
                ready.append(found)
        # A hole's age counts from when it became the lowest one with somebody behind it.
        if not self._waiting:
            self._blocked_since = None
        elif self._blocked_since is None or self._next != before:
            self._blocked_since = now
        return ready
