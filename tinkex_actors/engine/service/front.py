"""Handlers for what does not compute: configuration, sessions, health, telemetry, and the polls for results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinkex_actors.errors import GoneError
from tinkex_actors.types import (
    ClientConfigResponse,
    ClientDynamicConfigResponse,
    CreateSessionResponse,
    GetServerCapabilitiesResponse,
    HealthResponse,
    SessionHeartbeatResponse,
    SupportedModel,
    TelemetryResponse,
)
from tinkex_actors.wire.exchange import header
from tinkex_actors.wire.routes import ROUTES
from tinkex_actors.wire.server import encode_failure, encode_metadata_only, encode_result, encode_try_again

if TYPE_CHECKING:
    from tinkex_actors.engine.service.call import Call
    from tinkex_actors.engine.service.cell import EngineCell
    from tinkex_actors.wire.exchange import Response

__all__ = [
    "client_config",
    "create_session",
    "dynamic_config",
    "finish_session",
    "get_server_capabilities",
    "healthz",
    "retrieve_future",
    "session_heartbeat",
    "telemetry",
]

# Results larger than this are announced before they are sent, to a client that asked for it (protocol 4.3).
METADATA_ONLY_BYTES = 1024 * 1024

# Of a poll's own time-out, what may be spent waiting: the answer must still arrive in time.
_POLL_SHARE = 0.8


async def client_config(cell: EngineCell, call: Call) -> ClientConfigResponse:
    """Answer the flags a client starts with: no proprietary transport, chunks in parallel, plain API keys."""
    return ClientConfigResponse(use_pyqwest_transport=False, parallel_fwdbwd_chunks=True, pjwt_auth_enabled=False)


async def dynamic_config(cell: EngineCell, call: Call) -> ClientDynamicConfigResponse:
    """Answer the flags a client reads again."""
    return ClientDynamicConfigResponse()


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


async def get_server_capabilities(cell: EngineCell, call: Call) -> GetServerCapabilitiesResponse:
    """Answer the one model this engine serves."""
    record = await cell.catalogue_record()
    model = SupportedModel(
        model_name=cell.name,
        max_context_length=record.context_length,
        trainable=record.installed,
        sampleable=record.installed,
    )
    return GetServerCapabilitiesResponse(supported_models=[model])


async def healthz(cell: EngineCell, call: Call) -> HealthResponse:
    """Say that the engine is up."""
    return HealthResponse()


async def telemetry(cell: EngineCell, call: Call) -> TelemetryResponse:
    """Accept a batch. The engine keeps none of it."""
    return TelemetryResponse()


async def retrieve_future(cell: EngineCell, call: Call) -> Response:
    """Hold the request until its promise is settled or the poll's time is up, and answer what became of it."""
    request_id = call.message.request_id
    promise = cell.promises.find(request_id)
    if promise is None and cell.sessions.ended(request_id.partition(":")[0]):
        raise GoneError(f"The session of {request_id!r} has ended, and its results with it.", status_code=410)
    promise = cell.promises.get(request_id)
    cell.session(promise.session_id)
    if not await promise.wait(min(call.options.long_poll, _POLL_SHARE * call.request.timeout)):
        return encode_try_again(request_id, "active")
    if promise.state == "dropped":
        raise GoneError(f"{request_id!r} is gone: its session has ended.", status_code=410)
    if promise.state == "failed":
        cell.promises.mark_read(promise)
        return encode_failure(promise.error, promise.category)
    accept = header(call.request.headers, "accept") if call.options.dialect.protobuf else ""
    response = encode_result(ROUTES[promise.route], promise.result, accept)
    size = len(response.body)
    if size > METADATA_ONLY_BYTES and call.message.allow_metadata_only and call.options.dialect.metadata_only:
        return encode_metadata_only(size)
    cell.promises.mark_read(promise)
    return response
