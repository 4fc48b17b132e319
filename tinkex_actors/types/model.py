"""Models on the server: create, describe, unload (protocol 1.7.10, 1.7.12, 2.6)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta
from msgspec.structs import force_setattr

from tinkex_actors.types._record import Record
from tinkex_actors.types.optimizer import AdamOptimizerConfig, LoraConfig, optimizer_config

__all__ = [
    "CreateModelRequest",
    "CreateModelResponse",
    "GetInfoRequest",
    "GetInfoResponse",
    "ModelData",
    "ModelID",
    "UnloadModelRequest",
    "UnloadModelResponse",
]

ModelID = str


class CreateModelRequest(Record, frozen=True, kw_only=True):
    """Body of ``create_model``.

    Args:
        session_id: the session that will own it.
        model_seq_id: 0, 1, 2 ... within the session; a repeat is answered with the same promise.
        base_model: the model to adapt.
        user_metadata: free notes, kept by the server.
        lora_config: the adapter.
        optimizer_config: an ``OptimizerConfig``: Adam's, Dimuon's, or a dict with ``type`` for another optimizer.
    """

    session_id: str
    model_seq_id: Annotated[int, Meta(ge=0)]
    base_model: str
    user_metadata: dict[str, Any] | None = None
    lora_config: LoraConfig | None = None
    optimizer_config: Any = AdamOptimizerConfig()
    type: Literal["create_model"] = "create_model"

    def __post_init__(self) -> None:
        force_setattr(self, "optimizer_config", optimizer_config(type(self).__name__, self.optimizer_config))
        super().__post_init__()


class CreateModelResponse(Record, frozen=True, kw_only=True):
    """The new model's id: ``{session_id}:train:{model_seq_id}``."""

    model_id: str
    type: Literal["create_model"] = "create_model"


class GetInfoRequest(Record, frozen=True, kw_only=True):
    """Body of ``get_info``."""

    model_id: str
    type: Literal["get_info"] = "get_info"


class ModelData(Record, frozen=True, kw_only=True):
    """A model's base: architecture, name and tokenizer, where the server says."""

    arch: str | None = None
    model_name: str | None = None
    tokenizer_id: str | None = None


class GetInfoResponse(Record, frozen=True, kw_only=True):
    """What is known of a model; its base model's name is ``model_data.model_name``."""

    model_data: ModelData
    model_id: str
    type: Literal["get_info"] | None = None
    optimizer_config: Any = AdamOptimizerConfig()
    is_lora: bool | None = None
    lora_rank: int | None = None
    model_name: str | None = None

    def __post_init__(self) -> None:
        force_setattr(self, "optimizer_config", optimizer_config(type(self).__name__, self.optimizer_config))
        super().__post_init__()


class UnloadModelRequest(Record, frozen=True, kw_only=True):
    """Body of ``unload_model`` (protocol appendix B)."""

    model_id: str
    type: Literal["unload_model"] = "unload_model"


class UnloadModelResponse(Record, frozen=True, kw_only=True):
    """The model is gone from memory."""

    model_id: str
    type: Literal["unload_model"] | None = None
