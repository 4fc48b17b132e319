"""Encode and decode a batch of 64 x 1024 tokens, and its result, against bare protobuf and msgspec doing the same.

"The same" is: from numpy arrays to the very bytes, and from the bytes to what the protocol's types hold: an array for
each tensor, and the token ids of a prompt as an array and as a list. The bare side has no checks, no records and no
words for errors. "The step, client's" is what a training client does: encode the batch, decode the result.

    python -m tests.bench.wire [--json] [--quick]
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import numpy as np

from tests.bench.report import Row, main
from tinkex_actors.types import (
    Datum,
    ForwardBackwardInput,
    ForwardBackwardOutput,
    ForwardBackwardRequest,
    ModelInput,
    SampledSequence,
    SampleResponse,
    TensorData,
)
from tinkex_actors.wire._proto import tinker_public_pb2 as pb
from tinkex_actors.wire.client import decode_poll, encode_request
from tinkex_actors.wire.dialect import HOSTED, JSON
from tinkex_actors.wire.exchange import Response
from tinkex_actors.wire.routes import ROUTES
from tinkex_actors.wire.server import decode_request, encode_result

ROWS = 64
LENGTH = 1024
MODEL = "s:train:0"
ROUTE = ROUTES["forward_backward"]
SAMPLE = ROUTES["asample"]
PROTOBUF = "application/x-protobuf"
TARGET = 1.25

_random = np.random.default_rng(0)
TOKENS = [_random.integers(0, 50_000, LENGTH) for _ in range(ROWS)]
TARGETS = [_random.integers(0, 50_000, LENGTH) for _ in range(ROWS)]
WEIGHTS = [_random.random(LENGTH, np.float32) for _ in range(ROWS)]
LOGPROBS = [-_random.random(LENGTH, np.float32) for _ in range(ROWS)]
TOKEN_LISTS = [tokens.tolist() for tokens in TOKENS]
NARROW_TOKENS = [tokens.astype(np.int32) for tokens in TOKENS]

REQUEST = ForwardBackwardRequest(
    forward_backward_input=ForwardBackwardInput(
        data=[
            Datum(ModelInput.from_ints(tokens), {"target_tokens": target, "weights": weights})
            for tokens, target, weights in zip(TOKEN_LISTS, TARGETS, WEIGHTS, strict=True)
        ],
        loss_fn="cross_entropy",
    ),
    model_id=MODEL,
    seq_id=1,
)
OUTPUT = ForwardBackwardOutput(
    "TorchLossReturn", [{"logprobs": TensorData.from_numpy(row)} for row in LOGPROBS], {"loss:sum": 1.5}
)
SAMPLES = SampleResponse(
    [
        SampledSequence("length", tokens_np=tokens, logprobs_np=logprobs)
        for tokens, logprobs in zip(NARROW_TOKENS, LOGPROBS, strict=True)
    ]
)
_KINDS = {pb.DTYPE_FLOAT32: np.float32, pb.DTYPE_INT64: np.int64}


# --- bare protobuf -------------------------------------------------------------------------------------------------
def bare_protobuf_request() -> bytes:
    """Write the batch."""
    message = pb.ForwardBackwardRequest(model_id=MODEL, seq_id=1, loss_fn="cross_entropy")
    for tokens, target, weights in zip(NARROW_TOKENS, TARGETS, WEIGHTS, strict=True):
        datum = message.data.add()
        datum.model_input.add().encoded_text.tokens = tokens.tobytes()
        for name, array, kind in (("target_tokens", target, 2), ("weights", weights, 1)):
            tensor = datum.loss_fn_inputs[name]
            tensor.dtype = kind
            tensor.shape.append(len(array))
            tensor.dense = array.tobytes()
    encoded: bytes = message.SerializeToString()
    return encoded


def bare_protobuf_read_request(body: bytes) -> Any:
    """Read the batch."""
    return [
        (
            (tokens := np.frombuffer(datum.model_input[0].encoded_text.tokens, np.int32)),
            tokens.tolist(),
            {
                name: np.frombuffer(tensor.dense, _KINDS[tensor.dtype]).reshape(tuple(tensor.shape))
                for name, tensor in datum.loss_fn_inputs.items()
            },
        )
        for datum in pb.ForwardBackwardRequest.FromString(body).data
    ]


def bare_protobuf_result() -> bytes:
    """Write the training result: one record of one field."""
    message = pb.ForwardBackwardOutput(loss_fn_output_type="TorchLossReturn", metrics={"loss:sum": 1.5})
    field = message.loss_fn_outputs.add(type_tag="TorchLossReturn", num_datums=ROWS).fields["logprobs"]
    field.dtype = pb.DTYPE_FLOAT32
    field.data = b"".join(row.tobytes() for row in LOGPROBS)
    field.offsets = np.cumsum([0, *(row.nbytes for row in LOGPROBS)]).tobytes()
    encoded: bytes = message.SerializeToString()
    return encoded


def bare_protobuf_read_result(body: bytes) -> Any:
    """Read the training result."""
    found: list[dict[str, Any]] = []
    for record in pb.ForwardBackwardOutput.FromString(body).loss_fn_outputs:
        for name, field in record.fields.items():
            values = np.frombuffer(field.data, _KINDS[field.dtype])
            ends = (np.frombuffer(field.offsets, np.int64)[1:-1] // values.itemsize).tolist()
            found += [{name: part} for part in np.split(values, ends)]
    return found


def bare_protobuf_read_sample(body: bytes) -> Any:
    """Read the samples."""
    return [
        (item.stop_reason, np.frombuffer(item.tokens, np.int32), np.frombuffer(item.logprobs, np.float32))
        for item in pb.SampleResponse.FromString(body).sequences
    ]


# --- bare msgspec --------------------------------------------------------------------------------------------------
class _Tensor(msgspec.Struct):
    data: list[float]
    dtype: str
    shape: list[int]


class _Tokens(msgspec.Struct):
    tokens: list[int]
    type: str


class _Input(msgspec.Struct):
    chunks: list[_Tokens]


class _Datum(msgspec.Struct):
    model_input: _Input
    loss_fn_inputs: dict[str, _Tensor]


class _Batch(msgspec.Struct):
    data: list[_Datum]
    loss_fn: str


class _Request(msgspec.Struct):
    forward_backward_input: _Batch
    model_id: str
    seq_id: int


class _Result(msgspec.Struct):
    loss_fn_output_type: str
    loss_fn_outputs: list[dict[str, _Tensor]]
    metrics: dict[str, float]


_REQUESTS = msgspec.json.Decoder(_Request)
_RESULTS = msgspec.json.Decoder(_Result)


def bare_json_request() -> bytes:
    """Write the batch."""
    data = [
        {
            "model_input": {"chunks": [{"type": "encoded_text", "tokens": tokens}]},
            "loss_fn_inputs": {
                "target_tokens": {"data": target.tolist(), "dtype": "int64", "shape": [LENGTH]},
                "weights": {"data": weights.tolist(), "dtype": "float32", "shape": [LENGTH]},
            },
        }
        for tokens, target, weights in zip(TOKEN_LISTS, TARGETS, WEIGHTS, strict=True)
    ]
    batch = {"data": data, "loss_fn": "cross_entropy"}
    return msgspec.json.encode({"forward_backward_input": batch, "model_id": MODEL, "seq_id": 1})


def bare_json_read_request(body: bytes) -> Any:
    """Read the batch."""
    return [
        (tokens := datum.model_input.chunks[0].tokens, np.asarray(tokens, np.int32), _arrays(datum.loss_fn_inputs))
        for datum in _REQUESTS.decode(body).forward_backward_input.data
    ]


def bare_json_result() -> bytes:
    """Write the training result."""
    outputs = [{"logprobs": {"data": row.tolist(), "dtype": "float32", "shape": [LENGTH]}} for row in LOGPROBS]
    return msgspec.json.encode(
        {"loss_fn_output_type": "TorchLossReturn", "loss_fn_outputs": outputs, "metrics": {"loss:sum": 1.5}}
    )


def bare_json_read_result(body: bytes) -> Any:
    """Read the training result."""
    return [_arrays(row) for row in _RESULTS.decode(body).loss_fn_outputs]


def _arrays(tensors: dict[str, _Tensor]) -> dict[str, Any]:
    return {name: np.asarray(item.data, item.dtype).reshape(item.shape) for name, item in tensors.items()}


# --- measuring -----------------------------------------------------------------------------------------------------
class Job(NamedTuple):
    """Ours and the bare side's way of doing one thing."""

    measure: str
    against: str
    ours: Callable[[], Any]
    bare: Callable[[], Any]


