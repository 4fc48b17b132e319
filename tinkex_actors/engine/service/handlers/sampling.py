"""Handlers of the sampling endpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinkex_actors.engine.service.state.jobs import MAX_WAITING_SAMPLES, Job, SampleJob
from tinkex_actors.engine.service.state.sessions import Sampler
from tinkex_actors.engine.service.state.streams import Stream
from tinkex_actors.errors import BadRequestError, InputError, RateLimitError
from tinkex_actors.types import (
    CreateSamplingSessionResponse,
    GetSamplerResponse,
    JoinSamplingSessionResponse,
    ParsedCheckpointTinkerPath,
    UntypedAPIFuture,
)
from tinkex_actors.wire.streams import STREAM_END, STREAM_QUIET, encode_chunk

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from tinkex_actors.engine.service.call import Call
    from tinkex_actors.engine.service.cell import EngineCell
    from tinkex_actors.engine.service.compute import Core
    from tinkex_actors.engine.service.state.promises import Promise
    from tinkex_actors.tokenizers import Tokenizer
    from tinkex_actors.types import SampleRequest, SampleResponse

__all__ = ["asample", "create_sampling_session", "get_sampler", "join_sampling_session", "stream_sample"]

# Seconds of silence in a stream; readers may give up after a minute.
_QUIET = 10.0

# Seconds a client should wait when the queue is full: what the official one waits by itself (protocol 7.3).
_RETRY_AFTER = 1.0


async def create_sampling_session(cell: EngineCell, call: Call) -> CreateSamplingSessionResponse:
    """Open a sampling session on the base model or on a checkpoint."""
    message = call.message
    sampler_id = f"{message.session_id}:sample:{message.sampling_session_seq_id}"
    cell.session(message.session_id)
    if sampler_id not in cell.samplers:
        if (message.base_model is None) == (message.model_path is None):
            raise BadRequestError(
                "create_sampling_session: expected one of base_model and model_path.", status_code=400
            )
        if message.base_model is not None:
            cell.check_base_model(message.base_model)
        else:
            await cell.on_disk(_find, cell, message.model_path)
        # Looked up again: it may have ended while the disk was read.
        session = cell.session(message.session_id)
        cell.samplers[sampler_id] = Sampler(
            sampling_session_id=sampler_id,
            session_id=session.session_id,
            base_model=cell.name,
            model_path=message.model_path,
            loaded=message.model_path is None,
        )
        session.sampler_ids.append(sampler_id)
    return CreateSamplingSessionResponse(sampling_session_id=sampler_id)


async def get_sampler(cell: EngineCell, call: Call) -> GetSamplerResponse:
    """Describe a sampling session."""
    sampler = cell.sampler(call.path["sampler_id"])
    return GetSamplerResponse(
        sampler_id=sampler.sampling_session_id, base_model=sampler.base_model, model_path=sampler.model_path
    )


async def join_sampling_session(cell: EngineCell, call: Call) -> JoinSamplingSessionResponse:
    """Give one more client of a sampling session its number."""
    sampler = cell.sampler(call.message.sampling_session_id)
    sampler.clones += 1
    return JoinSamplingSessionResponse(client_counter=sampler.clones)


async def asample(cell: EngineCell, call: Call) -> UntypedAPIFuture:
    """Sample; requests run in the order they came, whatever their numbers (protocol 7.2)."""
    message = call.message
    _check_offered(message)
    sampler = cell.sampler(message.sampling_session_id)
    number = f"{message.seq_id}" if message.seq_id is not None else f"r{cell.system.rng.getrandbits(64):016x}"
    request_id = f"{sampler.sampling_session_id}:{number}"
    ids = [f"{request_id}:{index}" for index in range(message.num_samples)]
    if not cell.repeated(request_id, call):
        _check_room(cell)
        cell.enqueue(_job(cell, cell.promise(request_id, call, sampler.session_id), sampler, message, ids))
    shown = None if call.options.lacks("sample_sequence_ids") else ids
    return UntypedAPIFuture(request_id=request_id, sample_sequence_ids=shown)


async def stream_sample(cell: EngineCell, call: Call) -> AsyncGenerator[bytes, None]:
    """Sample, and hand the tokens over as they are drawn. It is not repeated: who reads no more gives it up."""
    message = call.message
    _check_offered(message)
    sampler = cell.sampler(message.sampling_session_id)
    _check_room(cell)
    return _pieces(cell, sampler, message, await cell.tokenizer())


async def _pieces(
    cell: EngineCell, sampler: Sampler, message: SampleRequest, tokenizer: Tokenizer
) -> AsyncGenerator[bytes, None]:
    request_id = f"{sampler.sampling_session_id}:stream-{cell.system.rng.getrandbits(64):016x}"
    stream = Stream(request_id, sampler.session_id, tokenizer)
    ids = [f"{request_id}:{index}" for index in range(message.num_samples)]

    def advance(job: SampleJob) -> None:
        if job.drawing is not None:
            stream.advance(job.drawing.answers)

    cell.promises.add(stream)
    try:
        cell.enqueue(_job(cell, stream, sampler, message, ids, advance))
        # Now the reader knows that it was accepted.
        yield STREAM_QUIET
        while (pieces := await stream.more(_QUIET)) or stream.state == "pending":
            yield b"".join(map(encode_chunk, pieces)) or STREAM_QUIET
        if stream.state == "done":
            yield STREAM_END
    finally:
        cell.jobs.withdraw(request_id)
        cell.promises.forget(stream)


def _job(
    cell: EngineCell,
    promise: Promise,
    sampler: Sampler,
    message: SampleRequest,
    ids: Sequence[str],
    progress: Callable[[SampleJob], None] | None = None,
) -> SampleJob:
    seed = message.sampling_params.seed
    seed = cell.system.rng.getrandbits(63) if seed is None else seed

    def prepare(core: Core, job: Job) -> Any:
        adapter = _weights(cell, core, sampler)
        return core.drawing(adapter, message, seed, should_stop=job.should_stop)

    def finish(core: Core, drawing: Any) -> SampleResponse:
        return core.response(drawing, message, seed, ids)

    return SampleJob(promise, prepare, finish, progress)


def _weights(cell: EngineCell, core: Core, sampler: Sampler) -> Any:
    """Return the adapter to sample with, or None for the base model; on the compute thread."""
    if sampler.follows is not None:
        return sampler.follows.published
    if not sampler.loaded:
        sampler.adapter = core.load_checkpoint(_find(cell, sampler.model_path), optimizer=False)
        sampler.loaded = True
    return sampler.adapter


def _find(cell: EngineCell, path: str | None) -> Any:
    """Return a checkpoint's folder; reads the disk. Weights of either kind can be sampled."""
    parsed = ParsedCheckpointTinkerPath.from_tinker_path(path or "")
    kind, _, name = parsed.checkpoint_id.partition("/")
    if kind == "external_weights":
        raise InputError(f"{path}: external weights are for other programs. Sample weights or sampler_weights.")
    cell.store.checkpoint(parsed.training_run_id, kind, name)
    return cell.store.checkpoint_folder(parsed.training_run_id, kind, name)


def _check_room(cell: EngineCell) -> None:
    if len(cell.jobs) >= MAX_WAITING_SAMPLES:
        raise RateLimitError(
            f"{len(cell.jobs)} requests wait for this engine. Send this one again later.",
            status_code=429,
            retry_after=_RETRY_AFTER,
        )


def _check_offered(message: Any) -> None:
    if message.sampling_session_id is None:
        raise BadRequestError(
            "asample: sampling_session_id is missing. Create a sampling session first (create_sampling_session).",
            status_code=400,
        )
    if not 1 <= message.num_samples <= 1024:
        raise BadRequestError(f"asample: num_samples: expected 1 to 1024, got {message.num_samples}.", status_code=400)
    if message.record_stability_info:
        raise BadRequestError("asample: this engine has no record_stability_info. Leave it out.", status_code=400)
