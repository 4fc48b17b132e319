"""HTTP/2 over loopback, with TLS and without: one connection, many streams, and the same words when it fails."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import aclosing
from pathlib import Path

import pytest

from tests.transport.h2_server import Mirror, serving
from tests.transport.servers import answer, answering, get, listening
from tinkex_actors import APIConnectionError, APIResponseValidationError, APITimeoutError, ClosedError, Config
from tinkex_actors.errors import APIStatusError, ConfigError
from tinkex_actors.runtime import ActorSystem
from tinkex_actors.transport import SampleSlots, Streaming, open_transport
from tinkex_actors.transport.http import HttpTransport
from tinkex_actors.transport.http2 import Http2Transport
from tinkex_actors.wire.exchange import Request


@pytest.mark.parametrize("secure", [True, False])
async def test_one_connection_carries_many_long_polls(secure: bool, identity: ssl.SSLContext, ca_file: Path) -> None:
    app = Mirror()
    async with serving(app, identity if secure else None) as url:
        transport = Http2Transport(url, config=Config(ca_file=ca_file))
        polls = [asyncio.ensure_future(transport.send(get("/hold", "retrieve_promise"))) for _ in range(50)]
        for _ in polls:
            await app.held.get()
        sent = Request("POST", "/echo", {"X-API-Key": "tml-abc"}, b"body", pool="retrieve_promise")
        response = await transport.send(sent)
        app.go.set()
        answers = await asyncio.gather(*polls)
        await transport.close()

    assert app.connections == 2, "fifty streams on one, and another one for what comes then"
    assert {polled.status for polled in answers} == {200}
    assert (response.status, response.body, response.headers["x-key"]) == (200, b"POST body", "tml-abc")


async def test_a_certificate_of_nobody_is_refused_and_one_of_the_ca_file_is_taken(
    identity: ssl.SSLContext, ca_file: Path
) -> None:
    async with serving(Mirror(), identity) as url:
        wary = Http2Transport(url, config=Config())
        with pytest.raises(APIConnectionError, match=r"(?i)certificate"):
            await wary.send(get())
        await wary.close()


async def test_the_ordinary_transport_trusts_the_same_certificates(identity: ssl.SSLContext, ca_file: Path) -> None:
    async with listening(answering(answer()), tls=identity) as port:
        url = f"https://127.0.0.1:{port}"
        wary, trusting = (HttpTransport(url, config=Config(ca_file=path)) for path in (None, ca_file))
        with pytest.raises(APIConnectionError, match=r"(?i)certificate"):
            await wary.send(get())
        assert (await trusting.send(get())).status == 200
        await wary.close()
        await trusting.close()


async def test_it_follows_and_limits_as_the_other_one_does() -> None:
    app = Mirror()
    async with serving(app, None) as url:
        transport = Http2Transport(url, config=Config(max_response_bytes=1000))
        there = await transport.send(get("/moved", "rest_support_redirect", X_API_Key="tml-abc"))
        assert (await transport.send(get("/moved"))).status == 302
        with pytest.raises(APIResponseValidationError, match=r"Config\.max_response_bytes is 1000"):
            await transport.send(get("/large"))
        with pytest.raises(APITimeoutError, match=r"no answer within 0\.05 s"):
            await transport.send(get("/hold", timeout=0.05))
        waiting = asyncio.ensure_future(transport.send(get("/hold")))
        for _ in range(2):
            await app.held.get()
        await transport.close()
        with pytest.raises(APIConnectionError):
            await waiting
        with pytest.raises(ClosedError):
            await transport.send(get())
        app.go.set()

    assert (there.headers["x-path"], there.headers["x-key"]) == ("/there", "tml-abc")


async def test_a_server_that_speaks_no_http2_is_a_failed_connection() -> None:
    async with listening(answering(answer())) as port:
        transport = Http2Transport(f"http://127.0.0.1:{port}", config=Config())
        with pytest.raises(APIConnectionError):
            await transport.send(get(timeout=1.0))
        await transport.close()


async def test_an_answer_is_handed_over_as_it_comes_and_may_be_given_up() -> None:
    app = Mirror()
    async with serving(app, None) as url:
        transport = Http2Transport(url, config=Config())
        asked = Request("POST", "/pieces", {}, b"!", 5.0, pool="sample")
        async with aclosing(transport.stream(asked)) as pieces:
            assert await anext(pieces) == b"one", "before the rest was sent"
            app.go.set()
            assert b"".join([piece async for piece in pieces]) == b"twoPOST !"
        app.go.clear()
        async with aclosing(transport.stream(asked)) as pieces:
            assert await anext(pieces) == b"one"
        async with asyncio.timeout(5.0):
            await app.reset.get()
        with pytest.raises(APIStatusError, match="404"):
            await anext(transport.stream(get("/none", "sample")))
        with pytest.raises(APITimeoutError, match=r"no answer within 0\.05 s"):
            await anext(transport.stream(get("/hold", "sample", timeout=0.05)))
        asked.timeout = 0.1
        with pytest.raises(APITimeoutError, match=r"no answer within 0\.1 s"):
            _ = [piece async for piece in transport.stream(asked)]
        assert [connection.under_way for connection in transport._pools["sample"]] == [0]
        await transport.close()


async def test_closing_ends_streams_in_words() -> None:
    app = Mirror()
    async with serving(app, None) as url:
        transport = Http2Transport(url, config=Config())
        stream = transport.stream(Request("POST", "/pieces", {}, b"!", 5.0, pool="sample"))
        await anext(stream)
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        await transport.close()
        with pytest.raises(APIConnectionError, match="the transport was closed"):
            await waiting
        with pytest.raises(ClosedError):
            await anext(transport.stream(get()))
        app.go.set()


async def test_a_config_chooses_it() -> None:
    async with ActorSystem() as system:
        chosen = open_transport("https://tinker.example", system=system, config=Config(http2=True))
        other = open_transport("https://tinker.example", system=system, config=Config())

    assert isinstance(chosen, Http2Transport)
    assert isinstance(chosen, SampleSlots)
    assert isinstance(chosen, Streaming)
    assert chosen.sample_slots == 2000
    assert isinstance(other, HttpTransport)


def test_a_challenging_proxy_is_not_for_it() -> None:
    config = Config(proxy="http://p:1", proxy_authorize=lambda _: None)
    with pytest.raises(ConfigError, match="cannot answer a proxy's challenge"):
        Http2Transport("https://tinker.example", config=config)
