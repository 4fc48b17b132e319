"""Saving, loading and describing weights (protocol 1.7.11, 1.7.15, 1.7.16, 2.6, 2.7)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import quote

from msgspec import Meta
from msgspec.structs import force_setattr

from tinkex_actors.types._record import Record
from tinkex_actors.types.optimizer import AdamOptimizerConfig, optimizer_config
from tinkex_actors.types.rest.checkpoints import ParsedCheckpointTinkerPath

__all__ = [
    "LoadWeightsRequest",
    "LoadWeightsResponse",
    "SamplingClientKind",
    "SaveWeightsExternalRequest",
    "SaveWeightsExternalResponse",
    "SaveWeightsExternalResponseInternal",
    "SaveWeightsForSamplerRequest",
    "SaveWeightsForSamplerResponse",
    "SaveWeightsForSamplerResponseInternal",
    "SaveWeightsRequest",
    "SaveWeightsResponse",
    "WeightsInfoRequest",
    "WeightsInfoResponse",
]

SamplingClientKind = Literal["snapshot", "inflight"]

_CONSOLE = "https://tinker.thinkingmachines.ai"


def _console_url(path: str) -> str:
    parsed = ParsedCheckpointTinkerPath.from_tinker_path(path)
    return f"{_CONSOLE}/checkpoints/{parsed.training_run_id}/{quote(parsed.checkpoint_id, safe='')}"


class LoadWeightsRequest(Record, frozen=True, kw_only=True):
    """Body of ``load_weights``; addresses a new model or, the older way, one that exists.

    Args:
        path: tinker path of training weights.
        optimizer: restore the optimizer's state too.
        session_id, model_seq_id, base_model, user_metadata, optimizer_config: of the model to create.
        model_id, seq_id: the existing model, and the request's number in its order.
        weights_access_token: of another account that owns the checkpoint.
    """

    _secrets: ClassVar[tuple[str, ...]] = ("weights_access_token",)

    path: str
    optimizer: bool
    session_id: str | None = None
    model_seq_id: int | None = None
    base_model: str | None = None
    user_metadata: dict[str, Any] | None = None
    optimizer_config: Any = None
    model_id: str | None = None
    seq_id: int | None = None
    weights_access_token: str | None = None
    type: Literal["load_weights"] = "load_weights"

    def __post_init__(self) -> None:
        if self.optimizer_config is not None:
            force_setattr(self, "optimizer_config", optimizer_config("LoadWeightsRequest", self.optimizer_config))
        super().__post_init__()


class LoadWeightsResponse(Record, frozen=True, kw_only=True):
    """The weights are in place."""

    path: str | None = None
    model_id: str | None = None
    type: Literal["load_weights"] | None = None


class SaveWeightsRequest(Record, frozen=True, kw_only=True):
    """Body of ``save_weights``.

    Args:
        model_id: the model.
        path: the checkpoint's name.
        seq_id: the request's number in the model's order.
        ttl_seconds: how long to keep it; None keeps it.
        overwrite: replace a checkpoint of that name.
        user_metadata: free notes, kept by the server.
    """

    model_id: str
    path: str | None = None
    seq_id: int | None = None
    ttl_seconds: int | None = None
    overwrite: bool = False
    user_metadata: dict[str, str] | None = None
    type: Literal["save_weights"] = "save_weights"


class SaveWeightsResponse(Record, frozen=True, kw_only=True):
    """Where the weights are: ``tinker://{run}/weights/{name}``."""

    path: str
    type: Literal["save_weights"] | None = None

    def get_console_url(self) -> str:
        """Return the checkpoint's page in the hosted console (protocol 5.11)."""
        return _console_url(self.path)


class SaveWeightsForSamplerRequest(Record, frozen=True, kw_only=True):
    """Body of ``save_weights_for_sampler``: named by ``path``, or unnamed, which makes a sampling session too.

    Args:
        model_id: the model.
        path: the checkpoint's name (named save).
        sampling_session_seq_id: the new sampling session's number (unnamed save).
        kind: ``snapshot`` for fixed weights, ``inflight`` for the model's moving ones (protocol 2.9).
        seq_id: the request's number in the model's order.
        ttl_seconds, user_metadata: of a named save.
    """

    model_id: str
    path: str | None = None
    sampling_session_seq_id: int | None = None
    kind: SamplingClientKind = "snapshot"
    seq_id: int | None = None
    ttl_seconds: int | None = None
    user_metadata: dict[str, str] | None = None
    type: Literal["save_weights_for_sampler"] = "save_weights_for_sampler"


class SaveWeightsForSamplerResponseInternal(Record, frozen=True, kw_only=True):
    """What the wire answers: ``path`` for a named save, ``sampling_session_id`` for an unnamed one."""

    path: str | None = None
    sampling_session_id: str | None = None
    type: Literal["save_weights_for_sampler"] | None = None


class SaveWeightsForSamplerResponse(Record, frozen=True, kw_only=True):
    """Where the sampler's weights are: ``tinker://{run}/sampler_weights/{name}``."""

    path: str
    type: Literal["save_weights_for_sampler"] | None = None

    def get_console_url(self) -> str:
        """Return the checkpoint's page in the hosted console (protocol 5.11)."""
        return _console_url(self.path)

    def get_playground_url(self) -> str:
        """Return the hosted page to talk to these weights (protocol 5.11)."""
        return f"{_CONSOLE}/playground?mode=checkpoint&checkpoint={quote(self.path, safe='')}"


class SaveWeightsExternalRequest(Record, frozen=True, kw_only=True):
    """Body of ``save_weights_external``: a checkpoint as files that can be downloaded one by one.

    Args:
        model_id: the model.
        path: the checkpoint's name.
        seq_id: the request's number in the model's order.
        ttl_seconds: how long to keep it; None keeps it.
        age_encryption_recipients: at most 10 ``age1...`` or SSH public keys; the files are encrypted for them.
    """

    model_id: str
    path: str
    seq_id: int | None = None
    ttl_seconds: int | None = None
    age_encryption_recipients: Annotated[list[str], Meta(max_length=10)] | None = None
    type: Literal["save_weights_external"] = "save_weights_external"


class SaveWeightsExternalResponseInternal(Record, frozen=True, kw_only=True):
    """What the wire answers."""

    path: str | None = None
    size_bytes: int | None = None
    type: Literal["save_weights_external"] | None = None


class SaveWeightsExternalResponse(Record, frozen=True, kw_only=True):
    """Where the files are listed: ``tinker://{run}/external_weights/{name}``."""

    path: str
    type: Literal["save_weights_external"] | None = None


class WeightsInfoRequest(Record, frozen=True, kw_only=True):
    """Body of ``weights_info``."""

    tinker_path: str


class WeightsInfoResponse(Record, frozen=True, kw_only=True):
    """What a checkpoint needs to be loaded: its base model and adapter."""

    base_model: str
    is_lora: bool
    optimizer_config: Any = AdamOptimizerConfig()
    lora_rank: int | None = None
    train_unembed: bool | None = None
    train_mlp: bool | None = None
    train_attn: bool | None = None

    def __post_init__(self) -> None:
        force_setattr(self, "optimizer_config", optimizer_config("WeightsInfoResponse", self.optimizer_config))
        super().__post_init__()
