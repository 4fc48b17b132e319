"""What an organization's administrators ask: who did what, and what it costs (protocol 8.2)."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING

from tinkex_actors.actors.attribution import attributed
from tinkex_actors.clients.rest.asking import ask
from tinkex_actors.errors import InputError
from tinkex_actors.types import (
    GetAuditLogRequest,
    GetBillingUsageRequest,
    GetCurrentCheckpointStorageUsageRequest,
)

if TYPE_CHECKING:
    from tinkex_actors.actors.futures import ApiFuture
    from tinkex_actors.clients.backbone import Backbone
    from tinkex_actors.types import (
        AuditEventType,
        AuditLogResponse,
        BillingUsageResponse,
        CurrentCheckpointStorageUsageResponse,
    )

__all__ = ["AdminClient"]

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


@attributed
class AdminClient:
    """Audit and billing; needs no session. Made by ``ServiceClient.create_admin_client()``.

    ``PermissionDeniedError`` (awaited) without the role: administrator for the audit log, administrator or billing
    administrator for the rest.
    """

    def __init__(self, core: Backbone) -> None:
        self._core = core

    def get_audit_log(self, event_type: AuditEventType = "all", day: str | None = None) -> ApiFuture[AuditLogResponse]:
        """A day's entries of the audit log.

        Args:
            event_type: ``all``, ``checkpoints``, ``projects``, ``teams`` or ``organizations``.
            day: ``YYYY-MM-DD``, UTC; None leaves the choice to the server.

        Raises:
            InputError: not such a day.
        """
        if day is not None and not (isinstance(day, str) and _DAY.fullmatch(day)):
            raise InputError(f"get_audit_log: day must be a text such as 2026-01-31, got {day!r}.")
        return ask(self._core, "get_audit_log", GetAuditLogRequest(event_type=event_type, day=day))

    def get_billing_usage(
        self, starting_on: datetime | str, ending_before: datetime | str
    ) -> ApiFuture[BillingUsageResponse]:
        """What was used, by the hour, with what it is expected to cost.

        Args:
            starting_on: the first hour: a datetime with a time zone, or RFC 3339 text.
            ending_before: the hour after the last; at most 14 days later.

        Raises:
            InputError: not an instant, or one without a time zone.
        """
        query = GetBillingUsageRequest(
            starting_on=_instant("starting_on", starting_on), ending_before=_instant("ending_before", ending_before)
        )
        return ask(self._core, "get_billing_usage", query)

    def get_current_checkpoint_storage_usage(
        self, project_id: str | None = None
    ) -> ApiFuture[CurrentCheckpointStorageUsageResponse]:
        """The checkpoints that are stored now, and what they cost a month; of one project, or of all."""
        query = GetCurrentCheckpointStorageUsageRequest(project_id=project_id)
        return ask(self._core, "get_current_checkpoint_storage_usage", query)


def _instant(name: str, value: datetime | str) -> datetime:
    found: datetime | None = None
    if isinstance(value, datetime):
        found = value
    elif isinstance(value, str):
        try:
            found = datetime.fromisoformat(value)
        except ValueError:
            found = None
    if found is None or found.tzinfo is None:
        raise InputError(
            f"get_billing_usage: {name} must be a datetime with a time zone, or text such as 2026-01-31T00:00:00Z; "
            f"got {value!r}."
        )
    return found
