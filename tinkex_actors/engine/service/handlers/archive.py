"""Handlers of the listings: training runs and checkpoints, as the store has them, also those of earlier processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tinkex_actors.engine.service.handlers.paging import page_of
from tinkex_actors.engine.store.store import KINDS, CheckpointRecord, RunRecord
from tinkex_actors.types import (
    Checkpoint,
    CheckpointsListResponse,
    Cursor,
    ParsedCheckpointTinkerPath,
    TrainingRun,
    TrainingRunsResponse,
    WeightsInfoResponse,
)

if TYPE_CHECKING:
    from tinkex_actors.engine.service.call import Call
    from tinkex_actors.engine.service.cell import EngineCell

__all__ = [
    "get_training_run",
    "list_checkpoints",
    "list_training_runs",
    "list_user_checkpoints",
    "weights_info",
]

# Everything on this machine belongs to whoever runs the engine.
OWNER: Final = "local"


async def list_training_runs(cell: EngineCell, call: Call) -> TrainingRunsResponse:
    """List runs, the one used last first."""
    offset, limit = page_of(call)
    runs = await cell.on_disk(cell.store.runs)
    if call.message.project_id is not None:
        runs = [run for run in runs if run.project_id == call.message.project_id]
    page = [await _training_run(cell, run) for run in runs[offset : offset + limit]]
    cursor = Cursor(offset=offset, limit=limit, total_count=len(runs))
    return TrainingRunsResponse(training_runs=page, cursor=cursor)


async def get_training_run(cell: EngineCell, call: Call) -> TrainingRun:
    """Describe one run."""
    return await _training_run(cell, await cell.on_disk(cell.store.run, call.path["training_run_id"]))


async def list_checkpoints(cell: EngineCell, call: Call) -> CheckpointsListResponse:
    """List one run's checkpoints, newest first."""
    run_id = call.path["training_run_id"]
    await cell.on_disk(cell.store.run, run_id)
    found = await cell.on_disk(cell.store.checkpoints, run_id)
    return CheckpointsListResponse(checkpoints=[_checkpoint(record) for record in found])


async def list_user_checkpoints(cell: EngineCell, call: Call) -> CheckpointsListResponse:
    """List the checkpoints of all runs, newest first."""
    offset, limit = page_of(call)
    found = await cell.on_disk(cell.store.checkpoints)
    cursor = Cursor(offset=offset, limit=limit, total_count=len(found))
    page = [_checkpoint(record) for record in found[offset : offset + limit]]
    return CheckpointsListResponse(checkpoints=page, cursor=cursor)


async def weights_info(cell: EngineCell, call: Call) -> WeightsInfoResponse:
    """Say what a checkpoint needs to be loaded."""
    parsed = ParsedCheckpointTinkerPath.from_tinker_path(call.message.tinker_path)
    kind, _, name = parsed.checkpoint_id.partition("/")
    record = await cell.on_disk(cell.store.checkpoint, parsed.training_run_id, kind, name)
    return WeightsInfoResponse(
        base_model=record.base_model,
        is_lora=True,
        lora_rank=record.lora_rank,
        train_unembed=record.train_unembed,
        train_mlp=record.train_mlp,
        train_attn=record.train_attn,
    )


async def _training_run(cell: EngineCell, run: RunRecord) -> TrainingRun:
    found = [_checkpoint(record) for record in await cell.on_disk(cell.store.checkpoints, run.training_run_id)]
    last = {kind: next((c for c in found if c.checkpoint_type == kind), None) for kind in KINDS.values()}
    living = cell.models.get(run.training_run_id)
    return TrainingRun(
        training_run_id=run.training_run_id,
        base_model=run.base_model,
        model_owner=OWNER,
        is_lora=True,
        lora_rank=run.lora_rank,
        last_request_time=living.last_request_at if living else run.last_request_time,
        last_checkpoint=last["training"],
        last_sampler_checkpoint=last["sampler"],
        user_metadata=run.user_metadata,
    )


def _checkpoint(record: CheckpointRecord) -> Checkpoint:
    return Checkpoint(
        checkpoint_id=f"{record.kind}/{record.name}",
        checkpoint_type=KINDS[record.kind],  # type: ignore[arg-type]
        time=record.time,
        tinker_path=record.tinker_path,
        size_bytes=record.size_bytes,
        public=record.public,
        user_metadata=record.user_metadata,
        expires_at=record.expires_at,
    )
