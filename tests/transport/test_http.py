"""The HTTP transport against servers that misbehave: every exchange ends, in words that are true."""

from __future__ import annotations

import asyncio
import socket
import traceback

import pytest

from tests.transport.servers import answer, answering, listening
from tinkex_actors import APIConnectionError, APIStatusError, APITimeoutError, ClosedError, Config
from tinkex_actors.transport.http import HttpTransport
from tinkex_actors.wire.client import decode_response
from tinkex_actors.wire.exchange import Request
from tinkex_actors.wire.routes import ROUTES


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read for ever, answer nothing."""
    await reader.read()


def request(pool: str = "train", timeout: float = 5.0) -> Request:
    return Request("GET", "/api/v1/healthz", {}, pool=pool, timeout=timeout)


async def failure(base_url: str, config: Config) -> APIConnectionError:
    transport = HttpTransport(base_url, config=config)
    with pytest.raises(APIConnectionError) as caught:
        await transport.send(request())
    await transport.close()
    return caught.value


async def test_closing_ends_every_exchange_also_those_that_wait_for_a_connection() -> None:
    async with listening(silence) as port:
        transport = HttpTransport(f"http://127.0.0.1:{port}", config=Config())
        # The pool has four connections: two of the six wait for one.
        waiting = [asyncio.ensure_future(transport.send(request("telemetry", 60.0))) for _ in range(6)]
        await asyncio.wait(waiting, timeout=0.1)
        await transport.close()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [APIConnectionError] * 6
    with pytest.raises(ClosedError):
        await transport.send(request())


async def test_cancelling_an_exchange_is_a_cancellation() -> None:
    async with listening(silence) as port:
        transport = HttpTransport(f"http://127.0.0.1:{port}", config=Config())
        sending = asyncio.ensure_future(transport.send(request()))
        await asyncio.wait([sending], timeout=0.05)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await transport.close()


async def test_a_time_out_names_the_limit_that_passed() -> None:
    async with listening(silence) as port:
        transport = HttpTransport(f"http://127.0.0.1:{port}", config=Config())
        with pytest.raises(APITimeoutError, match=r"no answer within 0\.05 s"):
            await transport.send(request(timeout=0.05))
        await transport.close()


async def test_a_connection_that_never_comes_names_the_limit_of_connecting() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        transport = HttpTransport(f"http://127.0.0.1:{port}", config=Config(connect_timeout=0.05))
        with pytest.raises(APITimeoutError, match=r"no connection within 0\.05 s"):
            await transport.send(request())
        await transport.close()
        for filler in fillers:
            filler.close()


async def test_a_password_in_a_url_is_never_shown() -> None:
    error = await failure("http://me:hidden@127.0.0.1:1", Config(base_url="http://me:hidden@127.0.0.1:1"))

    assert "hidden" not in "".join(traceback.format_exception(error))
    assert "http://***@127.0.0.1:1/api/v1/healthz" in str(error)


async def test_samples_leave_training_its_polls_and_the_process_its_files() -> None:
    resource = pytest.importorskip("resource")
    transport = HttpTransport("http://127.0.0.1:1", config=Config())
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]

    assert 1 <= transport.sample_slots <= 1000
    assert files == resource.RLIM_INFINITY or transport.sample_slots <= max(1, files // 4)


@pytest.mark.parametrize("status", [300, 402, 408, 418, 425, 451, 499, 507, 511, 599])
async def test_every_odd_status_is_an_error_of_that_status(status: int) -> None:
    async with listening(answering(answer(f"{status} Odd", b"said so"))) as port:
        transport = HttpTransport(f"http://127.0.0.1:{port}", config=Config())
        response = await transport.send(request())
        await transport.close()
    with pytest.raises(APIStatusError, match="said so") as caught:
        decode_response(ROUTES["healthz"], response)

    assert caught.value.status_code == status
