"""Work for the compute thread: what to compute, what it answers, and in which order it runs."""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import count
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

__all__ = ["Job", "JobQueue", "SampleJob", "blame"]

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


class SampleJob(Job):
    """A sample, which is decoded beside others, a chunk of tokens at a time.

    Args:
        promise: what it settles.
        prepare: returns the drawing; runs on the compute thread with the numeric core, when there is room.
        finish: returns the result of a drawing that is over; runs there too.
        progress: runs on the loop after each chunk.

    Attributes:
        drawing: what the numeric core has of it, once it was prepared.
    """

    __slots__ = ("_finish", "_prepare", "drawing", "progress")

    def __init__(
        self,
        promise: Promise,
        prepare: Callable[[Any, Job], Any],
        finish: Callable[[Any, Any], Any],
        progress: Callable[[SampleJob], None] | None = None,
    ) -> None:
        super().__init__(promise, _never, lambda response: response)
        self._prepare = prepare
        self._finish = finish
        self.progress = progress
        self.drawing: Any = None

    def begin(self, core: Any) -> bool:
        """Prepare the drawing, on the compute thread; return whether there is one, and keep the error otherwise."""
        self.started_at = perf_counter()
        self._guarded(lambda: setattr(self, "drawing", self._prepare(core, self)))
        if self.error is not None:
            self.finished = True
        return self.error is None

    def end(self, core: Any) -> None:
        """Make the result of the drawing, which is over, and keep it; on the compute thread."""
        self._guarded(lambda: setattr(self, "value", self._finish(core, self.drawing)))
        self.finished = True

    def fail(self, error: BaseException) -> None:
        """Keep the error that it ends with."""
        self.error = error
        self.finished = True

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            # Kept, and dealt with by the loop, as in Job.run.
            self.error = error
        self.finished_at = perf_counter()


class JobQueue:
    """Jobs in the order they will run, the one that runs, and the samples that are decoded.

    Samples are decoded in between the other jobs, and never before one that was asked before them.

    It outlives the actor that works it off, so that a restarted one goes on where the last one was.
    """

    def __init__(self) -> None:
        self._numbers = count()
        self._waiting: deque[tuple[int, Job]] = deque()
        self._samples: deque[tuple[int, SampleJob]] = deque()
        self._filled = asyncio.Event()
        self.running: Job | None = None
        self.decoding: dict[SampleJob, None] = {}

    def __len__(self) -> int:
        return len(self._waiting) + len(self._samples)

    def put(self, job: Job) -> None:
        """Add a job at the end."""
        if isinstance(job, SampleJob):
            self._samples.append((next(self._numbers), job))
        else:
            self._waiting.append((next(self._numbers), job))
        self._filled.set()

    async def filled(self) -> None:
        """Wait until there is something to do."""
        while not (self._waiting or self._samples or self.decoding or self.running):
            self._filled.clear()
            await self._filled.wait()

    def admit(self, most: int) -> list[SampleJob]:
        """Take the next samples out, at most so many, and count them among those that are decoded."""
        admitted: list[SampleJob] = []
        while self._samples and len(admitted) < most:
            if self._waiting and self._waiting[0][0] < self._samples[0][0]:
                break
            admitted.append(self._samples.popleft()[1])
        self.decoding.update(dict.fromkeys(admitted))
        return admitted

    def next(self) -> Job | None:
        """Take the next job that is no sample, make it the running one and return it; None where there is none."""
        if self._waiting:
            self.running = self._waiting.popleft()[1]
        return self.running

    def withdraw(self, request_id: str) -> Job | None:
        """Take out the job of a promise and return it, or tell it to stop where it runs; None if there is none."""
        for job in self._under_way():
            if job.promise.request_id == request_id:
                job.cancelled = True
                return job
        for lane in (self._samples, self._waiting):
            for entry in lane:
                if entry[1].promise.request_id == request_id:
                    lane.remove(entry)  # type: ignore[arg-type]
                    return entry[1]
        return None

    def cancel(self, session_id: str | None = None) -> None:
        """Take out the waiting jobs of a session (None: all), and tell those that run to stop."""

        def stays(entry: tuple[int, Job]) -> bool:
            return session_id not in (None, entry[1].promise.session_id)

        self._waiting = deque(filter(stays, self._waiting))
        self._samples = deque(filter(stays, self._samples))
        for job in self._under_way():
            if session_id in (None, job.promise.session_id):
                job.cancelled = True

    def _under_way(self) -> list[Job]:
        return [*self.decoding] if self.running is None else [self.running, *self.decoding]


def _never(core: Any, job: Job) -> Any:
    raise NotImplementedError("a sample is not run at a stretch, but begun, decoded and ended")
