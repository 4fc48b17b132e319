"""The run queue: which actor with ``def`` handlers runs next, and for how long before I/O and timers get a turn."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING

from tinkex_actors.runtime._core.cell import READY

if TYPE_CHECKING:
    from tinkex_actors.runtime._core.cell import Cell

__all__ = ["Scheduler"]

SLICE_SECONDS = 0.001  # the pump yields after this long: worst turn 3-6 ms measured with handlers of 1 us to 1 ms
MAX_WINDOW = 64  # messages between two looks at the clock, at most
SHORT, LONG = 1e-4, 2.5e-4  # seconds a window should take
MAX_TURN = 4096  # messages a turn may run when the clock stands still (virtual time)
INLINE_BUDGET = 256  # calls that may run in the caller before the loop gets a turn


class Scheduler:
    """Drains ready actors in one loop callback; no task, no loop callback per message.

    Args:
        loop: the system's loop. One with a ``permutation`` (a seeded ``random.Random``, see ``testing.VirtualLoop``)
            decides order, burst sizes and inline calls by it; every choice is one that real timing could make.
    """

    __slots__ = (
        "_asleep",
        "_inline",
        "_loop",
        "_queue",
        "_window",
        "clock",
        "permutation",
        "slice_seconds",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: deque[Cell] = deque()
        self._asleep = True
        self._window = 8
        self._inline = INLINE_BUDGET
        self.permutation: random.Random | None = getattr(loop, "permutation", None)
        virtual = getattr(loop, "virtual", False)
        self.clock: Callable[[], float] = loop.time if virtual else perf_counter
        self.slice_seconds = SLICE_SECONDS if self.permutation is None else -1.0

    def add(self, cell: Cell) -> None:
        """Queue an actor that just became ready."""
        self._queue.append(cell)
        if self._asleep:
            self._asleep = False
            self._loop.call_soon(self._pump)

    def may_run_inline(self) -> bool:
        """Return whether a call may run in its caller; counted, so that a loop of calls cannot starve I/O."""
        if self.permutation is not None and self.permutation.random() < 0.5:
            return False
        if self._inline <= 0:
            return False
        self._inline -= 1
        if self._inline == 0:
            self._loop.call_soon(self._refill)
        return True

    def _refill(self) -> None:
        self._inline = INLINE_BUDGET

    def _next(self) -> Cell:
        queue = self._queue
        if self.permutation is not None and len(queue) > 1:
            queue.rotate(-self.permutation.randrange(len(queue)))
        return queue.popleft()

    def burst(self, window: int) -> int:
        """Return how many messages an actor may handle before another gets its turn."""
        return window if self.permutation is None else self.permutation.choice((1, 1, 2, 4))

    def _pump(self) -> None:
        queue, clock = self._queue, self.clock
        window = self._window
        budget = self.burst(window)
        allowance = MAX_TURN
        then = clock()
        end = then + self.slice_seconds
        try:
            while queue:
                cell = self._next()
                if cell.state != READY:
                    continue
                budget -= cell.context.run(cell.drain, budget)  # type: ignore[union-attr]
                if budget > 0:
                    continue
                now = clock()
                elapsed = now - then
                if elapsed < SHORT:
                    window = min(window * 2, MAX_WINDOW)
                elif elapsed > LONG:
                    window = int(window * LONG / elapsed) or 1
                allowance -= window
                if now >= end or allowance <= 0:
                    break
                then = now
                budget = self.burst(window)
        finally:
            self._window = window
            if queue:
                self._loop.call_soon(self._pump)
            else:
                self._asleep = True
