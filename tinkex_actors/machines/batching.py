"""Telemetry's queue: bounded, sent in batches, given up rather than in the way (protocol 9.1, 9.3).

Rules:

1. At most ``capacity`` events are kept, those of the batch on its way included. One too many is dropped and counted;
   the caller never waits.
2. A batch is due when it is full, when it was asked for, or every ``interval`` seconds.
3. A batch that failed goes again with the next interval, not before, however much has queued up. After ``attempts``
   failures the server counts as away: the batch and all that is queued is given up to the caller, who may keep it
   elsewhere, so that a drain ends. Until something arrives again, each further failure gives up at once. (The official
   client drops a batch at its first failure.)
4. A batch that the server refuses is dropped and counted: it would be refused again. The next one goes.
5. One batch is on its way at a time, in order; after a restart of the shell the same one goes again.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Generic, TypeVar

from msgspec import Struct

from tinkex_actors.errors import ConfigError

__all__ = ["BatchLimits", "Batching", "BatchingStatistics"]

E = TypeVar("E")


class BatchLimits(Struct, frozen=True):
    """How much is kept, sent at once, and how often.

    Args:
        capacity: events kept at most.
        batch: events in a batch at most.
        interval: seconds between batches.
        attempts: times that one batch is tried.

    Raises:
        ConfigError: a value is out of its range.
    """

    capacity: int = 10_000
    batch: int = 100
    interval: float = 10.0
    attempts: int = 3

    def __post_init__(self) -> None:
        for name in ("capacity", "batch", "attempts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"BatchLimits.{name} must be at least 1, got {getattr(self, name)!r}")
        if not (math.isfinite(self.interval) and self.interval > 0.0):
            raise ConfigError(f"BatchLimits.interval must be a finite number of seconds > 0, got {self.interval!r}")


class BatchingStatistics(Struct, frozen=True):
    """Counts: ``queued``, ``sending`` now; in all ``sent``, ``overflowed`` (rule 1), ``given_up`` (3), ``refused``."""

    queued: int
    sending: int
    sent: int
    overflowed: int
    given_up: int
    refused: int


class Batching(Generic[E]):
    """A bounded queue of events that leaves in batches.

    Args:
        limits: the defaults are the official client's numbers.
    """

    __slots__ = (
        "_asked",
        "_away",
        "_batch",
        "_failures",
        "_given_up",
        "_next_at",
        "_overflowed",
        "_queue",
        "_refused",
        "_sending",
        "_sent",
        "limits",
    )

    def __init__(self, limits: BatchLimits | None = None) -> None:
        self.limits = limits or BatchLimits()
        self._queue: deque[E] = deque()
        self._batch: list[E] = []
        self._sending = False
        self._asked = False
        self._away = False
        self._failures = 0
        self._next_at: float | None = None
        self._sent = 0
        self._overflowed = 0
        self._given_up = 0
        self._refused = 0

    def add(self, event: E) -> bool:
        """Queue an event; False where the queue is full and the event was dropped."""
        if len(self._queue) + len(self._batch) >= self.limits.capacity:
            self._overflowed += 1
            return False
        self._queue.append(event)
        return True

    def flush(self) -> None:
        """Ask for everything that is queued now to be sent without waiting for the interval."""
        self._asked = True

    def due(self, now: float) -> bool:
        """Return whether to `take` and send a batch now; True starts the interval again."""
        if self._next_at is None:
            self._next_at = now + self.limits.interval
        if self._sending:
            return False
        if self.drained:
            self._asked = False
            return False
        full = not self._failures and len(self._queue) >= self.limits.batch
        if not (self._asked or full or now >= self._next_at):
            return False
        self._next_at = now + self.limits.interval
        return True

    def take(self) -> list[E]:
        """Return the batch to send: the next events in order, or again the one that failed. Empty if there is none.

        Raises:
            ValueError: a batch is on its way and has not been answered.
        """
        if self._sending:
            raise ValueError("a batch is on its way; report it with sent or failed, or call restarted")
        if not self._batch:
            self._batch = [self._queue.popleft() for _ in range(min(len(self._queue), self.limits.batch))]
        self._sending = bool(self._batch)
        return list(self._batch)

    def sent(self, count: int) -> None:
        """Take note that the batch of ``count`` events arrived.

        Raises:
            ValueError: no batch of that size is on its way.
        """
        self._check(count)
        self._sent += count
        self._away = False
        self._close()

    def refused(self, count: int) -> None:
        """Take note that the server will not have the batch of ``count`` events: drop it, and go on.

        Raises:
            ValueError: no batch of that size is on its way.
        """
        self._check(count)
        self._refused += count
        self._away = False
        self._close()

    def failed(self, count: int) -> list[E]:
        """Take note that the batch of ``count`` events did not arrive.

        Returns:
            What is given up (rule 3), in order; empty while the batch is kept for the next time.

        Raises:
            ValueError: no batch of that size is on its way.
        """
        self._check(count)
        self._sending = False
        # A flush that met a failure is over: the next attempt waits for the interval, or for another flush.
        self._asked = False
        self._failures += 1
        if self._failures < self.limits.attempts and not self._away:
            return []
        self._away = True
        return self.give_up()

    def give_up(self) -> list[E]:
        """Return everything that has not been sent, in order, and forget it."""
        given_up = [*self._batch, *self._queue]
        self._given_up += len(given_up)
        self._queue.clear()
        self._close()
        return given_up

    def restarted(self) -> None:
        """Take note that whoever was sending is gone: the batch on its way, if any, is to be taken again."""
        self._sending = False

    @property
    def drained(self) -> bool:
        """Whether nothing is queued and nothing is on its way."""
        return not self._queue and not self._batch

    def statistics(self) -> BatchingStatistics:
        """Return the counts."""
        return BatchingStatistics(
            queued=len(self._queue),
            sending=len(self._batch),
            sent=self._sent,
            overflowed=self._overflowed,
            given_up=self._given_up,
            refused=self._refused,
        )

    def _check(self, count: int) -> None:
        if not self._sending or count != len(self._batch):
            on_its_way = len(self._batch) if self._sending else 0
            raise ValueError(f"expected the count of the batch on its way, {on_its_way} events, got {count}")

    def _close(self) -> None:
        self._batch = []
        self._sending = False
        self._failures = 0
