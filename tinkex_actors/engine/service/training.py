"""Handlers of the training endpoints: each makes a promise and a job; the numeric core does the work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from tinkex_actors.engine.service.state.jobs import Job
from tinkex_actors.engine.service.state.sessions import Model, Sampler
from tinkex_actors.engine.store.store import CheckpointRecord, RunRecord, tinker_path
from tinkex_actors.errors import APIStatusError, BadRequestError, InputError
from tinkex_actors.types import (
    AdamOptimizerConfig,
    CreateModelResponse,
    ForwardBackwardOutput,
    GetInfoResponse,
    LoadWeightsResponse,
    LoraConfig,
    ModelData,
    OptimStepResponse,
    ParsedCheckpointTinkerPath,
    SaveWeightsForSamplerResponseInternal,
    SaveWeightsResponse,
    TensorData,
    UnloadModelResponse,
    UntypedAPIFuture,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tinkex_actors.engine.service.call import Call
    from tinkex_actors.engine.service.cell import EngineCell
    from tinkex_actors.engine.service.compute import Core

__all__ = [
    "create_model",
    "forward_backward",
    "get_info",
    "load_weights",
    "optim_step",
    "save_weights",
    "save_weights_for_sampler",
    "unload_model",
]

# Protocol 13.2: the official client's default.
_DEFAULT_RANK = 32


# --- creation --------------------------------------------------------------------------------------------------------
async def create_model(cell: EngineCell, call: Call) -> UntypedAPIFuture:
    """Create a model with a fresh adapter."""
    message = call.message
    cell.check_base_model(message.base_model)
    _check_optimizer(message.optimizer_config)
    lora = message.lora_config or LoraConfig(rank=_DEFAULT_RANK)
    seed = cell.system.rng.getrandbits(63) if lora.seed is None else lora.seed

    def compute(core: Core, job: Job) -> tuple[RunRecord, Any]:
        run = _run_record(cell, job.promise.model_id, lora, message.user_metadata)
        adapter = core.new_adapter(lora, seed)
        cell.store.write_run(run)
        return run, adapter

    return await _create(cell, call, compute, lambda model: CreateModelResponse(model_id=model.model_id))


async def load_weights(cell: EngineCell, call: Call) -> UntypedAPIFuture:
    """Create a model from a checkpoint, or (the older form) load one into a model."""
    message = call.message
    if message.model_id is None:
        return await _create_from_checkpoint(cell, call)
    model = cell.model(message.model_id)

    def compute(core: Core, job: Job) -> Any:
        _, adapter = _read_checkpoint(cell, core, message.path, optimizer=message.optimizer)
        core.check_same_shape(_ready(model), adapter, message.path)
        return adapter

    def commit(adapter: Any) -> LoadWeightsResponse:
        model.adapter = adapter
        return LoadWeightsResponse(path=message.path, model_id=model.model_id, type="load_weights")

    return cell.in_order(call, model, compute, commit)


async def _create_from_checkpoint(cell: EngineCell, call: Call) -> UntypedAPIFuture:
    message = call.message
    if message.session_id is None or message.model_seq_id is None:
        raise BadRequestError(
            "load_weights: expected session_id and model_seq_id (to create a model) or model_id (to load into one).",
            status_code=400,
        )
    if message.base_model is not None:
        cell.check_base_model(message.base_model)
    if message.optimizer_config is not None:
        _check_optimizer(message.optimizer_config)

    def compute(core: Core, job: Job) -> tuple[RunRecord, Any]:
        record, adapter = _read_checkpoint(cell, core, message.path, optimizer=message.optimizer)
        lora = LoraConfig(
            rank=record.lora_rank,
            train_attn=record.train_attn,
            train_mlp=record.train_mlp,
            train_unembed=record.train_unembed,
        )
        run = _run_record(cell, job.promise.model_id, lora, message.user_metadata)
        cell.store.write_run(run)
        return run, adapter

    return await _create(
        cell,
        call,
        compute,
        lambda model: LoadWeightsResponse(path=message.path, model_id=model.model_id, type="load_weights"),
    )


async def _create(
    cell: EngineCell,
    call: Call,
    compute: Callable[[Core, Job], tuple[RunRecord, Any]],
    answer: Callable[[Model], Any],
) -> UntypedAPIFuture:
    message = call.message
    session = cell.session(message.session_id)
    model_id = f"{message.session_id}:train:{message.model_seq_id}"
    request_id = f"{model_id}:0"
    # The first write to the store: here a second process is refused, before it has trained anything.
    await cell.on_disk(cell.store.claim)
    if not cell.repeated(request_id, call):
        now = cell.wall_clock()
        model = Model(
            model_id=model_id,
            session_id=session.session_id,
            base_model=cell.name,
            created_at=now,
            last_request_at=now,
            user_metadata=message.user_metadata,
        )

        def commit(made: tuple[RunRecord, Any]) -> Any:
            model.run, model.adapter = made
            return answer(model)

        def undo(why: str) -> None:
            model.failure = f"its creation failed ({why})"

        cell.models[model_id] = model
        session.model_ids.append(model_id)
        promise = cell.promise(request_id, call, session.session_id, model_id=model_id)
        cell.enqueue(Job(promise, compute, commit, undo))
    return UntypedAPIFuture(request_id=request_id, model_id=model_id)


# --- steps -----------------------------------------------------------------------------------------------------------
async def forward_backward(cell: EngineCell, call: Call) -> UntypedAPIFuture:
    """Compute a loss over a batch and, unless ``forward_only``, add its gradient to the model's."""
    message = call.message
    model = cell.model(message.model_id)
    given = message.forward_backward_input
    backward = not message.forward_only

    def compute(core: Core, job: Job) -> Any:
        return core.forward_backward(
            _ready(model),
            given.data,
            given.loss_fn,
            given.loss_fn_config,
            backward=backward,
            should_stop=job.should_stop,
        )

    def commit(done: Any) -> ForwardBackwardOutput:
        if backward:
            model.adapter = done.adapter
        outputs = [{"logprobs": TensorData.from_numpy(logprobs)} for logprobs in done.logprobs]
        return ForwardBackwardOutput("ArrayRecord", outputs, done.metrics)

    return cell.in_order(call, model, compute, commit)


