"""Samples piece by piece, from a server that can stream them (tinkex-features 1.22)."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from tinkex_actors.errors import APIStatusError, RequestFailedError, UnsupportedByServerError
from tinkex_actors.transport import Streaming
from tinkex_actors.wire.client import encode_request
from tinkex_actors.wire.routes import ROUTES
from tinkex_actors.wire.streams import EventReader, decode_chunk

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tinkex_actors.actors.link.exchange import Link
    from tinkex_actors.types import SampleRequest, SampleStreamChunk

__all__ = ["stream_sample"]

_NO_SUCH_ROUTE = frozenset({404, 405, 501})


async def stream_sample(link: Link, message: SampleRequest) -> AsyncGenerator[SampleStreamChunk, None]:
    """Yield the pieces of a sample as the server makes them; nothing is sent again.

    Raises:
        UnsupportedByServerError: the server, or the transport to it, cannot stream.
        RequestFailedError: the server could not go on.
        APIStatusError: the server refused.
        APIConnectionError: the connection failed, or broke in the middle.
    """
    transport = link.transport
    if not isinstance(transport, Streaming):
        raise _unsupported(link, "this transport does not hand answers over as they come")
    request = encode_request(ROUTES["stream_sample"], message, link.dialect, headers=link.headers)
    request.timeout = link.config.poll_timeout  # of silence, not of the whole
    await link.authorize(request)
    reader = EventReader()
    try:
        async with aclosing(transport.stream(request)) as pieces:
            async for piece in pieces:
                for event in reader.feed(piece):
                    chunk = decode_chunk(event)
                    if chunk is None:
                        continue
                    if chunk.event_type == "error":
                        raise RequestFailedError(
                            f"sample_stream of {message.sampling_session_id} failed on the server: {chunk.token}"
                        )
                    yield chunk
    except APIStatusError as error:
        if error.status_code in _NO_SUCH_ROUTE:
            raise _unsupported(link, f"it answered {error.status_code}") from error
        raise


def _unsupported(link: Link, why: str) -> UnsupportedByServerError:
    remedy = "Use sample(), which gives the whole answer at once."
    return UnsupportedByServerError(
        f"{link.speech.server} cannot stream samples: {why}. {remedy}",
        feature="streamed samples",
        server=link.speech.server,
        remedy=remedy,
    )
