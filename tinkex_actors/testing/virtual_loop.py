"""An event loop whose clock jumps: hours in milliseconds, hangs found at once, orders of execution drawn from a seed.

Technique: subclass the selector loop and own ``_run_once``. When nothing is ready, the clock jumps to the next timer;
when there is no timer either, and no thread and no socket to wait for, nothing can ever run again, and that is said at
once.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import selectors
import weakref
from collections import deque
from collections.abc import Callable, Container
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple

from tinkex_actors.testing.schedule import Schedule

__all__ = ["SimDeadlock", "VirtualLoop", "settle"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

RESOLUTION_SECONDS = 1e-9  # timers this close together fire in one turn
REAL_POLL_SECONDS = 0.02  # how long to look at sockets and threads before looking again
TRACE_ENTRIES = 50
MAX_STEPS = 50_000_000


class SimDeadlock(RuntimeError):  # the name the documentation uses; it is a finding, not a fault of the loop
    """Nothing is ready, no timer is set, no thread works, no socket is open: every task waits for another."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """A deterministic event loop with a virtual clock, which starts at 0.0.

    While a job runs in an executor (``run_in_executor``), the clock stands still. Open sockets get a short real wait
    before the clock jumps; programs that depend on real I/O are better tested in real time.

    Args:
        seed: None keeps asyncio's order. A number permutes, in each turn, the steps of tasks among themselves and how
            many of them run; plain callbacks keep their order. Actor systems on the loop permute their ready actors,
            burst lengths and inline calls by the same generator. The same seed gives the same run.
        max_steps: callbacks after which a run that does not end is taken for a livelock.
        only: numbers of the choices the seed may make, the others being asyncio's own; None for all. See ``shrink``.

    Attributes:
        virtual: always true; the actor runtime looks at it.
        permutation: what answers each choice, or None.
        seed: as given.
    """

    virtual = True

    def __init__(
        self, seed: int | None = None, *, max_steps: int = MAX_STEPS, only: Container[int] | None = None
    ) -> None:
        super().__init__(selectors.SelectSelector())
        self.seed = seed
        self.permutation = None if seed is None else Schedule(seed, only)
        self.steps = 0
        self._max_steps = max_steps
        self._now = 0.0
        self._jobs = 0
        self._settlers: list[asyncio.Future[None]] = []
        self._numbers: weakref.WeakKeyDictionary[asyncio.Task[Any], int] = weakref.WeakKeyDictionary()
        self._seen_tasks = 0
        self._recent: deque[str] = deque(maxlen=TRACE_ENTRIES)
        self._digest = hashlib.blake2b(digest_size=8)

    # --- the clock -------------------------------------------------------------------------------------------------
    def time(self) -> float:
        """Return the virtual time, in seconds since the loop was made."""
        return self._now

    def settle(self) -> asyncio.Future[None]:
        """Return a future that is done once everything has run that needs no clock: exact, and in no virtual time."""
        future: asyncio.Future[None] = self.create_future()
        self._settlers.append(future)
        return future

    # --- threads ---------------------------------------------------------------------------------------------------
    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """As asyncio's; the job holds the clock."""
        future = super().run_in_executor(executor, func, *args)
        self._jobs += 1
        future.add_done_callback(self._job_done)
        return future

    def _job_done(self, _: object) -> None:
        self._jobs -= 1

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """As asyncio's; its helper thread holds the clock too."""
        self._jobs += 1
        try:
            await super().shutdown_default_executor()
        finally:
            self._jobs -= 1

    # --- the trace -------------------------------------------------------------------------------------------------
    def trace(self) -> str:
        """Return a hash of everything that has run, in order: equal for equal seeds."""
        return self._digest.hexdigest()

    def recent(self) -> list[str]:
        """Return the last 50 callbacks that ran, oldest first, with their instants."""
        return list(self._recent)

    def _record(self, handle: asyncio.Handle) -> None:
        callback = handle._callback  # type: ignore[attr-defined]
        owner = getattr(callback, "__self__", None)
        if isinstance(owner, asyncio.Task):
            # Numbers of first appearance, not asyncio's own: those count over all loops of the process.
            number = self._numbers.get(owner)
            if number is None:
                number = self._numbers[owner] = self._seen_tasks
                self._seen_tasks += 1
            label = f"task {number} {_place(owner)}"
        else:
            label = str(getattr(callback, "__qualname__", type(callback).__qualname__))
        self._digest.update(label.encode())
        self._recent.append(f"{self._now:.6f} {label}")
        self.steps += 1
        if self.steps > self._max_steps:
            raise RuntimeError(f"{self._max_steps} callbacks have run: a livelock? Raise max_steps if it is not.")

    # --- one turn --------------------------------------------------------------------------------------------------
    def _run_once(self) -> None:
        ready: deque[asyncio.Handle] = self._ready  # type: ignore[attr-defined]
        self._drop_cancelled_timers()
        if not ready and not self._stopping:  # type: ignore[attr-defined]
            self._wait()
        else:
            self._process_events(self._selector.select(0))  # type: ignore[attr-defined]
        self._collect_due_timers(ready)
        count = self._permute(ready)
        for _ in range(count):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            self._record(handle)
            handle._run()

    def _wait(self) -> None:
        """Nothing is ready: look at the real world, let settlers go, jump, or give up, in this order."""
        sockets = len(self._selector.get_map()) > 1  # type: ignore[attr-defined]  # one is the loop's own wake-up pipe
        real = REAL_POLL_SECONDS if self._jobs or sockets else 0.0
        self._process_events(self._selector.select(real))  # type: ignore[attr-defined]
        if self._ready or self._jobs:  # type: ignore[attr-defined]
            return
        if self._settlers:
            settlers, self._settlers = self._settlers, []
            for future in settlers:
                if not future.done():
                    future.set_result(None)
        elif self._scheduled:  # type: ignore[attr-defined]
            self._now = max(self._now, self._scheduled[0]._when)  # type: ignore[attr-defined]
        elif not sockets:
            raise SimDeadlock(self._describe())

    def _drop_cancelled_timers(self) -> None:
        scheduled = self._scheduled  # type: ignore[attr-defined]
        while scheduled and scheduled[0]._cancelled:
            self._timer_cancelled_count -= 1  # type: ignore[attr-defined]
            heapq.heappop(scheduled)._scheduled = False

    def _collect_due_timers(self, ready: deque[asyncio.Handle]) -> None:
        scheduled = self._scheduled  # type: ignore[attr-defined]
        while scheduled and scheduled[0]._when <= self._now + RESOLUTION_SECONDS:
            handle = heapq.heappop(scheduled)
            handle._scheduled = False
            if handle._cancelled:
                self._timer_cancelled_count -= 1  # type: ignore[attr-defined]
            else:
                ready.append(handle)

    def _permute(self, ready: deque[asyncio.Handle]) -> int:
        """Shuffle the task steps in place; return how many callbacks run in this turn."""
        generator = self.permutation
        if generator is None or len(ready) < 2:
            return len(ready)
        handles = list(ready)
        steps = [index for index, handle in enumerate(handles) if _is_task_step(handle)]
        shuffled = steps[:]
        generator.shuffle(shuffled)
        for index, source in zip(steps, shuffled, strict=True):
            ready[index] = handles[source]
        return generator.randint(1, len(ready))

    def _describe(self) -> str:
        tasks = sorted(
            (task for task in asyncio.all_tasks(self) if not task.done()),
            key=lambda task: self._numbers.get(task, self._seen_tasks),
        )
        lines = [f"  {task.get_name()}: {_place(task)}, {_waiting_at(task)}" for task in tasks]
        return (
            f"Nothing can run any more at {self._now:.6f} s (seed {self.seed}): no timer, no thread, no socket. "
            f"{len(lines)} tasks wait:\n" + "\n".join(lines)
        )


def _is_task_step(handle: asyncio.Handle) -> bool:
    return isinstance(getattr(handle._callback, "__self__", None), asyncio.Task)  # type: ignore[attr-defined]


def _place(task: asyncio.Task[Any]) -> str:
    coroutine = task.get_coro()
    return str(getattr(coroutine, "__qualname__", type(coroutine).__qualname__))


def _waiting_at(task: asyncio.Task[Any]) -> str:
    """Return file and line of the innermost frame that the task is suspended in."""
    awaited: Any = task.get_coro()
    frame = getattr(awaited, "cr_frame", None)
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None) or frame
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    return "not started" if frame is None else f"at {frame.f_code.co_filename}:{frame.f_lineno}"


async def settle() -> None:
    """Wait until everything has run that needs no clock. On a ``VirtualLoop`` only.

    Raises:
        RuntimeError: another kind of loop is running.
    """
    loop = asyncio.get_running_loop()
    if not isinstance(loop, VirtualLoop):
        raise RuntimeError(f"settle() needs a VirtualLoop, but {type(loop).__name__} is running; use @virtual_time().")
    await loop.settle()
