"""The session's actor: what it watches goes on whatever becomes of the session; settings reach the requests."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from tests.plugins.counting_server import datum
from tinkex_actors import AdamParams, Config, ServiceClient
from tinkex_actors.actors.explanation import OperationStalled
from tinkex_actors.testing import settle, virtual_time
from tinkex_actors.testing.model_server import Faults, ModelServer
from tinkex_actors.wire.exchange import Request, Response
from tinkex_actors.wire.server import encode_error

Before = Callable[[Request], Response | None]


class Interposed(ModelServer):
    """A counting server with something in front of it that may answer first."""

    def __init__(self, before: Before = lambda _: None, **faults: float) -> None:
        super().__init__(random.Random(0), Faults(**{"latency": 0.0, **faults}))
        self.before = before
        self.requests: list[Request] = []

    async def send(self, request: Request) -> Response:
        self.requests.append(request)
        return self.before(request) or await super().send(request)


def a_service(server: Interposed) -> ServiceClient:
    return ServiceClient(base_url="http://127.0.0.1:1", transport=server)


@virtual_time()
async def test_a_stalled_wait_is_reported_also_after_the_session_has_ended() -> None:
    server = Interposed(lambda request: encode_error(410, "over") if "heartbeat" in request.path else None)
    async with a_service(server) as service:
        training = await service.create_lora_training_client("m")
        stalled: list[OperationStalled] = []
        service.system.events.subscribe(stalled.append, OperationStalled)
        await asyncio.sleep(20.0)
        server.faults = Faults(compute=100_000.0, latency=0.0)
        training.optim_step(AdamParams())
        await asyncio.sleep(75.0)

        assert [event.record.operation for event in stalled] == ["optim_step"]
        assert sum("heartbeat" in request.path for request in server.requests) == 1


@virtual_time()
async def test_a_stalled_wait_is_reported_also_before_there_is_a_session() -> None:
    server = Interposed(latency=3000.0)
    service = a_service(server)
    stalled: list[OperationStalled] = []
    service.system.events.subscribe(stalled.append, OperationStalled)
    service.create_rest_client().list_training_runs()
    await asyncio.sleep(75.0)

    assert [event.record.operation for event in stalled] == ["list_training_runs"]
    await service.close()


@virtual_time()
async def test_the_time_out_of_the_config_is_that_of_ordinary_requests() -> None:
    server = Interposed()
    config = Config(base_url="http://127.0.0.1:1", timeout=7.0, poll_timeout=9.0)
    async with ServiceClient(config=config, transport=server) as service:
        await service.create_lora_training_client("m")
        await asyncio.sleep(11.0)

    limits = {request.path.rpartition("/")[2]: request.timeout for request in server.requests}
    assert (limits["create_model"], limits["get_info"], limits["retrieve_future"]) == (7.0, 7.0, 9.0)
    assert limits["session_heartbeat"] == 10.0, "it has a limit of its own"


@virtual_time()
async def test_an_errand_explains_the_request_it_is_at() -> None:
    server = Interposed()
    async with a_service(server) as service:
        training = await service.create_lora_training_client("m")
        step = training.forward_backward([datum()], "cross_entropy")
        server.faults = Faults(latency=1000.0, compute=0.0)
        unloading = training.unload_model()
        await settle()
        assert unloading.explain().records[0].state == "waiting for forward_backward to end"
        await step.wait()
        await settle()
        assert unloading.explain().records[0].state == "the server's answer"
        assert [record.operation for record in service.explain()] == ["unload_model"]


@virtual_time()
async def test_what_has_just_ended_is_not_explained_as_pending() -> None:
    async with a_service(Interposed()) as service:
        training = await service.create_lora_training_client("m")
        info = training.get_info()
        assert info.done()
        assert len(service.explain()) == 0
