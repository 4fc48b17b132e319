"""Turns request ids into results (protocol part 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinkex_actors.actors.attribution import calling
from tinkex_actors.actors.byte_gate import ByteGate
from tinkex_actors.actors.desk import Desk
from tinkex_actors.actors.session_polls import Group, SessionPolls
from tinkex_actors.errors import (
    APIConnectionError,
    APIStatusError,
    GoneError,
    RemoteWireError,
    RequestFailedError,
    TinkexError,
    status_error,
)
from tinkex_actors.machines import polling
from tinkex_actors.runtime import Actor, handler
from tinkex_actors.wire.answers import Failed, MetadataOnly, Ready, Timeout408, TryAgain

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from tinkex_actors.actors.futures import ApiFuture
    from tinkex_actors.actors.link import Link
    from tinkex_actors.machines.session_polling import SessionPolling
    from tinkex_actors.wire.routes import Route

__all__ = ["Poller", "PollerDesk", "Promise"]


# Protocol 5.2, `inflight_response_bytes_semaphore_size`.
_RESPONSE_BYTES = 52_428_800
_RUNNING = "running on the server"
# Polls begun in one turn of the loop, so that no turn is a long one.
_PER_TURN = 32


class Promise:
    """One request id that will turn into a result.

    Args:
        request_id: the server's name for it.
        route: the endpoint that gave it; says what the result is.
        on_result: called with the decoded result.
        on_error: called with the error that ends it.
        on_queue: called at once when the queue's state changes, with the new state and the server's reason.
        now: the loop's time.
        roundtrip: seconds between starting the call and holding the promise (protocol 1.2).
        group: the sampling session whose completions are asked for at once; None polls for this promise alone.
    """

    __slots__ = ("caller", "group", "machine", "on_error", "on_queue", "on_result", "request_id", "roundtrip", "route")

    def __init__(
        self,
        request_id: str,
        route: Route,
        *,
        on_result: Callable[[Any], None],
        on_error: Callable[[Exception], None],
        now: float,
        roundtrip: float | None = None,
        on_queue: Callable[[str, str | None], None] | None = None,
        group: Group | None = None,
    ) -> None:
        self.request_id = request_id
        self.route = route
        self.on_result = on_result
        self.on_error = on_error
        self.on_queue = on_queue
        self.roundtrip = roundtrip
        self.group = group
        self.caller = calling.get()  # the task that was given the promise works for it
        self.machine = polling.Polling(request_id=request_id, started_at=now)

    def describe(self, now: float) -> str:
        """What it waits for, in words."""
        machine = self.machine
        polled = "once" if machine.polls == 1 else f"{machine.polls} times"
        words = f"running on the server, polled {polled}"
        if self.group is not None and not machine.polls:
            words = "running on the server, polled with its sampling session"
        cause = self.cause(now)
        return words if cause == _RUNNING else f"{words}, {cause}"

    def cause(self, now: float) -> str:
        """Why it is not done yet, as far as is known, in words."""
        machine = self.machine
        causes = []
        if machine.queue_state != "active":
            since = "" if machine.queue_since is None else f" for {now - machine.queue_since:.0f} s"
            reason = f": {machine.queue_reason}" if machine.queue_reason else ""
            causes.append(f"queue {machine.queue_state}{since}{reason}")
        if machine.backoff:
            silent = "" if machine.silent_since is None else f" for {now - machine.silent_since:.0f} s"
            causes.append(f"{machine.backoff} polls in a row without a usable answer{silent}")
        return ", ".join(causes) or _RUNNING


class PollerDesk(Desk):
    """Every promise of the service, by request id.

    Attributes:
        gate: bytes of large results on their way at once (protocol 4.8); the server's flag replaces it.
        sessions: how far the completions of whole sampling sessions were read.
    """

    __slots__ = ("dropped", "fresh", "gate", "promises", "sessions")

    def __init__(self) -> None:
        super().__init__()
        self.sessions: dict[Group, SessionPolling] = {}
        self.promises: dict[str, Promise] = {}
        self.fresh: list[Promise] = []
        self.dropped: list[str] = []
        self.gate = ByteGate(_RESPONSE_BYTES)

    def watch(self, promise: Promise) -> None:
        """Begin polling. A promise that is watched already stays as it is: a re-sent request names the same one."""
        if promise.request_id in self.promises:
            known = self.promises[promise.request_id]
            known.on_result, known.on_error, known.on_queue = promise.on_result, promise.on_error, promise.on_queue
            return
        self.promises[promise.request_id] = promise
        self.fresh.append(promise)
        self.ring()

    def drop(self, request_id: str) -> None:
        """Stop polling: nobody wants the result any more. Unknown ids are ignored."""
        if self.promises.pop(request_id, None) is not None:
            self.dropped.append(request_id)
            self.ring()

    def describe(self, request_id: str, now: float) -> str:
        """What a promise waits for, in words."""
        promise = self.promises.get(request_id)
        return "its result was received" if promise is None else promise.describe(now)

    def follow(self, future: ApiFuture[Any], request_id: str) -> None:
        """Have a future explain itself by a promise."""
        loop = future.loop
        future.waits_for(lambda: self.describe(request_id, loop.time()))


class Poller(Actor):
    """Polls each promise at the machine's pace, in a task of its own.

    Args:
        desk: the promises; outlives this incarnation, which polls all of them again.
        link: the server.
    """

    def __init__(self, desk: PollerDesk, link: Link) -> None:
        self._desk = desk
        self._link = link
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._more = False
        self._sessions = SessionPolls(desk.sessions, link, lambda work, name: self.task(work, name=name))

    async def init(self) -> None:
        """Resume every promise on the desk."""
        self._desk.attend(self.ref.cast.wake)
        self._desk.fresh.clear()
        self._desk.dropped.clear()
        for promise in list(self._desk.promises.values()):
            self._start(promise)

    @handler
    def wake(self) -> None:
        """Start polling what is new on the desk, and stop what nobody wants."""
        self._desk.answered()
        dropped, self._desk.dropped = self._desk.dropped, []
        for request_id in dropped:
            if task := self._tasks.pop(request_id, None):
                task.cancel()
        if not self._more:
            self._start_fresh()

    def _start_fresh(self) -> None:
        self._more = False
        fresh, self._desk.fresh = self._desk.fresh[:_PER_TURN], self._desk.fresh[_PER_TURN:]
        if self._desk.fresh:
            self._more = True
            self.after(0.0, self._start_fresh)
        for promise in fresh:
            if promise.request_id in self._desk.promises:
                self._start(promise)

    def _start(self, promise: Promise) -> None:
        self._tasks[promise.request_id] = self.task(self._poll(promise), name=f"poll {promise.request_id}")

    async def _poll(self, promise: Promise) -> None:
        calling.set(promise.caller)
        if promise.group is not None and not promise.machine.polls:
            promise.machine.announced(await self._sessions.completion(promise.group, promise.request_id))
        decision: polling.Decision = promise.machine.resume(self.system.loop.time())
        while isinstance(decision, polling.Poll):
            if decision.delay:
                await self._link.pause(decision.delay)
            async with self._desk.gate.passing(decision.reserve_bytes):
                decision, outcome = await self._ask(promise)
        if self._desk.promises.get(promise.request_id) is not promise:
            return  # dropped as its answer came; whoever watches this id now has a poll of their own
        # The promise leaves the desk and its owner hears of it in one step: no crash can come between.
        self._tasks.pop(promise.request_id, None)
        del self._desk.promises[promise.request_id]
        if promise.group is not None:
            self._sessions.read(promise.group, promise.request_id)
        if isinstance(decision, polling.Resolve):
            promise.on_result(outcome)
        else:
            promise.on_error(_error(promise, decision, outcome))

    async def _ask(self, promise: Promise) -> tuple[polling.Decision, Any]:
        """Poll once; returns the machine's word, and the result or the error."""
        machine, loop = promise.machine, self.system.loop
        polling.started(machine, loop.time())
        outcome: Any = None
        event: polling.Event
        try:
            answer = await self._link.poll(
                promise.request_id,
                promise.route,
                iteration=machine.iteration,
                allow_metadata_only=machine.allow_metadata_only,
                roundtrip=promise.roundtrip if machine.iteration == 0 else None,
            )
            match answer:
                case Ready(result=result):
                    event, outcome = polling.ReadySeen(), result
                case (
                    TryAgain(queue_state=queue_state, reason=reason)
                    | Timeout408(queue_state=queue_state, reason=reason)
                ):
                    event = polling.TryAgainSeen(queue_state, reason)
                case MetadataOnly(size_bytes=size_bytes):
                    event = polling.MetadataSeen(size_bytes)
                case Failed(error=error, category=category):
                    event = polling.FailedSeen(error, category)
        except APIStatusError as status:
            event, outcome = polling.StatusSeen(status.status_code, status.retry_after), status
        except APIConnectionError as broken:
            event, outcome = polling.NoAnswer(), broken
        except TinkexError as unreadable:
            return polling.Fail("protocol", str(unreadable)), unreadable
        before = machine.queue_state
        decision = polling.step(machine, event, loop.time(), self.system.rng.random())
        if machine.queue_state != before and promise.on_queue is not None and isinstance(decision, polling.Poll):
            promise.on_queue(machine.queue_state, machine.queue_reason)
        return decision, outcome


def _error(promise: Promise, decision: polling.Fail, cause: Any) -> Exception:
    where = f"{promise.route.name} {promise.request_id}"
    match decision.kind:
        case "failed":
            return RequestFailedError(
                f"{where} failed on the server ({decision.category}): {decision.detail}",
                request_id=promise.request_id,
                category=decision.category,
            )
        case "gone":
            return GoneError(
                f"{where}: {decision.detail}. Its result is lost; what it did to the model is not known.",
                status_code=decision.status or 410,
                request_id=promise.request_id,
            )
        case "status" if isinstance(cause, APIStatusError):
            return cause
        case "status":
            kind = status_error(decision.status or 0)
            return kind(f"{where}: {decision.detail}", status_code=decision.status or 0, request_id=promise.request_id)
        case _:
            return cause if isinstance(cause, TinkexError) else RemoteWireError(f"{where}: {decision.detail}")
