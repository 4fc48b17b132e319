"""What holds samples back, for whoever subscribes to ``service.system.events``."""

from __future__ import annotations

import msgspec

__all__ = ["BackoffWindowClosed", "BackoffWindowOpened", "SamplingQueuePaused", "SamplingQueueResumed"]


class BackoffWindowOpened(msgspec.Struct, frozen=True, tag="sampling.backoff_opened"):
    """The server asked sampling to slow down; told once, however many requests it refuses meanwhile.

    Attributes:
        since: the instant, on the system's clock.
        until: the instant before which nothing is posted; further refusals may make it later.
        cause: why, in words.
        waiting: samples of this service that wait.
    """

    since: float | None
    until: float | None
    cause: str | None
    waiting: int


class BackoffWindowClosed(msgspec.Struct, frozen=True, tag="sampling.backoff_closed"):
    """The server took a request again.

    Attributes:
        seconds: how long the window was open.
        waiting: samples of this service that wait, and now leave little by little.
    """

    seconds: float
    waiting: int


class SamplingQueuePaused(msgspec.Struct, frozen=True, tag="sampling.queue_paused"):
    """The server has stopped taking a sampling session's requests from its queue; at most once in 60 s.

    Attributes:
        sampling_session_id: the session.
        queue_state: ``paused_capacity`` or ``paused_rate_limit``.
        reason: the server's words, or what the official client says where it has none (protocol 4.11).
    """

    sampling_session_id: str
    queue_state: str
    reason: str


class SamplingQueueResumed(msgspec.Struct, frozen=True, tag="sampling.queue_resumed"):
    """The queue takes a sampling session's requests again, after ``seconds``."""

    sampling_session_id: str
    seconds: float
