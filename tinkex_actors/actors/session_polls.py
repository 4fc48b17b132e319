"""Waiting for completions by the sampling session (protocol 4.7): one long poll for all of a session's samples."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tinkex_actors.errors import APIConnectionError, APIStatusError, TinkexError
from tinkex_actors.machines.retry import NO_RETRY
from tinkex_actors.machines.session_polling import Ask, SessionPolling
from tinkex_actors.runtime.log import Logger
from tinkex_actors.types import FutureFinished, FuturesRetrieveRequest, SamplingSessionFuturesTarget
from tinkex_actors.wire.routes import ROUTES

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from tinkex_actors.actors.link import Link

__all__ = ["Group", "SessionPolls"]

Group = tuple[str, int]
"""A sampling session and the clone's number within it."""

_log = Logger("tinkex_actors.sampling")


class SessionPolls:
    """The session polls of one incarnation of the poller.

    Args:
        machines: their states, which outlive it.
        link: the server.
        start: runs a coroutine in a task of the actor.
    """

    def __init__(
        self,
        machines: dict[Group, SessionPolling],
        link: Link,
        start: Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]],
    ) -> None:
        self._machines = machines
        self._link = link
        self._start = start
        self._running: dict[Group, asyncio.Task[None]] = {}
        self._waiters: dict[Group, dict[str, asyncio.Future[None]]] = {}
        self._bells: dict[Group, asyncio.Event] = {}

    async def completion(self, group: Group, request_id: str) -> int | None:
        """Wait until a promise is done.

        Returns:
            The size of its result in bytes; None where it is not known, or the server cannot be asked in this way.
        """
        machine = self._machines.setdefault(group, SessionPolling())
        if not machine.wait_for(request_id):
            waiters = self._waiters.setdefault(group, {})
            waiter = waiters[request_id] = asyncio.get_running_loop().create_future()
            self._wake(group)
            try:
                await waiter
            finally:
                # Whoever is cancelled here may have been killed: the next incarnation waits on. See `PollerDesk.drop`.
                if waiters.get(request_id) is waiter:
                    del waiters[request_id]
        return machine.size_of(request_id)

    def read(self, group: Group, request_id: str) -> None:
        """A promise's result, or its error, was read."""
        machine = self._machines[group]
        machine.read(request_id)
        if not machine.ended:
            self._wake(group)

    def _wake(self, group: Group) -> None:
        if group not in self._running:
            self._bells[group] = asyncio.Event()
            self._running[group] = self._start(self._poll(group, self._machines[group]), f"poll {group[0]}")
        self._bells[group].set()

    async def _poll(self, group: Group, machine: SessionPolling) -> None:
        bell = self._bells[group]
        while True:
            bell.clear()
            ask = machine.next()
            if ask is None:
                if machine.ended:
                    break
                await bell.wait()
                continue
            delay = await self._ask(group, machine, ask)
            for request_id, waiter in self._waiters.get(group, {}).items():
                if (machine.ended or request_id in machine.done) and not waiter.done():
                    waiter.set_result(None)
            if delay is None:
                break
            if delay:
                await self._link.pause(delay)
        del self._running[group]

    async def _ask(self, group: Group, machine: SessionPolling, ask: Ask) -> float | None:
        now = self._link.system.loop.time
        began = now()
        try:
            answer = await self._link.exchange(
                ROUTES["retrieve_futures"],
                FuturesRetrieveRequest(
                    target=SamplingSessionFuturesTarget(sampling_session_id=group[0], cloned_sampler_id=group[1]),
                    prev_cursor=ask.cursor,
                    timeout=0.0 if ask.at_once else None,
                    retrieved_request_ids=list(ask.retrieved),
                ),
                policy=NO_RETRY,
            )
        except APIStatusError as error:
            pause = self._link.billing.refused(now()) if error.status_code == 402 else None
            delay = machine.refused(error.status_code, error.retry_after, billing_pause=pause)
            return self._refused(group, delay, error)
        except APIConnectionError as error:
            return self._refused(group, machine.refused(None), error)
        except TinkexError as error:  # the server has no such thing, or answers with something else
            return self._refused(group, machine.refused(404), error)
        sizes = {
            completion.request_id: completion.response_payload_uncompressed_size
            if isinstance(completion, FutureFinished)
            else None
            for completion in answer.completions
        }
        return machine.answered(ask, answer.cursor, sizes, now() - began)

    @staticmethod
    def _refused(group: Group, delay: float | None, error: Exception) -> float | None:
        if delay is None:
            _log.warning("sampling.polled_singly", sampling_session_id=group[0], error=str(error))
        return delay
