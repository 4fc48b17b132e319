"""The session's actor: start, beats, states and settings; what it watches goes on whatever becomes of the session."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.plugins.counting_server import datum
from tinkex_actors import AdamParams, BadRequestError, Config, ConfigError, GoneError, ServiceClient
from tinkex_actors.actors.explanation import OperationStalled
from tinkex_actors.actors.session import (
    ConfigRefreshed,
    HeartbeatDelayed,
    SessionDegraded,
    SessionEnded,
    SessionFinished,
    SessionLost,
    SessionRecovered,
    SessionStarted,
)
from tinkex_actors.runtime import Actor, handler
from tinkex_actors.testing import VirtualLoop, settle, virtual_time
from tinkex_actors.testing.model_server import Faults, ModelServer
from tinkex_actors.types import ClientDynamicConfigResponse
from tinkex_actors.wire.exchange import Request, Response
from tinkex_actors.wire.routes import ROUTES
from tinkex_actors.wire.server import encode_error, encode_response

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


# --- beats, states, events ------------------------------------------------------------------------------------------
SESSION_EVENTS = (
    HeartbeatDelayed,
    SessionDegraded,
    SessionEnded,
    SessionFinished,
    SessionLost,
    SessionRecovered,
    SessionStarted,
)


def beats(server: Interposed) -> int:
    return sum("heartbeat" in request.path for request in server.requests)


def heard(service: ServiceClient) -> list[Any]:
    events: list[Any] = []
    service.system.events.subscribe(events.append, *SESSION_EVENTS)
    return events


@virtual_time()
async def test_a_session_tells_when_it_degrades_is_lost_and_recovers() -> None:
    down = False
    server = Interposed(lambda request: encode_error(503, "no") if down and "heartbeat" in request.path else None)
    service = a_service(server)
    events = heard(service)
    async with service:
        await asyncio.sleep(15.0)
        assert events == [SessionStarted("sess", False)]
        down = True
        await asyncio.sleep(10.0)
        assert events[1:] == [SessionDegraded("sess", 503)]
        await asyncio.sleep(120.0)
        assert isinstance(events[2], SessionLost)
        assert 120.0 <= events[2].silence < 131.0
        assert "lost" in str(service.explain())
        down = False
        await asyncio.sleep(10.0)
        assert isinstance(events[3], SessionRecovered)

    assert events[4:] == [SessionFinished("sess", "success", told=True)]
    assert beats(server) == 15, "one every ten seconds, whatever the answers"
    reports = b"".join(request.body for request in server.requests if "telemetry" in request.path)
    assert b"tinkex.session.degraded" in reports
    assert b"tinkex.session.lost" in reports


@virtual_time()
async def test_a_session_that_the_server_has_ended_is_told_once() -> None:
    server = Interposed(lambda request: encode_error(410, "over") if "heartbeat" in request.path else None)
    service = a_service(server)
    events = heard(service)
    async with service:
        await asyncio.sleep(100.0)
        assert events[1:] == [SessionEnded("sess")]
        assert "ended" in str(service.explain())
    assert beats(server) == 1


@virtual_time()
async def test_a_server_without_heartbeats_gets_none_and_is_not_reported() -> None:
    server = Interposed(lambda request: encode_error(405, "no") if "heartbeat" in request.path else None)
    service = a_service(server)
    events = heard(service)
    async with service:
        await asyncio.sleep(300.0)
    assert beats(server) == 1
    assert [type(event) for event in events] == [SessionStarted, SessionFinished]


def hold_the_loop(seconds: float) -> None:
    """Let time pass inside one step of the loop, as a blocking call does."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop._now += seconds


class Busy(Actor):
    """Somebody's actor that never comes to an end."""

    @handler
    async def dig(self) -> None:
        await self.system.sleep(1000.0)

    @handler
    def again(self) -> None:
        self.ref.cast.again()


@virtual_time()
async def test_no_handler_and_no_flood_of_messages_delays_a_beat() -> None:
    server = Interposed()
    service = a_service(server)
    instants: list[float] = []

    def note(request: Request) -> None:
        if "heartbeat" in request.path:
            instants.append(service.system.now())

    server.before = note
    async with service:
        started = service.system.now()
        digger = await service.system.spawn(Busy)
        digger.cast.dig()
        service.create_rest_client()
        training = await service.create_lora_training_client("m")
        server.faults = Faults(compute=0.0, latency=0.5)
        pending = [training.forward_backward([datum()], "cross_entropy") for _ in range(200)]
        await asyncio.sleep(65.0)
        assert len(instants) == 6
        for number, instant in enumerate(instants, 1):
            assert abs(instant - started - 10.0 * number) < 1.0
        await asyncio.gather(*(future.wait() for future in pending))


@virtual_time()
async def test_what_holds_the_loop_is_reported_and_the_beat_goes_out_at_once() -> None:
    server = Interposed()
    service = a_service(server)
    events = heard(service)
    async with service:
        await asyncio.sleep(5.0)
        hold_the_loop(45.0)
        await asyncio.sleep(1.0)
        assert beats(server) == 1
    [late] = [event for event in events if isinstance(event, HeartbeatDelayed)]
    assert 39.0 < late.seconds < 41.0


