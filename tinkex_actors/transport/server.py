"""Serve a transport over HTTP: whatever it answers in process, it answers on a port."""

from __future__ import annotations

import errno
import socket
from contextlib import aclosing
from typing import TYPE_CHECKING

from aiohttp import web

from tinkex_actors.errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    ConfigError,
    TinkexError,
)
from tinkex_actors.transport.base import Streaming
from tinkex_actors.types import SampleStreamChunk
from tinkex_actors.wire.exchange import Request
from tinkex_actors.wire.server import encode_error, match
from tinkex_actors.wire.streams import EVENT_STREAM, encode_chunk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tinkex_actors.transport.base import Transport
    from tinkex_actors.wire.exchange import Response

__all__ = ["MAX_BODY_BYTES", "Server", "serve"]

# Far above the 5 MB a client puts into one chunk (protocol 5.2), far below what would hurt.
MAX_BODY_BYTES = 256 * 1024 * 1024

# Without the client's word for it: protocol 1.1.
_DEFAULT_TIMEOUT = 60.0

# How long close() lets a running exchange finish; long polls would otherwise hold it for twenty seconds.
_CLOSE_GRACE = 0.5


class Server:
    """A running server. Made by :func:`serve`.

    Attributes:
        host: the address it listens on.
        port: the port it listens on.
    """

    def __init__(self, runner: web.AppRunner, host: str, port: int) -> None:
        self._runner = runner
        self.host = host
        self.port = port

    @property
    def url(self) -> str:
        """The base URL for clients."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    async def close(self) -> None:
        """Stop listening and end what is running. The transport stays open: it belongs to the caller. Idempotent."""
        await self._runner.cleanup()


async def serve(transport: Transport, *, host: str = "127.0.0.1", port: int = 0) -> Server:
    """Listen, and answer every request with what ``transport`` answers; as it comes, where the transport can.

    A client that goes away cancels its exchange.

    Args:
        transport: what answers.
        host: the address to listen on; keep the default unless every machine that can reach it may use the server.
        port: the port; 0 takes a free one (see ``Server.port``).

    Raises:
        ConfigError: the address cannot be listened on.
    """
    app = web.Application(client_max_size=MAX_BODY_BYTES)

    async def exchange(request: web.Request) -> web.StreamResponse:
        return await _exchange(transport, request)

    app.router.add_route("*", "/{path:.*}", exchange)
    # Bodies stay as they were sent: the codec reads Content-Encoding itself.
    runner = web.AppRunner(
        app, access_log=None, auto_decompress=False, handler_cancellation=True, shutdown_timeout=_CLOSE_GRACE
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        await runner.cleanup()
        raise ConfigError(f"Cannot listen on {host}:{port}: {_refusal(error)}") from error
    return Server(runner, host, int(runner.addresses[0][1]))


async def _exchange(transport: Transport, request: web.Request) -> web.StreamResponse:
    try:
        body = await request.read()
    except web.HTTPRequestEntityTooLarge:
        return _answer(encode_error(413, f"The body is larger than {MAX_BODY_BYTES} bytes. Send smaller chunks."))
    asked = Request(
        method=request.method,
        path=request.raw_path,
        headers=dict(request.headers),
        body=body,
        timeout=_timeout(request.headers.get("x-stainless-read-timeout")),
    )
    try:
        if isinstance(transport, Streaming) and (found := match(asked)) is not None and found[0].streamed:
            async with aclosing(transport.stream(asked)) as pieces:
                return await _pass_on(pieces, request)
        return _answer(await transport.send(asked))
    except (APIConnectionError, APIStatusError, ConfigError) as error:
        return _answer(_failed(error))


async def _pass_on(pieces: AsyncIterator[bytes], request: web.Request) -> web.StreamResponse:
    """Write the pieces as they come. Once the first has gone out, a failure can only be told as an event."""
    first = await anext(pieces, b"")
    answer = web.StreamResponse(headers={"content-type": EVENT_STREAM, "cache-control": "no-store"})
    await answer.prepare(request)
    await answer.write(first)
    try:
        async for piece in pieces:
            await answer.write(piece)
    except TinkexError as error:
        await answer.write(encode_chunk(SampleStreamChunk(token=str(error), event_type="error")))
    await answer.write_eof()
    return answer


def _failed(error: APIConnectionError | APIStatusError | ConfigError) -> Response:
    match error:
        case APIStatusError():
            said = error.body.get("detail") if isinstance(error.body, dict) else None
            return encode_error(error.status_code, str(said or error), retry_after=error.retry_after)
        case APITimeoutError():
            return encode_error(504, str(error))
        case APIConnectionError():
            return encode_error(502, str(error))
        case _:
            # A status that nobody repeats: what is wrong here will not mend itself.
            return encode_error(400, str(error))


def _refusal(error: OSError) -> str:
    """What is wrong and what to do about it; asyncio wraps the system's own words into a long sentence."""
    if error.errno == errno.EADDRINUSE:
        return "the port is taken. Choose another port, or 0 for a free one."
    if error.errno == errno.EACCES:
        return "this user may not listen on that port. Choose one above 1023, or 0 for a free one."
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return "no such address on this machine. Choose another host: 127.0.0.1, or 0.0.0.0 for all addresses."
    return f"{error.strerror or error}. Choose another host or port."


def _answer(response: Response) -> web.Response:
    headers = {name: value for name, value in response.headers.items() if name.lower() != "content-length"}
    return web.Response(status=response.status, headers=headers, body=response.body)


def _timeout(text: str | None) -> float:
    try:
        seconds = float(text) if text else _DEFAULT_TIMEOUT
    except ValueError:
        return _DEFAULT_TIMEOUT
    return seconds if 0 < seconds < 24 * 3600 else _DEFAULT_TIMEOUT
