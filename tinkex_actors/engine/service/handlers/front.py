"""Handlers for what a server says about itself, and for what it is told about its clients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinkex_actors.types import (
    ClientConfigResponse,
    ClientDynamicConfigResponse,
    GetServerCapabilitiesResponse,
    HealthResponse,
    SupportedModel,
    TelemetryResponse,
)

if TYPE_CHECKING:
    from tinkex_actors.engine.service.call import Call
    from tinkex_actors.engine.service.cell import EngineCell

__all__ = ["client_config", "dynamic_config", "get_server_capabilities", "healthz", "telemetry"]


async def client_config(cell: EngineCell, call: Call) -> ClientConfigResponse:
    """Answer the flags a client starts with: no proprietary transport, chunks in parallel, plain API keys."""
    return ClientConfigResponse(
        use_pyqwest_transport=False,
        parallel_fwdbwd_chunks=True,
        custom_loss_server_side=True,
        pjwt_auth_enabled=call.options.quirks.wants_jwt,
        sample_use_retrieve_futures=call.options.quirks.session_polls,
        sample_join_sampling_session=call.options.quirks.session_polls,
    )


async def dynamic_config(cell: EngineCell, call: Call) -> ClientDynamicConfigResponse:
    """Answer the flags a client reads again."""
    return ClientDynamicConfigResponse(sample_cancel_enabled=not call.options.lacks("cancel_future"))


async def get_server_capabilities(cell: EngineCell, call: Call) -> GetServerCapabilitiesResponse:
    """Answer the one model this engine serves."""
    record = await cell.catalogue_record()
    model = SupportedModel(
        model_name=cell.name,
        max_context_length=record.context_length,
        trainable=record.installed,
        sampleable=record.installed,
    )
    return GetServerCapabilitiesResponse(supported_models=[model])


async def healthz(cell: EngineCell, call: Call) -> HealthResponse:
    """Say that the engine is up."""
    return HealthResponse()


async def telemetry(cell: EngineCell, call: Call) -> TelemetryResponse:
    """Accept a batch. The engine counts its events by kind and keeps none of them."""
    cell.telemetry_events.update(type(event).__struct_config__.tag for event in call.message.events)
    return TelemetryResponse()