# --- dynamic config --------------------------------------------------------------------------------------------------
def with_dynamic(flags: list[ClientDynamicConfigResponse | int]) -> Interposed:
    """A server whose dynamic config is the next of ``flags``, the last for ever; a number is a status."""

    def before(request: Request) -> Response | None:
        if "dynamic_config" not in request.path:
            return None
        now = flags.pop(0) if len(flags) > 1 else flags[0]
        if isinstance(now, int):
            return encode_error(now, "no")
        return encode_response(ROUTES["dynamic_config"], now)

    return Interposed(before)


def refreshes(server: Interposed) -> int:
    return sum("dynamic_config" in request.path for request in server.requests)


@virtual_time()
async def test_the_dynamic_config_is_read_again_at_the_interval_it_names() -> None:
    server = with_dynamic(
        [
            ClientDynamicConfigResponse(refresh_interval_sec=20.0),
            500,
            ClientDynamicConfigResponse(refresh_interval_sec=1.0, sample_cancel_enabled=True),
        ]
    )
    service = a_service(server)
    changes: list[ConfigRefreshed] = []
    service.system.events.subscribe(changes.append, ConfigRefreshed)
    async with service:
        await asyncio.sleep(21.0)
        assert refreshes(server) == 2
        assert changes == [], "a failure keeps what is known"
        await asyncio.sleep(20.0)
        assert refreshes(server) == 3
        assert [event.changed for event in changes] == [("refresh_interval_sec", "sample_cancel_enabled")]
        await asyncio.sleep(30.0)
        assert refreshes(server) == 6, "an interval below ten seconds is ten seconds"
    assert len(changes) == 1


@virtual_time()
async def test_a_server_without_a_dynamic_config_is_not_asked_again() -> None:
    server = with_dynamic([404])
    async with a_service(server):
        await asyncio.sleep(1000.0)
    assert refreshes(server) == 1


# --- joining ---------------------------------------------------------------------------------------------------------
@virtual_time()
async def test_a_joined_session_is_checked_kept_alive_and_left_to_its_holder() -> None:
    server = Interposed()
    service = ServiceClient(base_url="http://127.0.0.1:1", transport=server, session_id="theirs")
    events = heard(service)
    async with service:
        assert service.session_id == "theirs"
        assert beats(server) == 1
        await asyncio.sleep(11.0)
        assert beats(server) == 2
        training = await service.create_lora_training_client("m")
        assert training.model_id.startswith("theirs:train:")
        assert int(training.model_id.rpartition(":")[2]) >= 1 << 20, "apart from what its creator counts"

    assert server.seen["create_session"] == 0
    assert not any("/finish" in request.path for request in server.requests)
    assert events == [SessionStarted("theirs", joined=True)]


@virtual_time()
async def test_a_joined_session_can_be_finished_on_request() -> None:
    server = Interposed()
    service = ServiceClient(base_url="http://127.0.0.1:1", transport=server, session_id="theirs")
    async with service:
        await service.close("errored", "over", finish=True)
    [finish] = [request for request in server.requests if "/finish" in request.path]
    assert finish.path == "/api/v1/sessions/theirs/finish"
    assert b'"errored"' in finish.body


@virtual_time()
async def test_a_session_of_our_own_can_be_left_open_for_another_process() -> None:
    server = Interposed()
    async with a_service(server) as service:
        await service.close(finish=False)
    assert not any("/finish" in request.path for request in server.requests)


@virtual_time()
async def test_a_session_that_has_ended_cannot_be_joined() -> None:
    server = Interposed(lambda request: encode_error(410, "session theirs is over") if "beat" in request.path else None)
    with pytest.raises(GoneError, match="start a new one"):
        async with ServiceClient(base_url="http://127.0.0.1:1", transport=server, session_id="theirs"):
            pass
    assert server.seen["create_session"] == 0


def test_an_empty_session_id_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="session_id is empty"):
        ServiceClient(base_url="local://tiny", session_id="")


@virtual_time()
async def test_a_failed_start_is_tried_again_without_asking_for_the_dialect_twice() -> None:
    refusals = iter([400, 400])

    def before(request: Request) -> Response | None:
        if "create_session" not in request.path:
            return None
        status = next(refusals, None)
        return None if status is None else encode_error(status, "not yet")

    server = Interposed(before)
    service = a_service(server)
    for _ in range(2):
        with pytest.raises(BadRequestError):
            await service.create_lora_training_client("m")
    assert (await service.create_lora_training_client("m")).model_id
    assert server.seen["client_config"] == 1
    await service.close()


@virtual_time()
async def test_a_session_actor_that_crashed_goes_on_without_asking_anything_twice() -> None:
    server = Interposed()
    async with a_service(server) as service:
        await asyncio.sleep(12.0)
        session = service.system.whereis("/service/core/session")
        assert session is not None
        session.kill()
        await asyncio.sleep(10.0)
        assert service.session_id == "sess"
    assert (server.seen["client_config"], server.seen["dynamic_config"], server.seen["create_session"]) == (1, 1, 1)
    assert beats(server) == 2, "the rhythm is kept over the crash"
