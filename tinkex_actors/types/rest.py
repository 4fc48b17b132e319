"""Training runs and checkpoints, as the listing endpoints show them (protocol 2.7)."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, Literal, cast

import msgspec

from tinkex_actors.errors import TinkerPathError

__all__ = [
    "Checkpoint",
    "CheckpointType",
    "CheckpointsListResponse",
    "Cursor",
    "GetTrainingRunRequest",
    "ListCheckpointsRequest",
    "ListTrainingRunsRequest",
    "ParsedCheckpointTinkerPath",
    "TrainingRun",
    "TrainingRunsResponse",
]

CheckpointType = Literal["training", "sampler", "external"]

AccessScope = Literal["owned", "accessible"]

_SCHEME: Final = "tinker://"
_KINDS: Final[dict[str, CheckpointType]] = {
    "weights": "training",
    "sampler_weights": "sampler",
    "external_weights": "external",
}


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A saved checkpoint.

    Args:
        checkpoint_id: ``{kind}/{name}``.
        checkpoint_type: ``training``, ``sampler`` or ``external``.
        time: when it was saved.
        tinker_path: its address.
        size_bytes: its size, where known.
        public: readable by everybody.
        user_metadata: notes given when it was saved.
        expires_at: when it will be deleted; None never.
    """

    checkpoint_id: str
    checkpoint_type: CheckpointType
    time: datetime
    tinker_path: str
    size_bytes: int | None = None
    public: bool = False
    user_metadata: dict[str, str] | None = None
    expires_at: datetime | None = None


class Cursor(msgspec.Struct, frozen=True, kw_only=True):
    """The place in a listing: ``offset`` and ``limit`` as asked, and how many there are in all."""

    offset: int
    limit: int
    total_count: int


class CheckpointsListResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A page of checkpoints; ``cursor`` is None when the listing is whole."""

    checkpoints: list[Checkpoint]
    cursor: Cursor | None = None


class TrainingRun(msgspec.Struct, frozen=True, kw_only=True):
    """A model that was trained, alive or not. ``training_run_id`` is the training endpoints' ``model_id``."""

    training_run_id: str
    base_model: str
    model_owner: str
    is_lora: bool
    last_request_time: datetime
    corrupted: bool = False
    lora_rank: int | None = None
    last_checkpoint: Checkpoint | None = None
    last_sampler_checkpoint: Checkpoint | None = None
    user_metadata: dict[str, Any] | None = None


class ListTrainingRunsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Query of ``training_runs`` (protocol 1.7.26).

    Args:
        limit: at most so many runs.
        offset: skip so many first.
        access_scope: ``owned``, or ``accessible`` for those shared with the caller too.
        project_id: only this project's.
    """

    limit: int = 20
    offset: int = 0
    access_scope: AccessScope = "owned"
    project_id: str | None = None


class GetTrainingRunRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Query of ``training_runs/{id}``."""

    access_scope: AccessScope = "owned"


class ListCheckpointsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Query of ``checkpoints``: a page of all the caller's checkpoints, newest first."""

    limit: int = 100
    offset: int = 0


class TrainingRunsResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A page of training runs."""

    training_runs: list[TrainingRun]
    cursor: Cursor


class ParsedCheckpointTinkerPath(msgspec.Struct, frozen=True, kw_only=True):
    """A tinker path's parts.

    Args:
        tinker_path: the whole path.
        training_run_id: the run.
        checkpoint_type: ``training``, ``sampler`` or ``external``.
        checkpoint_id: ``{kind}/{name}``, as the REST endpoints want it.
    """

    tinker_path: str
    training_run_id: str
    checkpoint_type: CheckpointType
    checkpoint_id: str

    @classmethod
    def from_tinker_path(cls, tinker_path: str) -> ParsedCheckpointTinkerPath:
        """Parse ``tinker://{training_run_id}/{kind}/{name}``.

        Raises:
            TinkerPathError: for any other shape or kind.
        """
        given = cast("object", tinker_path)
        parts = given[len(_SCHEME) :].split("/") if isinstance(given, str) and given.startswith(_SCHEME) else []
        if len(parts) != 3 or not all(parts) or parts[1] not in _KINDS:
            raise TinkerPathError(
                f"{tinker_path!r} is not a checkpoint path; expected tinker://<training_run_id>/<kind>/<name> with "
                f"kind one of {', '.join(_KINDS)}. Copy it from the answer of save_state or from a listing."
            )
        run, kind, name = parts
        return cls(
            tinker_path=tinker_path,
            training_run_id=run,
            checkpoint_type=_KINDS[kind],
            checkpoint_id=f"{kind}/{name}",
        )
