"""Training runs, as the listing endpoints show them (protocol 1.7.26, 2.7)."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from tinkex_actors.types._record import Record
from tinkex_actors.types.rest.checkpoints import Checkpoint, Cursor

__all__ = ["AccessScope", "GetTrainingRunRequest", "ListTrainingRunsRequest", "TrainingRun", "TrainingRunsResponse"]

AccessScope = Literal["owned", "accessible"]


class TrainingRun(Record, frozen=True, kw_only=True):
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


class ListTrainingRunsRequest(Record, frozen=True, kw_only=True):
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


class GetTrainingRunRequest(Record, frozen=True, kw_only=True):
    """Query of ``training_runs/{id}``."""

    access_scope: AccessScope = "owned"


class TrainingRunsResponse(Record, frozen=True, kw_only=True):
    """A page of training runs."""

    training_runs: list[TrainingRun]
    cursor: Cursor
