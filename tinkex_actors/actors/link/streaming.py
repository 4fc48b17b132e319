"""Samples piece by piece, from a server that can stream them (tinkex-features 1.22)."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from tinkex_actors.errors import (
    APIConnectionError,
    APIStatusError,
    RemoteWireError,
    RequestFailedError,
    UnsupportedByServerError,
)
from tinkex_actors.transport import Streaming
from tinkex_actors.wire.client import encode_request
from tinkex_actors.wire.routes import ROUTES
from tinkex_actors.wire.streams import STREAM_END, EventReader, decode_chunk

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tinkex_actors.actors.link.exchange import Link
    from tinkex_actors.types import SampleRequest, SampleStreamChunk
    from tinkex_actors.wire.streams import Event

__all__ = ["stream_sample"]

_NO_SUCH_ROUTE = frozenset({404, 405, 501})
_END = STREAM_END.decode().removeprefix("data: ").rstrip()


async def stream_sample(link: Link, message: SampleRequest) -> AsyncGenerator[SampleStreamChunk, None]:
    """Yield the pieces of a sample as the server makes them; nothing is sent again.

    Raises:
        UnsupportedByServerError: the server, or the transport to it, cannot stream.
        RequestFailedError: the server could not go on.
        APIStatusError: the server refused.
        APIConnectionError: the connection failed, or broke in the middle.
        RemoteWireError: what came is no stream of events.
    """
    transport = link.transport
    if not isinstance(transport, Streaming):
        raise _unsupported(link, "this transport does not hand answers over as they come")
    request = encode_request(ROUTES["stream_sample"], message, link.dialect, headers=link.headers)
    request.timeout = link.config.poll_timeout  # of silence, not of the whole
    await link.authorize(request)
    reader, progress = EventReader(), _Progress(message)
    try:
        async with aclosing(transport.stream(request)) as pieces:
            async for piece in pieces:
                for event in reader.feed(piece):
                    chunk = progress.take(event)
                    if chunk is not None:
                        yield chunk
        progress.require_end(link.speech.server)
    except APIStatusError as error:
        if error.status_code in _NO_SUCH_ROUTE:
            raise _unsupported(link, f"it answered {error.status_code}") from error
        raise


class _Progress:
    """How far a stream has come."""

    def __init__(self, message: SampleRequest) -> None:
        self._what = f"sample_stream of {message.sampling_session_id}"
        self._open = message.num_samples
        self._chunks = 0
        self._over = False

    def take(self, event: Event) -> SampleStreamChunk | None:
        """Return the piece that an event holds, if any."""
        if event.data == _END:
            self._over = True
        chunk = decode_chunk(event)
        if chunk is None:
            return None
        if chunk.event_type == "error":
            raise RequestFailedError(f"{self._what} failed on the server: {chunk.token}")
        self._chunks += 1
        self._open -= chunk.done
        return chunk

    def require_end(self, server: str) -> None:
        """Refuse an end that nobody announced: half an answer must not pass for a whole one."""
        if self._over or self._open <= 0:
            return
        if not self._chunks:
            raise RemoteWireError(f"{self._what}: {server} answered, but with no events. Is it a Tinker server?")
        raise APIConnectionError(
            f"{self._what}: the stream broke off after {self._chunks} pieces. Sample again, or use sample()."
        )


def _unsupported(link: Link, why: str) -> UnsupportedByServerError:
    remedy = "Use sample(), which gives the whole answer at once."
    return UnsupportedByServerError(
        f"{link.speech.server} cannot stream samples: {why}. {remedy}",
        feature="streamed samples",
        server=link.speech.server,
        remedy=remedy,
    )
