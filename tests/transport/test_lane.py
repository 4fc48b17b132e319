"""Posts over aiohttp's connections without its session: what a session would have seen to is seen to here."""

from __future__ import annotations

import asyncio
import gzip

import pytest
from aioresponses import aioresponses

from tests.transport.servers import Talk, answer, answering, listening
from tinkex_actors import APIConnectionError, Config
from tinkex_actors.errors import APIResponseValidationError, LocalWireError
from tinkex_actors.transport.http import HttpTransport
from tinkex_actors.wire.exchange import Request

LIMIT = 1000


def post(body: bytes = b"{}", path: str = "/api/v1/asample", **headers: str) -> Request:
    return Request("POST", path, {name.replace("_", "-"): value for name, value in headers.items()}, body, 5.0)


def reading(*answers: bytes, seen: list[tuple[int, bytes]] | None = None) -> Talk:
    """A server that reads each request whole, notes its connection and bytes, and gives these answers in turn."""
    left = list(answers)
    connections = iter(range(100))

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = next(connections)
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            body = await reader.readexactly(size)
            if seen is not None:
                seen.append((number, head + body))
            writer.write(left.pop(0) if len(left) > 1 else left[0])
            await writer.drain()

    return talk


async def test_a_post_passes_by_the_session() -> None:
    async with listening(reading(answer(body=b'{"a":1}'))) as port:
        transport = HttpTransport(f"http://127.0.0.1:{port}", config=Config())
        with aioresponses():  # whatever a session would send, it would refuse
            found = await transport.send(post())
        await transport.close()

    assert (found.status, found.body, found.headers["content-length"]) == (200, b'{"a":1}', "7")


async def test_what_is_sent_is_the_request_and_what_every_server_needs() -> None:
    seen: list[tuple[int, bytes]] = []
    async with listening(reading(answer(), seen=seen)) as port:
        transport = HttpTransport(f"http://127.0.0.1:{port}/base/", config=Config())
        for body in (b"short", b"l" * 100_000):
            await transport.send(post(body, "/api/v1/x?a=%2F", X_Own="1"))
        await transport.send(post(Host="elsewhere"))
        await transport.close()

    assert [number for number, _ in seen] == [0, 0, 0], "one connection is kept and used again"
    head, _, body = seen[0][1].partition(b"\r\n\r\n")
    line, *headers = head.split(b"\r\n")
    assert line == b"POST /base/api/v1/x?a=%2F HTTP/1.1"
    assert {f"Host: 127.0.0.1:{port}".encode(), b"X-Own: 1", b"Content-Length: 5"} <= set(headers)
    assert any(name.startswith(b"Accept-Encoding: gzip") for name in headers)
    assert body == b"short"
    assert seen[1][1].endswith(b"\r\n\r\n" + b"l" * 100_000)
    assert seen[2][1].count(b"Host: ") == 1
    assert b"Host: elsewhere" in seen[2][1]


async def test_a_header_that_would_begin_another_one_is_not_sent() -> None:
    seen: list[tuple[int, bytes]] = []
    async with listening(reading(answer(), seen=seen)) as port:
        transport = HttpTransport(f"http://127.0.0.1:{port}", config=Config())
        for value in ("a\r\nX-Other: b", "a\nb", "a\0b"):
            with pytest.raises(LocalWireError, match="POST /api/v1/asample: a header holds"):
                await transport.send(post(X_Bad=value))
        await transport.close()

    assert seen == []


async def test_interim_answers_are_passed_over() -> None:
    async with listening(reading(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + answer(body=b"[]"))) as port:
        transport = HttpTransport(f"http://127.0.0.1:{port}", config=Config())
        assert (await transport.send(post())).body == b"[]"
        await transport.close()


async def test_bodies_are_unpacked_and_never_larger_than_allowed() -> None:
    packed = gzip.compress(b"x" * LIMIT)
    bomb = gzip.compress(b"x" * 50 * LIMIT)
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"5\r\nabcde\r\n" * 3 + b"0\r\n\r\n"
    endless = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"100\r\n" + b"y" * 256 + b"\r\n" * 2000
    answers = [
        answer(body=packed, content_encoding="gzip"),
        chunked,
        answer(body=b"z" * (LIMIT + 1)),
        answer(body=bomb, content_encoding="gzip"),
        endless,
    ]
    async with listening(reading(*answers)) as port:
        transport = HttpTransport(f"http://127.0.0.1:{port}", config=Config(max_response_bytes=LIMIT))
        assert (await transport.send(post())).body == b"x" * LIMIT
        assert (await transport.send(post())).body == b"abcde" * 3
        for words in (f"has {LIMIT + 1} bytes", f"more than {LIMIT} bytes"):
            with pytest.raises(APIResponseValidationError, match=words):
                await transport.send(post())
        with pytest.raises((APIResponseValidationError, APIConnectionError)):
            await transport.send(post())
        await transport.close()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"HTTP/1.1 2000 NO\r\n\r\n", "BadStatusLine|Bad"),
        (b"\x00\x01\x02 what\r\n\r\n", "Bad"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort", "ClientPayloadError|Disconnected"),
        (b"", "Disconnected"),
    ],
)
async def test_what_is_no_answer_is_a_broken_connection(said: bytes, words: str) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        await writer.drain()

    async with listening(talk) as port:
        transport = HttpTransport(f"http://127.0.0.1:{port}", config=Config())
        with pytest.raises(APIConnectionError, match=words):
            await transport.send(post())
        await transport.close()


async def test_an_answer_before_the_request_was_read_ends_the_connection() -> None:
    """The rest of the body must never be taken for the next request."""
    connections: list[asyncio.StreamReader] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(reader)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer("413 Too Large"))
        await writer.drain()
        while await reader.read(1 << 16):
            pass

    async with listening(talk) as port:
        transport = HttpTransport(f"http://127.0.0.1:{port}", config=Config())
        assert (await transport.send(post(b"x" * 50_000_000))).status == 413
        assert (await transport.send(post())).status == 413
        await transport.close()

    assert len(connections) == 2


async def test_a_connection_is_closed_where_the_server_says_so_and_after_a_cancellation() -> None:
    seen: list[tuple[int, bytes]] = []
    silent = asyncio.Event()
    inner = reading(answer(connection="close"), answer(), seen=seen)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(seen) == 2:
            silent.set()
            assert await reader.read(1 << 16)
            assert await reader.read() == b"", "the cancelled exchange ends its connection"
            return
        await inner(reader, writer)

    async with listening(talk) as port:
        transport = HttpTransport(f"http://127.0.0.1:{port}", config=Config())
        await transport.send(post())
        await transport.send(post())
        assert [number for number, _ in seen] == [0, 1]
        await transport._leave_connections("train")
        waiting = asyncio.ensure_future(transport.send(post()))
        await silent.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await transport.close()


async def test_a_user_in_the_url_leaves_posts_to_the_session() -> None:
    heads: list[bytes] = []
    async with listening(answering(answer(), heads=heads)) as port:
        transport = HttpTransport(f"http://me:secret@127.0.0.1:{port}", config=Config())
        await transport.send(post())
        await transport.close()

    assert b"Authorization: Basic bWU6c2VjcmV0" in heads[0]
