"""Work for the compute thread: what to compute, what it answers, and in which order it runs."""

from __future__ import annotations

import asyncio
from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING, Any

from tinkex_actors.errors import (
    APIStatusError,
    ClosedError,
    ConfigError,
    InputError,
    LossError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tinkex_actors.engine.service.state.promises import Promise

__all__ = ["Job", "JobQueue", "blame"]

# Above this, sampling answers 429 and the client's back-off window does its work (protocol 1.7.21).
MAX_WAITING_SAMPLES = 4096


def blame(error: BaseException) -> str:
    """Return the category of a failed operation: ``user`` for what a changed request could mend, else ``server``."""
    if isinstance(error, APIStatusError):
        return "user" if error.status_code < 500 else "server"
    return "user" if isinstance(error, InputError | ConfigError | LossError) else "server"


class Job:
    """One computation that settles a promise.

    Args:
        promise: what it settles.
        compute: runs on the compute thread with the numeric core; must leave shared state alone.
        commit: runs on the loop with what ``compute`` returned, changes the engine's state and returns the result.
        undo: runs on the loop with the failure's text when there is no result.

    Attributes:
        made_at, started_at, finished_at: when, in seconds of a steady clock.
    """

    __slots__ = (
        "cancelled",
        "commit",
        "compute",
        "error",
        "finished",
        "finished_at",
        "made_at",
        "promise",
        "started_at",
        "undo",
        "value",
    )

    def __init__(
        self,
        promise: Promise,
        compute: Callable[[Any, Job], Any],
        commit: Callable[[Any], Any],
        undo: Callable[[str], None] | None = None,
    ) -> None:
        self.promise = promise
        self.compute = compute
        self.commit = commit
        self.undo = undo
        self.cancelled = False
        self.finished = False
        self.value: Any = None
        self.error: BaseException | None = None
        self.made_at = self.started_at = self.finished_at = perf_counter()

    def should_stop(self) -> bool:
        """Whether the computation shall give up at its next safe place. Read by the compute thread."""
        return self.cancelled

    def run(self, load_core: Callable[[], Any]) -> None:
        """Compute, on the compute thread, and keep the outcome in the job."""
        self.started_at = perf_counter()
        try:
            if self.cancelled:
                raise ClosedError("the engine stopped before the request ran; nothing was changed")
            self.value = self.compute(load_core(), self)
        except BaseException as error:
            # Kept, and dealt with by the loop: an exception in a thread has nobody else to go to.
            self.error = error
        self.finished_at = perf_counter()
        self.finished = True


class JobQueue:
    """Jobs in the order they will run, and the one that runs.

    It outlives the actor that works it off, so that a restarted one goes on where the last one was.
    """

    def __init__(self) -> None:
        self._waiting: deque[Job] = deque()
        self._filled = asyncio.Event()
        self.running: Job | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, job: Job) -> None:
        """Add a job at the end."""
        self._waiting.append(job)
        self._filled.set()

    async def next(self) -> Job:
        """Wait for a job, make it the running one and return it."""
        while not self._waiting:
            self._filled.clear()
            await self._filled.wait()
        self.running = self._waiting.popleft()
        return self.running

    def withdraw(self, request_id: str) -> Job | None:
        """Take out the waiting job of a promise and return it; tell the running one to stop. Otherwise None."""
        if self.running is not None and self.running.promise.request_id == request_id:
            self.running.cancelled = True
            return None
        for job in self._waiting:
            if job.promise.request_id == request_id:
                self._waiting.remove(job)
                return job
        return None

    def cancel(self, session_id: str | None = None) -> list[Job]:
        """Take out the waiting jobs of a session (None: all) and return them; tell the running one to stop."""
        dropped = [job for job in self._waiting if session_id in (None, job.promise.session_id)]
        if dropped:
            self._waiting = deque(job for job in self._waiting if session_id not in (None, job.promise.session_id))
        if self.running is not None and session_id in (None, self.running.promise.session_id):
            self.running.cancelled = True
        return dropped
