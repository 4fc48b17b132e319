"""The number of a request whose body could not be read, so that the numbers behind it need not wait (A.1 #7)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from tinkex_actors.wire.exchange import header

if TYPE_CHECKING:
    from tinkex_actors.wire.exchange import Request

__all__ = ["numbers_of"]

# Protocol 3.2: model_id is field 1 (length-delimited), seq_id field 2 (varint), and encoders write fields in order.
_MODEL_ID_TAG, _SEQ_ID_TAG = 0x0A, 0x10


class _Numbers(msgspec.Struct):
    model_id: str = ""
    seq_id: int | None = None


def numbers_of(request: Request) -> tuple[str, int | None]:
    """Return ``(model_id, seq_id)`` of a body as far as they can be read; an empty id and None otherwise."""
    kind = header(request.headers, "content-type")
    try:
        if "protobuf" in kind:
            return _from_protobuf(request.body)
        found = msgspec.json.decode(request.body, type=_Numbers)
    except (ValueError, IndexError):
        return "", None
    return found.model_id, found.seq_id


def _from_protobuf(body: bytes) -> tuple[str, int | None]:
    if body[0] != _MODEL_ID_TAG:
        return "", None
    length, start = _varint(body, 1)
    model_id, rest = body[start : start + length].decode(), start + length
    if body[rest] != _SEQ_ID_TAG:
        return model_id, None
    return model_id, _varint(body, rest + 1)[0]


def _varint(body: bytes, at: int) -> tuple[int, int]:
    """Return the number at a place, and the place behind it."""
    value = shift = 0
    while body[at] & 0x80:
        value |= (body[at] & 0x7F) << shift
        shift += 7
        at += 1
    return value | body[at] << shift, at + 1
