"""Samples piece by piece: server-sent events, written and read (tinkex 0.4, ``POST /api/v1/stream_sample``).

Each token is an event whose data is a :class:`~tinkex_actors.types.SampleStreamChunk` in JSON. The last event of a
sequence has a ``finish_reason`` and no token; an event with an ``error`` ends the stream; ``[DONE]`` ends it in order.
Comments in between keep a quiet connection alive.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from tinkex_actors.errors import RemoteWireError
from tinkex_actors.types import SampleStreamChunk
from tinkex_actors.wire._codec.write_json import encode_json

__all__ = ["EVENT_STREAM", "STREAM_END", "STREAM_QUIET", "Event", "EventReader", "decode_chunk", "encode_chunk"]

EVENT_STREAM: Final = "text/event-stream"
"""The media type of a stream of events."""

STREAM_END: Final = b"data: [DONE]\n\n"
"""The last event of a stream that came to its end."""

STREAM_QUIET: Final = b": nothing yet\n\n"
"""What is sent while there is nothing to say; readers skip it."""

_KNOWN: Final = frozenset({"event", "id", "retry"})

# Far above one token and its text; what is larger is no stream of events.
_MAX_EVENT_BYTES: Final = 1024 * 1024


class Event(msgspec.Struct, frozen=True):
    """One server-sent event.

    Args:
        data: its lines of data, joined by line feeds; empty where it had none.
        event: its kind; empty where it has none.
        id: its name; empty where it has none.
        retry: milliseconds to wait before connecting again, or None.
    """

    data: str = ""
    event: str = ""
    id: str = ""
    retry: int | None = None


class EventReader:
    """Reads events from bytes that come in pieces of any size."""

    def __init__(self) -> None:
        self._held = b""
        self._fields: dict[str, list[str]] = {}

    def feed(self, piece: bytes) -> list[Event]:
        """Return the events that the piece completes.

        Lines end with CR, LF or both, a blank one ends an event, and what begins with a colon is a comment. Unknown
        fields are skipped (WHATWG, server-sent events, section 9.2.6).

        Raises:
            RemoteWireError: an event is larger than 1 MiB.
        """
        held = self._held + piece
        # A CR at the end may be half of a CRLF.
        whole = held[:-1] if held.endswith(b"\r") else held
        *lines, rest = whole.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._held = rest + held[len(whole) :]
        events = [event for line in lines if (event := self._line(line.decode("utf-8", "replace"))) is not None]
        if len(self._held) + sum(map(len, self._fields.get("data", ()))) > _MAX_EVENT_BYTES:
            raise RemoteWireError(f"an event of the stream is larger than {_MAX_EVENT_BYTES} bytes. Is it one?")
        return events

    def _line(self, line: str) -> Event | None:
        if line:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "data":
                self._fields.setdefault(name, []).append(value)
            elif name in _KNOWN:
                self._fields[name] = [value]
            return None
        fields, self._fields = self._fields, {}
        if not fields:
            return None
        retry = fields.get("retry", [""])[-1]
        return Event(
            "\n".join(fields.get("data", ())),
            fields.get("event", [""])[-1],
            fields.get("id", [""])[-1],
            int(retry) if retry.isascii() and retry.isdecimal() else None,
        )


def encode_chunk(chunk: SampleStreamChunk) -> bytes:
    """Return one piece of a sample as an event."""
    if chunk.event_type == "error":
        return b"data: " + msgspec.json.encode({"event_type": "error", "error": chunk.token}) + b"\n\n"
    return b"data: " + encode_json(chunk, finite=False) + b"\n\n"


def decode_chunk(event: Event) -> SampleStreamChunk | None:
    """Return the piece of a sample that an event holds, or None where its data is no JSON object (``[DONE]``).

    What kind it is follows from what it has: an ``error`` makes it one, a ``finish_reason`` the end of its sequence.

    Raises:
        RemoteWireError: it is an object, and its fields are not those of a piece.
    """
    try:
        found = msgspec.json.decode(event.data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    if (error := found.get("error")) is not None:
        return SampleStreamChunk(token=_message(error), event_type="error")
    names = {name: found.get(name) for name in _FIELDS}
    kind = "done" if names["finish_reason"] is not None else "token"
    try:
        return msgspec.convert({**names, "event_type": kind}, SampleStreamChunk)
    except msgspec.ValidationError as wrong:
        raise RemoteWireError(f"a piece of the stream: {wrong}. The server speaks another dialect.") from wrong


_FIELDS: Final = ("token", "token_id", "index", "finish_reason", "total_tokens", "logprob")


def _message(error: Any) -> str:
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        error = error["message"]
    return error if isinstance(error, str) else msgspec.json.encode(error).decode()
