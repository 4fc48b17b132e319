"""Our codec against the official SDK's: its decoder reads what we write, and its encoder writes what we write."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tests.wire.golden_cases import REQUESTS
from tests.wire.golden_cases import RESPONSES as GOLDEN_RESPONSES
from tinkex_actors import types as ours
from tinkex_actors.wire._codec.protobuf import decode_protobuf, encode_protobuf
from tinkex_actors.wire._proto import tinker_public_pb2 as our_pb
from tinkex_actors.wire.client import encode_request
from tinkex_actors.wire.dialect import HOSTED
from tinkex_actors.wire.exchange import Request
from tinkex_actors.wire.routes import ROUTES
from tinkex_actors.wire.server import decode_request, encode_response, encode_result

pytestmark = pytest.mark.peer


def descriptor(module: Any) -> Any:
    from google.protobuf import descriptor_pb2

    schema = descriptor_pb2.FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(schema)
    return schema


def fields(messages: Any) -> dict[str, Any]:
    return {
        message.name: (
            sorted(
                (f.number, f.name, f.type, f.label, f.type_name, f.proto3_optional, f.HasField("oneof_index"))
                for f in message.field
            ),
            fields(message.nested_type),
        )
        for message in messages
    }


def test_the_schemas_are_the_same() -> None:
    from tinker.proto import tinker_public_pb2 as their_pb

    mine, theirs = descriptor(our_pb), descriptor(their_pb)

    assert fields(mine.message_type) == fields(theirs.message_type)
    assert {e.name: {v.name: v.number for v in e.value} for e in mine.enum_type} == {
        e.name: {v.name: v.number for v in e.value} for e in theirs.enum_type
    }


def their_request(forward_only: bool = False) -> tuple[Any, ours.ForwardBackwardRequest]:
    from tinker import types as theirs

    target = np.arange(1, 6)
    weights = np.array([0.0, 0.1, 1.0, 1.0, 0.3], np.float32)
    image = b"\x89PNG"
    config = {"clip_low_threshold": 0.9, "beta": 0.05}
    their_datum = theirs.Datum(
        theirs.ModelInput(
            chunks=[
                theirs.EncodedTextChunk(tokens=[0, 1, 2, 3, 4]),
                theirs.ImageChunk(data=image, format="png", expected_tokens=7),
            ]
        ),
        {"target_tokens": theirs.TensorData.from_numpy(target), "weights": theirs.TensorData.from_numpy(weights)},
    )
    our_datum = ours.Datum(
        ours.ModelInput(
            chunks=[
                ours.EncodedTextChunk(tokens=[0, 1, 2, 3, 4]),
                ours.ImageChunk(data=image, format="png", expected_tokens=7),
            ]
        ),
        {"target_tokens": target, "weights": weights},
    )
    their_message = theirs.ForwardBackwardRequest(
        theirs.ForwardBackwardInput([their_datum], "ppo", config), "s:train:0", 3
    )
    our_message = ours.ForwardBackwardRequest(
        forward_backward_input=ours.ForwardBackwardInput(data=[our_datum], loss_fn="ppo", loss_fn_config=config),
        model_id="s:train:0",
        seq_id=3,
        forward_only=forward_only,
    )
    return their_message, our_message


def test_a_training_request_is_theirs_field_by_field() -> None:
    from tinker.proto import tinker_public_pb2 as their_pb
    from tinker.proto.request_conv import forward_backward_request_to_proto

    their_message, our_message = their_request()

    written = forward_backward_request_to_proto(their_message)

    assert their_pb.ForwardBackwardRequest.FromString(encode_protobuf(our_message)) == written
    assert decode_protobuf(ours.ForwardBackwardRequest, written.SerializeToString()) == our_message


def test_they_read_our_training_result() -> None:
    from tinker.proto.response_conv import deserialize_forward_backward_output

    ragged = [np.float32([-0.5, -1.5]), np.float32([-2.5]), np.float32([[1, 2], [3, 4]])]
    output = ours.ForwardBackwardOutput(
        "TorchLossReturn",
        [{"logprobs": ours.TensorData.from_numpy(array)} for array in ragged],
        {"loss:sum": 4.5, "tokens:sum": 3.0},
    )

    read = deserialize_forward_backward_output(encode_result(ROUTES["forward"], output, "application/x-protobuf").body)

    assert read.loss_fn_output_type == "TorchLossReturn"
    assert read.metrics == output.metrics
    assert len(read.loss_fn_outputs) == 3
    for datum, array in zip(read.loss_fn_outputs, ragged, strict=True):
        np.testing.assert_array_equal(datum["logprobs"].to_numpy(), array)


def test_they_read_our_sample() -> None:
    from tinker.proto.response_conv import deserialize_sample_response

    topk = ours.TopkLogprobs.from_lists([None, [(4, -0.5), (9, -1.0)], [(5, -0.25)]])
    response = ours.SampleResponse(
        [
            ours.SampledSequence("length", tokens_np=np.array([5, 6]), logprobs_np=np.array([-0.5, -0.25])),
            ours.SampledSequence("stop", tokens_np=np.array([7])),
        ],
        prompt_logprobs_np=np.array([np.nan, -1.5, -2.5]),
        topk_prompt_logprobs_np=topk,
        prompt_cache_hit_tokens=2,
        target_prompt_logprobs=ours.TensorData([[-0.5], [0.0]], "float32"),
        prompt_alt_tokens=ours.PromptAltTokens(
            ours.TensorData([[1], [2]], "int64"), ours.TensorData([[-1.0], [-2.0]], "float32")
        ),
    )

    read = deserialize_sample_response(encode_protobuf(response))

    assert read.prompt_logprobs == response.prompt_logprobs == [None, -1.5, -2.5]
    assert read.topk_prompt_logprobs == response.topk_prompt_logprobs
    assert read.prompt_cache_hit_tokens == 2
    assert read.target_prompt_logprobs.tolist() == [[-0.5], [0.0]]
    assert read.prompt_alt_tokens.tokens.tolist() == [[1], [2]]
    assert [(s.stop_reason, list(s.tokens), s.logprobs) for s in read.sequences] == [
        ("length", [5, 6], [-0.5, -0.25]),
        ("stop", [7], None),
    ]


PAIRS = {
    "create_model": {
        "session_id": "s",
        "model_seq_id": 0,
        "base_model": "b",
        "user_metadata": {"k": "v"},
        "lora_config": {"rank": 8, "seed": 3},
    },
    "save_weights": {"model_id": "m", "path": "c", "seq_id": 4, "ttl_seconds": 3600, "overwrite": True},
    "save_weights_for_sampler": {"model_id": "m", "sampling_session_seq_id": 1, "seq_id": 7},
    "load_weights": {"path": "tinker://a/weights/b", "optimizer": False, "session_id": "s", "model_seq_id": 1},
    "create_session": {"tags": ["a"], "user_metadata": {}, "sdk_version": "0.38.0"},
    "create_sampling_session": {"session_id": "s", "sampling_session_seq_id": 0, "base_model": "b"},
    "session_heartbeat": {"session_id": "s"},
    "get_info": {"model_id": "m"},
    "save_weights_external": {"model_id": "m", "path": "c", "seq_id": 8, "age_encryption_recipients": ["age1x"]},
    "join_sampling_session": {"sampling_session_id": "x"},
    "copy_weights": {"source_path": "tinker://a/weights/b", "destination_project_id": "p", "ttl_seconds": 3600},
    "unload_model": {"model_id": "m"},
    "client_config": {"sdk_version": "0.38.0"},
}


@pytest.mark.parametrize("name", PAIRS)
def test_our_requests_are_theirs(name: str) -> None:
    from tinker import types as theirs

    route = ROUTES[name]
    values: dict[str, Any] = dict(PAIRS[name])
    official = getattr(theirs, route.request.__name__)(**values)
    if "lora_config" in values:
        values["lora_config"] = ours.LoraConfig(**values["lora_config"])

    sent = encode_request(route, route.request(**values), HOSTED)

    assert json.loads(sent.body) == official.model_dump(mode="json", exclude_none=True)


GOLDEN_PAIRS = {
    "retrieve_futures": "FuturesRetrieveRequest",
    "create_custom_loss": "CreateCustomLossRequest",
    "search_sessions": "SessionSearchRequest",
    "telemetry": "TelemetrySendRequest",
    "asample": "SampleRequest",
    "load_weights": "LoadWeightsRequest",
    "retrieve_future": "FutureRetrieveRequest",
}


@pytest.mark.parametrize("name", GOLDEN_PAIRS)
def test_they_read_our_request_and_write_the_same(name: str) -> None:
    from tinker import types as theirs

    message, path = REQUESTS[name]
    sent = encode_request(ROUTES[name], message, HOSTED, path=path)

    read = getattr(theirs, GOLDEN_PAIRS[name]).model_validate_json(sent.body)

    assert read.model_dump(mode="json", exclude_none=True) == json.loads(sent.body)


def test_their_search_is_read_by_us() -> None:
    from tinker import types as theirs

    official = theirs.SessionSearchRequest(
        display_name="a b", owner=theirs.AccessibleSearchOwner(), statuses=[theirs.FailedSessionStatusQuery()]
    )
    body = official.model_dump_json(exclude_none=True).encode()

    read = decode_request(
        ROUTES["search_sessions"],
        Request("POST", "/api/v1/sessions/search", {"content-type": "application/json"}, body),
    )

    assert read == ours.SessionSearchRequest(
        display_name="a b", owner=ours.AccessibleSearchOwner(), statuses=[ours.FailedSessionStatusQuery()]
    )


def test_our_optimizer_step_is_theirs() -> None:
    from tinker import types as theirs

    official = theirs.OptimStepRequest(model_id="m", seq_id=2, optim_params=theirs.AdamParams(learning_rate=1e-3))
    message = ours.OptimStepRequest(model_id="m", seq_id=2, adam_params=ours.AdamParams(learning_rate=1e-3))

    sent = encode_request(ROUTES["optim_step"], message, HOSTED)

    assert json.loads(sent.body) == official.model_dump(mode="json", exclude_none=True)


RESPONSES = {
    "create_session": ours.CreateSessionResponse(session_id="s"),
    "create_model": ours.UntypedAPIFuture(request_id="f", model_id="m"),
    "get_info": ours.GetInfoResponse(model_data=ours.ModelData(model_name="b"), model_id="m", type="get_info"),
    "get_server_capabilities": ours.GetServerCapabilitiesResponse(
        supported_models=[ours.SupportedModel(model_name="b", trainable=True)]
    ),
    "create_sampling_session": ours.CreateSamplingSessionResponse(sampling_session_id="x"),
    "client_config": ours.ClientConfigResponse(parallel_fwdbwd_chunks=False),
    "dynamic_config": ours.ClientDynamicConfigResponse(),
    "weights_info": ours.WeightsInfoResponse(base_model="b", is_lora=True, lora_rank=4),
    "telemetry": ours.TelemetryResponse(),
}


THEIRS = {name: message for name, message in GOLDEN_RESPONSES.items() if message is not None}
# The CLI reads these without a public type, and the archive's link is of older versions.
WITHOUT_A_TYPE = {"get_self_api_key", "get_checkpoint_archive_url", "export_session_trace"}


@pytest.mark.parametrize(
    ("name", "message"),
    [*RESPONSES.items(), *(pair for pair in THEIRS.items() if pair[0] not in WITHOUT_A_TYPE)],
)
def test_they_read_our_answers(name: str, message: Any) -> None:
    from tinker import types as theirs

    body = encode_response(ROUTES[name], message).body

    read = getattr(theirs, type(message).__name__).model_validate_json(body)

    assert without_nulls(json.loads(body)) == read.model_dump(mode="json", exclude_none=True)


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value
