"""The decoder's traps (protocol 3.4, 3.5), bad bytes, and compressed bodies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import zstandard

from tinkex_actors.errors import LocalWireError, RemoteWireError, WireError
from tinkex_actors.types import (
    Datum,
    ForwardBackwardInput,
    ForwardBackwardOutput,
    ForwardBackwardRequest,
    ModelInput,
    SampleResponse,
    TensorData,
)
from tinkex_actors.wire import server
from tinkex_actors.wire._codec.protobuf import decode_protobuf, encode_protobuf
from tinkex_actors.wire._proto import tinker_public_pb2 as pb
from tinkex_actors.wire.client import encode_request
from tinkex_actors.wire.dialect import HOSTED
from tinkex_actors.wire.routes import ROUTES


def batched(values: Any, offsets: list[int], dtype: int, trailing: tuple[int, ...] = ()) -> Any:
    return pb.BatchedTensor(
        data=np.asarray(values).tobytes(),
        offsets=np.asarray(offsets, np.int64).tobytes(),
        dtype=dtype,
        trailing_shape=trailing,
    )


def output_of(*records: Any, kind: str = "pkg.mod:TorchLossReturn") -> ForwardBackwardOutput:
    message = pb.ForwardBackwardOutput(loss_fn_output_type=kind, loss_fn_outputs=records)
    decoded: ForwardBackwardOutput = decode_protobuf(ForwardBackwardOutput, message.SerializeToString())
    return decoded


def test_records_are_chunks_of_one_list_and_the_type_is_the_last_part() -> None:
    first = pb.ArrayRecord(num_datums=2, fields={"logprobs": batched(np.float32([1, 2, 3]), [0, 4, 12], 1)})
    second = pb.ArrayRecord(num_datums=1, fields={"logprobs": batched(np.int64([[4, 5]]), [0, 16], 2, (2,))})

    output = output_of(first, second)

    assert output.loss_fn_output_type == "TorchLossReturn"
    assert [datum["logprobs"].tolist() for datum in output.loss_fn_outputs] == [[1.0], [2.0, 3.0], [[4, 5]]]
    assert [datum["logprobs"].dtype for datum in output.loss_fn_outputs] == ["float32", "float32", "int64"]


def test_no_records_is_an_empty_list_of_the_default_type() -> None:
    assert output_of(kind="") == ForwardBackwardOutput("ArrayRecord", [], {})


def test_stripped_fields_still_count_their_datums() -> None:
    assert output_of(pb.ArrayRecord(num_datums=3)).loss_fn_outputs == [{}, {}, {}]


def test_without_num_datums_the_fields_count() -> None:
    record = pb.ArrayRecord(fields={"x": batched(np.float32([1, 2]), [0, 4, 8], 1)})

    assert len(output_of(record).loss_fn_outputs) == 2


def test_narrow_numbers_are_widened_exactly() -> None:
    words = np.array([0x3FC0, 0xC000, 0x7F80], np.uint16)
    record = pb.ArrayRecord(
        num_datums=1,
        fields={"half": batched(words, [0, 6], 4), "small": batched(np.int32([-1, 7]), [0, 8], 3)},
    )

    datum = output_of(record).loss_fn_outputs[0]

    assert datum["half"] == TensorData([1.5, -2.0, float("inf")], "float32")
    assert datum["small"] == TensorData([-1, 7], "int64")


def test_a_zero_in_the_trailing_shape_gives_no_rows() -> None:
    record = pb.ArrayRecord(num_datums=1, fields={"x": batched(np.float32([]), [0, 0], 1, (0, 3))})

    assert output_of(record).loss_fn_outputs[0]["x"].shape == [0, 0, 3]


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (pb.ArrayRecord(num_datums=10**15), "num_datums"),
        (pb.ArrayRecord(num_datums=-1), "num_datums"),
        (pb.ArrayRecord(num_datums=1, fields={"x": batched(np.float32([1]), [0, 4], 0)}), "dtype 0"),
        (pb.ArrayRecord(num_datums=1, fields={"x": batched(np.float32([1]), [0, 4], 9)}), "dtype 9"),
        (pb.ArrayRecord(num_datums=2, fields={"x": batched(np.float32([1]), [0, 4], 1)}), "2 offsets for 2 datums"),
        (pb.ArrayRecord(num_datums=1, fields={"x": batched(np.float32([1]), [0, 8], 1)}), "offsets must rise"),
        (pb.ArrayRecord(num_datums=1, fields={"x": batched(np.float32([1]), [-4, 4], 1)}), "offsets must rise"),
        (pb.ArrayRecord(num_datums=1, fields={"x": batched(np.float32([1]), [0, 3], 1)}), "offsets must rise"),
        (pb.ArrayRecord(num_datums=1, fields={"x": batched(np.float32([1]), [4, 0], 1)}), "offsets must rise"),
        (pb.ArrayRecord(num_datums=1, fields={"x": batched(np.int8([1, 2, 3]), [0, 0], 1)}), "whole number"),
        (pb.ArrayRecord(num_datums=1, fields={"x": batched(np.float32([1, 2, 3]), [0, 12], 1, (2,))}), "whole rows"),
        (pb.ArrayRecord(num_datums=1, fields={"x": batched(np.float32([1]), [0, 4], 1, (-1,))}), "negative"),
        (
            pb.ArrayRecord(
                fields={"x": batched(np.float32([1]), [0, 4], 1), "y": batched(np.float32([1]), [0, 0, 4], 1)}
            ),
            "disagree",
        ),
    ],
)
def test_a_record_that_does_not_add_up_is_refused_with_its_place(record: Any, words: str) -> None:
    with pytest.raises(RemoteWireError, match=r"loss_fn_outputs\[0\].*" + words):
        output_of(record)


def sample_of(**fields: Any) -> SampleResponse:
    decoded: SampleResponse = decode_protobuf(SampleResponse, pb.SampleResponse(**fields).SerializeToString())
    return decoded


def test_a_tensor_without_shape_is_flat_and_half_floats_are_no_garbage() -> None:
    flat = pb.Tensor(dense=np.float32([1, 2, 3]).tobytes(), dtype=pb.DTYPE_FLOAT32)
    half = pb.Tensor(dense=np.array([0x3FC0], np.uint16).tobytes(), dtype=pb.DTYPE_BFLOAT16, shape=[1])

    assert sample_of(target_prompt_logprobs=flat).target_prompt_logprobs == TensorData([1.0, 2.0, 3.0], "float32")
    assert sample_of(target_prompt_logprobs=half).target_prompt_logprobs == TensorData([1.5], "float32")


def test_what_was_not_asked_for_is_none() -> None:
    empty = sample_of(
        sequences=[pb.SampledSequence()], prompt_logprobs=b"", topk_prompt_logprobs=pb.TopkLogprobs(k=3, length=0)
    )

    assert empty.prompt_logprobs is None
    assert empty.topk_prompt_logprobs is None
    assert empty.sequences[0].stop_reason == "stop"
    assert empty.sequences[0].logprobs is None
    assert empty.sequences[0].tokens == []


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"sequences": [pb.SampledSequence(stop_reason=5)]}, r"sequences\[0\]: stop_reason 5"),
        ({"sequences": [pb.SampledSequence(tokens=b"123")]}, r"sequences\[0\].tokens: 3 bytes"),
        ({"topk_prompt_logprobs": pb.TopkLogprobs(k=2, length=4_000_000_000)}, "topk_prompt_logprobs: 0 ids"),
        ({"target_prompt_logprobs": pb.Tensor(dense=b"1234", dtype=1, shape=[2])}, "1 values do not fit"),
        ({"target_prompt_logprobs": pb.Tensor(dense=b"1234", dtype=1, shape=[-1, -1])}, "do not fit"),
        ({"target_prompt_logprobs": pb.Tensor(sparse_csr=pb.SparseCsr(), dtype=2, shape=[3, 2])}, "CSR"),
        ({"target_prompt_logprobs": pb.Tensor(sparse_csr=pb.SparseCsr(), dtype=2)}, "CSR"),
    ],
)
def test_a_sample_that_does_not_add_up_is_refused_with_its_place(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(RemoteWireError, match=words):
        sample_of(**fields)


def request_bytes(**fields: Any) -> bytes:
    encoded: bytes = pb.ForwardBackwardRequest(model_id="m", loss_fn="ppo", **fields).SerializeToString()
    return encoded


@pytest.mark.parametrize(
    ("chunk", "words"),
    [
        (pb.Chunk(), "a chunk of no kind"),
        (pb.Chunk(image=pb.ImageChunk(format="gif")), "image format 'gif'"),
        (pb.Chunk(encoded_text=pb.EncodedTextChunk(tokens=b"12345")), "5 bytes"),
    ],
)
def test_a_chunk_the_server_cannot_read_is_named(chunk: Any, words: str) -> None:
    with pytest.raises(RemoteWireError, match=rf"data\[1\].model_input\[0\].*{words}"):
        decode_protobuf(ForwardBackwardRequest, request_bytes(data=[pb.Datum(), pb.Datum(model_input=[chunk])]))


def test_a_negative_token_in_a_request_is_refused() -> None:
    chunk = pb.Chunk(encoded_text=pb.EncodedTextChunk(tokens=np.int32([-100]).tobytes()))

    with pytest.raises(RemoteWireError, match="token ids run from -100"):
        decode_protobuf(ForwardBackwardRequest, request_bytes(data=[pb.Datum(model_input=[chunk])]))


def test_the_numeric_settings_travel_twice_and_the_new_field_wins() -> None:
    batch = ForwardBackwardInput(data=[], loss_fn="ppo", loss_fn_config={"a": 1.5, "b": "text"})
    request = ForwardBackwardRequest(forward_backward_input=batch, model_id="m", seq_id=4)

    message = pb.ForwardBackwardRequest.FromString(encode_protobuf(request))

    assert dict(message.loss_fn_config) == {"a": 1.5}
    assert (message.loss_fn_config_v2["a"].number, message.loss_fn_config_v2["b"].text) == (1.5, "text")
    old = decode_protobuf(ForwardBackwardRequest, request_bytes(loss_fn_config={"a": 2.0}))
    assert old.forward_backward_input.loss_fn_config == {"a": 2.0}
    assert old.seq_id is None
    message.loss_fn_config["a"] = 9.0
    assert decode_protobuf(ForwardBackwardRequest, message.SerializeToString()) == request


@pytest.mark.parametrize("count", [0, 1, 4, 5, 13])
def test_the_parts_of_a_request_are_the_bytes_of_one_message(count: int) -> None:
    data = [
        Datum(ModelInput.from_ints([n, n + 1]), {"target_tokens": [n, 1], "weights": [1.0, n]}) for n in range(count)
    ]
    batch = ForwardBackwardInput(data=data, loss_fn="ppo", loss_fn_config={"b": 0.5, "a": "text"})
    request = ForwardBackwardRequest(forward_backward_input=batch, model_id="m", seq_id=3, forward_only=True)

    body = encode_protobuf(request)

    assert pb.ForwardBackwardRequest.FromString(body).SerializeToString(deterministic=True) == body
    assert decode_protobuf(ForwardBackwardRequest, body) == request


def test_a_number_too_large_for_the_wire_is_our_error() -> None:
    batch = ForwardBackwardInput(data=[], loss_fn="ppo")

    with pytest.raises(LocalWireError, match="ForwardBackwardRequest"):
        encode_protobuf(ForwardBackwardRequest(forward_backward_input=batch, model_id="m", seq_id=2**31))


def test_our_schema_lives_beside_any_other_of_its_name() -> None:
    from google.protobuf import descriptor_pb2, descriptor_pool

    other = descriptor_pb2.FileDescriptorProto(name="tinker_public.proto", package="tinker_public", syntax="proto3")
    other.message_type.add(name="Datum").field.add(name="alien", number=77, type=9, label=1)

    pool = descriptor_pool.DescriptorPool()
    pool.Add(other)

    assert "alien" not in pb.Datum.DESCRIPTOR.fields_by_name
    assert pb.POOL is not descriptor_pool.Default()


# --- bodies --------------------------------------------------------------------------------------------------------
def training_request(compress: bool) -> Any:
    datum = Datum(ModelInput.from_ints(range(200)), {"target_tokens": list(range(200)), "weights": np.ones(200)})
    batch = ForwardBackwardInput(data=[datum], loss_fn="cross_entropy")
    message = ForwardBackwardRequest(forward_backward_input=batch, model_id="m", seq_id=1)
    return encode_request(ROUTES["forward_backward"], message, HOSTED, compress=compress)


def test_a_compressed_body_is_smaller_and_reads_the_same() -> None:
    plain, small = training_request(False), training_request(True)

    assert small.headers["Content-Encoding"] == "zstd"
    assert len(small.body) < len(plain.body) / 2
    route = ROUTES["forward_backward"]
    assert server.decode_request(route, small) == server.decode_request(route, plain)


def cut(body: bytes) -> bytes:
    return body[: len(body) // 2]


def bomb(body: bytes) -> bytes:
    blank = b"\0" * (1 << 20)
    compressor = zstandard.ZstdCompressor().compressobj()
    parts = [compressor.compress(blank) for _ in range((server.MAX_BODY_BYTES >> 20) + 1)]
    return b"".join([*parts, compressor.flush()])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut, "zstd"),
        (lambda body: b"not zstd", "zstd"),
        (lambda body: b"", "zstd"),
        (bomb, "larger than"),
    ],
)
def test_a_body_that_does_not_decompress_is_refused(damage: Callable[[bytes], bytes], words: str) -> None:
    request = training_request(True)
    request.body = damage(request.body)

    with pytest.raises(RemoteWireError, match=words):
        server.decode_request(ROUTES["forward_backward"], request)


def test_encodings_and_media_types_we_do_not_speak_are_refused() -> None:
    request = training_request(False)
    request.headers["content-encoding"] = "br"
    with pytest.raises(RemoteWireError, match="Content-Encoding 'br'"):
        server.decode_request(ROUTES["forward_backward"], request)
    with pytest.raises(RemoteWireError, match="optim_step: the body is protobuf"):
        server.decode_request(ROUTES["optim_step"], training_request(False))


# --- damage --------------------------------------------------------------------------------------------------------
def mutations(body: bytes, seed: int, count: int) -> list[bytes]:
    random = np.random.default_rng(seed)
    damaged = []
    for _ in range(count):
        data = bytearray(body)
        for _ in range(random.integers(1, 4)):
            at = int(random.integers(len(data)))
            match random.integers(3):
                case 0:
                    data[at] = int(random.integers(256))
                case 1:
                    del data[at : at + int(random.integers(1, 9))]
                case _:
                    data[at:at] = random.bytes(int(random.integers(1, 9)))
            data = data or bytearray(b"\0")
        damaged.append(bytes(data))
    return damaged


@pytest.mark.parametrize("media", ["application/json", "application/x-protobuf"])
@pytest.mark.parametrize("name", ["forward_backward", "asample"])
def test_damaged_results_raise_wire_errors_or_are_read(name: str, media: str) -> None:
    from tinkex_actors.wire.client import decode_poll
    from tinkex_actors.wire.exchange import Response

    row = {"logprobs": TensorData([-0.5, -1.0, -1.5], "float32"), "ids": TensorData([[1, 2], [3, 4]], "int64")}
    result: Any = ForwardBackwardOutput("Ret", [row, row], {"loss:sum": 3.0})
    if name == "asample":
        from tinkex_actors.types import SampledSequence, TopkLogprobs

        topk = TopkLogprobs.from_lists([[(1, -0.5)], [(2, -0.25), (3, -2.0)]])
        sequence = SampledSequence(
            "length", tokens_np=np.array([1, 2]), logprobs_np=np.array([-0.5, -0.25]), topk_logprobs_np=topk
        )
        result = SampleResponse([sequence], np.array([np.nan, -1.0]), topk, row["ids"])
    whole = server.encode_result(ROUTES[name], result, media)
    refused = 0

    for body in mutations(whole.body, seed=7, count=1500):
        try:
            decode_poll(ROUTES[name], Response(200, whole.headers, body), HOSTED)
        except WireError:
            refused += 1

    assert refused > 300


@pytest.mark.parametrize("compress", [False, True])
def test_damaged_requests_raise_wire_errors_or_are_read(compress: bool) -> None:
    request = training_request(compress)
    refused = 0

    for body in mutations(request.body, seed=11, count=1500):
        request.body = body
        try:
            server.decode_request(ROUTES["forward_backward"], request)
        except WireError:
            refused += 1

    assert refused > 300
