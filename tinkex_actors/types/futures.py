"""Promises: what an asynchronous endpoint answers, and how its result is asked for (protocol 2.6, 4)."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = [
    "FutureRetrieveRequest",
    "MetadataOnlyResponse",
    "QueueState",
    "RequestErrorCategory",
    "RequestFailedResponse",
    "TryAgainResponse",
    "UntypedAPIFuture",
]

QueueState = Literal["active", "paused_capacity", "paused_rate_limit", "unknown"]
RequestErrorCategory = Literal["unknown", "server", "user"]


class UntypedAPIFuture(msgspec.Struct, frozen=True, kw_only=True):
    """A promise.

    Args:
        request_id: what to ask ``retrieve_future`` for; opaque.
        model_id: the model it belongs to, where the server says.
        sample_sequence_ids: of a sample, one id for each sequence to come.
    """

    request_id: str
    model_id: str | None = None
    sample_sequence_ids: list[str] | None = None


class FutureRetrieveRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Body of ``retrieve_future``.

    Args:
        request_id: the promise.
        allow_metadata_only: the server may answer a large result's size first; None leaves the field out.
    """

    request_id: str
    allow_metadata_only: bool | None = None


class TryAgainResponse(msgspec.Struct, frozen=True, kw_only=True):
    """Not done yet, and how the queue is."""

    request_id: str
    queue_state: QueueState = "active"
    queue_state_reason: str | None = None
    type: Literal["try_again"] = "try_again"


class MetadataOnlyResponse(msgspec.Struct, frozen=True, kw_only=True):
    """Done, and so many bytes large: make room, then ask again."""

    response_payload_size: int = 0
    status: Literal["complete_metadata"] = "complete_metadata"


class RequestFailedResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The operation ran and failed."""

    error: str
    category: RequestErrorCategory = "unknown"
