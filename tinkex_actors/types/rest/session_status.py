"""How a session is, or how it ended (protocol 2.7, 5.6)."""

from __future__ import annotations

from typing import Literal

from tinkex_actors.types._record import Record
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


class SessionFailedRequestReason(Record, frozen=True, kw_only=True, tag_field="type", tag="request"):
    """A request failed."""

    request_id: str
    request_type: str

    @property
    def type(self) -> str:
        """The wire's discriminator."""
        return "request"


class SessionFailedTrainingRunReason(Record, frozen=True, kw_only=True, tag_field="type", tag="training_run"):
    """A training run failed."""

    training_run_id: str

    @property
    def type(self) -> str:
        """The wire's discriminator."""
        return "training_run"


class SessionFailedSamplingSessionReason(Record, frozen=True, kw_only=True, tag_field="type", tag="sampling_session"):
    """A sampling session failed."""

    sampling_session_id: str

    @property
    def type(self) -> str:
        """The wire's discriminator."""
        return "sampling_session"


SessionFailedReason = SessionFailedRequestReason | SessionFailedTrainingRunReason | SessionFailedSamplingSessionReason


class SessionActive(Record, frozen=True, kw_only=True, tag_field="type", tag="active"):
    """It runs."""

    @property
    def type(self) -> str:
        """The wire's discriminator."""
        return "active"


class SessionCancelled(Record, frozen=True, kw_only=True, tag_field="type", tag="cancelled"):
    """Somebody, or missing heartbeats, cancelled it."""

    detail: str | None = None

    @property
    def type(self) -> str:
        """The wire's discriminator."""
        return "cancelled"


class SessionFailed(Record, frozen=True, kw_only=True, tag_field="type", tag="failed"):
    """It failed.

    Args:
        category: whose fault: ``user`` or ``internal``.
        reason: what failed.
        message: for people.
    """

    category: Literal["user", "internal"]
    reason: SessionFailedReason
    message: str

    @property
    def type(self) -> str:
        """The wire's discriminator."""
        return "failed"


class ClientSessionFinished(Record, frozen=True, kw_only=True, tag_field="type", tag="client_finished"):
    """Its client ended it, with ``sessions/{session_id}/finish``."""

    reason: FinishReason
    detail: str | None = None

    @property
    def type(self) -> str:
        """The wire's discriminator."""
        return "client_finished"


SessionStatus = SessionActive | SessionCancelled | SessionFailed | ClientSessionFinished
