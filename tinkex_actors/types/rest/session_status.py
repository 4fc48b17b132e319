"""How a session is, or how it ended (protocol 2.7, 5.6)."""

from __future__ import annotations

from typing import Literal

from tinkex_actors.types._record import Tagged
from tinkex_actors.types.session import FinishReason

__all__ = [
    "ClientSessionFinished",
    "SessionActive",
    "SessionCancelled",
    "SessionFailed",
    "SessionFailedReason",
    "SessionFailedRequestReason",
    "SessionFailedSamplingSessionReason",
    "SessionFailedTrainingRunReason",
    "SessionStatus",
]


class SessionFailedRequestReason(Tagged, frozen=True, kw_only=True, tag_field="type", tag="request"):
    """A request failed."""

    request_id: str
    request_type: str


class SessionFailedTrainingRunReason(Tagged, frozen=True, kw_only=True, tag_field="type", tag="training_run"):
    """A training run failed."""

    training_run_id: str


class SessionFailedSamplingSessionReason(Tagged, frozen=True, kw_only=True, tag_field="type", tag="sampling_session"):
    """A sampling session failed."""

    sampling_session_id: str


SessionFailedReason = SessionFailedRequestReason | SessionFailedTrainingRunReason | SessionFailedSamplingSessionReason


class SessionActive(Tagged, frozen=True, kw_only=True, tag_field="type", tag="active"):
    """It runs."""


class SessionCancelled(Tagged, frozen=True, kw_only=True, tag_field="type", tag="cancelled"):
    """Somebody, or missing heartbeats, cancelled it."""

    detail: str | None = None


class SessionFailed(Tagged, frozen=True, kw_only=True, tag_field="type", tag="failed"):
    """It failed.

    Args:
        category: whose fault: ``user`` or ``internal``.
        reason: what failed.
        message: for people.
    """

    category: Literal["user", "internal"]
    reason: SessionFailedReason
    message: str


class ClientSessionFinished(Tagged, frozen=True, kw_only=True, tag_field="type", tag="client_finished"):
    """Its client ended it, with ``sessions/{session_id}/finish``."""

    reason: FinishReason
    detail: str | None = None


SessionStatus = SessionActive | SessionCancelled | SessionFailed | ClientSessionFinished
