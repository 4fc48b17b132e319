"""Searching sessions (protocol 1.7.41, 2.7)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta

from tinkex_actors.types._record import Record, Tagged
from tinkex_actors.types.rest.session_status import SessionStatus
from tinkex_actors.types.session import FinishStatus

__all__ = [
    "AccessibleSearchOwner",
    "ActiveSessionStatusQuery",
    "CancelledSessionStatusQuery",
    "ClientFinishedSessionStatusQuery",
    "FailedSessionStatusQuery",
    "OwnSearchOwner",
    "SearchOwner",
    "SessionSearchCursor",
    "SessionSearchRequest",
    "SessionSearchResponse",
    "SessionStatusQuery",
    "SessionSummary",
    "UserSearchOwner",
]


class OwnSearchOwner(Tagged, frozen=True, kw_only=True, tag_field="type", tag="own"):
    """The caller's own sessions."""


class AccessibleSearchOwner(Tagged, frozen=True, kw_only=True, tag_field="type", tag="accessible"):
    """Every session the caller may see."""


class UserSearchOwner(Tagged, frozen=True, kw_only=True, tag_field="type", tag="user"):
    """The sessions of these users, one to ten of them."""

    owner_urns: Annotated[list[str], Meta(min_length=1, max_length=10)]


SearchOwner = OwnSearchOwner | AccessibleSearchOwner | UserSearchOwner


class ActiveSessionStatusQuery(Tagged, frozen=True, kw_only=True, tag_field="type", tag="active"):
    """Sessions that run."""


class CancelledSessionStatusQuery(Tagged, frozen=True, kw_only=True, tag_field="type", tag="cancelled"):
    """Sessions that were cancelled."""


class FailedSessionStatusQuery(Tagged, frozen=True, kw_only=True, tag_field="type", tag="failed"):
    """Sessions that failed."""


class ClientFinishedSessionStatusQuery(Tagged, frozen=True, kw_only=True, tag_field="type", tag="client_finished"):
    """Sessions that their client ended, for one of these reasons; None means any."""

    reasons: Annotated[list[FinishStatus], Meta(min_length=1)] | None = None


SessionStatusQuery = (
    ActiveSessionStatusQuery | CancelledSessionStatusQuery | FailedSessionStatusQuery | ClientFinishedSessionStatusQuery
)


class SessionSearchCursor(Record, frozen=True, kw_only=True):
    """Where the next page starts; copy it from ``next_cursor``.

    Args:
        last_created_at: creation of the last session seen, with a time zone.
        last_session_id: that session.
    """

    last_created_at: Annotated[datetime, Meta(tz=True)]
    last_session_id: str


class SessionSearchRequest(Record, frozen=True, kw_only=True):
    """Body of ``sessions/search``. All conditions must hold, but ``session_id`` and ``display_name`` match either.

    Args:
        session_id: exactly this session.
        project_ids: in one of these projects.
        user_metadata: has all of these pairs, exactly.
        display_name: its name has every one of these words, in any case.
        owner: whose.
        statuses: in one of these states; None means any.
        limit: sessions on a page, 1 to 200.
        cursor: the page's start; None for the first.
    """

    session_id: str | None = None
    project_ids: list[str] | None = None
    user_metadata: dict[str, str] = {}
    display_name: Annotated[str, Meta(min_length=1)] | None = None
    owner: SearchOwner = OwnSearchOwner()
    statuses: Annotated[list[SessionStatusQuery], Meta(min_length=1)] | None = None
    limit: Annotated[int, Meta(ge=1, le=200)] = 50
    cursor: SessionSearchCursor | None = None


class SessionSummary(Record, frozen=True, kw_only=True):
    """A session found.

    Args:
        session_id: the session.
        created_at: when it began.
        owner: its owner's URN.
        project_id: its project.
        checkpoints_count: how many checkpoints it has.
        status: None when it neither ended nor is known to run.
        display_name: what people see.
        user_metadata: notes given when it was made.
        checkpoint_storage_bytes: what its checkpoints take.
    """

    session_id: str
    created_at: datetime
    owner: str
    project_id: str
    checkpoints_count: int
    status: SessionStatus | None = None
    display_name: str | None = None
    user_metadata: dict[str, str] | None = None
    checkpoint_storage_bytes: int | None = None


class SessionSearchResponse(Record, frozen=True, kw_only=True):
    """A page of sessions; ``next_cursor`` is None on the last."""

    sessions: list[SessionSummary]
    next_cursor: SessionSearchCursor | None = None