def jobs() -> list[Job]:
    """Return every measured job, those with a target first.

    The bare side reads the bytes that ours wrote, and wrote as many.
    """
    batch_pb = encode_request(ROUTE, REQUEST, HOSTED)
    batch_json = encode_request(ROUTE, REQUEST, JSON)
    result_pb = encode_result(ROUTE, OUTPUT, PROTOBUF)
    result_json = encode_result(ROUTE, OUTPUT, "application/json")
    sample_pb = encode_result(SAMPLE, SAMPLES, PROTOBUF)
    assert len(bare_protobuf_request()) == len(batch_pb.body)
    assert bare_protobuf_result() == result_pb.body
    assert len(bare_json_request()) == len(batch_json.body)
    assert len(bare_json_result()) == len(result_json.body)
    batch_pb.headers = {"content-type": PROTOBUF}
    batch_json.headers = {"content-type": "application/json"}

    def poll(route: Any, response: Response, dialect: Any) -> Callable[[], Any]:
        return lambda: decode_poll(route, response, dialect)

    protobuf = [
        Job("batch, encode", "protobuf", lambda: encode_request(ROUTE, REQUEST, HOSTED), bare_protobuf_request),
        Job(
            "batch, decode",
            "protobuf",
            lambda: decode_request(ROUTE, batch_pb),
            lambda: bare_protobuf_read_request(batch_pb.body),
        ),
        Job("result, encode", "protobuf", lambda: encode_result(ROUTE, OUTPUT, PROTOBUF), bare_protobuf_result),
        Job(
            "result, decode",
            "protobuf",
            poll(ROUTE, result_pb, HOSTED),
            lambda: bare_protobuf_read_result(result_pb.body),
        ),
    ]
    plain = [
        Job("batch, encode", "msgspec", lambda: encode_request(ROUTE, REQUEST, JSON), bare_json_request),
        Job(
            "batch, decode",
            "msgspec",
            lambda: decode_request(ROUTE, batch_json),
            lambda: bare_json_read_request(batch_json.body),
        ),
        Job("result, encode", "msgspec", lambda: encode_result(ROUTE, OUTPUT, "application/json"), bare_json_result),
        Job(
            "result, decode",
            "msgspec",
            poll(ROUTE, result_json, JSON),
            lambda: bare_json_read_result(result_json.body),
        ),
    ]
    samples = Job(
        "samples, decode",
        "protobuf",
        poll(SAMPLE, sample_pb, HOSTED),
        lambda: bare_protobuf_read_sample(sample_pb.body),
    )
    both = [together("batch, both", *side[:2]) for side in (protobuf, plain)]
    step = [together("step, client's", side[0], side[3]) for side in (protobuf, plain)]
    return [*both, *step, *protobuf, samples, *plain]


