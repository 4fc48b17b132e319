"""A small HTTP/2 server on the h2 library: enough of one to be a peer on loopback."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import h2.config
import h2.connection
import h2.events
import h2.exceptions


class Mirror:
    """What the server answers: what it was asked, and ``/hold`` only when it is let go, the rest of ``/pieces`` too.

    Attributes:
        connections: how many were made.
        held: has an entry for each request to ``/hold`` that has come.
        go: set it to answer them.
        reset: has an entry for each stream that the client gave up.
    """

    def __init__(self) -> None:
        self.connections = 0
        self.held: asyncio.Queue[None] = asyncio.Queue()
        self.go = asyncio.Event()
        self.reset: asyncio.Queue[None] = asyncio.Queue()

    def answer(self, headers: dict[str, str], body: bytes) -> tuple[list[tuple[str, str]], bytes]:
        """Return headers and body of the answer to one request."""
        path = headers[":path"]
        status = {"/moved": "302", "/none": "404"}.get(path, "200")
        if path == "/large":
            body = b"x" * 5000
        extra = [("location", "/there")] if path == "/moved" else []
        key = headers.get("x-api-key", "none")
        return (
            [(":status", status), ("x-key", key), ("x-path", path), *extra],
            headers[":method"].encode() + b" " + body,
        )


class _Peer(asyncio.Protocol):
    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self._asked: dict[int, tuple[dict[str, str], bytearray]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.gone = asyncio.Event()
        self.made = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.made = True
        self._mirror.connections += 1
        self._connection.initiate_connection()
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        for task in self._tasks:
            task.cancel()
        self.gone.set()

    async def leave(self) -> None:
        """Drop the connection."""
        self._transport.abort()
        await self.gone.wait()

    def data_received(self, data: bytes) -> None:
        try:
            events = self._connection.receive_data(data)
        except h2.exceptions.ProtocolError:
            self._flush()
            self._transport.close()
            return
        for event in events:
            if isinstance(event, h2.events.RequestReceived):
                headers = {_text(name): _text(value) for name, value in event.headers}
                self._asked[event.stream_id] = (headers, bytearray())
            elif isinstance(event, h2.events.DataReceived):
                self._asked[event.stream_id][1].extend(event.data)
                self._connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamReset):
                self._mirror.reset.put_nowait(None)
            elif isinstance(event, h2.events.StreamEnded):
                task = asyncio.ensure_future(self._respond(event.stream_id))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        self._flush()

    async def _respond(self, stream: int) -> None:
        headers, body = self._asked.pop(stream)
        if headers[":path"] == "/hold":
            self._mirror.held.put_nowait(None)
            await self._mirror.go.wait()
        head, content = self._mirror.answer(headers, bytes(body))
        try:
            self._connection.send_headers(stream, head)
            if headers[":path"] == "/pieces":
                for piece in (b"one", b"two"):
                    self._connection.send_data(stream, piece)
                    self._flush()
                    await self._mirror.go.wait()
            self._connection.send_data(stream, content, end_stream=True)
        except h2.exceptions.ProtocolError:
            return  # the client has given this stream up
        self._flush()

    def _flush(self) -> None:
        self._transport.write(self._connection.data_to_send())


@asynccontextmanager
async def serving(mirror: Mirror, tls: ssl.SSLContext | None) -> AsyncIterator[str]:
    """Serve on loopback, with TLS where there is a context; yields the URL."""
    loop = asyncio.get_running_loop()
    if tls is not None:
        tls.set_alpn_protocols(["h2"])
    peers: list[_Peer] = []

    def peer() -> _Peer:
        peers.append(_Peer(mirror))
        return peers[-1]

    server = await loop.create_server(peer, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield f"{'http' if tls is None else 'https'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for each in (each for each in peers if each.made):  # TLS may have failed before
            await each.leave()


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode()