async def optim_step(cell: EngineCell, call: Call) -> UntypedAPIFuture:
    """Take one AdamW step with the gradient that has gathered."""
    message = call.message
    model = cell.model(message.model_id)

    def compute(core: Core, job: Job) -> Any:
        if message.adam_params is None:
            kind = (message.optimizer_params or {}).get("type")
            raise InputError(f"optim_step: this engine has AdamW only, got optimizer {kind!r}. Pass AdamParams(...).")
        return core.optim_step(_ready(model), message.adam_params)

    def commit(done: tuple[Any, dict[str, float]]) -> OptimStepResponse:
        model.adapter, metrics = done
        return OptimStepResponse(metrics=metrics)

    return cell.in_order(call, model, compute, commit)


# --- saving ----------------------------------------------------------------------------------------------------------
async def save_weights(cell: EngineCell, call: Call) -> UntypedAPIFuture:
    """Save weights and optimizer state under ``tinker://{model_id}/weights/{name}``."""
    message = call.message
    model = cell.model(message.model_id)
    name = message.path if message.path is not None else f"{message.seq_id}"
    await _check_name(cell, model, message, "weights", name, overwrite=message.overwrite)

    def compute(core: Core, job: Job) -> str:
        return _save(cell, core, model, "weights", name, message, overwrite=message.overwrite)

    def commit(path: str) -> SaveWeightsResponse:
        return SaveWeightsResponse(path=path, type="save_weights")

    return cell.in_order(call, model, compute, commit)


async def save_weights_for_sampler(cell: EngineCell, call: Call) -> UntypedAPIFuture:
    """Save weights for sampling: named, as a checkpoint; unnamed, as a new sampling session on what they are then."""
    message = call.message
    model = cell.model(message.model_id)
    if message.path is None:
        # No digest: a client that sends this again may give it another sampling_session_seq_id (protocol 1.7.16).
        compute, commit = _snapshot(cell, model, message)
        return cell.in_order(call, model, compute, commit, digest=b"")
    name = message.path
    await _check_name(cell, model, message, "sampler_weights", name, overwrite=False)

    def save(core: Core, job: Job) -> str:
        return _save(cell, core, model, "sampler_weights", name, message, overwrite=False)

    def answer(path: str) -> SaveWeightsForSamplerResponseInternal:
        return SaveWeightsForSamplerResponseInternal(path=path, type="save_weights_for_sampler")

    return cell.in_order(call, model, save, answer)


def _snapshot(
    cell: EngineCell, model: Model, message: Any
) -> tuple[Callable[[Core, Job], Any], Callable[[Any], SaveWeightsForSamplerResponseInternal]]:
    def compute(core: Core, job: Job) -> Any:
        return _ready(model).weights_only()

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


