"""Handlers that make, load, train and describe models: they make promises and jobs, the numeric core does the work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinkex_actors.engine.service.state.jobs import Job
from tinkex_actors.engine.service.state.sessions import Model
from tinkex_actors.engine.store.store import CheckpointRecord, RunRecord, tinker_path
from tinkex_actors.errors import BadRequestError, InputError
from tinkex_actors.types import (
    AdamOptimizerConfig,
    CreateCustomLossResponse,
    CreateModelResponse,
    ForwardBackwardOutput,
    GetInfoResponse,
    LoadWeightsResponse,
    LoraConfig,
    ModelData,
    OptimStepResponse,
    ParsedCheckpointTinkerPath,
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
    "create_custom_loss",
    "create_model",
    "forward_backward",
    "get_info",
    "load_weights",
    "optim_step",
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
    project_id = cell.session(message.session_id).project_id

    def compute(core: Core, job: Job) -> tuple[RunRecord, Any]:
        run = _run_record(cell, job.promise.model_id, lora, message.user_metadata, project_id)
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
        core.check_same_shape(model.ready(), adapter, message.path)
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
    project_id = cell.session(message.session_id).project_id

    def compute(core: Core, job: Job) -> tuple[RunRecord, Any]:
        record, adapter = _read_checkpoint(cell, core, message.path, optimizer=message.optimizer)
        lora = LoraConfig(
            rank=record.lora_rank,
            train_attn=record.train_attn,
            train_mlp=record.train_mlp,
            train_unembed=record.train_unembed,
        )
        run = _run_record(cell, job.promise.model_id, lora, message.user_metadata, project_id)
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
    model_id = f"{message.session_id}:train:{message.model_seq_id}"
    request_id = f"{model_id}:0"
    cell.session(message.session_id)
    # The first write to the store: here a second process is refused, before it has trained anything.
    await cell.on_disk(cell.store.claim)
    # Looked up only now: it may have ended in the meantime.
    session = cell.session(message.session_id)
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


async def create_custom_loss(cell: EngineCell, call: Call) -> UntypedAPIFuture:
    """Check an uploaded loss and keep it for the session's models (protocol 1.7.18)."""
    message = call.message
    session = cell.session(message.session_id)
    loss_id = f"{message.session_id}:loss:{message.custom_loss_seq_id}"
    if not cell.repeated(loss_id, call):

        def commit(loss: Any) -> CreateCustomLossResponse:
            session.custom_losses[loss_id] = loss
            return CreateCustomLossResponse(loss_id=loss_id)

        promise = cell.promise(loss_id, call, session.session_id)
        cell.enqueue(Job(promise, lambda core, job: core.graph_loss(message), commit))
    return UntypedAPIFuture(request_id=loss_id)


# --- steps -----------------------------------------------------------------------------------------------------------
async def forward_backward(cell: EngineCell, call: Call) -> UntypedAPIFuture:
    """Compute a loss over a batch and, unless ``forward_only``, add its gradient to the model's."""
    message = call.message
    model = cell.model(message.model_id)
    given = message.forward_backward_input
    backward = not message.forward_only
    losses = cell.sessions.find(model.session_id).custom_losses

    def compute(core: Core, job: Job) -> Any:
        return core.forward_backward(
            model.ready(),
            given.data,
            given.loss_fn,
            given.loss_fn_config,
            custom_losses=losses,
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
            other = message.optimizer_params
            kind = other.get("type") if isinstance(other, dict) else getattr(other, "type", None)
            raise InputError(f"optim_step: this engine has AdamW only, got optimizer {kind!r}. Pass AdamParams(...).")
        return core.optim_step(model.ready(), message.adam_params)

    def commit(done: tuple[Any, dict[str, float]]) -> OptimStepResponse:
        model.adapter, metrics = done
        return OptimStepResponse(metrics=metrics)

    return cell.in_order(call, model, compute, commit)


# --- about a model ---------------------------------------------------------------------------------------------------
async def get_info(cell: EngineCell, call: Call) -> GetInfoResponse:
    """Describe a model."""
    model = cell.model(call.message.model_id)
    record = await cell.catalogue_record()
    return GetInfoResponse(
        model_data=ModelData(
            arch=record.architecture, model_name=model.base_model, tokenizer_id=cell.names.tokenizer_id
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
def _run_record(
    cell: EngineCell,
    model_id: str | None,
    lora: LoraConfig,
    user_metadata: dict[str, Any] | None,
    project_id: str | None,
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
        project_id=project_id,
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
