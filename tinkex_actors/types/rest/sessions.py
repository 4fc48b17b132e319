"""Sessions, as the listing endpoints show them (protocol 1.7.37 to 1.7.40)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from tinkex_actors.types._record import Record
from tinkex_actors.types.rest.training_runs import AccessScope

__all__ = [
    "AssignSessionProjectRequest",
    "GetSessionRequest",
    "GetSessionResponse",
    "ListSessionsRequest",
    "ListSessionsResponse",
    "SessionTraceExportResponse",
]


class ListSessionsRequest(Record, frozen=True, kw_only=True):
    """Query of ``sessions``: at most ``limit`` of them after the first ``offset``; ``accessible`` adds shared ones."""

    limit: int = 20
    offset: int = 0
    access_scope: AccessScope = "owned"


class ListSessionsResponse(Record, frozen=True, kw_only=True):
    """A page of session ids; the last page is the one that is not full."""

    sessions: list[str]


class GetSessionRequest(Record, frozen=True, kw_only=True):
    """Query of ``sessions/{session_id}``."""

    access_scope: AccessScope = "owned"


class GetSessionResponse(Record, frozen=True, kw_only=True):
    """What a session made: its training runs and its samplers, by id."""

    training_run_ids: list[str]
    sampler_ids: list[str]
    user_metadata: dict[str, Any] | None = None
    display_name: str | None = None


class AssignSessionProjectRequest(Record, frozen=True, kw_only=True):
    """Body of ``sessions/{session_id}/project``. A session cannot leave a project again."""

    project_id: str


class SessionTraceExportResponse(Record, frozen=True, kw_only=True):
    """How far the export of a session's trace is.

    Args:
        status: ``pending``, ``ready`` or ``failed``.
        url: where to read it, signed, when ready.
        error: why it failed.
    """

    _secrets: ClassVar[tuple[str, ...]] = ("url",)

    status: Literal["pending", "ready", "failed"]
    url: str | None = None
    error: str | None = None
