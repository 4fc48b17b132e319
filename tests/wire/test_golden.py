"""Every route against files written by hand from the protocol, in both directions.

``<route>.request.json`` and ``<route>.response.<status>.json`` hold the wire; the tables below hold the messages.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinkex_actors import types as t
from tinkex_actors.wire.answers import Ready
from tinkex_actors.wire.client import decode_poll, decode_response, encode_request, poll_request
from tinkex_actors.wire.dialect import HOSTED, JSON
from tinkex_actors.wire.exchange import Request, Response
from tinkex_actors.wire.routes import ROUTES
from tinkex_actors.wire.server import decode_request, encode_response, encode_result, match

GOLDEN = Path(__file__).parent / "golden"

MODEL = "sess-1:train:0"
STAMP = datetime(2026, 1, 1, tzinfo=UTC)
SAVED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def event(index: int) -> dict[str, Any]:
    return {"event_id": "11111111-2222-3333-4444-555555555555", "event_session_index": index, "timestamp": STAMP}


def batch(loss_fn: str, config: dict[str, float | str] | None = None) -> t.ForwardBackwardInput:
    datum = t.Datum(t.ModelInput.from_ints([1, 2, 3]), {"target_tokens": [2, 3, 4], "weights": [0.0, 1.0, 0.5]})
    return t.ForwardBackwardInput(data=[datum], loss_fn=loss_fn, loss_fn_config=config)


CHECKPOINT = t.Checkpoint(
    checkpoint_id="weights/c1",
    checkpoint_type="training",
    time=SAVED,
    tinker_path=f"tinker://{MODEL}/weights/c1",
    size_bytes=1024,
)
RUN = t.TrainingRun(
    training_run_id=MODEL,
    base_model="Qwen/Qwen3-8B",
    model_owner="me",
    is_lora=True,
    last_request_time=SAVED,
    lora_rank=8,
    last_checkpoint=CHECKPOINT,
)
CURSOR = t.Cursor(offset=10, limit=5, total_count=11)
OUTPUT = t.ForwardBackwardOutput(
    "TorchLossReturn",
    [{"logprobs": t.TensorData([-0.5, -1.25, -2.0], "float32")}],
    {"loss:sum": 2.25},
)

# name of the request file: message, path parameters
REQUESTS: dict[str, tuple[Any, dict[str, str]]] = {
    "client_config": (t.ClientConfigRequest(sdk_version="0.38.0"), {}),
    "dynamic_config": (t.ClientConfigRequest(sdk_version="0.38.0"), {}),
    "create_session": (
        t.CreateSessionRequest(
            tags=["a", "b"], user_metadata={"k": "v"}, sdk_version="0.38.0", project_id="p1", display_name="dn"
        ),
        {},
    ),
    "session_heartbeat": (t.SessionHeartbeatRequest(session_id="sess-1"), {}),
    "finish_session": (
        t.FinishSessionRequest(reason=t.FinishReason(type="success")),
        {"session_id": "sess-1"},
    ),
    "get_server_capabilities": (None, {}),
    "healthz": (None, {}),
    "telemetry": (
        t.TelemetrySendRequest(
            events=[
                t.SessionStartEvent(**event(0)),
                t.GenericEvent(
                    **event(1),
                    event_name="user_error",
                    event_data={"error_type": "BadRequestError", "status_code": 400},
                ),
                t.UnhandledExceptionEvent(**event(2), error_type="KeyError", error_message="'x'"),
                t.SessionEndEvent(**event(3), duration="0:00:00.137355"),
            ],
            platform="Linux",
            sdk_version="0.38.0",
            session_id="sess-1",
            process_uuid="66666666-7777-8888-9999-000000000000",
        ),
        {},
    ),
    "create_model": (
        t.CreateModelRequest(
            session_id="sess-1", model_seq_id=0, base_model="Qwen/Qwen3-8B", lora_config=t.LoraConfig(rank=8)
        ),
        {},
    ),
    "load_weights": (
        t.LoadWeightsRequest(
            path="tinker://a/weights/b", optimizer=True, session_id="sess-1", model_seq_id=1, base_model="Q"
        ),
        {},
    ),
    "unload_model": (t.UnloadModelRequest(model_id=MODEL), {}),
    "get_info": (t.GetInfoRequest(model_id=MODEL), {}),
    "forward_backward": (
        t.ForwardBackwardRequest(forward_backward_input=batch("cross_entropy"), model_id=MODEL, seq_id=1),
        {},
    ),
    "forward": (
        t.ForwardBackwardRequest(
            forward_backward_input=batch("ppo", {"clip_low_threshold": 0.8}),
            model_id=MODEL,
            seq_id=2,
            forward_only=True,
        ),
        {},
    ),
    "optim_step": (t.OptimStepRequest(model_id=MODEL, seq_id=2, adam_params=t.AdamParams(learning_rate=1e-4)), {}),
    "save_weights": (t.SaveWeightsRequest(model_id=MODEL, path="c1", seq_id=4, ttl_seconds=3600), {}),
    "save_weights_for_sampler": (t.SaveWeightsForSamplerRequest(model_id=MODEL, path="s1", seq_id=6), {}),
    "save_weights_for_sampler.unnamed": (
        t.SaveWeightsForSamplerRequest(model_id=MODEL, sampling_session_seq_id=0, seq_id=7),
        {},
    ),
    "create_sampling_session": (
        t.CreateSamplingSessionRequest(
            session_id="sess-1", sampling_session_seq_id=1, model_path=f"tinker://{MODEL}/sampler_weights/s1"
        ),
        {},
    ),
    "asample": (
        t.SampleRequest(
            prompt=t.ModelInput.from_ints([1, 2, 3]),
            sampling_params=t.SamplingParams(max_tokens=4, stop=[]),
            num_samples=2,
            sampling_session_id="sess-1:sample:0",
            seq_id=0,
            prompt_logprobs=True,
            record_stability_info=False,
        ),
        {},
    ),
    "get_sampler": (None, {"sampler_id": "sess-1:sample:0"}),
    "retrieve_future": (t.FutureRetrieveRequest(request_id="f-model", allow_metadata_only=True), {}),
    "list_training_runs": (t.ListTrainingRunsRequest(limit=5, offset=10, project_id="p1"), {}),
    "get_training_run": (t.GetTrainingRunRequest(access_scope="accessible"), {"training_run_id": MODEL}),
    "list_checkpoints": (None, {"training_run_id": MODEL}),
    "list_user_checkpoints": (t.ListCheckpointsRequest(), {}),
    "weights_info": (t.WeightsInfoRequest(tinker_path="tinker://a/weights/b"), {}),
    "delete_checkpoint": (None, {"training_run_id": MODEL, "checkpoint_id": "weights/c1"}),
}

RESPONSES: dict[str, Any] = {
    "client_config": t.ClientConfigResponse(
        proto_compress_fwdbwd=True, fwdbwd_max_chunk_len=16, use_pyqwest_transport=False
    ),
    "dynamic_config": t.ClientDynamicConfigResponse(refresh_interval_sec=60, sample_cancel_enabled=True),
    "create_session": t.CreateSessionResponse(session_id="sess-1", warning_message="maintenance at noon"),
    "session_heartbeat": t.SessionHeartbeatResponse(),
    "finish_session": None,
    "get_server_capabilities": t.GetServerCapabilitiesResponse(
        supported_models=[
            t.SupportedModel(model_name="Qwen/Qwen3-8B", max_context_length=32768, trainable=True, sampleable=True)
        ]
    ),
    "healthz": t.HealthResponse(),
    "telemetry": t.TelemetryResponse(),
    "create_model": t.UntypedAPIFuture(request_id="f-model", model_id=MODEL),
    "load_weights": t.UntypedAPIFuture(request_id="f-load"),
    "unload_model": t.UntypedAPIFuture(request_id="f-unload"),
    "get_info": t.GetInfoResponse(
        type="get_info",
        model_data=t.ModelData(arch="qwen3", model_name="Qwen/Qwen3-8B", tokenizer_id="Qwen/Qwen3-8B"),
        model_id=MODEL,
        is_lora=True,
        lora_rank=8,
        model_name="Qwen/Qwen3-8B",
    ),
    "forward_backward": t.UntypedAPIFuture(request_id="f-model", model_id=MODEL),
    "forward": t.UntypedAPIFuture(request_id="f-model", model_id=MODEL),
    "optim_step": t.UntypedAPIFuture(request_id="f-optim"),
    "save_weights": t.UntypedAPIFuture(request_id="f-save"),
    "save_weights_for_sampler": t.UntypedAPIFuture(request_id="f-sampler"),
    "create_sampling_session": t.CreateSamplingSessionResponse(sampling_session_id="sess-1:sample:1"),
    "asample": t.UntypedAPIFuture(request_id="sess-1:sample:0:0", sample_sequence_ids=["q0", "q1"]),
    "get_sampler": t.GetSamplerResponse(
        sampler_id="sess-1:sample:0",
        base_model="Qwen/Qwen3-8B",
        model_path=f"tinker://{MODEL}/sampler_weights/s1",
    ),
    "list_training_runs": t.TrainingRunsResponse(training_runs=[RUN], cursor=CURSOR),
    "get_training_run": RUN,
    "list_checkpoints": t.CheckpointsListResponse(checkpoints=[CHECKPOINT]),
    "list_user_checkpoints": t.CheckpointsListResponse(checkpoints=[CHECKPOINT], cursor=CURSOR),
    "weights_info": t.WeightsInfoResponse(base_model="Qwen/Qwen3-8B", is_lora=True, lora_rank=8),
    "delete_checkpoint": None,
}

RESULTS: dict[str, Any] = {
    "create_model": t.CreateModelResponse(model_id=MODEL),
    "load_weights": t.LoadWeightsResponse(path="tinker://a/weights/b", model_id="sess-1:train:1", type="load_weights"),
    "unload_model": t.UnloadModelResponse(model_id=MODEL, type="unload_model"),
    "forward_backward": OUTPUT,
    "forward": OUTPUT,
    "optim_step": t.OptimStepResponse(metrics={"grad_norm:mean": 0.75}),
    "save_weights": t.SaveWeightsResponse(path=f"tinker://{MODEL}/weights/c1", type="save_weights"),
    "save_weights_for_sampler": t.SaveWeightsForSamplerResponseInternal(
        path=f"tinker://{MODEL}/sampler_weights/s1", type="save_weights_for_sampler"
    ),
    "asample": t.SampleResponse(
        [
            t.SampledSequence("stop", tokens_np=np.array([5, 6]), logprobs_np=np.array([-0.5, -0.25])),
            t.SampledSequence(
                "length", tokens_np=np.array([7, 8, 9, 10]), logprobs_np=np.array([-1.0, -1.5, -2.0, -2.5])
            ),
        ],
        prompt_logprobs_np=np.array([np.nan, -3.5, -4.0]),
        topk_prompt_logprobs_np=t.TopkLogprobs.from_lists([None, [(2, -0.125), (9, -2.0)], [(3, -0.25)]]),
    ),
}


def golden(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    return loaded


def wire_response(name: str) -> Response:
    stored = golden(name)
    return Response(stored["status"], {"content-type": "application/json"}, json.dumps(stored["body"]).encode())


def test_every_route_has_its_files_and_every_file_its_route() -> None:
    requests = {path.name.removesuffix(".request.json") for path in GOLDEN.glob("*.request.json")}
    responses = {path.name.split(".")[0] for path in GOLDEN.glob("*.response.200.json")}
    results = {path.name.split(".")[0] for path in GOLDEN.glob("*.result.200.json")}

    assert requests == set(REQUESTS)
    assert {name.split(".")[0] for name in requests} == set(ROUTES)
    assert responses == set(RESPONSES) == set(ROUTES) - {"retrieve_future"}
    assert results == set(RESULTS) == {name for name, route in ROUTES.items() if route.asynchronous}


@pytest.mark.parametrize("name", REQUESTS)
def test_the_client_sends_what_the_protocol_says(name: str) -> None:
    message, path = REQUESTS[name]
    wanted = golden(f"{name}.request")

    request = encode_request(ROUTES[name.split(".")[0]], message, JSON, path=path)

    assert (request.method, request.path) == (wanted["method"], wanted["path"])
    if "body" in wanted:
        assert json.loads(request.body) == wanted["body"]
        assert request.headers["Content-Type"] == "application/json"
    else:
        assert request.body == b""
        assert ("Content-Type" in request.headers) == (request.method != "GET")


@pytest.mark.parametrize("name", REQUESTS)
def test_the_server_reads_what_the_protocol_says(name: str) -> None:
    message, path = REQUESTS[name]
    stored = golden(f"{name}.request")
    body = json.dumps(stored["body"]).encode() if "body" in stored else b""
    request = Request(stored["method"], stored["path"], {"content-type": "application/json"}, body)

    matched = match(request)

    assert matched is not None
    route, parameters = matched
    assert route is ROUTES[name.split(".")[0]]
    assert parameters == path
    assert decode_request(route, request) == message


@pytest.mark.parametrize("name", RESPONSES)
def test_the_client_reads_the_answer(name: str) -> None:
    assert decode_response(ROUTES[name], wire_response(f"{name}.response.200")) == RESPONSES[name]


@pytest.mark.parametrize("name", RESPONSES)
def test_the_client_ignores_fields_it_does_not_know(name: str) -> None:
    response = wire_response(f"{name}.response.200")
    response.body = json.dumps({**json.loads(response.body), "of_a_later_version": {"deep": [1]}}).encode()

    assert decode_response(ROUTES[name], response) == RESPONSES[name]


@pytest.mark.parametrize("name", RESPONSES)
def test_the_server_answers_what_the_protocol_says(name: str) -> None:
    response = encode_response(ROUTES[name], RESPONSES[name])

    assert response.status == 200
    assert response.headers == {"content-type": "application/json", "content-length": str(len(response.body))}
    assert json.loads(response.body) == golden(f"{name}.response.200")["body"]


@pytest.mark.parametrize("name", RESULTS)
def test_the_client_reads_the_result_of_a_promise(name: str) -> None:
    answer = decode_poll(ROUTES[name], wire_response(f"{name}.result.200"), JSON)

    assert answer == Ready(RESULTS[name])


@pytest.mark.parametrize("name", RESULTS)
def test_the_server_answers_a_promise_in_json(name: str) -> None:
    response = encode_result(ROUTES[name], RESULTS[name], "application/json")

    assert json.loads(response.body) == golden(f"{name}.result.200")["body"]


@pytest.mark.parametrize("dialect", [HOSTED, JSON], ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("name", RESULTS)
def test_a_result_comes_back_whole_in_what_the_poll_accepts(name: str, dialect: Any) -> None:
    route = ROUTES[name]
    poll = poll_request("f", route, dialect, iteration=0, allow_metadata_only=True)

    response = encode_result(route, RESULTS[name], poll.headers["Accept"])

    assert ("protobuf" in response.headers["content-type"]) == (dialect.protobuf and route.protobuf_result)
    assert decode_poll(route, response, dialect) == Ready(RESULTS[name])


def test_a_poll_carries_the_headers_of_the_protocol() -> None:
    first = poll_request("f", ROUTES["asample"], HOSTED, iteration=0, allow_metadata_only=True, roundtrip=0.25)
    later = poll_request("f", ROUTES["optim_step"], HOSTED, iteration=3, allow_metadata_only=False, roundtrip=0.25)
    old = poll_request("f", ROUTES["forward"], JSON, iteration=0, allow_metadata_only=True)

    assert first.headers == {
        "Accept": "application/x-protobuf",
        "Content-Type": "application/json",
        "X-Stainless-Raw-Response": "raw",
        "X-Tinker-Request-Iteration": "0",
        "X-Tinker-Request-Type": "Sample",
        "X-Tinker-Create-Promise-Roundtrip-Time": "0.25",
    }
    assert (first.pool, first.timeout) == ("retrieve_promise", 45.0)
    assert later.headers["Accept"] == "application/json"
    assert later.headers["X-Tinker-Request-Iteration"] == "3"
    assert "X-Tinker-Create-Promise-Roundtrip-Time" not in later.headers
    assert json.loads(later.body) == {"request_id": "f", "allow_metadata_only": False}
    assert json.loads(old.body) == {"request_id": "f"}
    assert old.headers["Accept"] == "application/json"
