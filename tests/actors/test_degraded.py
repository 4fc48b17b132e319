"""Breakers, shared readings and last good answers: off unless asked for, told in events, and nowhere near training."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.plugins.counting_server import datum
from tests.plugins.interposed import Interposed
from tinkex_actors import (
    APIConnectionError,
    BreakerConfig,
    CircuitOpenError,
    InternalServerError,
    TinkerError,
)
from tinkex_actors.actors.link import BreakerChanged, RequestCoalesced, StaleAnswerUsed
from tinkex_actors.testing import virtual_time
from tinkex_actors.wire.exchange import Request, Response
from tinkex_actors.wire.server import encode_error


class Failing(Interposed):
    """A server that can be told to fail some requests."""

    def __init__(self) -> None:
        super().__init__(self.fail)
        self.status: int | None = None
        self.path = "capabilities"

    async def send(self, request: Request) -> Response:
        await asyncio.sleep(0.001)  # what is asked for meanwhile is asked for while this is under way
        return await super().send(request)

    def fail(self, request: Request) -> Response | None:
        if self.status is None or self.path not in request.path:
            return None
        if self.status == 0:
            raise APIConnectionError("nobody there")
        return encode_error(self.status, "as the test says")


def listening(service: Any, *kinds: type[Any]) -> list[Any]:
    events: list[Any] = []
    service.system.events.subscribe(events.append, *kinds)
    return events


@virtual_time()
async def test_a_breaker_opens_refuses_probes_and_closes() -> None:
    server = Failing()
    breaker = BreakerConfig(failure_threshold=3, reset_timeout=30.0)
    async with server.service(breaker=breaker, max_retries=0) as service:
        await service.get_server_capabilities()
        events = listening(service, BreakerChanged)
        server.status = 503
        for _ in range(3):
            with pytest.raises(InternalServerError):
                await service.get_server_capabilities()
        sent = len(server.to("capabilities"))
        with pytest.raises(CircuitOpenError, match="not sent") as caught:
            await service.get_server_capabilities()
        assert len(server.to("capabilities")) == sent
        assert caught.value.group == "rest"
        assert 29.0 < caught.value.retry_after <= 30.0

        await asyncio.sleep(30.0)
        server.status = None
        await service.get_server_capabilities()

    assert [event.state for event in events] == ["open", "half_open", "closed"]


@virtual_time()
async def test_an_open_breaker_is_not_waited_for() -> None:
    server = Failing()
    async with server.service(breaker=BreakerConfig(failure_threshold=1)) as service:
        await service.get_server_capabilities()
        server.status = 503
        began = service.system.now()
        with pytest.raises(CircuitOpenError):
            await service.get_server_capabilities()
        assert service.system.now() - began < 2.0


@pytest.mark.parametrize("status", [404, 422, 429])
@virtual_time()
async def test_the_users_faults_and_a_full_server_open_nothing(status: int) -> None:
    server = Failing()
    async with server.service(breaker=BreakerConfig(failure_threshold=1), max_retries=0) as service:
        await service.get_server_capabilities()
        events = listening(service, BreakerChanged)
        server.status = status
        for _ in range(3):
            with pytest.raises(TinkerError) as caught:
                await service.get_server_capabilities()
            assert not isinstance(caught.value, CircuitOpenError)

    assert events == []


@virtual_time()
async def test_training_is_never_refused() -> None:
    server = Failing()
    async with server.service(breaker=BreakerConfig(failure_threshold=1)) as service:
        training = await service.create_lora_training_client("m")
        events = listening(service, BreakerChanged)
        server.status, server.path = 503, "forward"
        passing = training.forward([datum()], "cross_entropy")
        await asyncio.sleep(20.0)
        server.status = None
        await passing

    assert len(server.to("forward_backward")) > 3
    assert events == []


@virtual_time()
async def test_the_same_reading_under_way_is_one_request() -> None:
    server = Failing()
    async with server.service(coalesce=True) as service:
        await service.get_server_capabilities()
        events = listening(service, RequestCoalesced)
        before = len(server.to("capabilities"))
        asked = [service.get_server_capabilities() for _ in range(5)]
        answers = await asyncio.gather(*asked)
        assert len(server.to("capabilities")) - before == 1
        await service.get_server_capabilities()
        assert len(server.to("capabilities")) - before == 2, "what has been answered is asked again"

    assert len(events) == 4
    assert all(answer == answers[0] for answer in answers)


@virtual_time()
async def test_whoever_gives_up_takes_nobody_along() -> None:
    server = Failing()
    async with server.service(coalesce=True) as service:
        await service.get_server_capabilities()
        first, second, third = (service.get_server_capabilities() for _ in range(3))
        await asyncio.sleep(0.001)
        first.cancel()
        answers = await asyncio.gather(second, third)

    assert len(answers) == 2


@virtual_time()
async def test_an_error_is_shared_too() -> None:
    server = Failing()
    async with server.service(coalesce=True, max_retries=0) as service:
        await service.get_server_capabilities()
        server.status = 500
        before = len(server.to("capabilities"))
        asked = [service.get_server_capabilities() for _ in range(3)]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)

    assert {type(outcome) for outcome in outcomes} == {InternalServerError}
    assert len(server.to("capabilities")) - before == 1


@virtual_time()
async def test_training_is_never_shared() -> None:
    server = Failing()
    async with server.service(coalesce=True) as service:
        training = await service.create_lora_training_client("m")
        same = [training.forward([datum()], "cross_entropy") for _ in range(3)]
        await asyncio.gather(*same)

    assert server.seen["forward_backward"] == 3


@pytest.mark.parametrize("status", [0, 500, 503])
@virtual_time()
async def test_the_last_good_answer_stands_in_for_a_while_and_says_so(status: int) -> None:
    server = Failing()
    async with server.service(last_good_max_age=60.0, max_retries=0) as service:
        good = await service.get_server_capabilities()
        events = listening(service, StaleAnswerUsed)
        server.status = status
        await asyncio.sleep(30.0)
        assert await service.get_server_capabilities() == good
        assert [(event.route, round(event.age)) for event in events] == [("get_server_capabilities", 30)]
        await asyncio.sleep(31.0)
        with pytest.raises((APIConnectionError, InternalServerError)):
            await service.get_server_capabilities()

    assert len(events) == 1


@virtual_time()
async def test_a_refusal_is_an_answer_and_nothing_stands_in_for_it() -> None:
    server = Failing()
    async with server.service(last_good_max_age=60.0) as service:
        await service.get_server_capabilities()
        server.status = 404
        with pytest.raises(TinkerError):
            await service.get_server_capabilities()


@virtual_time()
async def test_without_asking_for_it_nothing_stands_in_and_nothing_is_refused() -> None:
    server = Failing()
    async with server.service(max_retries=0) as service:
        await service.get_server_capabilities()
        server.status = 503
        for _ in range(10):
            with pytest.raises(InternalServerError):
                await service.get_server_capabilities()
        asked = [service.get_server_capabilities() for _ in range(3)]
        await asyncio.gather(*asked, return_exceptions=True)

    assert len(server.to("capabilities")) == 14
