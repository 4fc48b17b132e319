"""Servers on loopback that say what a test wants, byte for byte."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from tinkex_actors.wire.exchange import Request

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(talk: Talk, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server on loopback that talks to each connection, and drops it then."""
    ended: list[asyncio.Event] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        over = asyncio.Event()
        ended.append(over)
        try:
            await talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has gone
        finally:
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)
            over.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1]
        for over in ended:
            await over.wait()


def answering(*answers: bytes, heads: list[bytes] | None = None) -> Talk:
    """A server that gives these answers in turn, over all its connections, and repeats the last one."""
    left = list(answers)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            if heads is not None:
                heads.append(head)
            writer.write(left.pop(0) if len(left) > 1 else left[0])
            await writer.drain()

    return talk


def answer(status: str = "200 OK", body: bytes = b"{}", **headers: str) -> bytes:
    """An answer in full; ``x_y`` becomes the header ``x-y``."""
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def get(path: str = "/api/v1/healthz", pool: str = "train", timeout: float = 5.0, **headers: str) -> Request:
    """A request without a body; ``x_y`` becomes the header ``x-y``."""
    return Request("GET", path, {name.replace("_", "-"): value for name, value in headers.items()}, b"", timeout, pool)
