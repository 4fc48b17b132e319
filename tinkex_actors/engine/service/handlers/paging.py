"""Which part of a listing was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinkex_actors.errors import BadRequestError

if TYPE_CHECKING:
    from tinkex_actors.engine.service.call import Call

__all__ = ["page_of"]


def page_of(call: Call) -> tuple[int, int]:
    """Return ``(offset, limit)`` of a listing's query.

    Raises:
        BadRequestError: one of them is negative.
    """
    offset, limit = call.message.offset, call.message.limit
    if offset < 0 or limit < 0:
        raise BadRequestError(f"expected offset and limit of 0 or more, got {offset} and {limit}.", status_code=400)
    return offset, limit
