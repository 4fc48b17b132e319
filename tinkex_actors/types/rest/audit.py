"""Who did what in an organization (protocol 1.7.42, 2.7)."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from tinkex_actors.errors import InputError
from tinkex_actors.types._record import Record

__all__ = ["AuditEventType", "AuditLogEntry", "AuditLogResponse", "GetAuditLogRequest"]

AuditEventType = Literal["all", "checkpoints", "projects", "teams", "organizations"]


class GetAuditLogRequest(Record, frozen=True, kw_only=True):
    """Query of ``audit``.

    Args:
        event_type: what to list.
        day: ``YYYY-MM-DD``, in UTC; None leaves the day to the server.
    """

    event_type: AuditEventType = "all"
    day: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.day is not None:
            try:
                datetime.strptime(self.day, "%Y-%m-%d")
            except ValueError:
                raise InputError(
                    f"GetAuditLogRequest: day must be a date such as '2026-01-31', got {self.day!r}."
                ) from None


class AuditLogEntry(Record, frozen=True, kw_only=True):
    """Something that happened.

    Args:
        timestamp: when.
        event: ``<resource>_<action>``.
        event_details: what the event says, by name.
        model_id, tinker_path, purpose: older places of some details.
    """

    timestamp: datetime
    event: str
    event_details: dict[str, Any] = {}
    model_id: str | None = None
    tinker_path: str | None = None
    purpose: str | None = None


class AuditLogResponse(Record, frozen=True, kw_only=True):
    """What happened, in the server's order."""

    entries: list[AuditLogEntry]