def together(measure: str, first: Job, second: Job) -> Job:
    """Return the two jobs as one; the issue's target is for these."""
    return Job(
        measure,
        f"{first.against}, target <= {TARGET}",
        lambda: (first.ours(), second.ours()),
        lambda: (first.bare(), second.bare()),
    )


def timed(job: Callable[[], Any], count: int) -> float:
    """Return CPU seconds for one call."""
    began = time.process_time()
    for _ in range(count):
        job()
    return (time.process_time() - began) / count


def run(quick: bool) -> list[Row]:
    """Measure each pair in turns."""
    rounds = 5 if quick else 25
    rows = []
    for job in jobs():
        count = max(1, int(0.02 / timed(job.bare, 1)))
        timed(job.ours, count)
        pairs = []
        gc.disable()
        for number in range(rounds):
            # In turns, so that neither side always comes second.
            first = [timed(side, count) for side in ((job.ours, job.bare) if number % 2 else (job.bare, job.ours))]
            pairs.append(first if number % 2 else first[::-1])
        gc.enable()
        rows.append(
            Row(
                measure=f"{ROWS} x {LENGTH} {job.measure}",
                ours=statistics.median(ours for ours, _ in pairs) * 1e3,
                baseline=statistics.median(bare for _, bare in pairs) * 1e3,
                unit="ms CPU",
                against=f"bare {job.against}",
                ratio=statistics.median(ours / bare for ours, bare in pairs),
            )
        )
    return rows


if __name__ == "__main__":
    main("wire", run)
