"""Time: an actor's own timers, and the deadlines of all calls of a system."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from tinkex_actors.errors import CallTimeoutError, ConfigError
from tinkex_actors.runtime._core.messages import Reply, message_of

if TYPE_CHECKING:
    from tinkex_actors.runtime._core.cell import Cell

__all__ = ["Deadlines", "Timer"]

Waiting: TypeAlias = "deque[tuple[float, Reply, Cell]]"


class Timer:
    """Fires a cast of an actor's own, once or again and again; ends with the incarnation that set it.

    A due message passes a full mailbox, so that it is not lost; a repeating timer skips a beat instead.
    """

    __slots__ = ("_args", "_callback", "_cell", "_handle", "_interval", "_when")

    def __init__(
        self,
        cell: Cell,
        delay: float,
        interval: float | None,
        callback: Callable[..., object],
        args: tuple[Any, ...],
    ) -> None:
        if not delay >= 0.0 or (interval is not None and not interval > 0.0):
            raise ConfigError(f"A timer of {cell.path} needs seconds of 0 or more (above 0 to repeat), got {delay!r}.")
        self._cell = cell
        self._callback = callback
        self._args = args
        self._interval = interval
        loop = cell.system.loop
        self._when = loop.time() + delay
        self._handle: asyncio.TimerHandle | None = loop.call_at(self._when, self._fire)
        cell.more().timers[self] = None

    @property
    def active(self) -> bool:
        """Whether it will still fire."""
        return self._handle is not None

    @property
    def when(self) -> float:
        """The instant (loop time) at which it fires next."""
        return self._when

    def cancel(self) -> None:
        """Do not fire any more. Idempotent; what it already queued is still handled."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._cell.more().timers.pop(self, None)

    def _fire(self) -> None:
        cell = self._cell
        if self._interval is None:
            self.cancel()
        else:
            now = cell.system.loop.time()
            # Beats keep their phase; those missed while the loop was busy are skipped, not made up for.
            self._when += self._interval * max(1.0, (now - self._when) // self._interval)
            self._handle = cell.system.loop.call_at(self._when, self._fire)
        try:
            message = message_of(self._callback, self._args, cell)
            if message is None:
                self._callback(*self._args)
            elif self._interval is None or cell.box is None or len(cell.box) < cell.capacity:
                cell.post(message)
        except Exception as error:
            cell.crash(error, f"timer {getattr(self._callback, '__name__', 'callback')}")


class Deadlines:
    """The deadlines of all calls of a system: one FIFO per timeout value, one loop timer in all.

    Calls with equal timeouts expire in the order they were made, so each queue is sorted by construction; a heap, or a
    loop timer per call, would cost three times as much.
    """

    __slots__ = ("_loop", "_next", "_queues", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queues: dict[float, Waiting] = {}
        self._next = float("inf")
        self._timer: asyncio.TimerHandle | None = None

    def add(self, reply: Reply, timeout: float, cell: Cell) -> Waiting:
        """Fail ``reply`` with ``CallTimeoutError`` in ``timeout`` seconds, unless it is done by then.

        Returns:
            The queue it is in: whoever waited takes what is done off its front.
        """
        queue = self._queues.get(timeout)
        if queue is None:
            queue = self._queues[timeout] = deque()
        when = self._loop.time() + timeout
        queue.append((when, reply, cell))
        if when < self._next:
            self._arm(when)
        return queue

    def asked_at(self, reply: object) -> float | None:
        """Return the instant at which a call went out, or None if it is not waited for."""
        for timeout, queue in self._queues.items():
            for when, waiting, _ in queue:
                if waiting is reply:
                    return when - timeout
        return None

    def _arm(self, when: float) -> None:
        self._next = when
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._expire)

    def _expire(self) -> None:
        now = self._loop.time()
        nearest = float("inf")
        for timeout, queue in list(self._queues.items()):
            while queue and (queue[0][1].done() or queue[0][0] <= now):
                _, reply, cell = queue.popleft()
                if not reply.done():
                    reply.fail(_timed_out(reply, timeout, cell))
            if queue:
                nearest = min(nearest, queue[0][0])
            else:
                del self._queues[timeout]
        self._timer = None
        self._next = nearest
        if nearest != float("inf"):
            self._arm(nearest)

    def close(self) -> None:
        """Cancel the loop timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._next = float("inf")


def _timed_out(reply: Reply, timeout: float, cell: Cell) -> CallTimeoutError:
    name = reply.message[0].name
    doing = f"it is running {cell.handling.name}" if cell.handling is not None else "it has not started on it"
    waiting = f", waiting for {cell.waiting_on.path}" if cell.waiting_on is not None else ""
    return CallTimeoutError(
        f"{cell.path} did not answer {name} within {timeout:g} s: {doing}{waiting}. Its late reply will be dropped. "
        "Allow more with ref.within(seconds).call.",
        actor=cell.path,
        timeout=timeout,
    )
