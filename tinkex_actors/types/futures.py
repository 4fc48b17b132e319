"""Promises: what an asynchronous endpoint answers, and how its result is asked for (protocol 2.6, 4)."""

from __future__ import annotations

from typing import Any, Literal

from tinkex_actors.types._record import Record

__all__ = [
    "CancelFutureRequest",
    "FutureCompletedResponse",
    "FutureCompletion",
    "FutureFailed",
    "FutureFailedResponse",
    "FutureFinished",
    "FuturePendingResponse",
    "FutureRetrieveRequest",
    "FuturesRetrieveRequest",
    "FuturesRetrieveResponse",
    "MetadataOnlyResponse",
    "QueueState",
    "RequestErrorCategory",
    "RequestFailedResponse",
    "RequestID",
    "SamplingSessionFuturesTarget",
    "TryAgainResponse",
    "UntypedAPIFuture",
]

QueueState = Literal["active", "paused_capacity", "paused_rate_limit", "unknown"]
RequestErrorCategory = Literal["unknown", "server", "user"]

RequestID = str


class UntypedAPIFuture(Record, frozen=True, kw_only=True):
    """A promise.

    Args:
        request_id: what to ask ``retrieve_future`` for; opaque.
        model_id: the model it belongs to, where the server says.
        sample_sequence_ids: of a sample, one id for each sequence to come.
    """

    request_id: str
    model_id: str | None = None
    sample_sequence_ids: list[str] | None = None


class FutureRetrieveRequest(Record, frozen=True, kw_only=True):
    """Body of ``retrieve_future``.

    Args:
        request_id: the promise.
        allow_metadata_only: the server may answer a large result's size first; None leaves the field out.
    """

    request_id: str
    allow_metadata_only: bool | None = None


class TryAgainResponse(Record, frozen=True, kw_only=True):
    """Not done yet, and how the queue is.

    Args:
        request_id: the promise.
        queue_state: why it waits.
        queue_state_reason: the same for people.
        retry_after_ms: how long to wait before asking again, where the server says.
    """

    request_id: str
    queue_state: QueueState = "active"
    queue_state_reason: str | None = None
    retry_after_ms: int | None = None
    type: Literal["try_again"] = "try_again"


class MetadataOnlyResponse(Record, frozen=True, kw_only=True):
    """Done, and so many bytes large: make room, then ask again."""

    response_payload_size: int = 0
    status: Literal["complete_metadata"] = "complete_metadata"


class RequestFailedResponse(Record, frozen=True, kw_only=True):
    """The operation ran and failed."""

    error: str
    category: RequestErrorCategory = "unknown"


class FuturePendingResponse(Record, frozen=True, kw_only=True):
    """Not done yet; the older servers' word for it."""

    status: Literal["pending"] = "pending"


class FutureCompletedResponse(Record, frozen=True, kw_only=True):
    """Done, with the result in an envelope; the older servers' form."""

    result: dict[str, Any]
    status: Literal["completed"] = "completed"


class FutureFailedResponse(Record, frozen=True, kw_only=True):
    """The operation failed, with ``message`` and ``category`` in an envelope; the older servers' form."""

    error: dict[str, Any]
    status: Literal["failed"] = "failed"


class CancelFutureRequest(Record, frozen=True, kw_only=True):
    """Body of ``cancel_future``: nobody waits for this promise any more."""

    request_id: str


class SamplingSessionFuturesTarget(Record, frozen=True, kw_only=True):
    """Whose promises to ask about.

    Args:
        sampling_session_id: the sampling session.
        cloned_sampler_id: the clone's number within it; 0 is the original (protocol 1.7.20).
    """

    sampling_session_id: str
    cloned_sampler_id: int = 0
    type: Literal["sampling_session"] = "sampling_session"


class FuturesRetrieveRequest(Record, frozen=True, kw_only=True):
    """Body of ``retrieve_futures``: which promises of a sampler are done (protocol 4.7).

    Args:
        target: whose promises.
        prev_cursor: the last answer's cursor; the server may forget what came before it.
        timeout: seconds the server may hold the request; 0 answers at once, None leaves it to the server.
        retrieved_request_ids: promises whose results were read; the server may drop them.
    """

    target: SamplingSessionFuturesTarget
    prev_cursor: int = 0
    timeout: float | None = None
    retrieved_request_ids: list[str] = []


class FutureFinished(Record, frozen=True, kw_only=True, tag_field="state", tag="finished"):
    """A result is ready, and its size in bytes where the server says."""

    request_id: str
    response_payload_uncompressed_size: int | None = None

    @property
    def state(self) -> Literal["finished"]:
        """The wire's discriminator."""
        return "finished"


class FutureFailed(Record, frozen=True, kw_only=True, tag_field="state", tag="failed"):
    """An operation failed; ``retrieve_future`` says why."""

    request_id: str

    @property
    def state(self) -> Literal["failed"]:
        """The wire's discriminator."""
        return "failed"


FutureCompletion = FutureFinished | FutureFailed


class FuturesRetrieveResponse(Record, frozen=True, kw_only=True):
    """What was done since the cursor, and the next cursor."""

    completions: list[FutureCompletion]
    cursor: int
