"""Every endpoint, one row each (protocol 1.6).

To add an endpoint, add its types to ``types`` and a row here; both directions of the codec work from the row.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from tinkex_actors import types

__all__ = ["PREFIX", "ROUTES", "Route"]

PREFIX: Final = "/api/v1"


class Route(msgspec.Struct, frozen=True):
    """An endpoint.

    Args:
        name: ours, unique.
        method: the HTTP method.
        path: below ``/api/v1``; ``{name}`` is one segment, ``{checkpoint_id}`` two (protocol 0.3).
        request: the body's type, or for ``GET`` the query's; None when there is neither.
        response: the answer's type; None when the answer is not looked at. Of an asynchronous endpoint, its promise.
        result: what the promise of an asynchronous endpoint turns into; None for the others.
        request_type: the value of ``X-Tinker-Request-Type`` while polling that promise.
        pool: connections to use (protocol 1.4).
        timeout: seconds (protocol 1.6, column T).
        protobuf_request: the hosted dialect sends the body as protobuf.
        protobuf_result: the hosted dialect asks for the result as protobuf.
        sends_null: None is sent as ``null`` instead of being left out (protocol 1.1).
        located: a redirect is the answer, not followed: its address, and when that stops to work.
        streamed: the answer comes in pieces, as server-sent events (:mod:`tinkex_actors.wire.streams`); ``timeout`` is
            then the longest silence between two of them.
        headers: what is sent with every request of this endpoint.
        header_fields: fields of the message that travel as headers, never in the body.
    """

    name: str
    method: str
    path: str
    request: Any = None
    response: Any = None
    result: Any = None
    request_type: str = ""
    pool: str = "train"
    timeout: float = 60.0
    protobuf_request: bool = False
    protobuf_result: bool = False
    sends_null: bool = False
    located: bool = False
    streamed: bool = False
    headers: dict[str, str] = {}
    header_fields: dict[str, str] = {}

    @property
    def asynchronous(self) -> bool:
        """Whether the endpoint answers a promise."""
        return self.result is not None


_RUN: Final = "/training_runs/{training_run_id}"
_CHECKPOINT: Final = f"{_RUN}/checkpoints/{{checkpoint_id}}"
_SESSION: Final = "/sessions/{session_id}"


def _get(name: str, path: str, response: Any, request: Any = None, pool: str = "train") -> Route:
    return Route(name, "GET", path, request, response, pool=pool)


def _post(
    name: str, request: Any, response: Any, path: str = "", pool: str = "session", timeout: float = 60.0
) -> Route:
    return Route(name, "POST", path or f"/{name}", request, response, pool=pool, timeout=timeout)


def _promise(
    name: str,
    request: Any,
    result: Any,
    request_type: str,
    pool: str = "train",
    protobuf_request: bool = False,
    protobuf_result: bool = False,
    headers: dict[str, str] | None = None,
) -> Route:
    return Route(
        name,
        "POST",
        f"/{name}",
        request,
        types.UntypedAPIFuture,
        result,
        request_type,
        pool=pool,
        protobuf_request=protobuf_request,
        protobuf_result=protobuf_result,
        headers=headers or {},
    )


_Forward: Final = (types.ForwardBackwardRequest, types.ForwardBackwardOutput)

_SERVICE: Final = (
    _post("client_config", types.ClientConfigRequest, types.ClientConfigResponse, "/client/config"),
    _post(
        "dynamic_config",
        types.ClientConfigRequest,
        types.ClientDynamicConfigResponse,
        "/client/dynamic_config",
        timeout=10.0,
    ),
    _post("auth_token", types.AuthTokenRequest, types.AuthTokenResponse, "/auth/token", pool="auth"),
    _post("create_session", types.CreateSessionRequest, types.CreateSessionResponse),
    _post("session_heartbeat", types.SessionHeartbeatRequest, types.SessionHeartbeatResponse, timeout=10.0),
    Route("finish_session", "POST", f"{_SESSION}/finish", types.FinishSessionRequest, sends_null=True),
    _get("get_server_capabilities", "/get_server_capabilities", types.GetServerCapabilitiesResponse),
    _get("healthz", "/healthz", types.HealthResponse, pool="session"),
    _post("telemetry", types.TelemetrySendRequest, types.TelemetryResponse, pool="telemetry", timeout=5.0),
    Route("get_self_api_key", "GET", "/auth/apikey/me", None, types.SelfApiKeyResponse, pool="auth", timeout=30.0),
    Route("delete_self_api_key", "DELETE", "/auth/apikey/me", pool="auth", timeout=30.0),
)

_TRAINING: Final = (
    _promise("create_model", types.CreateModelRequest, types.CreateModelResponse, "CreateModel"),
    _promise("load_weights", types.LoadWeightsRequest, types.LoadWeightsResponse, "LoadWeights"),
    _post("get_info", types.GetInfoRequest, types.GetInfoResponse, pool="train"),
    _promise("forward_backward", *_Forward, "ForwardBackward", protobuf_request=True, protobuf_result=True),
    _promise("optim_step", types.OptimStepRequest, types.OptimStepResponse, "OptimStep"),
    _promise("save_weights", types.SaveWeightsRequest, types.SaveWeightsResponse, "SaveWeights"),
    _promise(
        "save_weights_for_sampler",
        types.SaveWeightsForSamplerRequest,
        types.SaveWeightsForSamplerResponseInternal,
        "SaveWeightsForSampler",
    ),
    _promise(
        "save_weights_external",
        types.SaveWeightsExternalRequest,
        types.SaveWeightsExternalResponseInternal,
        "SaveWeightsExternal",
    ),
    _promise("create_custom_loss", types.CreateCustomLossRequest, types.CreateCustomLossResponse, "CreateCustomLoss"),
    # Of older versions (protocol appendix B).
    _promise("forward", *_Forward, "Forward", protobuf_request=True, protobuf_result=True),
    _promise("unload_model", types.UnloadModelRequest, types.UnloadModelResponse, "UnloadModel"),
)

_SAMPLING: Final = (
    _post("create_sampling_session", types.CreateSamplingSessionRequest, types.CreateSamplingSessionResponse),
    _post("join_sampling_session", types.JoinSamplingSessionRequest, types.JoinSamplingSessionResponse),
    _promise(
        "asample",
        types.SampleRequest,
        types.SampleResponse,
        "Sample",
        pool="sample",
        protobuf_result=True,
        # 429 is understood as backpressure (protocol 7.3).
        headers={"X-Tinker-Sampling-Backpressure": "1"},
    ),
    _get("get_sampler", "/samplers/{sampler_id}", types.GetSamplerResponse),
    # Of Tinkex (tinkex-features 1.22); the hosted service has none.
    Route(
        "stream_sample",
        "POST",
        "/stream_sample",
        types.SampleRequest,
        pool="sample",
        streamed=True,
        headers={"Accept": "text/event-stream"},
    ),
)

_PROMISES: Final = (
    # Read raw, by `decode_poll`.
    _post("retrieve_future", types.FutureRetrieveRequest, None, pool="retrieve_promise", timeout=45.0),
    _post(
        "retrieve_futures",
        types.FuturesRetrieveRequest,
        types.FuturesRetrieveResponse,
        pool="retrieve_futures",
        timeout=45.0,
    ),
    _post("cancel_future", types.CancelFutureRequest, None, pool="retrieve_promise", timeout=30.0),
)

_LISTINGS: Final = (
    _get("list_training_runs", "/training_runs", types.TrainingRunsResponse, types.ListTrainingRunsRequest),
    _get("get_training_run", _RUN, types.TrainingRun, types.GetTrainingRunRequest),
    _get("list_checkpoints", f"{_RUN}/checkpoints", types.CheckpointsListResponse),
    _get("list_user_checkpoints", "/checkpoints", types.CheckpointsListResponse, types.ListCheckpointsRequest),
    _post("weights_info", types.WeightsInfoRequest, types.WeightsInfoResponse, pool="train"),
    Route("delete_checkpoint", "DELETE", _CHECKPOINT),
    Route("publish_checkpoint", "POST", f"{_CHECKPOINT}/publish"),
    Route("unpublish_checkpoint", "DELETE", f"{_CHECKPOINT}/publish"),
    Route("set_checkpoint_ttl", "PUT", f"{_CHECKPOINT}/ttl", types.SetCheckpointTtlRequest, sends_null=True),
    _get("get_external_weights_urls", f"{_CHECKPOINT}/external_weights_urls", types.ExternalWeightsUrlsResponse),
    # Of older versions (protocol appendix B).
    Route(
        "get_checkpoint_archive_url",
        "GET",
        f"{_CHECKPOINT}/archive",
        None,
        types.CheckpointArchiveUrlResponse,
        located=True,
    ),
    Route(
        "copy_weights",
        "POST",
        "/copy_weights",
        types.CopyWeightsRequest,
        types.CopyWeightsResponse,
        header_fields={"weights_access_token": "X-Tinker-Weights-Access-Token"},
    ),
    _get("list_sessions", "/sessions", types.ListSessionsResponse, types.ListSessionsRequest),
    _get("get_session", _SESSION, types.GetSessionResponse, types.GetSessionRequest),
    Route("assign_session_project", "PUT", f"{_SESSION}/project", types.AssignSessionProjectRequest, sends_null=True),
    _get("export_session_trace", f"{_SESSION}/trace_export", types.SessionTraceExportResponse),
    _post("search_sessions", types.SessionSearchRequest, types.SessionSearchResponse, "/sessions/search", pool="train"),
    # May be answered by a redirect to a signed URL, which this pool follows.
    _get("get_audit_log", "/audit", types.AuditLogResponse, types.GetAuditLogRequest, pool="rest_support_redirect"),
    _get("get_billing_usage", "/billing/usage/events", types.BillingUsageResponse, types.GetBillingUsageRequest),
    _get(
        "get_current_checkpoint_storage_usage",
        "/billing/usage/checkpoints/current",
        types.CurrentCheckpointStorageUsageResponse,
        types.GetCurrentCheckpointStorageUsageRequest,
    ),
)

ROUTES: Final[dict[str, Route]] = {
    route.name: route for route in (*_SERVICE, *_TRAINING, *_SAMPLING, *_PROMISES, *_LISTINGS)
}
"""Every route by name: the 46 of protocol 1.6, three that only older clients and servers have, and streamed samples."""