async def _check_name(cell: EngineCell, model: Model, message: Any, kind: str, name: str, *, overwrite: bool) -> None:
    """Refuse a save that cannot succeed, at once and for its number; a repeated request was let through before."""
    if message.seq_id is not None and cell.promises.known(f"{model.model_id}:{message.seq_id}"):
        return
    try:
        await cell.on_disk(cell.store.check_new, model.model_id, kind, name, message.ttl_seconds, overwrite=overwrite)
    except APIStatusError as refusal:
        cell.reject(model.model_id, message.seq_id, refusal)
        raise
    except InputError as problem:
        unusable = BadRequestError(str(problem), status_code=400)
        cell.reject(model.model_id, message.seq_id, unusable)
        raise unusable from problem


def _save(cell: EngineCell, core: Core, model: Model, kind: str, name: str, message: Any, *, overwrite: bool) -> str:
    adapter, run = _ready(model), model.run
    assert run is not None
    cell.store.check_new(model.model_id, kind, name, message.ttl_seconds, overwrite=overwrite)
    optimizer = kind == "weights"
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
        has_optimizer=optimizer,
        user_metadata=message.user_metadata,
    )
    cell.store.put(record, message.ttl_seconds, lambda folder: core.save(folder, adapter, optimizer=optimizer))
    cell.store.write_run(msgspec.structs.replace(run, last_request_time=model.last_request_at))
    return record.tinker_path


# --- about a model ---------------------------------------------------------------------------------------------------
async def get_info(cell: EngineCell, call: Call) -> GetInfoResponse:
    """Describe a model."""
    model = cell.model(call.message.model_id)
    return GetInfoResponse(
        model_data=ModelData(
            arch=cell.names.architecture, model_name=model.base_model, tokenizer_id=cell.names.tokenizer_id
        ),
        model_id=model.model_id,
        type="get_info",
        is_lora=True,
        lora_rank=model.run.lora_rank if model.run else None,
        model_name=model.base_model,
    )


async def unload_model(cell: EngineCell, call: Call) -> UntypedAPIFuture:
    """Forget a model once what was asked of it so far is done; its checkpoints stay."""
    model_id = call.message.model_id
    request_id = f"{model_id}:unload"
    if not cell.repeated(request_id, call):
        model = cell.model(model_id)

        def commit(_: None) -> UnloadModelResponse:
            model.adapter = None
            return UnloadModelResponse(model_id=model_id, type="unload_model")

        model.failure = "it was unloaded"
        promise = cell.promise(request_id, call, model.session_id, model_id=model_id)
        cell.enqueue(Job(promise, lambda core, job: None, commit))
    return UntypedAPIFuture(request_id=request_id, model_id=model_id)


# --- shared ----------------------------------------------------------------------------------------------------------
def _ready(model: Model) -> Any:
    """Return the model's adapter, on the compute thread, where everything before has run."""
    if model.adapter is None:
        raise InputError(f"model {model.model_id} cannot be used: {model.failure}. Create a new one.")
    return model.adapter


def _run_record(
    cell: EngineCell, model_id: str | None, lora: LoraConfig, user_metadata: dict[str, Any] | None
) -> RunRecord:
    assert model_id is not None
    now = cell.wall_clock()
    return RunRecord(
        training_run_id=model_id,
        base_model=cell.name,
        lora_rank=lora.rank,
        train_attn=lora.train_attn,
        train_mlp=lora.train_mlp,
        train_unembed=lora.train_unembed,
        created_at=now,
        last_request_time=now,
        user_metadata=user_metadata,
    )


def _read_checkpoint(cell: EngineCell, core: Core, path: str, *, optimizer: bool) -> tuple[CheckpointRecord, Any]:
    """Read training weights from the store, on the compute thread; the message of every failure has the path."""
    parsed = ParsedCheckpointTinkerPath.from_tinker_path(path)
    kind, _, name = parsed.checkpoint_id.partition("/")
    if kind != "weights":
        fix = tinker_path(parsed.training_run_id, "weights", "NAME")
        raise InputError(
            f"{path}: expected training weights ({fix}), got kind {kind!r}. Save them with save_state(NAME)."
        )
    record = cell.store.checkpoint(parsed.training_run_id, kind, name)
    if optimizer and not record.has_optimizer:
        raise InputError(f"{path} has no optimizer state. Load it without (load_state).")
    folder = cell.store.checkpoint_folder(parsed.training_run_id, kind, name)
    return record, core.load_checkpoint(folder, optimizer=optimizer)


def _check_optimizer(config: Any) -> None:
    if not isinstance(config, AdamOptimizerConfig) and config != {"type": "adamw"}:
        raise BadRequestError(
            f"optimizer_config: this engine has AdamW only, got {config!r}. Leave it out.",
            status_code=400,
        )
