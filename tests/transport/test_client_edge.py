"""What goes wrong inside the HTTP client and no server can be made to show, put in by aioresponses."""

from __future__ import annotations

import asyncio
import errno
import ssl

import aiohttp
import pytest
from aioresponses import aioresponses

from tests.transport.servers import get
from tinkex_actors import APIConnectionError, APITimeoutError, Config
from tinkex_actors.transport.http import HttpTransport

URL = "https://tinker.example/api/v1/healthz"


def key() -> object:
    return aiohttp.client_reqrep.ConnectionKey("tinker.example", 443, True, True, None, None, None)


FAULTS: dict[str, tuple[Exception, type[Exception], str]] = {
    "name resolution": (
        aiohttp.ClientConnectorDNSError(key(), OSError(errno.ENOENT, "no such name")),  # type: ignore[arg-type]
        APIConnectionError, "no such name",
    ),
    "no files left": (OSError(errno.EMFILE, "Too many open files"), APIConnectionError, "Too many open files"),
    "connection reset": (aiohttp.ClientOSError(errno.ECONNRESET, "reset"), APIConnectionError, "reset"),
    "server hung up": (aiohttp.ServerDisconnectedError(), APIConnectionError, "ServerDisconnected"),
    "no usable bytes": (aiohttp.ClientPayloadError("not all data"), APIConnectionError, "not all data"),
    "tls": (
        aiohttp.ClientConnectorSSLError(key(), ssl.SSLError(1, "wrong version")),  # type: ignore[arg-type]
        APIConnectionError, "SSL",
    ),
    "connect time-out": (aiohttp.ConnectionTimeoutError("slow"), APITimeoutError, "no connection within 5 s"),
    "read time-out": (aiohttp.SocketTimeoutError("slow"), APITimeoutError, "silent for"),
    "somebody else's time-out": (TimeoutError("odd"), APIConnectionError, "TimeoutError: odd"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_of_the_client_is_one_of_our_errors(fault: str) -> None:
    raised, expected, words = FAULTS[fault]
    transport = HttpTransport("https://tinker.example", config=Config())
    with aioresponses() as edge:
        edge.get(URL, exception=raised)
        with pytest.raises(expected, match=words) as caught:
            await transport.send(get())
    await transport.close()

    assert type(caught.value) is expected
    assert "GET https://tinker.example/api/v1/healthz" in str(caught.value)


async def test_a_cancellation_that_nobody_asked_for_stays_one() -> None:
    transport = HttpTransport("https://tinker.example", config=Config())
    with aioresponses() as edge:
        edge.get(URL, exception=asyncio.CancelledError())  # type: ignore[arg-type]
        with pytest.raises(asyncio.CancelledError):
            await transport.send(get())
    await transport.close()


async def test_a_bug_is_not_dressed_up_as_a_broken_connection() -> None:
    transport = HttpTransport("https://tinker.example", config=Config())
    with aioresponses() as edge:
        edge.get(URL, exception=KeyError("ours"))
        with pytest.raises(KeyError):
            await transport.send(get())
    await transport.close()
