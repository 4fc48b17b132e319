"""Plain posts over aiohttp's connections and parser, without what its session does beside.

A session prepares every request for redirects, cookies, middlewares, traces, uploads and a task that writes the body.
A post with its bytes in hand needs none of that, and it is more than half of what an exchange costs. Connections, name
resolution, TLS, keep-alive and the parser stay aiohttp's.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import hdrs
from yarl import URL

from tinkex_actors.errors import LocalWireError
from tinkex_actors.transport._limits import read_within

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp.connector import Connection
    from multidict import CIMultiDictProxy

    from tinkex_actors.wire.exchange import Request

__all__ = ["Lane", "usable"]

# The interface between aiohttp's session and its connections, unchanged since 3.11 and not promised beyond 3.
_KNOWN = "3"
# Cheaper to copy than to send by itself.
_SHORT_BYTES = 1 << 14


def usable(base_url: str) -> bool:
    """Whether posts to this server can go this way: not with a user in its URL, nor with another aiohttp than ours."""
    return URL(base_url).raw_user is None and aiohttp.__version__.partition(".")[0] == _KNOWN


class Lane:
    """The connections of one session.

    Args:
        session: whose connector and time-outs are used.
        base_url: scheme, host and base path; request paths are appended to it.
        budget_bytes: the largest body that is read whole; a larger one is left to the caller.
        buffer_bytes: read at once.
    """

    def __init__(self, session: aiohttp.ClientSession, base_url: str, *, budget_bytes: int, buffer_bytes: int) -> None:
        connector = session.connector
        assert connector is not None
        url = URL(base_url, encoded=True)
        self._connector = connector
        self._timeout = session.timeout
        self._budget = budget_bytes
        self._buffer = buffer_bytes
        self._path = url.raw_path.rstrip("/")
        # Says where to connect, for all of them; nothing is ever sent with it.
        self._place = aiohttp.ClientRequest(
            "POST",
            url,
            loop=asyncio.get_running_loop(),
            response_class=aiohttp.ClientResponse,
            session=session,
        )
        self._always = {
            "Host": self._place.headers["Host"],
            "Accept-Encoding": aiohttp.ClientRequest.DEFAULT_HEADERS[hdrs.ACCEPT_ENCODING],
        }

    async def post(self, request: Request) -> tuple[int, CIMultiDictProxy[str], bytes | None]:
        """Exchange one request; returns the status, the headers and the body, which is None if it is too large.

        Cancelling it closes the connection.

        Raises:
            aiohttp.ClientError: the connection failed or broke, or what came is not HTTP.
            LocalWireError: a header would begin another one; nothing was sent.
        """
        head = self._head(request)
        try:
            connection = await self._connector.connect(self._place, [], self._timeout)
        except TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError(f"Connection timeout to host {self._place.url.host}") from error
        try:
            answer = await self._talk(connection, head, request.body)
            transport = connection.transport
            # Who answers before it has read everything may read the rest as another request.
            whole = answer[2] is not None and transport is not None and not transport.get_write_buffer_size()
        except BaseException:
            connection.close()
            raise
        connection.release() if whole else connection.close()
        return answer

    async def _talk(
        self, connection: Connection, head: bytes, body: bytes
    ) -> tuple[int, CIMultiDictProxy[str], bytes | None]:
        protocol, transport = connection.protocol, connection.transport
        if protocol is None or transport is None:
            raise aiohttp.ServerDisconnectedError
        protocol.set_response_params(
            read_until_eof=True, read_timeout=self._timeout.sock_read, read_bufsize=self._buffer
        )
        if len(body) <= _SHORT_BYTES:
            transport.write(head + body)
        else:
            transport.write(head)
            transport.write(body)
        protocol.start_timeout()
        while True:
            try:
                message, payload = await protocol.read()
            except aiohttp.http.HttpProcessingError as error:
                raise aiohttp.ClientPayloadError(f"{type(error).__name__}: {error.message}") from error
            if not 100 <= message.code < 200 or message.code == 101:  # after that one, what follows is no HTTP
                break
        size = message.headers.get("Content-Length")
        if size is not None and (int(size) > self._budget or "Content-Encoding" not in message.headers):
            return message.code, message.headers, None if int(size) > self._budget else await payload.read()
        # Without a length, or compressed: only the reading shows how much it is.
        return message.code, message.headers, await read_within(payload, self._budget)

    def _head(self, request: Request) -> bytes:
        headers: Mapping[str, str] = {**self._always, **request.headers}
        text = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        if text.count("\n") != len(headers) or text.count("\r") != len(headers) or "\0" in text:
            raise LocalWireError(
                f"{request.method} {request.path}: a header holds a line break. Look for one that was copied along."
            )
        return (
            f"{request.method} {self._path}{request.path} HTTP/1.1\r\n{text}Content-Length: {len(request.body)}\r\n\r\n"
        ).encode()
