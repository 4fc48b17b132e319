"""Handlers that keep a model's weights: as checkpoints, or as sampling sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from tinkex_actors.engine.service.state.sessions import Model, Sampler
from tinkex_actors.engine.store.store import CheckpointRecord
from tinkex_actors.errors import APIStatusError, BadRequestError, InputError
from tinkex_actors.types import (
    SaveWeightsExternalResponseInternal,
    SaveWeightsForSamplerResponseInternal,
    SaveWeightsResponse,
    UntypedAPIFuture,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tinkex_actors.engine.service.call import Call
    from tinkex_actors.engine.service.cell import EngineCell
    from tinkex_actors.engine.service.compute import Core
    from tinkex_actors.engine.service.state.jobs import Job

__all__ = ["save_weights", "save_weights_external", "save_weights_for_sampler"]


async def save_weights(cell: EngineCell, call: Call) -> UntypedAPIFuture:
    """Save weights and optimizer state under ``tinker://{model_id}/weights/{name}``."""
    message = call.message
    name = message.path if message.path is not None else f"{message.seq_id}"
    model = await _model_for(cell, message, "weights", name, overwrite=message.overwrite)

    def compute(core: Core, job: Job) -> str:
        write = _writer(core, model, optimizer=True)
        return _save(cell, model, "weights", name, message, write, overwrite=message.overwrite).tinker_path

    def commit(path: str) -> SaveWeightsResponse:
        return SaveWeightsResponse(path=path, type="save_weights")

    return cell.in_order(call, model, compute, commit)


async def save_weights_for_sampler(cell: EngineCell, call: Call) -> UntypedAPIFuture:
    """Save weights for sampling: named, as a checkpoint; unnamed, as a new sampling session on what they are then."""
    message = call.message
    if message.path is None:
        model = cell.model(message.model_id)
        # No digest: a client that sends this again may give it another sampling_session_seq_id (protocol 1.7.16).
        compute, commit = _snapshot(cell, model, message)
        return cell.in_order(call, model, compute, commit, digest=b"")
    name = message.path
    model = await _model_for(cell, message, "sampler_weights", name, overwrite=False)

    def save(core: Core, job: Job) -> str:
        write = _writer(core, model, optimizer=False)
        return _save(cell, model, "sampler_weights", name, message, write).tinker_path

    def answer(path: str) -> SaveWeightsForSamplerResponseInternal:
        return SaveWeightsForSamplerResponseInternal(path=path, type="save_weights_for_sampler")

    return cell.in_order(call, model, save, answer)


async def save_weights_external(cell: EngineCell, call: Call) -> UntypedAPIFuture:
    """Save weights as files for other programs, in PEFT's layout."""
    message = call.message
    kind, name = "external_weights", message.path
    model = await _model_for(cell, message, kind, name, overwrite=False)

    def compute(core: Core, job: Job) -> CheckpointRecord:
        adapter, recipients = model.ready(), message.age_encryption_recipients or ()

        def write(folder: Path) -> None:
            core.export(folder, adapter, published_as=cell.names.hugging_face, recipients=recipients)

        return _save(cell, model, kind, name, message, write)

    def commit(record: CheckpointRecord) -> SaveWeightsExternalResponseInternal:
        return SaveWeightsExternalResponseInternal(
            path=record.tinker_path, size_bytes=record.size_bytes, type="save_weights_external"
        )

    return cell.in_order(call, model, compute, commit)


def _snapshot(
    cell: EngineCell, model: Model, message: Any
) -> tuple[Callable[[Core, Job], Any], Callable[[Any], SaveWeightsForSamplerResponseInternal]]:
    def compute(core: Core, job: Job) -> Any:
        return model.ready().weights_only()

    def commit(adapter: Any) -> SaveWeightsForSamplerResponseInternal:
        session = cell.session(model.session_id)
        number = message.sampling_session_seq_id
        sampler_id = f"{session.session_id}:sample:{len(session.sampler_ids) if number is None else number}"
        if sampler_id in cell.samplers:
            raise InputError(f"sampling session {sampler_id} exists already. Use another sampling_session_seq_id.")
        inflight = message.kind == "inflight"
        if inflight:
            model.published = adapter
        cell.samplers[sampler_id] = Sampler(
            sampling_session_id=sampler_id,
            session_id=session.session_id,
            base_model=model.base_model,
            adapter=None if inflight else adapter,
            follows=model if inflight else None,
            loaded=True,
        )
        session.sampler_ids.append(sampler_id)
        return SaveWeightsForSamplerResponseInternal(sampling_session_id=sampler_id, type="save_weights_for_sampler")

    return compute, commit


async def _model_for(cell: EngineCell, message: Any, kind: str, name: str, *, overwrite: bool) -> Model:
    """Return the model to save; refuse a save that cannot succeed, at once and for its number."""
    model_id = cell.model(message.model_id).model_id
    try:
        await cell.on_disk(cell.store.check_new, model_id, kind, name, message.ttl_seconds, overwrite=overwrite)
    except (APIStatusError, InputError) as problem:
        # A repeated request was let through before, and what it saved is there by now.
        if message.seq_id is None or not cell.promises.known(f"{model_id}:{message.seq_id}"):
            status = problem if isinstance(problem, APIStatusError) else BadRequestError(str(problem), status_code=400)
            cell.reject(model_id, message.seq_id, status)
            raise status from problem
    # Looked up again: its session may have ended while the disk was read.
    return cell.model(model_id)


def _writer(core: Core, model: Model, *, optimizer: bool) -> Callable[[Path], None]:
    adapter = model.ready()
    return lambda folder: core.save(folder, adapter, optimizer=optimizer)


def _save(
    cell: EngineCell,
    model: Model,
    kind: str,
    name: str,
    message: Any,
    write: Callable[[Path], None],
    *,
    overwrite: bool = False,
) -> CheckpointRecord:
    """Put a checkpoint into the store, on the compute thread."""
    run = model.run
    assert run is not None
    cell.store.check_new(model.model_id, kind, name, message.ttl_seconds, overwrite=overwrite)
    record = CheckpointRecord(
        training_run_id=model.model_id,
        kind=kind,
        name=name,
        time=cell.wall_clock(),
        base_model=run.base_model,
        lora_rank=run.lora_rank,
        train_attn=run.train_attn,
        train_mlp=run.train_mlp,
        train_unembed=run.train_unembed,
        has_optimizer=kind == "weights",
        user_metadata=getattr(message, "user_metadata", None),
    )
    saved = cell.store.put(record, message.ttl_seconds, write)
    cell.store.write_run(msgspec.structs.replace(run, last_request_time=model.last_request_at))
    return saved
