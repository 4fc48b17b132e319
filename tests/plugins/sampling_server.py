"""A counting server that also restarts, pauses its queue, tells completions by the session and takes cancellations."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from tinkex_actors import ServiceClient
from tinkex_actors.testing.model_server import Faults, ModelServer
from tinkex_actors.types import (
    ClientConfigResponse,
    ClientDynamicConfigResponse,
    FutureFailed,
    FutureFinished,
    FuturesRetrieveRequest,
    FuturesRetrieveResponse,
)
from tinkex_actors.wire.exchange import Request, Response
from tinkex_actors.wire.routes import ROUTES
from tinkex_actors.wire.server import decode_request, encode_error, encode_response, encode_try_again, match

HELD = 20.0


class SamplingServer(ModelServer):
    """What the hosted service does beside sampling.

    Attributes:
        queue: what polls say of the queue; None answers when the sample is done.
        refuse_polls: the status that every poll of a promise is answered with.
        by_session: every question about a session's completions.
        cancelled: the promises that were cancelled.
    """

    def __init__(self, rng: random.Random, faults: Faults | None = None, **flags: Any) -> None:
        super().__init__(rng, faults)
        self.paused_as: tuple[str, str | None] | None = None
        self.refuse_polls: int | None = None
        self.refuse_session_polls: list[int] = []
        self.by_session: list[FuturesRetrieveRequest] = []
        self.cancelled: list[str] = []
        self._told: list[str] = []
        self._answers["client_config"] = lambda *_: ClientConfigResponse(**flags)
        self._answers["dynamic_config"] = lambda *_: ClientDynamicConfigResponse(sample_cancel_enabled=True)
        self._answers["cancel_future"] = lambda message, _: self.cancelled.append(message.request_id)

    def restart(self) -> None:
        """Forget every promise; polls that are waiting are answered 410 at their next turn."""
        self._promises.clear()
        self._keys.clear()
        for task in list(self._running):
            task.cancel()

    async def _answer(self, request: Request) -> Response:
        found = match(request)
        assert found is not None
        if found[0].name == "retrieve_futures":
            self.seen["retrieve_futures"] += 1
            return await self._completions(decode_request(found[0], request))
        if found[0].name == "retrieve_future":
            if self.refuse_polls is not None:
                return encode_error(self.refuse_polls, "no")
            if self.paused_as is not None:
                await asyncio.sleep(1.0)
                name = decode_request(found[0], request).request_id
                return encode_try_again(name, *self.paused_as)
        return await super()._answer(request)

    async def _completions(self, asked: FuturesRetrieveRequest) -> Response:
        if self.refuse_session_polls:
            return encode_error(self.refuse_session_polls.pop(0), "no")
        self.by_session.append(asked)
        deadline = asyncio.get_running_loop().time() + (HELD if asked.timeout is None else asked.timeout)
        while True:
            # A server that was restarted says of what it has lost that it is over, so that nobody waits for it.
            done = [name for name in self._told if name not in self._promises or self._promises[name].done.is_set()]
            fresh = [name for name in done[asked.prev_cursor :] if name]
            if fresh or asyncio.get_running_loop().time() >= deadline:
                break
            await asyncio.sleep(0.25)
        self._told = [*done, *(name for name in self._told if name not in done)]
        completions = [
            FutureFinished(request_id=name, response_payload_uncompressed_size=100)
            if name in self._promises and self._promises[name].error is None
            else FutureFailed(request_id=name)
            for name in fresh
        ]
        return encode_response(
            ROUTES["retrieve_futures"], FuturesRetrieveResponse(completions=completions, cursor=len(done))
        )

    def _promise(self, route: Any, message: Any) -> Any:
        promise = super()._promise(route, message)
        if route.name == "asample" and promise.request_id not in self._told:
            self._told.append(promise.request_id)
        return promise


def sampling(seed: int = 0, faults: Faults | None = None, **flags: Any) -> tuple[ServiceClient, SamplingServer]:
    """Return a service that has not started, and its server."""
    server = SamplingServer(random.Random(seed), faults, **flags)
    return ServiceClient(base_url="http://127.0.0.1:1", transport=server), server
