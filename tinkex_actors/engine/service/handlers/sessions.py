"""Handlers for sessions: opening, beating, finishing, and finding them again (protocol 1.7.4 to 1.7.6, 1.7.37 on)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from tinkex_actors.engine.service.handlers.archive import OWNER
from tinkex_actors.engine.service.handlers.paging import page_of
from tinkex_actors.errors import BadRequestError
from tinkex_actors.types import (
    ClientFinishedSessionStatusQuery,
    ClientSessionFinished,
    CreateSessionResponse,
    GetSessionResponse,
    ListSessionsResponse,
    SessionHeartbeatResponse,
    SessionSearchCursor,
    SessionSearchResponse,
    SessionSummary,
    SessionTraceExportResponse,
    UserSearchOwner,
)

if TYPE_CHECKING:
    from tinkex_actors.engine.service.call import Call
    from tinkex_actors.engine.service.cell import EngineCell
    from tinkex_actors.engine.service.state.sessions import Session
    from tinkex_actors.types import SessionSearchRequest

__all__ = [
    "assign_session_project",
    "create_session",
    "export_session_trace",
    "finish_session",
    "get_session",
    "list_sessions",
    "search_sessions",
    "session_heartbeat",
]

# The project of whatever was given none.
_NO_PROJECT = "local"


async def create_session(cell: EngineCell, call: Call) -> CreateSessionResponse:
    """Open a session."""
    message = call.message
    session = cell.sessions.create(
        cell.now(),
        cell.wall_clock(),
        tags=message.tags,
        user_metadata=message.user_metadata,
        project_id=message.project_id,
        display_name=message.display_name,
    )
    return CreateSessionResponse(session_id=session.session_id)


async def session_heartbeat(cell: EngineCell, call: Call) -> SessionHeartbeatResponse:
    """Count a sign of life; 410 after the end."""
    cell.session(call.message.session_id)
    return SessionHeartbeatResponse()


async def finish_session(cell: EngineCell, call: Call) -> None:
    """End a session. The first finish wins; later ones are answered alike, because the first answer may be lost."""
    session_id = call.path["session_id"]
    if not cell.sessions.ended(session_id):
        cell.session(session_id)
        given = call.message
        detail = f" ({given.detail})" if given.detail else ""
        status = ClientSessionFinished(reason=given.reason, detail=given.detail)
        cell.end_session(session_id, f"its client finished it: {given.reason.type}{detail}", status)


async def list_sessions(cell: EngineCell, call: Call) -> ListSessionsResponse:
    """List the sessions of this process, newest first, ended ones included."""
    offset, limit = page_of(call)
    found = cell.sessions.newest_first()[offset : offset + limit]
    return ListSessionsResponse(sessions=[session.session_id for session in found])


async def get_session(cell: EngineCell, call: Call) -> GetSessionResponse:
    """Describe a session of this process, ended or not; looking at it is no sign of its client's life."""
    session = cell.sessions.find(call.path["session_id"])
    return GetSessionResponse(
        training_run_ids=list(session.model_ids),
        sampler_ids=list(session.sampler_ids),
        user_metadata=session.user_metadata or None,
        display_name=session.display_name,
    )


async def assign_session_project(cell: EngineCell, call: Call) -> None:
    """Put a session, and the training runs it has made, into a project."""
    session = cell.sessions.find(call.path["session_id"])
    project_id = call.message.project_id
    if not project_id:
        raise BadRequestError(
            "project_id is empty. A session cannot leave a project; name another one.", status_code=400
        )
    session.project_id = project_id
    for model_id in session.model_ids:
        if (model := cell.models.get(model_id)) is not None and model.run is not None:
            model.run = msgspec.structs.replace(model.run, project_id=project_id)
        await cell.on_disk(cell.store.assign_project, model_id, project_id)


async def export_session_trace(cell: EngineCell, call: Call) -> SessionTraceExportResponse:
    """Answer where the session's operations can be read, as a trace for Perfetto or ``chrome://tracing``."""
    session = cell.sessions.find(call.path["session_id"])
    body = msgspec.json.encode({"traceEvents": list(session.trace)})
    url = cell.downloads.offer(call.request, f"{session.session_id}.json", lambda: body)
    return SessionTraceExportResponse(status="ready", url=url)


async def search_sessions(cell: EngineCell, call: Call) -> SessionSearchResponse:
    """Find sessions of this process, newest first."""
    asked: SessionSearchRequest = call.message
    found = [session for session in cell.sessions.newest_first() if _matches(session, asked)]
    if asked.cursor is not None:
        last = (asked.cursor.last_created_at, asked.cursor.last_session_id)
        found = [session for session in found if (session.created_at, session.session_id) < last]
    page = found[: asked.limit]
    following = None
    if len(found) > len(page):
        following = SessionSearchCursor(last_created_at=page[-1].created_at, last_session_id=page[-1].session_id)
    return SessionSearchResponse(sessions=[await _summary(cell, session) for session in page], next_cursor=following)


def _matches(session: Session, asked: SessionSearchRequest) -> bool:
    if isinstance(asked.owner, UserSearchOwner) and OWNER not in asked.owner.owner_urns:
        return False
    if asked.project_ids is not None and (session.project_id or _NO_PROJECT) not in asked.project_ids:
        return False
    if any(session.user_metadata.get(name) != value for name, value in asked.user_metadata.items()):
        return False
    if asked.statuses is not None and not any(_has_status(session, query) for query in asked.statuses):
        return False
    if asked.session_id is None and asked.display_name is None:
        return True
    if asked.session_id == session.session_id:
        return True
    words = (asked.display_name or "").lower().split()
    return bool(words) and all(word in (session.display_name or "").lower() for word in words)


def _has_status(session: Session, query: Any) -> bool:
    status = session.status
    if isinstance(query, ClientFinishedSessionStatusQuery):
        if not isinstance(status, ClientSessionFinished):
            return False
        return query.reasons is None or status.reason.type in query.reasons
    return bool(query.__struct_config__.tag == status.__struct_config__.tag)


async def _summary(cell: EngineCell, session: Session) -> SessionSummary:
    found = []
    for model_id in session.model_ids:
        found += await cell.on_disk(cell.store.checkpoints, model_id)
    return SessionSummary(
        session_id=session.session_id,
        created_at=session.created_at,
        owner=OWNER,
        project_id=session.project_id or _NO_PROJECT,
        checkpoints_count=len(found),
        status=session.status,
        display_name=session.display_name,
        user_metadata={name: str(value) for name, value in session.user_metadata.items()} or None,
        checkpoint_storage_bytes=sum(record.size_bytes for record in found),
    )
