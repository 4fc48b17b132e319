"""How clients come to be: a few requests, then an object that needs no network to exist (protocol 6.1, 7.1)."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import msgspec

from tinkex_actors.actors.dispatcher import SamplerSession
from tinkex_actors.clients.paths import checkpoint_path
from tinkex_actors.clients.sampling import SamplingClient
from tinkex_actors.clients.training import TrainingClient
from tinkex_actors.config import RetryConfig
from tinkex_actors.errors import (
    APIStatusError,
    InputError,
    NotFoundError,
    RemoteWireError,
    UnsupportedByServerError,
)
from tinkex_actors.transport import TokenizerSource
from tinkex_actors.types import (
    CreateModelRequest,
    CreateSamplingSessionRequest,
    GetInfoRequest,
    GetInfoResponse,
    JoinSamplingSessionRequest,
    LoadWeightsRequest,
    LoraConfig,
    ModelData,
    WeightsInfoRequest,
)
from tinkex_actors.wire.routes import ROUTES

if TYPE_CHECKING:
    from tinkex_actors.actors.futures import ApiFuture
    from tinkex_actors.clients.backbone import Backbone
    from tinkex_actors.clients.sampling import SamplerHandle
    from tinkex_actors.tokenizers import Tokenizer

__all__ = [
    "create_model",
    "create_model_from_state",
    "create_sampler",
    "create_sampler_of_handle",
    "sampler_of_save",
    "training_client",
]

_RANK = 32


def create_model(
    core: Backbone, base_model: str, lora: LoraConfig, user_metadata: dict[str, str] | None, optimizer_config: Any
) -> ApiFuture[TrainingClient]:
    """Create a model with a fresh adapter."""
    number = next(core.session.model_numbers)

    async def run(future: ApiFuture[Any]) -> TrainingClient:
        session_id = await core.session.ready()
        model_id = await _create(core, future, session_id, number, base_model, lora, user_metadata, optimizer_config)
        return await training_client(core, model_id, base_model)

    return core.courier.send("create_lora_training_client", run, base_model=base_model, model_seq_id=number)


def create_model_from_state(
    core: Backbone,
    operation: str,
    path: str,
    *,
    optimizer: bool,
    user_metadata: dict[str, str] | None,
    base_model: str | None,
    optimizer_config: Any,
    weights_access_token: str | None,
) -> ApiFuture[TrainingClient]:
    """Create a model from a checkpoint of training weights.

    The hosted service does it in one request, which is the model's creation. Servers of the JSON dialect are asked
    for the checkpoint's shape, then to create, then to load.
    """
    parsed = checkpoint_path(path)
    if parsed is not None and parsed.checkpoint_type != "training":
        raise InputError(
            f"{path!r} is a {parsed.checkpoint_type} checkpoint; expected training weights "
            f"(tinker://RUN/weights/NAME). "
            "Sampler weights are for create_sampling_client(model_path=...)."
        )
    number = next(core.session.model_numbers)

    async def run(future: ApiFuture[Any]) -> TrainingClient:
        session_id = await core.session.ready()
        message = LoadWeightsRequest(
            path=path,
            optimizer=optimizer,
            session_id=session_id,
            model_seq_id=number,
            base_model=base_model,
            user_metadata=user_metadata,
            optimizer_config=optimizer_config,
            weights_access_token=weights_access_token,
        )
        if core.link.dialect.create_by_load and await _create_by_load(core, future, message):
            # Protocol 0.3: the client composes the id of a model that was created by loading.
            return await training_client(core, f"{session_id}:train:{number}", base_model)
        return await _create_then_load(core, future, message)

    return core.courier.send(operation, run, path=path, model_seq_id=number)


def create_sampler(
    core: Backbone,
    operation: str,
    *,
    model_path: str | None,
    base_model: str | None,
    retry_config: RetryConfig | None,
) -> ApiFuture[SamplingClient]:
    """Create a sampling session on saved weights or on a base model."""
    if (model_path is None) == (base_model is None):
        raise InputError(
            f"{operation}: expected either model_path or base_model, got "
            + ("neither." if model_path is None else "both.")
            + " Pass model_path='tinker://...' for saved weights, or base_model='NAME' for the base itself."
        )
    if model_path is not None:
        checkpoint_path(model_path)
    number = next(core.session.sampling_numbers)

    async def run(_: ApiFuture[Any]) -> SamplingClient:
        session_id = await core.session.ready()
        answer = await core.link.exchange(
            ROUTES["create_sampling_session"],
            CreateSamplingSessionRequest(
                session_id=session_id,
                sampling_session_seq_id=number,
                base_model=base_model,
                model_path=model_path,
            ),
            idempotency_key=f"{session_id}:sampler:{number}",
        )
        name = base_model
        if name is None:
            name = await _base_of_sampler(core, answer.sampling_session_id)
        return await sampler_of_save(core, answer.sampling_session_id, name, retry_config)

    return core.courier.send(operation, run, model_path=model_path, base_model=base_model)


def create_sampler_of_handle(
    core: Backbone, handle: SamplerHandle, retry_config: RetryConfig | None
) -> ApiFuture[SamplingClient]:
    """Make a client of a sampling session that another process made, with numbers of its own (protocol 7.2, 7.9)."""
    if handle.base_url not in ("", core.config.shown_url):
        raise InputError(
            f"create_sampling_client_from_handle: the handle is of {handle.base_url}, and this service of "
            f"{core.config.shown_url}. Use ServiceClient(base_url={handle.base_url!r})."
        )
    name = handle.sampling_session_id

    async def run(_: ApiFuture[Any]) -> SamplingClient:
        await core.session.ready()
        # Where the server gives no numbers away, chance does, as with the official client; not the system's seeded one,
        # which other processes have too.
        clone = uuid.uuid4().int % 1_000_000_000 + 1
        if core.session.flags.sample_join_sampling_session:
            joined = await core.link.exchange(
                ROUTES["join_sampling_session"], JoinSamplingSessionRequest(sampling_session_id=name)
            )
            clone = joined.client_counter
        return await sampler_of_save(core, name, handle.base_model, retry_config, clone=clone)

    return core.courier.send("create_sampling_client_from_handle", run, sampling_session_id=name)


async def sampler_of_save(
    core: Backbone,
    sampling_session_id: str,
    base_model: str | None,
    retry_config: RetryConfig | None,
    *,
    clone: int = 0,
) -> SamplingClient:
    """Make a client of a sampling session that exists; ``clone`` says whose block of numbers it uses."""
    retry, flags = retry_config or RetryConfig(), core.session.flags
    if flags.sample_no_retries or not flags.sample_enable_stuck_detection:
        retry = msgspec.structs.replace(
            retry,
            enable_retry_logic=retry.enable_retry_logic and not flags.sample_no_retries,
            enable_stuck_detection=retry.enable_stuck_detection and flags.sample_enable_stuck_detection,
        )
    session = SamplerSession(sampling_session_id, retry, clone=clone)
    return SamplingClient(core, session, base_model=base_model, tokenizer=await _local_tokenizer(core, base_model))


async def _create(
    core: Backbone,
    future: ApiFuture[Any],
    session_id: str,
    number: int,
    base_model: str,
    lora: LoraConfig,
    user_metadata: dict[str, str] | None,
    optimizer_config: Any,
) -> str:
    route = ROUTES["create_model"]
    options = {} if optimizer_config is None else {"optimizer_config": optimizer_config}
    promise = await core.link.exchange(
        route,
        CreateModelRequest(
            session_id=session_id,
            model_seq_id=number,
            base_model=base_model,
            user_metadata=user_metadata,
            lora_config=lora,
            **options,
        ),
        idempotency_key=f"{session_id}:model:{number}",
    )
    created = await core.result_of(promise, route, future)
    model_id: str = created.model_id
    return model_id


async def _create_by_load(core: Backbone, future: ApiFuture[Any], message: LoadWeightsRequest) -> bool:
    """Create a model by loading a checkpoint; False where this server was found not to."""
    route = ROUTES["load_weights"]
    key = f"{message.session_id}:model:{message.model_seq_id}"
    try:
        promise = await core.link.exchange(route, message, idempotency_key=key)
    except APIStatusError:
        if core.link.dialect.create_by_load:
            raise
        return False
    await core.result_of(promise, route, future)
    return True


async def _create_then_load(core: Backbone, future: ApiFuture[Any], wanted: LoadWeightsRequest) -> TrainingClient:
    path, session_id, number = wanted.path, str(wanted.session_id), wanted.model_seq_id or 0
    info = await core.link.exchange(ROUTES["weights_info"], WeightsInfoRequest(tinker_path=path))
    lora = LoraConfig(
        rank=info.lora_rank or _RANK,
        train_unembed=info.train_unembed is not False,
        train_mlp=info.train_mlp is not False,
        train_attn=info.train_attn is not False,
    )
    name = wanted.base_model or info.base_model
    model_id = await _create(
        core, future, session_id, number, name, lora, wanted.user_metadata, wanted.optimizer_config
    )
    client = await training_client(core, model_id, name)
    await (client.load_state_with_optimizer(path) if wanted.optimizer else client.load_state(path))
    return client


async def training_client(core: Backbone, model_id: str, base_model: str | None) -> TrainingClient:
    """Make a client of a model that exists; ``base_model`` is for servers that do not describe their models."""
    try:
        info = await core.link.exchange(ROUTES["get_info"], GetInfoRequest(model_id=model_id))
    except UnsupportedByServerError:
        if base_model is None:
            raise
        info = GetInfoResponse(model_data=ModelData(model_name=base_model), model_id=model_id)
    name = info.model_data.model_name or info.model_name or base_model
    if name is None:
        raise RemoteWireError(
            f"get_info of {model_id} names no base model (model_data.model_name); it has to (protocol 2.6)."
        )
    return TrainingClient(
        core, core.trainer(model_id), info, base_model=name, tokenizer=await _local_tokenizer(core, name)
    )


async def _base_of_sampler(core: Backbone, sampling_session_id: str) -> str | None:
    """The base model's name, which only the tokenizer needs; None where the server does not describe its samplers."""
    try:
        sampler = await core.link.exchange(ROUTES["get_sampler"], path={"sampler_id": sampling_session_id})
    except (NotFoundError, UnsupportedByServerError):
        return None
    name: str = sampler.base_model
    return name


async def _local_tokenizer(core: Backbone, base_model: str | None) -> Tokenizer | None:
    if base_model is not None and isinstance(core.transport, TokenizerSource):
        return await core.transport.tokenizer(base_model)
    return None
