"""Servers of every kind before a plain post: without lengths, going away, over TLS, over IPv6, waiting to speak."""

from __future__ import annotations

import asyncio
import socket
import ssl
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.transport.servers import Talk, answer, listening
from tinkex_actors import APIConnectionError, APITimeoutError, Config
from tinkex_actors.errors import APIResponseValidationError
from tinkex_actors.transport.http import HttpTransport
from tinkex_actors.wire.exchange import Request, Response


def post(body: bytes = b"{}", timeout: float = 5.0) -> Request:
    return Request("POST", "/api/v1/asample", {}, body, timeout)


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return head + await reader.readexactly(size)


def saying(*answers: bytes, leave: bool = False, connections: list[int] | None = None) -> Talk:
    """A server that gives these answers in turn, on whichever connection, and drops each one after it if told to."""
    left = list(answers)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if connections is not None:
            connections.append(1)
        while left:
            await read_request(reader)
            writer.write(left.pop(0))
            await writer.drain()
            if leave:
                return

    return talk


async def sent_to(talk: Talk, count: int = 1, **options: int) -> list[Response]:
    async with listening(talk) as port:
        transport = HttpTransport(f"http://127.0.0.1:{port}", config=Config(**options))  # type: ignore[arg-type]
        try:
            return [await transport.send(post()) for _ in range(count)]
        finally:
            await transport.close()


async def test_an_answer_without_a_length_lasts_until_the_connection_ends() -> None:
    bare = b'HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{"a":1}'
    old = b'HTTP/1.0 200 OK\r\n\r\n{"a":2}'

    found = await sent_to(saying(bare, old, leave=True), count=2)

    assert [response.body for response in found] == [b'{"a":1}', b'{"a":2}']


async def test_an_answer_without_a_length_is_no_larger_than_allowed() -> None:
    with pytest.raises(APIResponseValidationError, match="more than 1000 bytes"):
        await sent_to(saying(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5000, leave=True), max_response_bytes=1000)


async def test_answers_without_a_body_leave_the_connection_for_the_next() -> None:
    connections: list[int] = []

    found = await sent_to(
        saying(b"HTTP/1.1 204 No Content\r\n\r\n", answer("304 Not Modified", b""), answer(), connections=connections),
        count=3,
    )

    assert [(response.status, response.body) for response in found] == [(204, b""), (304, b""), (200, b"{}")]
    assert len(connections) == 1


async def test_deflated_and_chunked_bodies_are_unpacked() -> None:
    packed = zlib.compress(b"[1,2,3]" * 100)
    pieces = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (packed[:5], packed[5:]))
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-encoding: deflate\r\n\r\n"

    found = await sent_to(saying(chunked + pieces + b"0\r\n\r\n", answer()), count=2)

    assert [response.body for response in found] == [b"[1,2,3]" * 100, b"{}"]


async def test_an_answer_that_comes_byte_by_byte_is_read_whole() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        for byte in b"HTTP/1.1 100 Continue\r\n\r\n" + answer(body=b"[1,2]"):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        await reader.read()

    assert (await sent_to(talk))[0].body == b"[1,2]"


async def test_a_server_that_would_rather_speak_something_else_is_not_waited_for() -> None:
    switch = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n"
    connections: list[int] = []

    async with listening(saying(switch, answer(), connections=connections)) as port:
        transport = HttpTransport(f"http://127.0.0.1:{port}", config=Config())
        try:
            assert (await transport.send(post(timeout=2.0))).status == 101
            assert (await transport.send(post())).status == 200
        finally:
            await transport.close()

    assert len(connections) == 2, "what was switched is not used again"


async def test_an_idle_connection_that_the_server_has_closed_is_not_used_again() -> None:
    """Servers close what is idle long before we do; who posts then must not pay for it."""
    gone = asyncio.Event()
    connections: list[int] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(1)
        await read_request(reader)
        writer.write(answer())
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        gone.set()

    async with listening(talk) as port:
        transport = HttpTransport(f"http://127.0.0.1:{port}", config=Config())
        for _ in range(3):
            gone.clear()
            assert (await transport.send(post())).status == 200
            await gone.wait()
            await asyncio.sleep(0.05)  # real sockets: the end has to arrive
        await transport.close()

    assert len(connections) == 3


