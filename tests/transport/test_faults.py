"""Answers cut, changed, slow, half closed and huge, over a real socket: one family of errors, no hang, bounded memory.

``TINKEX_TEST_SEEDS`` sets how many; the soak run asks for many.
"""

from __future__ import annotations

import asyncio
import gc
import gzip
import os
import random
import tracemalloc

import pytest

from tests.transport.servers import Talk, answer, get, listening
from tinkex_actors import APIError, Config
from tinkex_actors.errors import TinkerError, WireError
from tinkex_actors.testing.virtual_time import SEEDS_VARIABLE
from tinkex_actors.transport.http import HttpTransport
from tinkex_actors.wire.client import decode_poll, decode_response, poll_request
from tinkex_actors.wire.dialect import HOSTED
from tinkex_actors.wire.routes import ROUTES

COUNT = int(os.environ.get(SEEDS_VARIABLE) or 300)
LIMIT = 100_000
WHOLE = [
    answer(body=b'{"request_id": "r", "type": "try_again", "queue_state": "active"}', content_type="application/json"),
    answer(body=b'{"metrics": {"loss:sum": 1.0}}', content_type="application/json"),
    answer(body=gzip.compress(b'{"path": "tinker://a/weights/b"}'), content_encoding="gzip"),
    answer("503 Service Unavailable", b'{"detail": "later"}', retry_after="1"),
    answer("400 Bad Request", b""),
    b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n8\r\n{"a": 1}\r\n0\r\n\r\n',
    answer(body=b"\x0a\x03abc" * 20, content_type="application/x-protobuf"),
]


def damaged(chance: random.Random) -> bytes:
    """Return an answer that something happened to."""
    data = bytearray(chance.choice(WHOLE))
    for _ in range(chance.randrange(4)):
        at = chance.randrange(len(data))
        match chance.randrange(4):
            case 0:
                data[at] = chance.randrange(256)
            case 1:
                del data[at : at + chance.randrange(1, 20)]
            case 2:
                data[at:at] = chance.randbytes(chance.randrange(1, 20))
            case _:
                data[at:at] = b"0" * chance.choice([10, 10_000])
    return bytes(data) or b"\0"


def mistreating(chance: random.Random) -> Talk:
    """A server that damages its answers, and stops, stalls, floods or hangs up in the middle of them."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        data = damaged(chance)
        cut = chance.randrange(len(data) + 1)
        how = chance.choice(["whole", "whole", "cut", "half closed", "slow", "reset", "flood", "stall"])
        if how in ("whole", "half closed"):
            writer.write(data)
        elif how == "flood":
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (3 * LIMIT))
        elif how == "slow":
            for start in range(0, len(data), 7):
                writer.write(data[start : start + 7])
                await asyncio.sleep(0)
        else:
            writer.write(data[:cut])
        if how == "reset":
            writer.transport.abort()
            return
        await writer.drain()
        if how == "half closed":
            writer.write_eof()
        if how in ("half closed", "stall"):
            await reader.read()

    return talk


async def one(transport: HttpTransport, chance: random.Random) -> str:
    route = ROUTES[chance.choice(["optim_step", "save_weights", "forward_backward", "get_info", "asample"])]
    request = poll_request("r", route, HOSTED, iteration=0, allow_metadata_only=True)
    request.timeout = 0.2
    try:
        response = await transport.send(request)
        if route.asynchronous:
            decode_poll(route, response, HOSTED)
        else:
            decode_response(route, response)
    except (TinkerError, WireError) as error:
        return type(error).__name__
    return "read"


async def outcome(seed: int) -> str:
    """What one damaged answer becomes."""
    chance, loop = random.Random(seed), asyncio.get_running_loop()
    async with listening(mistreating(chance)) as port:
        transport = HttpTransport(f"http://127.0.0.1:{port}", config=Config(max_response_bytes=LIMIT))
        began = loop.time()
        found = await one(transport, chance)
        await transport.close()
    # 0.2 s each way; the rest is for a machine that is busy with something else.
    assert loop.time() - began < 20.0, f"seed {seed} held on for too long"
    return found


@pytest.mark.timeout(60 + COUNT)
async def test_whatever_comes_is_read_or_is_one_of_our_errors_and_soon() -> None:
    outcomes = {await outcome(seed) for seed in range(COUNT)}

    assert {"read", "APIConnectionError", "APITimeoutError", "APIResponseValidationError"} <= outcomes


async def test_what_comes_is_not_kept() -> None:
    await outcome(0)
    tracemalloc.start()
    try:
        for seed in range(60):
            await outcome(seed)
        gc.collect()
        left, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 20_000_000
    assert left < 4_000_000


async def test_after_all_of_that_the_transport_still_works() -> None:
    turns = iter(range(10**9))

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (turn := next(turns)) % 2:
            await mistreating(random.Random(turn))(reader, writer)
        else:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer(connection="close"))
            await writer.drain()

    async with listening(talk) as port:
        transport = HttpTransport(f"http://127.0.0.1:{port}", config=Config(max_response_bytes=LIMIT))
        good = 0
        for _ in range(60):
            try:
                good += (await transport.send(get(timeout=0.2))).body == b"{}"
            except APIError:
                continue
        await transport.close()

    assert good >= 30
