"""The messages behind the golden files: one request, answer and result for each route, and the failures it documents.

Values are those of the protocol reference where it shows any. ``golden_files`` turns them into files.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any, NamedTuple

import numpy as np

from tinkex_actors import types as t

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
EXTERNAL = {"training_run_id": MODEL, "checkpoint_id": "external_weights/e1"}
SAVED_AS = {"training_run_id": MODEL, "checkpoint_id": "weights/c1"}
PENDING = t.SessionSearchCursor(last_created_at=SAVED, last_session_id="sess-1")
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
    "stream_sample": (
        t.SampleRequest(
            prompt=t.ModelInput.from_ints([1, 2, 3]),
            sampling_params=t.SamplingParams(max_tokens=4, seed=7, stop=["\n\n"]),
            sampling_session_id="sess-1:sample:0",
            seq_id=0,
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
    "delete_checkpoint": (None, SAVED_AS),
    "publish_checkpoint": (None, SAVED_AS),
    "unpublish_checkpoint": (None, SAVED_AS),
    "set_checkpoint_ttl": (t.SetCheckpointTtlRequest(ttl_seconds=7200), SAVED_AS),
    "set_checkpoint_ttl.never": (t.SetCheckpointTtlRequest(), SAVED_AS),
    "get_external_weights_urls": (None, EXTERNAL),
    "get_checkpoint_archive_url": (None, SAVED_AS),
    "copy_weights": (
        t.CopyWeightsRequest(
            source_path="tinker://a/weights/b",
            destination_project_id="p1",
            ttl_seconds=3600,
            weights_access_token="tml-other",
        ),
        {},
    ),
    "auth_token": (t.AuthTokenRequest(), {}),
    "get_self_api_key": (None, {}),
    "delete_self_api_key": (None, {}),
    "save_weights_external": (
        t.SaveWeightsExternalRequest(model_id=MODEL, path="e1", seq_id=8, age_encryption_recipients=["age1xyz"]),
        {},
    ),
    "create_custom_loss": (
        t.CreateCustomLossRequest(
            session_id="sess-1",
            custom_loss_seq_id=0,
            name="scaled",
            inputs=[t.CustomLossInput(name="logprobs", rank=1)],
            graph=t.CustomLossGraph(
                nodes=[
                    t.CustomLossNode(op="placeholder", name="logprobs", target="logprobs"),
                    t.CustomLossNode(op="output", name="output", target="output", args=[{"ref": "logprobs"}]),
                ]
            ),
        ),
        {},
    ),
    "optim_step.dimuon": (
        t.OptimStepRequest(model_id=MODEL, seq_id=2, optimizer_params=t.DimuonParams(learning_rate=0.001)),
        {},
    ),
    "asample.everything": (
        t.SampleRequest(
            prompt=t.ModelInput(
                chunks=[
                    t.EncodedTextChunk(tokens=[1, 2]),
                    t.ImageChunk(data=b"\x89PNG", format="png", expected_tokens=7),
                    t.ImageAssetPointerChunk(location="a/b", format="jpeg"),
                    t.DmelChunk(dmel=b"\x00\x02\x05\x50"),
                ]
            ),
            sampling_params=t.SamplingParams(
                max_tokens=4, seed=7, stop=["\n", "END"], temperature=0.5, top_k=40, top_p=0.9
            ),
            num_samples=2,
            sampling_session_id="sess-1:sample:0",
            seq_id=3_000_000_001,
            prompt_logprobs=True,
            topk_prompt_logprobs=2,
            topk_sample_logprobs=3,
            target_prompt_logprobs=t.TensorData([5, 7], "int64", [3, 4], [0, 1, 1, 2], [1, 3]),
            prompt_alt_tokens_k=1,
            prompt_logprobs_last_n=2,
            record_stability_info=True,
        ),
        {},
    ),
    "forward_backward.provenance": (
        t.ForwardBackwardRequest(
            forward_backward_input=t.ForwardBackwardInput(
                data=[
                    t.Datum(t.ModelInput.from_ints([1, 2, 3]), {"target_tokens": [2, 3, 4]}).with_provenance(
                        model_input=[
                            t.PromptProvenanceSpan(sequence_id="q0", length=2),
                            t.SampledProvenanceSpan(sequence_id="q0", length=1),
                        ],
                        loss_fn_inputs=[
                            t.PromptProvenanceSpan(sequence_id="q0", offset=1, length=1),
                            t.SampledProvenanceSpan(sequence_id="q0", length=2),
                        ],
                    )
                ],
                loss_fn="stable_reinforce",
            ),
            model_id=MODEL,
            seq_id=3,
        ),
        {},
    ),
    "join_sampling_session": (t.JoinSamplingSessionRequest(sampling_session_id="sess-1:sample:0"), {}),
    "retrieve_futures": (
        t.FuturesRetrieveRequest(
            target=t.SamplingSessionFuturesTarget(sampling_session_id="sess-1:sample:0"),
            prev_cursor=1,
            timeout=0.0,
            retrieved_request_ids=["sess-1:sample:0:0"],
        ),
        {},
    ),
    "cancel_future": (t.CancelFutureRequest(request_id="sess-1:sample:0:0"), {}),
    "list_sessions": (t.ListSessionsRequest(limit=5), {}),
    "get_session": (t.GetSessionRequest(access_scope="accessible"), {"session_id": "sess-1"}),
    "assign_session_project": (t.AssignSessionProjectRequest(project_id="p1"), {"session_id": "sess-1"}),
    "export_session_trace": (None, {"session_id": "sess-1"}),
    "search_sessions": (
        t.SessionSearchRequest(
            display_name="my run",
            owner=t.UserSearchOwner(owner_urns=["tml:user:1"]),
            statuses=[
                t.ActiveSessionStatusQuery(),
                t.ClientFinishedSessionStatusQuery(reasons=["errored", "interrupted"]),
            ],
            cursor=PENDING,
        ),
        {},
    ),
    "get_audit_log": (t.GetAuditLogRequest(event_type="checkpoints", day="2026-01-31"), {}),
    "get_billing_usage": (
        t.GetBillingUsageRequest(
            starting_on=datetime(2026, 1, 1, tzinfo=UTC),
            ending_before=datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=2))),
        ),
        {},
    ),
    "get_current_checkpoint_storage_usage": (t.GetCurrentCheckpointStorageUsageRequest(project_id="p1"), {}),
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
    "publish_checkpoint": None,
    "unpublish_checkpoint": None,
    "set_checkpoint_ttl": None,
    "get_external_weights_urls": t.ExternalWeightsUrlsResponse(
        urls={"adapter/model.safetensors": "https://files.example.com/1?sig=x"}, expires=SAVED
    ),
    "get_checkpoint_archive_url": t.CheckpointArchiveUrlResponse(
        url="https://files.example.com/c1.tar?sig=x", expires="Fri, 02 Jan 2026 03:04:05 GMT"
    ),
    "copy_weights": t.CopyWeightsResponse(tinker_path="tinker://c/weights/b"),
    "auth_token": t.AuthTokenResponse(jwt="eyJhbGciOiJub25lIn0.e30."),
    "get_self_api_key": t.SelfApiKeyResponse(
        key_id=7,
        name="laptop",
        note="",
        details=t.ApiKeyDetails(
            org_details=t.ApiKeyOrgDetails(name="acme"), user_details=t.ApiKeyUserDetails(email="me@example.com")
        ),
    ),
    "delete_self_api_key": None,
    "save_weights_external": t.UntypedAPIFuture(request_id="f-external"),
    "create_custom_loss": t.UntypedAPIFuture(request_id="f-loss"),
    "join_sampling_session": t.JoinSamplingSessionResponse(client_counter=3),
    "retrieve_futures": t.FuturesRetrieveResponse(
        completions=[
            t.FutureFinished(request_id="sess-1:sample:0:0", response_payload_uncompressed_size=512),
            t.FutureFailed(request_id="sess-1:sample:0:1"),
        ],
        cursor=2,
    ),
    "cancel_future": None,
    "list_sessions": t.ListSessionsResponse(sessions=["sess-1", "sess-2"]),
    "get_session": t.GetSessionResponse(
        training_run_ids=[MODEL], sampler_ids=["sess-1:sample:0"], user_metadata={"k": "v"}, display_name="dn"
    ),
    "assign_session_project": None,
    "export_session_trace": t.SessionTraceExportResponse(
        status="ready", url="https://files.example.com/trace.json?sig=x"
    ),
    "search_sessions": t.SessionSearchResponse(
        sessions=[
            t.SessionSummary(
                session_id="sess-1",
                created_at=SAVED,
                owner="tml:user:1",
                project_id="p1",
                checkpoints_count=2,
                status=t.SessionFailed(
                    category="internal",
                    reason=t.SessionFailedTrainingRunReason(training_run_id=MODEL),
                    message="lost a machine",
                ),
                checkpoint_storage_bytes=2048,
            ),
            t.SessionSummary(
                session_id="sess-2",
                created_at=SAVED,
                owner="tml:user:1",
                project_id="p1",
                checkpoints_count=0,
                status=t.ClientSessionFinished(reason=t.FinishReason(type="success"), detail="bye"),
                display_name="my run",
                user_metadata={"k": "v"},
            ),
        ],
        next_cursor=PENDING,
    ),
    "get_audit_log": t.AuditLogResponse(
        entries=[
            t.AuditLogEntry(
                timestamp=SAVED, event="checkpoint_delete", event_details={"tinker_path": "tinker://a/weights/b"}
            )
        ]
    ),
    "get_billing_usage": t.BillingUsageResponse(
        data=[
            t.BillingUsageEvent(
                bucket_start=STAMP,
                bucket_end=SAVED,
                event_info=event_info,
                session_id="sess-1",
                estimated_cost_usd=0.25,
            )
            for event_info in (
                t.TrainingBillingEvent(token_count=1000),
                t.SamplingPrefillBillingEvent(cached=True, token_count=10),
                t.SamplingSampleBillingEvent(token_count=20),
                t.CheckpointBillingEvent(count=1),
                t.StorageBillingEvent(gigabyte_hours=1.5),
            )
        ],
        sessions={"sess-1": t.BillingUsageSession(user_metadata={"k": "v"})},
        cost_data_through=SAVED,
    ),
    "get_current_checkpoint_storage_usage": t.CurrentCheckpointStorageUsageResponse(
        data=[
            t.CurrentCheckpointStorageUsageItem(
                checkpoint_count=2, size_bytes=2048, size_gigabytes=2e-06, project_id="p1"
            )
        ],
        effective_rate_usd_per_gigabyte_month=0.1,
    ),
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
    "save_weights_external": t.SaveWeightsExternalResponseInternal(
        path=f"tinker://{MODEL}/external_weights/e1", size_bytes=4096, type="save_weights_external"
    ),
    "create_custom_loss": t.CreateCustomLossResponse(loss_id="loss-1"),
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


class Failure(NamedTuple):
    """A failed answer, and the error that it becomes."""

    error: str
    body: Any
    headers: dict[str, str] = {}  # noqa: RUF012 - a constant


def detail(error: str, words: str) -> Failure:
    """A failure in the shape that the hosted service and our engine use."""
    return Failure(error, {"detail": words})


_UNKNOWN = detail("NotFoundError", "Not Found")

# The statuses that the protocol names for a route (1.7, 4.4, 7.3), those of validators and of proxies on the way, and
# every shape of body that was seen.
FAILURES: dict[str, dict[int, Failure]] = {
    "client_config": {404: _UNKNOWN, 402: detail("BillingError", "Add a payment method.")},
    "dynamic_config": {404: _UNKNOWN, 405: detail("APIStatusError", "Method Not Allowed")},
    "auth_token": {401: detail("AuthenticationError", "Invalid API key"), 503: Failure("InternalServerError", "")},
    "create_session": {
        401: detail("AuthenticationError", "Invalid API key"),
        422: Failure(
            "UnprocessableEntityError",
            {
                "detail": [
                    {
                        "type": "extra_forbidden",
                        "loc": ["body", "display_name"],
                        "msg": "Extra inputs are not permitted",
                        "input": "dn",
                    }
                ]
            },
        ),
    },
    "session_heartbeat": {410: detail("GoneError", "The session has finished.")},
    "finish_session": {404: detail("NotFoundError", "No such session")},
    "get_server_capabilities": {402: detail("BillingError", "Add a payment method.")},
    "telemetry": {413: detail("APIStatusError", "Too many events")},
    "create_model": {
        400: Failure("BadRequestError", {"error": "rank too large", "category": "user"}),
        404: detail("NotFoundError", "No model of this name"),
    },
    "load_weights": {
        403: detail("PermissionDeniedError", "Not your checkpoint"),
        422: Failure(
            "UnprocessableEntityError",
            {"detail": [{"type": "missing", "loc": ["body", "model_id"], "msg": "Field required"}]},
        ),
    },
    "forward_backward": {
        413: Failure("APIStatusError", "Request Entity Too Large", {"content-type": "text/plain"}),
        415: detail("APIStatusError", "Unsupported Media Type"),
        500: Failure("InternalServerError", "Internal Server Error", {"content-type": "text/plain; charset=utf-8"}),
    },
    "optim_step": {409: detail("ConflictError", "The number 2 was used")},
    "save_weights": {409: detail("ConflictError", "The checkpoint exists.")},
    "save_weights_external": {400: detail("BadRequestError", "More than 10 recipients")},
    "asample": {
        402: detail("BillingError", "Add a payment method."),
        429: Failure("RateLimitError", {"error": {"message": "slow down"}}, {"retry-after": "1.5"}),
    },
    "retrieve_future": {
        400: detail("BadRequestError", "No such promise"),
        410: detail("GoneError", "The promise has expired."),
        429: Failure("RateLimitError", {"detail": "slow down"}, {"retry-after-ms": "250", "retry-after": "9"}),
        502: Failure("InternalServerError", "<html><h1>502 Bad Gateway</h1></html>", {"content-type": "text/html"}),
    },
    "retrieve_futures": {404: _UNKNOWN},
    "get_checkpoint_archive_url": {503: detail("InternalServerError", "The archive is being built.")},
    "publish_checkpoint": {
        400: detail("BadRequestError", "Not a checkpoint id"),
        404: detail("NotFoundError", "No such checkpoint"),
        409: detail("ConflictError", "Published already"),
        500: detail("InternalServerError", "Internal error"),
    },
    "unpublish_checkpoint": {409: detail("ConflictError", "Not published")},
    "set_checkpoint_ttl": {400: detail("BadRequestError", "ttl_seconds must be 3600 to 315360000")},
    "assign_session_project": {
        400: detail("BadRequestError", "A session cannot leave its project"),
        403: Failure("PermissionDeniedError", {"message": "Not yours"}),
        404: detail("NotFoundError", "No such project"),
    },
    "get_self_api_key": {401: detail("AuthenticationError", "Unknown key tml-abcdef123456")},
}
