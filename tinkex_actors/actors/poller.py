"""Turns request ids into results (protocol part 4)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tinkex_actors.actors.attribution import calling
from tinkex_actors.actors.byte_gate import ByteGate
from tinkex_actors.actors.desk import Desk
from tinkex_actors.actors.promise import Promise, end, poll
from tinkex_actors.actors.session_polls import Group, SessionPolls
from tinkex_actors.runtime import Actor, handler

if TYPE_CHECKING:
    from tinkex_actors.actors.futures import ApiFuture
    from tinkex_actors.actors.link import Link
    from tinkex_actors.machines.session_polling import SessionPolling

__all__ = ["Poller", "PollerDesk"]


# Protocol 5.2, `inflight_response_bytes_semaphore_size`.
_RESPONSE_BYTES = 52_428_800
# Polls begun in one turn of the loop, so that no turn is a long one.
_PER_TURN = 32


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

    async def carry(self, promise: Promise, link: Link) -> None:
        """Poll in the task that calls, as long as it lives; if it is cancelled or fails, the poller goes on.

        It saves whoever was given the promise a task and two turns of the loop. A promise that is watched already, or
        polled with its session, is left to the poller.
        """
        if promise.group is not None or promise.request_id in self.promises:
            self.watch(promise)
            return
        self.promises[promise.request_id] = promise
        promise.task = asyncio.current_task()
        try:
            decision, outcome = await poll(promise, link, self.gate)
        except BaseException:
            promise.task = None
            if self.promises.get(promise.request_id) is promise:
                self.fresh.append(promise)
                self.ring()
            raise
        if self.promises.get(promise.request_id) is promise:
            del self.promises[promise.request_id]
            end(promise, decision, outcome)

    def drop(self, request_id: str) -> None:
        """Stop polling: nobody wants the result any more. Unknown ids are ignored."""
        promise = self.promises.pop(request_id, None)
        if promise is None:
            return
        if promise.group in self.sessions:
            self.sessions[promise.group].give_up(request_id)
        if promise.task is not None:
            promise.task.cancel()
        else:
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
            if promise.task is None:
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
            if self._desk.promises.get(promise.request_id) is promise:  # not dropped, and watched anew, meanwhile
                self._start(promise)

    def _start(self, promise: Promise) -> None:
        self._tasks[promise.request_id] = self.task(self._poll(promise), name=f"poll {promise.request_id}")

    async def _poll(self, promise: Promise) -> None:
        calling.set(promise.caller)
        if promise.group is not None and not promise.machine.polls:
            promise.machine.announced(await self._sessions.completion(promise.group, promise.request_id))
        decision, outcome = await poll(promise, self._link, self._desk.gate)
        if self._desk.promises.get(promise.request_id) is not promise:
            return  # dropped as its answer came; whoever watches this id now has a poll of their own
        # The promise leaves the desk and its owner hears of it in one step: no crash can come between.
        self._tasks.pop(promise.request_id, None)
        del self._desk.promises[promise.request_id]
        if promise.group is not None:
            self._sessions.read(promise.group, promise.request_id)
        end(promise, decision, outcome)
