"""However a service ends, nothing waits for ever, nothing stays open, and the words are true."""

from __future__ import annotations

import asyncio
import random
import threading

import pytest

from tests.plugins.counting_server import datum
from tinkex_actors import (
    AdamParams,
    ClosedError,
    RequestFailedError,
    RestartsExhaustedError,
    ServiceClient,
    WrongLoopError,
)
from tinkex_actors.runtime import ActorSystem
from tinkex_actors.testing import settle, virtual_time
from tinkex_actors.testing.model_server import Faults, ModelServer
from tinkex_actors.wire.exchange import Request, Response


class Watched(ModelServer):
    """A counting server that knows how often it was closed."""

    closed = 0

    async def close(self) -> None:
        self.closed += 1
        await super().close()


def a_service(system: ActorSystem | None = None) -> tuple[ServiceClient, Watched]:
    server = Watched(random.Random(0), Faults(latency=0.0))
    return ServiceClient(base_url="http://127.0.0.1:1", transport=server, system=system), server


async def give_up(service: ServiceClient) -> None:
    """Kill the poller until its supervisors have had enough."""
    system = service.system
    for _ in range(40):
        poller = system.whereis("/service/core/poller")
        if poller is None:
            return
        poller.kill()
        await settle()


@virtual_time()
async def test_a_service_that_gave_up_still_finishes_its_session_and_closes_its_connections() -> None:
    service, server = a_service()
    async with service:
        training = await service.create_lora_training_client("m")
        server.faults = Faults(compute=1000.0, latency=0.0)
        pending = training.optim_step(AdamParams())
        await settle()
        system = service.system
        await give_up(service)
        with pytest.raises(RestartsExhaustedError, match=r"poller ended 4 times.*Make a new ServiceClient"):
            await pending

    assert server.seen["finish_session"] == 1
    assert server.closed == 1
    with pytest.raises(ClosedError, match="has stopped"):
        await system.start()


@virtual_time()
async def test_a_system_stopped_by_its_owner_is_not_called_a_crash() -> None:
    async with ActorSystem(name="mine") as system:
        service, server = a_service(system)
        await service.__aenter__()
        training = await service.create_lora_training_client("m")
        server.faults = Faults(compute=1000.0, latency=0.0)
        pending = training.optim_step(AdamParams())
        await settle()
    with pytest.raises(ClosedError, match="were stopped while this was pending"):
        await pending
    with pytest.raises(ClosedError, match="were stopped"):
        training.optim_step(AdamParams())
    await service.close()

    assert server.closed == 1
    assert server.seen["finish_session"] == 1


@virtual_time()
async def test_a_service_in_a_system_that_has_stopped_fails_its_first_call_and_closes() -> None:
    async with ActorSystem(name="mine") as system:
        pass
    service, server = a_service(system)
    with pytest.raises(ClosedError, match="'mine' has stopped"):
        async with service:
            pass

    assert server.closed == 1


@virtual_time()
async def test_a_transport_closed_underneath_fails_what_waits_and_lets_the_service_close() -> None:
    service, server = a_service()
    await service.__aenter__()
    training = await service.create_lora_training_client("m")
    system = service.system
    await server.close()
    step = training.forward_backward([datum()], "cross_entropy")
    with pytest.raises(ClosedError):
        await step
    await service.close()

    assert system.whereis("/service") is None
    assert server.closed == 2


class Fickle(ModelServer):
    """A counting server whose requests can be cancelled by the transport itself, as a closing connector does."""

    cancelling = 0

    async def send(self, request: Request) -> Response:
        if self.cancelling:
            self.cancelling -= 1
            broken = asyncio.get_running_loop().create_future()
            broken.cancel()
            await broken
        return await super().send(request)


@virtual_time()
async def test_a_transport_that_cancels_its_own_exchange_is_a_broken_connection() -> None:
    server = Fickle(random.Random(0), Faults(latency=0.0))
    async with ServiceClient(base_url="http://127.0.0.1:1", transport=server) as service:
        training = await service.create_lora_training_client("m")
        server.cancelling = 1
        async with asyncio.timeout(60.0):
            await training.optim_step(AdamParams())
        server.cancelling = 2
        async with asyncio.timeout(60.0):
            await training.optim_step(AdamParams())

    assert [number for number, _ in server.applied[training.model_id]] == [1, 2]


def test_closing_outside_the_loop_says_so() -> None:
    service, _ = a_service()
    with pytest.raises(WrongLoopError, match="event loop"):
        service.close()


@virtual_time()
async def test_closing_and_cancelling_and_awaiting_elsewhere_say_so_and_change_nothing() -> None:
    service, server = a_service()
    caught: list[WrongLoopError] = []

    async def elsewhere() -> None:
        for wrong in (service.close, future.cancel, future.wait):
            try:
                outcome = wrong()
                if asyncio.iscoroutine(outcome):
                    await outcome
            except WrongLoopError as error:
                caught.append(error)

    async with service:
        training = await service.create_lora_training_client("m")
        future = training.optim_step(AdamParams())
        thread = threading.Thread(target=lambda: asyncio.run(elsewhere()))
        thread.start()
        thread.join()
        await future

    assert len(caught) == 3
    assert server.closed == 1


@virtual_time()
async def test_a_failure_looks_the_same_however_often_it_is_awaited() -> None:
    service, server = a_service()
    async with service:
        training = await service.create_lora_training_client("m")
        server.fail_with = ("no", "user")
        future = training.optim_step(AdamParams())
        depths = []
        for _ in range(5):
            with pytest.raises(RequestFailedError) as caught:
                await future
            depths.append(len(caught.traceback))

    assert depths[1:] == [depths[1]] * 4
