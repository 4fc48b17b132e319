"""Captures report what leaves a block or a function, change nothing about it, and wait only where they may."""

from __future__ import annotations

import asyncio
import inspect
import json
import random
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tinkex_actors import InputError, ServiceClient
from tinkex_actors.clients.telemetry import Capture
from tinkex_actors.testing import settle, virtual_time
from tinkex_actors.testing.model_server import Faults, ModelServer
from tinkex_actors.wire.exchange import Request, Response

KEY = "tml-very-secret"


@pytest.fixture(autouse=True)
def _a_spool_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKEX_STATE_DIR", str(tmp_path))


class Listening(ModelServer):
    """Keeps the events it was told, each after ``delay`` seconds."""

    def __init__(self, delay: float = 0.0) -> None:
        super().__init__(random.Random(0), Faults(latency=0.0))
        self.delay = delay
        self.events: list[dict[str, Any]] = []

    async def send(self, request: Request) -> Response:
        if request.path.endswith("/telemetry"):
            await asyncio.sleep(self.delay)
            self.events += json.loads(request.body)["events"]
        return await super().send(request)

    @property
    def errors(self) -> list[str]:
        return [event["error_type"] for event in self.events if event["event"] == "UNHANDLED_EXCEPTION"]


def a_service(server: Listening) -> ServiceClient:
    return ServiceClient(base_url="http://127.0.0.1:1", transport=server, api_key=KEY)


@virtual_time()
async def test_a_plain_function_is_wrapped() -> None:
    server = Listening()
    async with a_service(server) as service:

        @service.telemetry.capture()
        def divide(by: int = 1) -> float:
            """Divide one."""
            return 1 / by

        assert divide(2) == 0.5
        assert divide.__name__ == "divide"
        assert divide.__doc__ == "Divide one."
        with pytest.raises(ZeroDivisionError):
            divide(by=0)
    assert server.errors == ["ZeroDivisionError"]


@virtual_time()
async def test_a_coroutine_function_stays_one() -> None:
    server = Listening()
    async with a_service(server) as service:

        @service.telemetry.capture(severity="critical")
        async def divide(by: int) -> float:
            await asyncio.sleep(1.0)
            return 1 / by

        assert inspect.iscoroutinefunction(divide)
        assert await divide(4) == 0.25
        with pytest.raises(ZeroDivisionError):
            await divide(0)
    (event,) = [event for event in server.events if event["event"] == "UNHANDLED_EXCEPTION"]
    assert event["severity"] == "CRITICAL"


@virtual_time()
async def test_the_very_exception_goes_on_and_is_reported_once() -> None:
    server = Listening()
    mine = ValueError("mine")
    async with a_service(server) as service:
        capture = service.telemetry.capture()

        @capture
        async def fail() -> None:
            with capture, capture:
                raise mine

        with pytest.raises(ValueError, match="mine") as caught:
            await fail()
        assert caught.value is mine
        assert not service.telemetry.log_exception(mine)
    assert server.errors == ["ValueError"]


@pytest.mark.parametrize("error", [asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_is_no_error_is_none_of_its_business(error: type[BaseException]) -> None:
    @virtual_time()
    async def main() -> None:
        server = Listening()
        async with a_service(server) as service:
            with pytest.raises(error), service.telemetry.capture(fatal=True):
                raise error
        assert server.errors == []

    main()


@virtual_time()
async def test_a_fatal_error_has_been_sent_when_it_goes_on() -> None:
    server = Listening(delay=3.0)
    loop = asyncio.get_running_loop()
    async with a_service(server) as service:

        @service.telemetry.capture(fatal=True)
        async def fail() -> None:
            raise ValueError("the end")

        began = loop.time()
        with pytest.raises(ValueError, match="the end"):
            await fail()
        assert server.errors == ["ValueError"]
        assert loop.time() - began >= 3.0


@virtual_time()
async def test_a_fatal_error_waits_thirty_seconds_at_most() -> None:
    server = Listening(delay=1_000.0)
    loop = asyncio.get_running_loop()
    service = a_service(server)
    await service.create_lora_training_client("m")
    began = loop.time()
    with pytest.raises(ValueError, match="the end"):
        async with service.telemetry.capture(fatal=True):
            raise ValueError("the end")
    assert loop.time() - began == pytest.approx(30.0)
    await service.close()


@virtual_time()
async def test_a_fatal_error_in_plain_code_never_blocks_the_loop() -> None:
    server = Listening(delay=3.0)
    loop = asyncio.get_running_loop()
    async with a_service(server) as service:
        began = loop.time()
        with pytest.raises(ValueError, match="the end"), service.telemetry.capture(fatal=True):
            raise ValueError("the end")
        assert loop.time() == began
    assert server.errors == ["ValueError"]


@virtual_time()
async def test_other_threads_report_too_and_may_wait() -> None:
    server = Listening()

    def work(service: ServiceClient) -> tuple[bool, list[str]]:
        queued = service_telemetry.log("from a thread", {"thread": threading.current_thread().name})
        with pytest.raises(ValueError, match="there"), service_telemetry.capture(fatal=True):
            raise ValueError("there")
        return queued, list(server.errors)

    async with a_service(server) as service:
        service_telemetry = service.telemetry
        queued, errors_then = await service.system.blocking(work, service)
        assert queued
        assert errors_then == ["ValueError"]
        await settle()
    assert "from a thread" in [event.get("event_name") for event in server.events]


async def test_a_loop_that_is_gone_takes_nothing() -> None:
    def in_a_loop_of_its_own() -> Any:
        async def main() -> Any:
            async with a_service(Listening()) as service:
                return service.telemetry

        return asyncio.run(main())

    left = await asyncio.get_running_loop().run_in_executor(None, in_a_loop_of_its_own)
    assert not left.log("too late")


@virtual_time()
async def test_wrong_use_is_told() -> None:
    async with a_service(Listening()) as service:
        telemetry = service.telemetry

        def generate() -> Iterator[int]:
            yield 1

        async def stream() -> AsyncIterator[int]:
            yield 1

        for function in (generate, stream, 3):
            with pytest.raises(InputError, match="inside it"):
                telemetry.capture()(function)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r"telemetry\.capture: severity .*'LOUD'|'loud'"):
            telemetry.capture(severity="loud")  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r"telemetry\.log: event_data must be a mapping, got list"):
            telemetry.log("x", [1])  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r"name must be a text"):
            telemetry.log("")
        assert isinstance(telemetry.capture(), Capture)
