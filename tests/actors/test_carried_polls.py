"""Polls in the task of whoever was given the promise: handed over, dropped, watched again, closed, doubled."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.plugins.counting_server import counting
from tinkex_actors import ClosedError, Config, ModelInput, SamplingParams, ServiceClient
from tinkex_actors.actors.link import Link
from tinkex_actors.actors.poller import Poller, PollerDesk
from tinkex_actors.actors.promise import Promise
from tinkex_actors.errors import RemoteWireError
from tinkex_actors.runtime import Actor, ActorRef, ActorSystem, handler
from tinkex_actors.testing import seeds, settle, virtual_time
from tinkex_actors.testing.model_server import Faults, ModelServer
from tinkex_actors.types import AdamParams, OptimStepRequest, UntypedAPIFuture
from tinkex_actors.wire.client import encode_request
from tinkex_actors.wire.dialect import HOSTED
from tinkex_actors.wire.exchange import Request, Response
from tinkex_actors.wire.routes import ROUTES

STEP = ROUTES["optim_step"]
PROMPT = ModelInput.from_ints([1, 2, 3])
CORE = "/service/core"


class Giver(Actor):
    """Was given promises and polls for each in a task of its own."""

    def __init__(self, desk: PollerDesk, link: Link) -> None:
        self.desk, self.link = desk, link

    @handler
    def carry(self, promise: Promise) -> None:
        self.task(self.desk.carry(promise, self.link))


class Scene:
    """One promise on a server that takes half a minute, a poller and a giver."""

    def __init__(self, server: ModelServer, desk: PollerDesk, poller: ActorRef[Poller], giver: ActorRef[Giver]) -> None:
        self.server, self.desk, self.poller, self.giver = server, desk, poller, giver
        self.found: list[tuple[str, object]] = []

    def promise(self, owner: str) -> Promise:
        def note(outcome: object) -> None:
            self.found.append((owner, outcome))

        return Promise("p0", STEP, on_result=note, on_error=note, now=0.0)

    @property
    def owners(self) -> list[str]:
        return [owner for owner, _ in self.found]


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    server, desk = ModelServer(random.Random(0), Faults(latency=0.0, compute=0.0)), PollerDesk()
    server.faults = Faults(latency=0.0, compute=60.0)
    await server.send(encode_request(STEP, OptimStepRequest(model_id="a", seq_id=1, adam_params=AdamParams()), HOSTED))
    async with ActorSystem() as system:
        link = Link(server, config=Config(base_url="http://127.0.0.1:1"), system=system)
        poller = await system.spawn(Poller, desk, link, restart="permanent")
        giver = await system.spawn(Giver, desk, link, restart="permanent")
        yield Scene(server, desk, poller, giver)
        assert not desk.promises
        assert not desk.fresh
        assert not desk.dropped
    await server.close()


@virtual_time()
async def test_a_promise_that_is_carried_and_watched_has_one_poll_and_its_last_owner_hears() -> None:
    async with scene() as here:
        await here.giver.call.carry(here.promise("first"))
        await settle()
        here.desk.watch(here.promise("second"))
        await settle()
        assert here.server.polls_open == 1
        await asyncio.sleep(120.0)
        assert here.owners == ["second"]


@virtual_time()
async def test_a_promise_that_is_watched_and_then_given_stays_with_the_poller() -> None:
    async with scene() as here:
        here.desk.watch(here.promise("first"))
        await settle()
        await here.giver.call.carry(here.promise("second"))
        await settle()
        assert here.server.polls_open == 1
        await asyncio.sleep(120.0)
        assert here.owners == ["second"]


@pytest.mark.parametrize("again", ["watched", "carried"])
@virtual_time()
async def test_a_promise_dropped_while_it_was_carried_may_be_asked_for_anew(again: str) -> None:
    async with scene() as here:
        await here.giver.call.carry(here.promise("first"))
        await settle()
        here.desk.drop("p0")
        if again == "watched":
            here.desk.watch(here.promise("second"))
        else:
            await here.giver.call.carry(here.promise("second"))
        await settle()
        assert here.server.polls_open == 1
        await asyncio.sleep(120.0)
        assert here.owners == ["second"]


@virtual_time()
async def test_a_promise_dropped_before_its_poller_woke_is_not_polled_for_the_next_owner_twice() -> None:
    async with scene() as here:
        here.desk.watch(here.promise("first"))
        here.desk.drop("p0")
        here.desk.watch(here.promise("second"))
        await settle()
        assert here.server.polls_open == 1
        await asyncio.sleep(120.0)
        assert here.owners == ["second"]


@virtual_time()
async def test_a_poller_that_restarts_leaves_alone_what_others_carry() -> None:
    async with scene() as here:
        await here.giver.call.carry(here.promise("first"))
        await settle()
        here.poller.kill()
        await asyncio.sleep(1.0)
        assert here.server.polls_open == 1
        await asyncio.sleep(120.0)
        assert here.owners == ["first"]


@seeds(100)
async def test_whoever_is_killed_whenever_the_owner_hears_once() -> None:
    rng = random.Random(asyncio.get_running_loop().seed)  # type: ignore[attr-defined]
    async with scene() as here:
        await here.giver.call.carry(here.promise("only"))
        for _ in range(rng.randint(1, 3)):  # as many as a supervisor bears
            await asyncio.sleep(rng.choice((0.0, 0.3, 10.0, 25.0)) * rng.random())
            rng.choice((here.giver, here.poller)).kill()
        await asyncio.sleep(200.0)
        assert here.owners == ["only"]


# --- through a service ------------------------------------------------------------------------------------------------
@virtual_time()
async def test_a_dispatcher_that_dies_hands_every_poll_over_with_its_pace_and_its_caller() -> None:
    service, server = counting(latency=0.0, compute=0.0)
    async with service:
        sampler = await service.create_sampling_client(base_model="m")
        server.faults = Faults(latency=0.0, compute=60.0)
        samples = [sampler.sample(PROMPT, 1, SamplingParams(max_tokens=1)) for _ in range(100)]
        await settle()
        asked = server.seen["retrieve_future"]
        dispatcher = service.system.whereis(f"{CORE}/dispatcher")
        assert dispatcher is not None
        dispatcher.kill()
        await settle()
        assert server.polls_open == 0, "the floor between two polls holds over the change of hands"
        await asyncio.sleep(1.0)
        ended = sum(sample.done() for sample in samples)
        assert (server.polls_open, server.seen["retrieve_future"]) == (100 - ended, asked + 100)
        await asyncio.gather(*samples)
        assert server.seen["asample"] == 100, "none was posted again"


@pytest.mark.parametrize("moment", ["posting", "polling"])
@virtual_time()
async def test_a_service_that_closes_ends_its_samples_in_words_and_polls_no_more(moment: str) -> None:
    service, server = counting(latency=0.0, compute=0.0)
    async with service:
        sampler = await service.create_sampling_client(base_model="m")
        server.faults = Faults(latency=10.0 if moment == "posting" else 0.0, compute=1000.0)
        samples = [sampler.sample(PROMPT) for _ in range(20)]
        await settle()
        server.faults = Faults(latency=0.0)
    found = await asyncio.gather(*samples, return_exceptions=True)
    asked = server.seen["retrieve_future"]
    await asyncio.sleep(100.0)

    assert [type(one) for one in found] == [ClosedError] * 20
    assert (server.polls_open, server.seen["retrieve_future"]) == (0, asked)


@virtual_time()
async def test_a_hook_that_cancels_the_sample_whose_acceptance_it_hears_of_leaves_nothing_behind() -> None:
    service, server = counting(latency=0.0, compute=0.0)
    async with service:
        sampler = await service.create_sampling_client(base_model="m")
        server.faults = Faults(latency=0.0, compute=0.0, limited=1.0)
        sample = sampler.sample(PROMPT)
        sampler.on_resumed(lambda _: sample.cancel())
        await settle()
        server.faults = Faults(latency=0.0, compute=1000.0)
        with pytest.raises(asyncio.CancelledError):
            await sample
        await settle()
        assert server.polls_open == 0
        view = sampler.statistics()
        assert (view.waiting, view.dispatching, view.in_flight) == (0, 0, 0)


class OnePromise(ModelServer):
    """Gives everybody the same promise."""

    def _promise(self, route: Any, message: Any) -> UntypedAPIFuture:
        found = super()._promise(route, message)
        if route.name == "asample":
            self._promises["same"] = self._promises[found.request_id]
            found = UntypedAPIFuture(request_id="same")
        return found


@virtual_time()
async def test_a_server_that_gives_two_samples_one_promise_is_found_out() -> None:
    server = OnePromise(random.Random(0), Faults(latency=0.0, compute=0.0))
    async with ServiceClient(base_url="http://127.0.0.1:1", transport=server) as service:
        sampler = await service.create_sampling_client(base_model="m")
        server.faults = Faults(latency=0.0, compute=10.0)
        samples = [sampler.sample(PROMPT, 1, SamplingParams(max_tokens=1)) for _ in range(2)]
        async with asyncio.timeout(60.0):
            found = await asyncio.gather(*samples, return_exceptions=True)
        assert isinstance(found[1], RemoteWireError)
        assert "has been given to another sample" in str(found[1])
        assert not isinstance(found[0], BaseException)


class Surprising(ModelServer):
    """Breaks in a way that no transport may, at its first poll."""

    broken = False

    async def send(self, request: Request) -> Response:
        if request.path.endswith("/retrieve_future") and not self.broken:
            self.broken = True
            raise ZeroDivisionError("not one of ours")
        return await super().send(request)


@virtual_time()
async def test_a_carried_poll_that_crashes_is_the_dispatchers_crash_and_no_samples_end() -> None:
    server = Surprising(random.Random(0), Faults(latency=0.0, compute=0.0))
    async with ServiceClient(base_url="http://127.0.0.1:1", transport=server) as service:
        sampler = await service.create_sampling_client(base_model="m")
        samples = [sampler.sample(PROMPT, 1, SamplingParams(max_tokens=1)) for _ in range(20)]
        answers = await asyncio.gather(*samples)

    assert len(answers) == 20
    assert server.broken
