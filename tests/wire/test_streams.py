"""Server-sent events, in pieces of any size and with every line ending, and the pieces of samples that they hold."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinkex_actors.errors import RemoteWireError
from tinkex_actors.types import SampleStreamChunk
from tinkex_actors.wire.streams import STREAM_END, STREAM_QUIET, Event, EventReader, decode_chunk, encode_chunk

EVENTS = st.builds(
    Event,
    data=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n")), min_size=1).map("\n".join),
    event=st.sampled_from(["", "token", "ping"]),
    id=st.sampled_from(["", "7"]),
    retry=st.sampled_from([None, 0, 2500]),
)


def written(event: Event, ending: str) -> bytes:
    lines = [": a comment", *(f"data: {line}" for line in event.data.split("\n")), "unknown: field"]
    lines += [f"event:{event.event}"] * bool(event.event) + [f"id: {event.id}"] * bool(event.id)
    lines += [] if event.retry is None else [f"retry: {event.retry}"]
    return "".join(line + ending for line in [*lines, ""]).encode()


@settings(deadline=None, max_examples=200)
@given(st.lists(EVENTS, max_size=4), st.sampled_from(["\n", "\r\n", "\r"]), st.data())
def test_events_come_back_however_they_are_cut(events: list[Event], ending: str, data: st.DataObject) -> None:
    sent = b"".join(written(event, ending) for event in events)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=8)))
    reader = EventReader()
    pieces = [sent[start:end] for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
    # A CR that ends the stream could be the half of a CRLF: what follows shows that it is not.
    found = [event for piece in [*pieces, b":\n"] for event in reader.feed(piece)]
    assert found == events


def test_comments_and_blank_lines_are_no_events() -> None:
    assert EventReader().feed(STREAM_QUIET + b"\n\n: more\nunknown: field\n\n") == []


def test_a_block_without_data_is_an_event_and_a_wrong_retry_is_none() -> None:
    assert EventReader().feed(b"event: ping\nretry: soon\n\n") == [Event(event="ping")]


def test_half_an_event_is_none() -> None:
    reader = EventReader()
    assert reader.feed(b"data: {") == []
    assert reader.feed(b"}\n") == []
    assert reader.feed(b"\n") == [Event("{}")]


@pytest.mark.parametrize("endless", [b"data: " + b"x" * 1000, (b"data: " + b"x" * 1000 + b"\n")])
def test_what_never_ends_is_refused(endless: bytes) -> None:
    reader = EventReader()

    def feed_on() -> None:
        for _ in range(2000):
            reader.feed(endless)

    with pytest.raises(RemoteWireError, match="larger than 1048576 bytes"):
        feed_on()


@pytest.mark.parametrize(
    "chunk",
    [
        SampleStreamChunk(token="né\n", token_id=4, index=0, logprob=-0.25),
        SampleStreamChunk(token="", token_id=0, index=3, logprob=None),
        SampleStreamChunk(index=1, finish_reason="stop", total_tokens=9, event_type="done"),
        SampleStreamChunk(token="the engine stops", event_type="error"),
    ],
)
def test_pieces_come_back(chunk: SampleStreamChunk) -> None:
    (event,) = EventReader().feed(encode_chunk(chunk))
    assert decode_chunk(event) == chunk
    assert event.event == ""


@pytest.mark.parametrize("data", ["[DONE]", "", "null", "3", "not json", "[" * 100_000])
def test_what_is_no_object_is_no_piece(data: str) -> None:
    assert decode_chunk(Event(data)) is None


def test_the_end_is_no_piece() -> None:
    (event,) = EventReader().feed(STREAM_END)
    assert event == Event("[DONE]")
    assert decode_chunk(event) is None


def test_what_a_piece_is_follows_from_its_fields() -> None:
    ended = decode_chunk(Event('{"token": "a", "finish_reason": "length", "extra": 1}'))
    assert ended == SampleStreamChunk(token="a", finish_reason="length", event_type="done")
    assert decode_chunk(Event('{"error": {"message": "no"}}')) == SampleStreamChunk(token="no", event_type="error")
    assert decode_chunk(Event('{"error": {"code": 3}}')) == SampleStreamChunk(token='{"code":3}', event_type="error")
    with pytest.raises(RemoteWireError, match=r"a piece of the stream: Expected `int \| null`, got `str`"):
        decode_chunk(Event('{"token_id": "four"}'))
