"""A promise has one poll and one owner, whatever is dropped and watched again."""

from __future__ import annotations

import asyncio
import random

import pytest

from tinkex_actors import Config
from tinkex_actors.actors.link import Link
from tinkex_actors.actors.poller import Poller, PollerDesk
from tinkex_actors.actors.promise import Promise
from tinkex_actors.runtime import Actor, ActorSystem, handler
from tinkex_actors.testing import settle, virtual_time
from tinkex_actors.testing.model_server import Faults, ModelServer
from tinkex_actors.types import AdamParams, OptimStepRequest
from tinkex_actors.wire.client import encode_request
from tinkex_actors.wire.dialect import HOSTED
from tinkex_actors.wire.exchange import Request, Response
from tinkex_actors.wire.routes import ROUTES

STEP = ROUTES["optim_step"]


class OnAnswer(ModelServer):
    """A counting server that does something in the moment before a poll's answer is seen."""

    def __init__(self) -> None:
        super().__init__(random.Random(0), Faults(latency=0.0, compute=0.0))
        self.then: list[object] = []

    async def send(self, request: Request) -> Response:
        response = await super().send(request)
        if self.then and request.path.endswith("/retrieve_future"):
            self.then.pop()()  # type: ignore[operator]
        return response


@virtual_time()
async def test_a_promise_dropped_and_watched_again_as_its_answer_comes_still_ends() -> None:
    server, desk = OnAnswer(), PollerDesk()
    message = OptimStepRequest(model_id="a", seq_id=1, adam_params=AdamParams())
    await server.send(encode_request(STEP, message, HOSTED))
    async with ActorSystem() as system:
        link = Link(server, config=Config(base_url="http://127.0.0.1:1"), system=system)
        await system.spawn(Poller, desk, link)
        first: list[object] = []
        second: asyncio.Future[object] = asyncio.get_running_loop().create_future()

        def watch_again() -> None:
            desk.drop("p0")
            desk.watch(Promise("p0", STEP, on_result=second.set_result, on_error=second.set_exception, now=0.0))

        server.then.append(watch_again)
        desk.watch(Promise("p0", STEP, on_result=first.append, on_error=first.append, now=0.0))
        async with asyncio.timeout(60.0):
            await second
        await settle()

        assert not first
        assert not desk.promises
    await server.close()


class Giver(Actor):
    """Was given a promise and polls for it in a task of its own."""

    def __init__(self, desk: PollerDesk, link: Link) -> None:
        self.desk, self.link = desk, link

    @handler
    def carry(self, promise: Promise) -> None:
        self.task(self.desk.carry(promise, self.link))


@pytest.mark.parametrize("end", ["answered", "giver stops", "dropped"])
@virtual_time()
async def test_whoever_was_given_a_promise_may_poll_and_the_poller_goes_on_when_it_ends(end: str) -> None:
    server, desk = ModelServer(random.Random(0), Faults(latency=0.0, compute=30.0)), PollerDesk()
    message = OptimStepRequest(model_id="a", seq_id=1, adam_params=AdamParams())
    await server.send(encode_request(STEP, message, HOSTED))
    async with ActorSystem() as system:
        link = Link(server, config=Config(base_url="http://127.0.0.1:1"), system=system)
        await system.spawn(Poller, desk, link)
        giver = await system.spawn(Giver, desk, link)
        found: list[object] = []
        promise = Promise("p0", STEP, on_result=found.append, on_error=found.append, now=0.0)
        await giver.call.carry(promise)
        await settle()
        assert server.polls_open == 1
        assert promise.task is not None
        if end == "giver stops":
            await giver.stop()
            await asyncio.sleep(1.0)  # no poll is repeated before the floor
            assert promise.task is None
            assert server.polls_open == 1, "the poller's"
        if end == "dropped":
            desk.drop("p0")
            await settle()
            assert server.polls_open == 0
        await asyncio.sleep(60.0)

        assert len(found) == (0 if end == "dropped" else 1)
        assert not desk.promises
        assert not desk.fresh
    await server.close()
