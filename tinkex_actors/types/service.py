"""What a server says about itself: flags, models, health (protocol 1.7.1, 1.7.2, 1.7.7, 1.7.8, 5.2, 5.3)."""

from __future__ import annotations

from typing import Literal

from tinkex_actors.types._record import Record

__all__ = [
    "ClientConfigRequest",
    "ClientConfigResponse",
    "ClientDynamicConfigResponse",
    "GetServerCapabilitiesResponse",
    "HealthResponse",
    "SupportedModel",
]


class ClientConfigRequest(Record, frozen=True, kw_only=True):
    """Body of ``client/config`` and ``client/dynamic_config``."""

    sdk_version: str


class ClientConfigResponse(Record, frozen=True, kw_only=True):
    """Flags read once for each client; the defaults are those of protocol 5.2. Sizes are in bytes."""

    pjwt_auth_enabled: bool = False
    credential_default_source: str = "api_key"
    sample_dispatch_bytes_semaphore_size: int = 10_485_760
    inflight_response_bytes_semaphore_size: int = 52_428_800
    parallel_fwdbwd_chunks: bool = True
    proto_compress_fwdbwd: bool = False
    fwdbwd_max_chunk_len: int = 1024
    fwdbwd_max_chunk_bytes_count: int = 5_000_000
    fwdbwd_dispatch_bytes_semaphore_size: int = 50_000_000
    billing_exception_max_pause_duration_sec: int = 3600
    sample_no_retries: bool = False
    sample_enable_stuck_detection: bool = True
    sample_max_concurrent_requests: int = 2000
    use_pyqwest_transport: bool = True
    sample_use_retrieve_futures: bool = False
    custom_loss_server_side: bool = False
    sample_join_sampling_session: bool = False


class ClientDynamicConfigResponse(Record, frozen=True, kw_only=True):
    """Flags read again every ``refresh_interval_sec`` seconds (protocol 5.3)."""

    refresh_interval_sec: float = 300
    sample_cancel_enabled: bool = False
    sample_cancel_max_batch_size: int = 64


class SupportedModel(Record, frozen=True, kw_only=True):
    """A model the server has. None: the server does not say.

    Args:
        model_name: what to create a model with.
        max_context_length: in tokens.
        trainable: whether it can be fine-tuned.
        sampleable: whether it can be sampled.
        model_id: a second name that some servers have.
        arch: the kind of architecture.
    """

    model_name: str | None = None
    max_context_length: int | None = None
    trainable: bool | None = None
    sampleable: bool | None = None
    model_id: str | None = None
    arch: str | None = None


class GetServerCapabilitiesResponse(Record, frozen=True, kw_only=True):
    """The models a server has."""

    supported_models: list[SupportedModel]


class HealthResponse(Record, frozen=True, kw_only=True):
    """The server is up."""

    status: Literal["ok"] = "ok"
