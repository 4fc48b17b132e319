"""Saving, loading and describing weights (protocol 1.7.11, 1.7.15, 1.7.16, 2.6, 2.7)."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from tinkex_actors.types.optimizer import AdamOptimizerConfig

__all__ = [
    "LoadWeightsRequest",
    "LoadWeightsResponse",
    "SamplingClientKind",
    "SaveWeightsForSamplerRequest",
    "SaveWeightsForSamplerResponse",
    "SaveWeightsForSamplerResponseInternal",
    "SaveWeightsRequest",
    "SaveWeightsResponse",
    "WeightsInfoRequest",
    "WeightsInfoResponse",
]

SamplingClientKind = Literal["snapshot", "inflight"]


class LoadWeightsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Body of ``load_weights``; addresses a new model or, the older way, one that exists.

    Args:
        path: tinker path of training weights.
        optimizer: restore the optimizer's state too.
        session_id, model_seq_id, base_model, user_metadata, optimizer_config: of the model to create.
        model_id, seq_id: the existing model, and the request's number in its order.
        weights_access_token: of another account that owns the checkpoint.
    """

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

    def __repr__(self) -> str:
        target = f"model_id={self.model_id!r}" if self.model_id else f"session_id={self.session_id!r}"
        # weights_access_token is a secret and stays out.
        return f"LoadWeightsRequest(path={self.path!r}, optimizer={self.optimizer}, {target}, seq_id={self.seq_id})"


class LoadWeightsResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The weights are in place."""

    path: str | None = None
    model_id: str | None = None
    type: Literal["load_weights"] | None = None


class SaveWeightsRequest(msgspec.Struct, frozen=True, kw_only=True):
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


class SaveWeightsResponse(msgspec.Struct, frozen=True, kw_only=True):
    """Where the weights are: ``tinker://{run}/weights/{name}``."""

    path: str
    type: Literal["save_weights"] | None = None


class SaveWeightsForSamplerRequest(msgspec.Struct, frozen=True, kw_only=True):
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


class SaveWeightsForSamplerResponseInternal(msgspec.Struct, frozen=True, kw_only=True):
    """What the wire answers: ``path`` for a named save, ``sampling_session_id`` for an unnamed one."""

    path: str | None = None
    sampling_session_id: str | None = None
    type: Literal["save_weights_for_sampler"] | None = None


class SaveWeightsForSamplerResponse(msgspec.Struct, frozen=True, kw_only=True):
    """Where the sampler's weights are: ``tinker://{run}/sampler_weights/{name}``."""

    path: str


class WeightsInfoRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Body of ``weights_info``."""

    tinker_path: str


class WeightsInfoResponse(msgspec.Struct, frozen=True, kw_only=True):
    """What a checkpoint needs to be loaded: its base model and adapter."""

    base_model: str
    is_lora: bool
    optimizer_config: Any = AdamOptimizerConfig()
    lora_rank: int | None = None
    train_unembed: bool | None = None
    train_mlp: bool | None = None
    train_attn: bool | None = None

    def __post_init__(self) -> None:
        if self.optimizer_config == {"type": "adamw"}:
            msgspec.structs.force_setattr(self, "optimizer_config", AdamOptimizerConfig())
