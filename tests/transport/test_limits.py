"""How much, how long, how far: every limit of an exchange, and the error that names it."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from tests.transport.servers import answer, answering, get, listening
from tinkex_actors import APIConnectionError, APIResponseValidationError, APITimeoutError, Config, ConfigError
from tinkex_actors.transport import Transport
from tinkex_actors.transport.http import HttpTransport
from tinkex_actors.wire.exchange import Request, Response

LIMIT = 1000
Make = Callable[..., Transport]


async def sent(talk: Any, request: Request | None = None, **options: Any) -> Response:
    async with listening(talk) as port:
        transport = HttpTransport(f"http://127.0.0.1:{port}", config=Config(**options))
        try:
            return await transport.send(request or get())
        finally:
            await transport.close()


def chunked(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


@pytest.mark.parametrize(
    ("whole", "words"),
    [
        (answer(body=b"x" * (LIMIT + 1)), f"has {LIMIT + 1} bytes"),
        (chunked(b"x" * (LIMIT + 1)), f"has more than {LIMIT} bytes"),
        (answer(body=gzip.compress(b"x" * LIMIT * 50), content_encoding="gzip"), f"has more than {LIMIT} bytes"),
    ],
)
async def test_a_body_over_the_budget_is_an_error_that_names_the_limit(whole: bytes, words: str) -> None:
    with pytest.raises(APIResponseValidationError, match=f"{words}, and Config.max_response_bytes is {LIMIT}"):
        await sent(answering(whole), max_response_bytes=LIMIT)


@pytest.mark.parametrize(
    "whole",
    [
        answer(body=b"x" * LIMIT),
        chunked(b"x" * LIMIT),
        answer(body=gzip.compress(b"x" * LIMIT), content_encoding="gzip"),
    ],
)
async def test_a_body_of_just_the_budget_is_read(whole: bytes) -> None:
    assert (await sent(answering(whole), max_response_bytes=LIMIT)).body == b"x" * LIMIT


async def test_a_bomb_costs_no_more_memory_than_the_budget() -> None:
    bomb = answer(body=gzip.compress(b"\0" * 64_000_000), content_encoding="gzip")
    tracemalloc.start()
    try:
        with pytest.raises(APIResponseValidationError):
            await sent(answering(bomb), max_response_bytes=1_000_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 16_000_000


async def test_silence_in_the_middle_of_an_answer_names_its_own_limit() -> None:
    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
        await reader.read()

    with pytest.raises(APITimeoutError, match=r"silent for 0\.05 s \(Config\.read_timeout\)"):
        await sent(half, read_timeout=0.05)
    with pytest.raises(APITimeoutError, match=r"no answer within 0\.05 s"):
        await sent(half, get(timeout=0.05))


async def test_a_request_that_never_got_a_connection_says_so() -> None:
    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with listening(silence) as port:
        transport = HttpTransport(f"http://127.0.0.1:{port}", config=Config(pool_limits={"session": 1}))
        outcomes = await asyncio.gather(
            *(transport.send(get(pool="session", timeout=0.1)) for _ in range(2)), return_exceptions=True
        )
        await transport.close()

    assert "all connections of the pool 'session' are busy, 1 requests wait" in str(outcomes[0])


async def test_pools_do_not_wait_for_each_other() -> None:
    async def slow_samples(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"asample" in head:
            await reader.read()
        writer.write(answer())

    async with listening(slow_samples) as port:
        transport = HttpTransport(f"http://127.0.0.1:{port}", config=Config(pool_limits={"sample": 1}))
        sampling = [asyncio.ensure_future(transport.send(get("/asample", "sample"))) for _ in range(5)]
        assert (await transport.send(get(pool="train"))).status == 200
        assert (await transport.send(get(pool="nobody knows this one"))).status == 200
        await transport.close()
        await asyncio.gather(*sampling, return_exceptions=True)


def moved(to: str) -> bytes:
    return answer("302 Found", b"", location=to)


async def test_redirects_are_followed_where_the_protocol_has_them_and_the_key_stays_behind() -> None:
    ours: list[bytes] = []
    theirs: list[bytes] = []
    async with listening(answering(answer(body=b"signed"), heads=theirs)) as elsewhere:
        away = moved(f"http://127.0.0.1:{elsewhere}/bucket?signature=s")
        request = get("/api/v1/audit", "rest_support_redirect", X_API_Key="tml-abc", X_Team="blue", Accept="a/b")
        response = await sent(answering(moved("/api/v1/there"), away, heads=ours), request)

    assert response.body == b"signed"
    assert [head.split()[1] for head in ours] == [b"/api/v1/audit", b"/api/v1/there"]
    assert all(b"tml-abc" in head for head in ours)
    assert theirs[0].startswith(b"GET /bucket?signature=s ")
    assert b"tml-abc" not in theirs[0]
    assert b"blue" not in theirs[0]
    assert b"a/b" in theirs[0]


async def test_elsewhere_a_redirect_is_an_answer() -> None:
    response = await sent(answering(moved("http://127.0.0.1:1/")), get(X_API_Key="tml-abc"))

    assert (response.status, response.headers["location"]) == (302, "http://127.0.0.1:1/")


@pytest.mark.parametrize(("to", "words"), [("/again", "more than 5 redirects"), ("ftp://x/", "http to ftp")])
async def test_a_redirect_that_leads_nowhere_is_an_error(to: str, words: str) -> None:
    with pytest.raises(APIConnectionError, match=words):
        await sent(answering(moved(to)), get(pool="rest_support_redirect"))


async def test_a_failed_answer_always_has_the_clock_that_its_dates_are_meant_by() -> None:
    own = "Sun, 22 Nov 2026 10:00:00 GMT"

    assert (await sent(answering(answer("503 No", date=own)))).headers["date"] == own
    assert "GMT" in (await sent(answering(answer("503 No")))).headers["date"]


async def test_a_proxys_empty_400_is_followed_by_another_connection() -> None:
    peers: list[object] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.append(writer.get_extra_info("peername"))
        await answering(answer("400 Bad Request", b""))(reader, writer)

    async with listening(talk) as port:
        transport = HttpTransport(f"http://127.0.0.1:{port}", config=Config())
        for _ in range(3):
            assert (await transport.send(get())).status == 400
        await transport.close()

    assert len(set(peers)) == 3


async def test_a_ca_file_that_is_none_is_refused_by_name(tmp_path: Any) -> None:
    for path, content in ((tmp_path / "none.pem", None), (tmp_path / "empty.pem", b"not a certificate")):
        if content is not None:
            path.write_bytes(content)
        transport = HttpTransport("https://127.0.0.1:1", config=Config(ca_file=path))
        with pytest.raises(ConfigError, match=r"Config\.ca_file.*cannot be used"):
            await transport.send(get())
        await transport.close()
