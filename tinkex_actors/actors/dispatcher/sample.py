"""One sample, and the sampling session it belongs to."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from tinkex_actors.errors import APIConnectionError, APIStatusError, GoneError
from tinkex_actors.machines.retry import Failure, RetryPolicy, decide

if TYPE_CHECKING:
    from collections.abc import Callable

    from tinkex_actors.actors.futures import ApiFuture
    from tinkex_actors.config import RetryConfig
    from tinkex_actors.types import SampleRequest

__all__ = ["Priority", "Sample", "SamplerSession", "retry_delay"]

Priority: TypeAlias = Literal["low", "normal", "high"]

# Protocol 7.2: the numbers of each clone of a sampling session have a block of their own.
_BLOCK = 1_000_000_000


class SamplerSession:
    """One sampling session as one client uses it: its numbers, its share, its progress (protocol 7.2, 7.5).

    Args:
        sampling_session_id: the server's name for it.
        retry: how lost samples are sent again, and when a session counts as stuck.
        clone: this client's place among all that share the session; 0 is the one that made it.
        weight: its share against other sessions of the service.

    Attributes:
        live: samples that have not ended.
        progress_at: the instant of the last sample that ended well, or at which there was one again after none.
        queue_state: what the server last said of its queue.
        queue_since: since when; None before it said anything.
        queue_reason: the server's words.
        told_at: the instant at which a pause was last reported.
    """

    __slots__ = (
        "_numbers",
        "clone",
        "live",
        "progress_at",
        "queue_reason",
        "queue_since",
        "queue_state",
        "retry",
        "sampling_session_id",
        "told_at",
        "weight",
    )

    def __init__(self, sampling_session_id: str, retry: RetryConfig, *, clone: int = 0, weight: float = 1.0) -> None:
        self.sampling_session_id = sampling_session_id
        self.retry = retry
        self.clone = clone
        self.weight = weight
        self.live = 0
        self.progress_at = 0.0
        self.queue_state = "active"
        self.queue_since: float | None = None
        self.queue_reason: str | None = None
        self.told_at: float | None = None
        self._numbers = itertools.count(clone * _BLOCK)

    def next_number(self) -> int:
        """The next ``seq_id``: one for each submission; a submission that is re-sent keeps its own."""
        return next(self._numbers)


class Owner(Protocol):
    """The desk, seen from its samples."""

    def result(self, sample_id: int, result: Any) -> None:
        """The server's answer."""

    def failed(self, sample_id: int, error: Exception) -> None:
        """The attempt has failed."""

    def queue(self, session: SamplerSession, state: str, reason: str | None) -> None:
        """The server says how its queue takes the session's samples."""

    def cancel(self, sample_id: int) -> bool:
        """Give it up."""

    def describe(self, sample_id: int) -> str:
        """What it waits for, in words."""


class Sample:
    """One call of a client's method."""

    __slots__ = (
        "attempt",
        "begun",
        "desk",
        "finish",
        "future",
        "id",
        "priority",
        "request",
        "request_id",
        "sequence_ids",
        "session",
        "size_bytes",
    )

    def __init__(
        self,
        desk: Owner,
        sample_id: int,
        session: SamplerSession,
        request: SampleRequest,
        size_bytes: int,
        finish: Callable[[Any], Any],
        future: ApiFuture[Any],
        priority: Priority,
    ) -> None:
        self.desk = desk
        self.id = sample_id
        self.session = session
        self.request = request
        self.size_bytes = size_bytes
        self.finish = finish
        self.future = future
        self.priority = priority
        self.request_id: str | None = None
        self.sequence_ids: list[str] = []
        self.attempt = 0
        self.begun = future.created_at

    # Methods rather than closures: thousands wait at once, and what each of them holds is counted.
    def result(self, result: Any) -> None:
        """Its promise was kept."""
        self.desk.result(self.id, result)

    def lost(self, error: Exception) -> None:
        """Its promise was not kept."""
        self.desk.failed(self.id, error)

    def queue(self, state: str, reason: str | None) -> None:
        """The server says how its queue takes such samples."""
        self.desk.queue(self.session, state, reason)

    def cancel(self) -> bool:
        """Nobody wants it any more."""
        return self.desk.cancel(self.id)

    def describe(self) -> str:
        """What it waits for, in words."""
        return self.desk.describe(self.id)


def retry_delay(sample: Sample, error: Exception, now: float, u: float) -> float | None:
    """Return the seconds until a new submission, or None to fail (protocol 7.5).

    A promise that is gone (410) and a server that could not be reached are worth one; what the server has refused or
    run and failed is not. What a poll was answered with is about a sample that runs: of that, only 410 says that it
    does not.
    """
    retry = sample.session.retry
    match error:
        case GoneError():
            failure = Failure(status=None)
        case APIStatusError() if sample.request_id is None:
            failure = Failure(status=error.status_code, retry_after=error.retry_after, should_retry=error.should_retry)
        case APIConnectionError():
            failure = Failure(status=None)
        case _ if isinstance(error, retry.retryable_exceptions):
            failure = Failure(status=None)
        case _:
            return None
    if not retry.enable_retry_logic:
        return None
    policy = RetryPolicy(
        window=retry.progress_timeout,
        base=retry.retry_delay_base,
        cap=retry.retry_delay_max,
        jitter=retry.jitter_factor,
    )
    return decide(policy, sample.attempt, now - sample.begun, failure, u)
