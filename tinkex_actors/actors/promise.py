"""One request id that will turn into a result, and asking for it (protocol part 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinkex_actors.actors.attribution import calling
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
from tinkex_actors.wire.answers import Failed, MetadataOnly, Ready, Timeout408, TryAgain

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from tinkex_actors.actors.byte_gate import ByteGate
    from tinkex_actors.actors.link import Link
    from tinkex_actors.actors.session_polls import Group
    from tinkex_actors.wire.routes import Route

__all__ = ["Promise", "end", "poll"]

_RUNNING = "running on the server"


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

    __slots__ = (
        "caller",
        "group",
        "machine",
        "on_error",
        "on_queue",
        "on_result",
        "request_id",
        "roundtrip",
        "route",
        "task",
    )

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
        self.task: asyncio.Task[Any] | None = None  # of another actor, which polls it for the time being

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


async def poll(promise: Promise, link: Link, gate: ByteGate) -> tuple[polling.Resolve | polling.Fail, Any]:
    """Poll at the machine's pace; returns its last word, and the result or the error."""
    decision: polling.Decision = promise.machine.resume(link.system.loop.time())
    outcome: Any = None
    while isinstance(decision, polling.Poll):
        if decision.delay:
            await link.pause(decision.delay)
        if decision.reserve_bytes:
            async with gate.passing(decision.reserve_bytes):
                decision, outcome = await _ask(promise, link)
        else:
            decision, outcome = await _ask(promise, link)
    return decision, outcome


def end(promise: Promise, decision: polling.Resolve | polling.Fail, outcome: Any) -> None:
    """Tell whoever owns the promise what became of it."""
    if isinstance(decision, polling.Resolve):
        promise.on_result(outcome)
    else:
        promise.on_error(_error(promise, decision, outcome))


async def _ask(promise: Promise, link: Link) -> tuple[polling.Decision, Any]:
    """Poll once; returns the machine's word, and the result or the error."""
    machine, loop = promise.machine, link.system.loop
    polling.started(machine, loop.time())
    outcome: Any = None
    event: polling.Event
    try:
        answer = await link.poll(
            promise.request_id,
            promise.route,
            iteration=machine.iteration,
            allow_metadata_only=machine.allow_metadata_only,
            roundtrip=promise.roundtrip if machine.iteration == 0 else None,
        )
        match answer:
            case Ready(result=result):
                event, outcome = polling.ReadySeen(), result
            case TryAgain() | Timeout408():
                event = polling.TryAgainSeen(answer.queue_state, answer.reason, answer.retry_after)
            case MetadataOnly(size_bytes=size_bytes):
                event = polling.MetadataSeen(size_bytes)
            case Failed(error=error, category=category):
                event = polling.FailedSeen(error, category)
    except APIStatusError as status:
        pause = link.billing.refused(loop.time()) if status.status_code == 402 else None
        event, outcome = polling.StatusSeen(status.status_code, status.retry_after, pause), status
    except APIConnectionError as broken:
        event, outcome = polling.NoAnswer(), broken
    except TinkexError as unreadable:
        return polling.Fail("protocol", str(unreadable)), unreadable
    before = machine.queue_state
    decision = polling.step(machine, event, loop.time(), link.system.rng.random())
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
