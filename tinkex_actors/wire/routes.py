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

    @property
    def asynchronous(self) -> bool:
        """Whether the endpoint answers a promise."""
        return self.result is not None


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
    )


_Forward: Final = (types.ForwardBackwardRequest, types.ForwardBackwardOutput)
_RUN: Final = "/training_runs/{training_run_id}"

_TABLE: Final[tuple[Route, ...]] = (
    # service and session
    _post("client_config", types.ClientConfigRequest, types.ClientConfigResponse, "/client/config"),
    _post(
        "dynamic_config",
        types.ClientConfigRequest,
        types.ClientDynamicConfigResponse,
        "/client/dynamic_config",
        timeout=10.0,
    ),
    _post("create_session", types.CreateSessionRequest, types.CreateSessionResponse),
    _post("session_heartbeat", types.SessionHeartbeatRequest, types.SessionHeartbeatResponse, timeout=10.0),
    Route("finish_session", "POST", "/sessions/{session_id}/finish", types.FinishSessionRequest, sends_null=True),
    _get("get_server_capabilities", "/get_server_capabilities", types.GetServerCapabilitiesResponse),
    _get("healthz", "/healthz", types.HealthResponse, pool="session"),
    _post("telemetry", types.TelemetrySendRequest, types.TelemetryResponse, pool="telemetry", timeout=5.0),
    # models
    _promise("create_model", types.CreateModelRequest, types.CreateModelResponse, "CreateModel"),
    _promise("load_weights", types.LoadWeightsRequest, types.LoadWeightsResponse, "LoadWeights"),
    _promise("unload_model", types.UnloadModelRequest, types.UnloadModelResponse, "UnloadModel"),
    _post("get_info", types.GetInfoRequest, types.GetInfoResponse, pool="train"),
    # training
    _promise("forward_backward", *_Forward, "ForwardBackward", protobuf_request=True, protobuf_result=True),
    _promise("forward", *_Forward, "Forward", protobuf_request=True, protobuf_result=True),
    _promise("optim_step", types.OptimStepRequest, types.OptimStepResponse, "OptimStep"),
    _promise("save_weights", types.SaveWeightsRequest, types.SaveWeightsResponse, "SaveWeights"),
    _promise(
        "save_weights_for_sampler",
        types.SaveWeightsForSamplerRequest,
        types.SaveWeightsForSamplerResponseInternal,
        "SaveWeightsForSampler",
    ),
    # sampling
    _post("create_sampling_session", types.CreateSamplingSessionRequest, types.CreateSamplingSessionResponse),
    _promise("asample", types.SampleRequest, types.SampleResponse, "Sample", pool="sample", protobuf_result=True),
    _get("get_sampler", "/samplers/{sampler_id}", types.GetSamplerResponse),
    # promises
    _post("retrieve_future", types.FutureRetrieveRequest, None, pool="retrieve_promise", timeout=45.0),
    # listings
    _get("list_training_runs", "/training_runs", types.TrainingRunsResponse, types.ListTrainingRunsRequest),
    _get("get_training_run", _RUN, types.TrainingRun, types.GetTrainingRunRequest),
    _get("list_checkpoints", f"{_RUN}/checkpoints", types.CheckpointsListResponse),
    _get("list_user_checkpoints", "/checkpoints", types.CheckpointsListResponse, types.ListCheckpointsRequest),
    _post("weights_info", types.WeightsInfoRequest, types.WeightsInfoResponse, pool="train"),
    Route("delete_checkpoint", "DELETE", f"{_RUN}/checkpoints/{{checkpoint_id}}"),
)

ROUTES: Final[dict[str, Route]] = {route.name: route for route in _TABLE}
"""Every route by name."""
