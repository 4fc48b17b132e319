"""Sessions and sampling sessions: start, stay alive, finish (protocol 1.7.4 to 1.7.6, 1.7.19, 1.7.22)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from tinkex_actors.types._record import Record

__all__ = [
    "CreateSamplingSessionRequest",
    "CreateSamplingSessionResponse",
    "CreateSessionRequest",
    "CreateSessionResponse",
    "FinishReason",
    "FinishSessionRequest",
    "FinishStatus",
    "GetSamplerResponse",
    "JoinSamplingSessionRequest",
    "JoinSamplingSessionResponse",
    "SessionHeartbeatRequest",
    "SessionHeartbeatResponse",
]

FinishStatus = Literal["success", "errored", "interrupted"]


class CreateSessionRequest(Record, frozen=True, kw_only=True):
    """Body of ``create_session``.

    Args:
        tags: words to find the session by.
        user_metadata: free notes, kept by the server.
        sdk_version: the client's version.
        project_id: the project it belongs to.
        display_name: what people see.
    """

    tags: list[str]
    user_metadata: dict[str, Any]
    sdk_version: str
    project_id: str | None = None
    display_name: str | None = None
    type: Literal["create_session"] = "create_session"


class CreateSessionResponse(Record, frozen=True, kw_only=True):
    """The session's id, and what the server wants a person to read."""

    session_id: str
    info_message: str | None = None
    warning_message: str | None = None
    error_message: str | None = None
    type: Literal["create_session"] = "create_session"


class SessionHeartbeatRequest(Record, frozen=True, kw_only=True):
    """Body of ``session_heartbeat``."""

    session_id: str
    type: Literal["session_heartbeat"] = "session_heartbeat"


class SessionHeartbeatResponse(Record, frozen=True, kw_only=True):
    """The session lives."""

    type: Literal["session_heartbeat"] = "session_heartbeat"


class FinishReason(Record, frozen=True, kw_only=True):
    """How the session ended: ``success``, ``errored`` or ``interrupted``."""

    type: FinishStatus


class FinishSessionRequest(Record, frozen=True, kw_only=True):
    """Body of ``sessions/{session_id}/finish``; ``detail`` is sent even when it is None."""

    reason: FinishReason
    detail: str | None = None


class CreateSamplingSessionRequest(Record, frozen=True, kw_only=True):
    """Body of ``create_sampling_session``.

    Args:
        session_id: the owner.
        sampling_session_seq_id: 0, 1, 2 ... within the session; a repeat is answered with the same session.
        base_model: sample the base model, or
        model_path: these sampler weights (a tinker path).
    """

    session_id: str
    sampling_session_seq_id: Annotated[int, Meta(ge=0)]
    base_model: str | None = None
    model_path: str | None = None
    type: Literal["create_sampling_session"] = "create_sampling_session"


class CreateSamplingSessionResponse(Record, frozen=True, kw_only=True):
    """The sampling session's id."""

    sampling_session_id: str
    type: Literal["create_sampling_session"] = "create_sampling_session"


class GetSamplerResponse(Record, frozen=True, kw_only=True):
    """What a sampling session samples from."""

    sampler_id: str
    base_model: str
    model_path: str | None = None


class JoinSamplingSessionRequest(Record, frozen=True, kw_only=True):
    """Body of ``join_sampling_session``: one more client for a sampling session."""

    sampling_session_id: str
    type: Literal["join_sampling_session"] = "join_sampling_session"


class JoinSamplingSessionResponse(Record, frozen=True, kw_only=True):
    """The client's number within the sampling session; 0 is the one that made it."""

    client_counter: int
    type: Literal["join_sampling_session"] = "join_sampling_session"
