"""Handlers for sessions: opening, beating, finishing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinkex_actors.types import CreateSessionResponse, SessionHeartbeatResponse

if TYPE_CHECKING:
    from tinkex_actors.engine.service.call import Call
    from tinkex_actors.engine.service.cell import EngineCell

__all__ = ["create_session", "finish_session", "session_heartbeat"]


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
        detail = f" ({call.message.detail})" if call.message.detail else ""
        cell.end_session(session_id, f"its client finished it: {call.message.reason.type}{detail}")
