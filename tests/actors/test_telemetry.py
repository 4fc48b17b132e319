"""Telemetry loses nothing on a clean end, outlives a server that is away, shows no secret, and is never in the way."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from tests.plugins.counting_server import datum
from tinkex_actors import (
    AdamParams,
    APIConnectionError,
    Config,
    ModelInput,
    NotFoundError,
    RequestFailedError,
    ServiceClient,
)
from tinkex_actors.runtime import ActorSystem
from tinkex_actors.testing import run_virtual, settle, virtual_time
from tinkex_actors.testing.model_server import Faults, ModelServer
from tinkex_actors.wire.exchange import Request, Response
from tinkex_actors.wire.server import encode_error

KEY = "tml-very-secret"


@pytest.fixture(autouse=True)
def _a_spool_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKEX_STATE_DIR", str(tmp_path))


class Listening(ModelServer):
    """A counting server that keeps the events it was told; it may answer them with a status, or not at all."""

    def __init__(self, status: int | None = None, *, away: bool = False) -> None:
        super().__init__(random.Random(0), Faults(latency=0.0))
        self.status = status
        self.away = away
        self.bodies: list[bytes] = []
        self.attempts: list[float] = []

    async def send(self, request: Request) -> Response:
        if request.path.endswith("/telemetry"):
            self.attempts.append(asyncio.get_running_loop().time())
            if self.away:
                raise APIConnectionError("nobody there")
            self.bodies.append(request.body)
            if self.status is not None:
                return encode_error(self.status, "no")
        return await super().send(request)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [event for body in self.bodies for event in json.loads(body)["events"]]

    @property
    def kinds(self) -> list[str]:
        return [event["event"] for event in self.events]


def a_service(server: Listening, state: Path | None = None, **options: Any) -> ServiceClient:
    if state is not None:
        options["state_dir"] = state
    config = Config.from_environment(base_url="http://127.0.0.1:1", api_key=KEY, **options)
    return ServiceClient(config=config, transport=server)


def files(state: Path) -> list[Path]:
    return [path for path in state.rglob("*") if path.is_file()]


# --- a clean end -----------------------------------------------------------------------------------------------------
@virtual_time()
async def test_a_clean_end_sends_everything_in_order() -> None:
    server = Listening()
    async with a_service(server) as service:
        for number in range(250):
            assert service.telemetry.log("mine", {"number": number})

    assert server.kinds == ["SESSION_START", *["GENERIC_EVENT"] * 250, "SESSION_END"]
    assert [event["event_session_index"] for event in server.events] == list(range(252))
    assert [len(json.loads(body)["events"]) for body in server.bodies] == [100, 100, 52]
    assert len({json.loads(body)["process_uuid"] for body in server.bodies}) == 1
    assert {json.loads(body)["session_id"] for body in server.bodies} == {"sess"}


@virtual_time()
async def test_only_an_exit_ends_the_session() -> None:
    server = Listening()
    async with a_service(server) as service:
        with pytest.raises(ValueError, match="mine"):
            async with service.telemetry.capture(fatal=True):
                raise ValueError("mine")
        assert server.kinds == ["SESSION_START", "UNHANDLED_EXCEPTION"]
        service.telemetry.log("life goes on")

    assert server.kinds == ["SESSION_START", "UNHANDLED_EXCEPTION", "GENERIC_EVENT", "SESSION_END"]


@virtual_time()
async def test_an_error_that_ends_the_service_is_sent_once_before_the_exit() -> None:
    server = Listening()

    async def program() -> None:
        async with a_service(server) as service:
            with service.telemetry.capture(), service.telemetry.capture(fatal=True):
                raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await program()

    assert server.kinds == ["SESSION_START", "UNHANDLED_EXCEPTION", "SESSION_END"]
    assert "in program" in server.events[1]["traceback"]


# --- what is queued --------------------------------------------------------------------------------------------------
@virtual_time()
async def test_an_event_of_anything_is_sent_and_takes_no_other_with_it() -> None:
    ring: list[object] = []
    ring.append(ring)

    class Unprintable:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    server = Listening()
    async with a_service(server) as service:
        assert service.telemetry.log("odd", {"loss": np.float32(0.5), "where": {1, 2}, "what": object})
        assert service.telemetry.log("endless", {"ring": ring})
        assert service.telemetry.log("unprintable", {"x": Unprintable(), "n": 10**40})
        assert service.telemetry.log("long", {"text": "x" * 1_000_000})
        assert service.telemetry.log("plain", {"loss": 0.25})

    sent = {event["event_name"]: event["event_data"] for event in server.events if event["event"] == "GENERIC_EVENT"}
    assert sent["odd"]["loss"] == "0.5"
    assert sent["endless"] == {"ring": ["..."]}
    assert "text" in sent["unprintable"]
    assert 16_384 < len(sent["long"]["text"]) < 16_500
    assert sent["plain"] == {"loss": 0.25}


@virtual_time()
async def test_the_key_is_cut_out_of_everything() -> None:
    server = Listening()
    async with a_service(server) as service:
        service.telemetry.log("mine", {"headers": {"X-API-Key": KEY}, "all": [KEY], KEY: 1})
        service.telemetry.log(f"named {KEY}")
        with pytest.raises(ValueError, match="tml-"), service.telemetry.capture():
            raise ValueError(f"the key {KEY} is not mine")
        with pytest.raises(NotFoundError), service.telemetry.capture():
            raise NotFoundError(f"no {KEY}", status_code=404, body={"detail": KEY})

    assert len(server.events) == 6
    assert KEY.encode() not in b"".join(server.bodies)
    assert b"the key *** is not mine" in b"".join(server.bodies)
    assert server.events[4]["event_data"] == {
        "error_type": "NotFoundError", "message": "no ***", "status_code": 404, "body": {"detail": "***"},
    }  # fmt: skip


@virtual_time()
async def test_an_object_with_a_field_for_a_secret_does_not_give_it_away() -> None:
    @dataclass
    class Login:
        user: str
        password: str

    other = Config(base_url="http://127.0.0.1:2", api_key="of-another-server")
    server = Listening()
    async with a_service(server) as service:
        assert service.telemetry.log("mine", MappingProxyType({"login": Login("ada", "hunter22"), "other": other}))

    data = server.events[1]["event_data"]
    assert data["login"] == {"user": "ada", "password": "***"}
    assert "of-another-server" not in json.dumps(data)


@virtual_time()
async def test_a_full_queue_drops_counts_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    server = Listening()
    async with a_service(server) as service:
        accepted = sum(service.telemetry.log("many") for _ in range(12_000))
        counts = service.telemetry.statistics()
        assert await service.telemetry.wait_until_drained()
        assert service.telemetry.statistics().sent == accepted + 1

    assert accepted == 9_999  # the session's start waits too
    assert (counts.queued, counts.overflowed) == (10_000, 2_001)
    assert len([record for record in caplog.records if "telemetry.overflow" in record.getMessage()]) == 1


@virtual_time()
async def test_switched_off_it_keeps_and_sends_nothing(tmp_path: Path) -> None:
    server = Listening()
    async with a_service(server, tmp_path, telemetry=False) as service:
        assert not service.telemetry.log("mine")
        assert not service.telemetry.log_exception(ValueError())
        assert await service.telemetry.wait_until_drained()

    assert server.attempts == []
    assert files(tmp_path) == []


@pytest.mark.parametrize("value", ["0", "false", "OFF", "no"])
def test_the_variable_switches_it_off(value: str) -> None:
    assert not Config.from_environment(environ={"TINKER_TELEMETRY": value}).telemetry
    assert Config.from_environment(environ={}).telemetry


# --- what the client tells by itself ---------------------------------------------------------------------------------
@virtual_time()
async def test_an_operation_that_failed_is_told_under_the_official_name() -> None:
    server = Listening()
    async with a_service(server) as service:
        training = await service.create_lora_training_client("m")
        for category in ("user", "server"):
            server.fail_with = ("too hot", category)
            with pytest.raises(RequestFailedError):
                await training.optim_step(AdamParams())

    told = [event for event in server.events if event["event"] == "GENERIC_EVENT"]
    assert [event["event_name"] for event in told] == ["APIFuture.result_async.application_error"] * 2
    assert [event["severity"] for event in told] == ["WARNING", "ERROR"]
    data = told[1]["event_data"]
    assert data["request_type"] == "optim_step"
    assert data["exception_type"] == "RequestFailedError"
    assert data["is_user_error"] is False
    assert data["category"] == "server"
    assert data["request_id"]


@virtual_time()
async def test_a_stalled_operation_is_told_at_each_doubling() -> None:
    server = Listening()
    server.faults = Faults(latency=0.0, compute=0.0)
    async with a_service(server, stall_after=60.0) as service:
        training = await service.create_lora_training_client("m")
        server.faults = Faults(latency=0.0, compute=100_000.0)
        pending = training.forward_backward([datum()], "cross_entropy")
        await asyncio.sleep(250.0)
        pending.cancel()

    stalled = [event for event in server.events if event.get("event_name") == "tinkex.operation.stalled"]
    assert [event["event_data"]["age"] >= 60 for event in stalled] == [True] * 3
    assert stalled[0]["event_data"]["operation"] == "forward_backward"
    assert stalled[0]["event_data"]["ids"]


@virtual_time()
async def test_a_storm_of_failures_is_counted_rather_than_sent() -> None:
    server = Listening()
    async with a_service(server) as service:
        sampler = await service.create_sampling_client(base_model="m")
        server.fail_with = ("broken", "server")
        prompt = ModelInput.from_ints([1])
        await asyncio.gather(*(sampler.sample(prompt) for _ in range(500)), return_exceptions=True)
        await asyncio.sleep(20.0)
        with pytest.raises(RequestFailedError):
            await sampler.sample(prompt)

    told = [event["event_data"] for event in server.events if event["event"] == "GENERIC_EVENT"]
    assert len(told) == 101
    assert told[-1]["suppressed"] == 400


# --- a server that has no telemetry, or refuses ----------------------------------------------------------------------
@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_server_without_telemetry_is_told_once_and_not_waited_for(status: int) -> None:
    async def main() -> None:
        server = Listening(status)
        loop = asyncio.get_running_loop()
        async with a_service(server) as service:
            await asyncio.sleep(15.0)
            assert not service.telemetry.log("mine")
            assert await service.telemetry.wait_until_drained()
            began = loop.time()

        assert loop.time() - began < 1.0
        assert len(server.bodies) == 1

    run_virtual(main())


@virtual_time()
async def test_a_short_service_on_a_server_without_telemetry_ends_at_once() -> None:
    server = Listening(404)
    loop = asyncio.get_running_loop()
    async with a_service(server):
        began = loop.time()

    assert loop.time() - began < 1.0


@virtual_time()
async def test_a_refused_batch_is_dropped_and_the_next_one_sent(tmp_path: Path) -> None:
    server = Listening(422)
    async with a_service(server, tmp_path) as service:
        assert await service.telemetry.wait_until_drained()
        assert service.telemetry.statistics().refused == 1
        server.status = None
        service.telemetry.log("mine")

    assert server.kinds == ["SESSION_START", "GENERIC_EVENT", "SESSION_END"]
    assert files(tmp_path) == []


# --- a server that is away -------------------------------------------------------------------------------------------
@virtual_time()
async def test_events_wait_on_disk_and_go_when_the_server_is_back(tmp_path: Path) -> None:
    server = Listening(away=True)
    async with a_service(server, tmp_path) as service:
        for _ in range(120):
            service.telemetry.log("before")
        await asyncio.sleep(100.0)
        assert service.telemetry.statistics().spooled == 121
        assert len(files(tmp_path)) == 2
        server.away = False
        service.telemetry.log("after")
        await asyncio.sleep(30.0)
        names = [event.get("event_name") for event in server.events]
        assert names == ["after", None, *["before"] * 120]
        assert files(tmp_path) == []

    assert len({event["event_id"] for event in server.events}) == 123


@virtual_time()
async def test_a_server_that_is_away_is_asked_once_in_ten_seconds_and_delays_nothing(tmp_path: Path) -> None:
    server = Listening(503)
    loop = asyncio.get_running_loop()
    async with a_service(server, tmp_path) as service:
        training = await service.create_lora_training_client("m")
        for _ in range(100):
            service.telemetry.log("mine")
            await training.optim_step(AdamParams())
            await asyncio.sleep(1.0)
        began = loop.time()

    gaps = [later - earlier for earlier, later in zip(server.attempts, server.attempts[1:], strict=False)]
    assert min(gaps[:-1]) >= 10.0
    assert loop.time() - began < 1.0
    assert len(files(tmp_path)) > 0


def test_what_one_process_could_not_send_the_next_one_sends(tmp_path: Path) -> None:
    async def first() -> None:
        async with a_service(Listening(away=True), tmp_path) as service:
            service.telemetry.log("from the first", {"key": KEY})

    async def second(server: Listening, **options: Any) -> None:
        async with a_service(server, tmp_path, **options):
            await asyncio.sleep(1.0)

    run_virtual(first())
    (path,) = files(tmp_path)
    assert KEY.encode() not in path.read_bytes()

    opted_out, same = Listening(), Listening()
    run_virtual(second(opted_out, telemetry=False))
    assert files(tmp_path) == [path]
    run_virtual(second(same))
    assert files(tmp_path) == []
    assert same.kinds == ["SESSION_START", "GENERIC_EVENT", "SESSION_END", "SESSION_START", "SESSION_END"]
    assert opted_out.kinds == []


def test_another_account_never_sends_them(tmp_path: Path) -> None:
    async def live(server: Listening, key: str) -> None:
        config = Config.from_environment(base_url="http://127.0.0.1:1", api_key=key, state_dir=tmp_path)
        async with ServiceClient(config=config, transport=server):
            await asyncio.sleep(1.0)

    run_virtual(live(Listening(away=True), KEY))
    other = Listening()
    run_virtual(live(other, "tml-another-account"))
    assert other.kinds == ["SESSION_START", "SESSION_END"]
    assert len(files(tmp_path)) == 1


def test_a_program_that_leaves_without_closing_keeps_its_events(tmp_path: Path) -> None:
    async def main() -> None:
        service = a_service(Listening(), tmp_path)
        await service.create_lora_training_client("m")
        service.telemetry.log("mine")

    run_virtual(main())
    (path,) = files(tmp_path)
    kinds = [json.loads(line)["event"] for line in path.read_text().splitlines()[1:]]
    assert kinds == ["SESSION_START", "GENERIC_EVENT", "SESSION_END"]


@virtual_time()
async def test_a_spool_that_cannot_be_written_is_counted_and_harms_nothing(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    async with a_service(Listening(away=True), in_the_way) as service:
        await asyncio.sleep(60.0)
        assert service.telemetry.statistics().lost == 1
        training = await service.create_lora_training_client("m")
        await training.optim_step(AdamParams())


# --- crashes ---------------------------------------------------------------------------------------------------------
@virtual_time()
async def test_a_crash_of_the_actor_loses_no_event(tmp_path: Path) -> None:
    server = Listening()
    async with ActorSystem() as system:
        config = Config.from_environment(base_url="http://127.0.0.1:1", api_key=KEY, state_dir=tmp_path)
        async with ServiceClient(config=config, transport=server, system=system) as service:
            server.faults = Faults(latency=5.0)
            service.telemetry.log("mine")
            service.telemetry.flush()
            await settle()
            ref = system.whereis("/service/telemetry/batcher")
            assert ref is not None
            ref.kill()
            server.faults = Faults(latency=0.0)
            assert await service.telemetry.wait_until_drained()

    names = [event.get("event_name") for event in server.events]
    assert names.count("mine") >= 1
    assert set(names) == {None, "mine"}
