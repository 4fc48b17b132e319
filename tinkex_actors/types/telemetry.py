"""What the client tells the service about itself (protocol 9.2)."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from tinkex_actors.types._record import Record

__all__ = [
    "EventType",
    "GenericEvent",
    "SessionEndEvent",
    "SessionStartEvent",
    "Severity",
    "TelemetryBatch",
    "TelemetryEvent",
    "TelemetryResponse",
    "TelemetrySendRequest",
    "UnhandledExceptionEvent",
]

Severity = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]

EventType = Literal["SESSION_START", "SESSION_END", "UNHANDLED_EXCEPTION", "GENERIC_EVENT"]


class SessionStartEvent(Record, frozen=True, kw_only=True, tag_field="event", tag="SESSION_START"):
    """A session began.

    Args:
        event_id: a fresh UUID.
        event_session_index: 0, 1, 2 ... in the order of events.
        timestamp: when, in UTC.
        severity: how bad.
    """

    event_id: str
    event_session_index: int
    timestamp: datetime
    severity: Severity = "INFO"

    @property
    def event(self) -> EventType:
        """The wire's discriminator."""
        return "SESSION_START"


class SessionEndEvent(Record, frozen=True, kw_only=True, tag_field="event", tag="SESSION_END"):
    """A session ended after ``duration`` (hours:minutes:seconds, as Python prints a timedelta)."""

    event_id: str
    event_session_index: int
    timestamp: datetime
    duration: str
    severity: Severity = "INFO"

    @property
    def event(self) -> EventType:
        """The wire's discriminator."""
        return "SESSION_END"


class UnhandledExceptionEvent(Record, frozen=True, kw_only=True, tag_field="event", tag="UNHANDLED_EXCEPTION"):
    """An exception that was not the user's doing."""

    event_id: str
    event_session_index: int
    timestamp: datetime
    error_type: str
    error_message: str
    traceback: str | None = None
    severity: Severity = "ERROR"

    @property
    def event(self) -> EventType:
        """The wire's discriminator."""
        return "UNHANDLED_EXCEPTION"


class GenericEvent(Record, frozen=True, kw_only=True, tag_field="event", tag="GENERIC_EVENT"):
    """Anything else, by name, with plain JSON values."""

    event_id: str
    event_session_index: int
    timestamp: datetime
    event_name: str
    event_data: dict[str, Any] = {}
    severity: Severity = "INFO"

    @property
    def event(self) -> EventType:
        """The wire's discriminator."""
        return "GENERIC_EVENT"


TelemetryEvent = SessionStartEvent | SessionEndEvent | UnhandledExceptionEvent | GenericEvent


class TelemetrySendRequest(Record, frozen=True, kw_only=True):
    """Body of ``telemetry``: a batch.

    Args:
        events: at most 100, in order.
        platform: the operating system's name.
        sdk_version: the client's version.
        session_id: the session, or ``sessionless-<uuid>``.
        process_uuid: one for each process.
    """

    events: list[TelemetryEvent]
    platform: str
    sdk_version: str
    session_id: str
    process_uuid: str


TelemetryBatch = TelemetrySendRequest


class TelemetryResponse(Record, frozen=True, kw_only=True):
    """The batch was taken."""

    status: Literal["accepted"] = "accepted"