async def test_two_answers_to_one_request_never_answer_the_next() -> None:
    connections: list[int] = []
    twice = answer(body=b"1") + answer(body=b"stale")

    found = await sent_to(saying(twice, answer(body=b"2"), connections=connections), count=2)

    assert [response.body for response in found] == [b"1", b"2"]
    assert len(connections) == 2


async def test_a_late_answer_is_for_nobody() -> None:
    late = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await read_request(reader)
        if asked.endswith(b"slow"):
            await late.wait()
        writer.write(answer(body=asked[-4:]))
        await writer.drain()
        await reader.read()

    async with listening(talk) as port:
        transport = HttpTransport(f"http://127.0.0.1:{port}", config=Config())
        with pytest.raises(APITimeoutError, match=r"no answer within 0\.1 s"):
            await transport.send(post(b"slow", timeout=0.1))
        late.set()
        assert (await transport.send(post(b"fast"))).body == b"fast"
        await transport.close()


@pytest.mark.parametrize("when", ["connecting", "sending", "waiting", "reading"])
async def test_a_post_may_be_cancelled_at_any_point_and_leaves_no_connection(when: str) -> None:
    reached = asyncio.Event()
    ended: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if when == "sending":
            reached.set()
            await asyncio.sleep(0.1)  # its buffers fill up
        else:
            await read_request(reader)
            if when == "reading":
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
                await writer.drain()
            reached.set()
        try:
            while await reader.read(1 << 20):
                pass
        except ConnectionError:
            pass
        ended.append(b"over")

    async with listening(talk) as port:
        transport = HttpTransport(f"http://127.0.0.1:{port}", config=Config())
        task = asyncio.ensure_future(transport.send(post(b"x" * 30_000_000 if when == "sending" else b"{}")))
        if when == "connecting":
            await asyncio.sleep(0)
        else:
            await reached.wait()
        await asyncio.sleep(0.01 if when == "reading" else 0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        connector = transport._sessions["train"].connector
        assert connector is not None
        assert not connector._acquired, "nothing is counted as used"
        assert not any(connector._conns.values()), "nothing is kept"
        await transport.close()

    assert ended == ([] if when == "connecting" and not ended else [b"over"])


async def test_closing_the_transport_ends_who_waits_in_words() -> None:
    asked = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        asked.set()
        await reader.read()

    async with listening(talk) as port:
        transport = HttpTransport(f"http://127.0.0.1:{port}", config=Config(pool_limits={"train": 1}))
        waiting = [asyncio.ensure_future(transport.send(post())) for _ in range(3)]
        await asked.wait()
        await transport.close()
        found = await asyncio.gather(*waiting, return_exceptions=True)

    assert [type(one) for one in found] == [APIConnectionError] * 3


# --- where it connects to ---------------------------------------------------------------------------------------------
async def test_posts_over_tls_keep_their_connection_and_trust_only_who_is_trusted(
    identity: ssl.SSLContext, ca_file: Path
) -> None:
    connections: list[int] = []
    answers = [answer(body=b"x" * 200_000)] * 3
    async with listening(saying(*answers, connections=connections), tls=identity) as port:
        url = f"https://127.0.0.1:{port}/base"
        wary, trusting = (HttpTransport(url, config=Config(ca_file=path)) for path in (None, ca_file))
        with pytest.raises(APIConnectionError, match=r"(?i)certificate"):
            await wary.send(post())
        for size in (10, 1 << 20, 10):
            assert len((await trusting.send(post(b"b" * size))).body) == 200_000
        assert set(trusting._lanes) == {"train"}
        await wary.close()
        await trusting.close()

    assert len(connections) == 1


@asynccontextmanager
async def listening_on_ipv6(heads: list[bytes]) -> AsyncIterator[int]:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await read_request(reader))
        writer.write(answer(connection="close"))
        await writer.drain()
        writer.close()

    try:
        server = await asyncio.start_server(talk, "::1", 0)
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
async def test_an_ipv6_address_is_named_in_brackets() -> None:
    heads: list[bytes] = []
    async with listening_on_ipv6(heads) as port:
        transport = HttpTransport(f"http://[::1]:{port}/base", config=Config())
        assert (await transport.send(post())).status == 200
        await transport.close()

    assert heads[0].startswith(b"POST /base/api/v1/asample HTTP/1.1\r\n")
    assert f"\r\nHost: [::1]:{port}\r\n".encode() in heads[0]
