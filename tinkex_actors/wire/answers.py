"""What a poll of ``retrieve_future`` can find (protocol 4.3)."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["Failed", "MetadataOnly", "PollAnswer", "Ready", "Timeout408", "TryAgain"]


class Ready(msgspec.Struct, frozen=True):
    """The result, typed."""

    result: Any


class TryAgain(msgspec.Struct, frozen=True):
    """Not done yet.

    Args:
        queue_state: ``active``, ``paused_capacity``, ``paused_rate_limit``, or ``unknown`` for a word we do not know.
        reason: what the server says about it.
        retry_after: seconds to wait before the next poll, where the server says (``retry_after_ms``); 0.0 is an answer.
    """

    queue_state: str
    reason: str | None = None
    retry_after: float | None = None


class Timeout408(msgspec.Struct, frozen=True):
    """Not done yet, said as HTTP 408; fields as in ``TryAgain``, ``unknown`` when it says nothing."""

    queue_state: str
    reason: str | None = None
    retry_after: float | None = None


class MetadataOnly(msgspec.Struct, frozen=True):
    """Done, and ``size_bytes`` large: reserve that much, then poll for the result itself."""

    size_bytes: int


class Failed(msgspec.Struct, frozen=True):
    """The operation ran and failed; ``category`` is ``user``, ``server`` or ``unknown``."""

    error: str
    category: str


PollAnswer = Ready | TryAgain | Timeout408 | MetadataOnly | Failed
