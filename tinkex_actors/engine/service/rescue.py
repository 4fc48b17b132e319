"""The number of a request whose body could not be read, so that the numbers behind it need not wait (A.1 #7)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from tinkex_actors.wire.exchange import header

if TYPE_CHECKING:
    from tinkex_actors.wire.exchange import Request

__all__ = ["numbers_of"]


class _Numbers(msgspec.Struct):
    model_id: str = ""
    seq_id: int | None = None


def numbers_of(request: Request) -> tuple[str, int | None]:
    """Return ``(model_id, seq_id)`` of a JSON body as far as they can be read; an empty id and None otherwise."""
    if "json" not in header(request.headers, "content-type"):
        return "", None
    try:
        found = msgspec.json.decode(request.body, type=_Numbers)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "", None
    return found.model_id, found.seq_id
