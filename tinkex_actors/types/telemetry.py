"""What the client tells the service about itself (protocol 9.2)."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec

__all__ = [
    "GenericEvent",
    "SessionEndEvent",
    "SessionStartEvent",
    "Severity",
    "TelemetryEvent",
    "TelemetryResponse",
    "TelemetrySendRequest",
    "UnhandledExceptionEvent",
]

Severity = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


class SessionStartEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="SESSION_START"):
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


class SessionEndEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="SESSION_END"):
    """A session ended after ``duration`` (hours:minutes:seconds, as Python prints a timedelta)."""

    event_id: str
    event_session_index: int
    timestamp: datetime
    duration: str
    severity: Severity = "INFO"


class UnhandledExceptionEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="UNHANDLED_EXCEPTION"):
    """An exception that was not the user's doing."""

    event_id: str
    event_session_index: int
    timestamp: datetime
    error_type: str
    error_message: str
    traceback: str | None = None
    severity: Severity = "ERROR"


class GenericEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="GENERIC_EVENT"):
    """Anything else, by name, with plain JSON values."""

    event_id: str
    event_session_index: int
    timestamp: datetime
    event_name: str
    event_data: dict[str, Any] = {}
    severity: Severity = "INFO"


TelemetryEvent = SessionStartEvent | SessionEndEvent | UnhandledExceptionEvent | GenericEvent


class TelemetrySendRequest(msgspec.Struct, frozen=True, kw_only=True):
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


class TelemetryResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The batch was taken."""

    status: Literal["accepted"] = "accepted"
