"""Whatever the types can hold comes back from the wire with equal numbers, in both dialects."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinkex_actors.errors import LocalWireError, RemoteWireError
from tinkex_actors.types import (
    Datum,
    EncodedTextChunk,
    ForwardBackwardInput,
    ForwardBackwardOutput,
    ForwardBackwardRequest,
    ImageAssetPointerChunk,
    ImageChunk,
    ModelInput,
    OptimStepResponse,
    PromptAltTokens,
    SampledSequence,
    SampleRequest,
    SampleResponse,
    SamplingParams,
    TensorData,
    TopkLogprobs,
)
from tinkex_actors.wire.answers import Ready
from tinkex_actors.wire.client import decode_poll, encode_request, poll_request
from tinkex_actors.wire.dialect import HOSTED, JSON, Dialect
from tinkex_actors.wire.routes import ROUTES
from tinkex_actors.wire.server import decode_request, encode_result, match

DIALECTS = pytest.mark.parametrize("dialect", [HOSTED, JSON], ids=lambda dialect: dialect.name)

# NaN too, where results may hold it: JSON writes it as null.
NUMBERS = st.floats(width=32, allow_infinity=False, allow_nan=True)
FINITE = st.floats(width=32, allow_infinity=False, allow_nan=False)
INTEGERS = st.integers(-(2**63), 2**63 - 1)
TOKENS = st.lists(st.integers(0, 2**31 - 1), max_size=12)
NAMES = st.text(st.characters(codec="utf-8"), max_size=8)
SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4)


def dense(floats: Any) -> st.SearchStrategy[TensorData]:
    arrays = hnp.arrays(np.float32, SHAPES, elements=floats) | hnp.arrays(np.int64, SHAPES, elements=INTEGERS)
    return arrays.map(TensorData.from_numpy)


@st.composite
def sparse(draw: Any) -> TensorData:
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    array = draw(hnp.arrays(np.int64, (rows, columns), elements=st.sampled_from([0, 0, 0, 0, 7, -1])))
    return TensorData.from_numpy_sparse(array)


CHUNKS = TOKENS.map(lambda tokens: EncodedTextChunk(tokens=tokens)) | st.builds(
    ImageChunk,
    data=st.binary(max_size=9),
    format=st.sampled_from(["png", "jpeg"]),
    expected_tokens=st.none() | st.integers(0, 2**31 - 1),
)
INPUTS = st.lists(CHUNKS, max_size=3).map(lambda chunks: ModelInput(chunks=chunks))
DATUMS = st.builds(Datum, INPUTS, st.dictionaries(NAMES, dense(FINITE) | sparse(), max_size=3))
REQUESTS = st.builds(
    ForwardBackwardRequest,
    forward_backward_input=st.builds(
        ForwardBackwardInput,
        data=st.lists(DATUMS, max_size=3),
        loss_fn=st.sampled_from(["cross_entropy", "ppo", "custom"]),
        loss_fn_config=st.none()
        | st.dictionaries(NAMES, st.floats(allow_nan=False, allow_infinity=False) | NAMES, min_size=1, max_size=3),
    ),
    model_id=NAMES,
    seq_id=st.none() | st.integers(1, 2**31 - 1),
    forward_only=st.booleans(),
)


@DIALECTS
@settings(deadline=None, max_examples=50)
@given(request=REQUESTS, compress=st.booleans())
def test_a_training_request_comes_back(dialect: Dialect, request: ForwardBackwardRequest, compress: bool) -> None:
    sent = encode_request(ROUTES["forward_backward"], request, dialect, compress=compress)

    matched = match(sent)

    assert matched is not None
    assert decode_request(matched[0], sent) == request
    assert encode_request(ROUTES["forward_backward"], request, dialect, compress=compress).body == sent.body


@st.composite
def outputs(draw: Any) -> ForwardBackwardOutput:
    names = draw(st.lists(NAMES, max_size=3, unique=True))
    rows = draw(st.integers(0, 4))
    kind = draw(st.text("abcXYZ_.", min_size=1, max_size=8))
    # Shapes and dtypes may change from datum to datum: that takes several records.
    datums = [{name: draw(dense(NUMBERS)) for name in names} for _ in range(rows)]
    return ForwardBackwardOutput(
        kind, datums, draw(st.dictionaries(NAMES, st.floats(allow_nan=False, allow_infinity=False), max_size=3))
    )


def through_a_poll(name: str, result: Any, dialect: Dialect) -> Any:
    poll = poll_request("f", ROUTES[name], dialect, iteration=0, allow_metadata_only=False)
    answer = decode_poll(ROUTES[name], encode_result(ROUTES[name], result, poll.headers["Accept"]), dialect)
    assert isinstance(answer, Ready)
    return answer.result


@DIALECTS
@settings(deadline=None, max_examples=50)
@given(output=outputs())
def test_a_training_result_comes_back(dialect: Dialect, output: ForwardBackwardOutput) -> None:
    back = through_a_poll("forward_backward", output, dialect)

    assert back.metrics == output.metrics
    assert back.loss_fn_output_type == output.loss_fn_output_type
    assert len(back.loss_fn_outputs) == len(output.loss_fn_outputs)
    for got, sent in zip(back.loss_fn_outputs, output.loss_fn_outputs, strict=True):
        assert got.keys() == sent.keys()
        for name, tensor in sent.items():
            # A zero further down the shape leaves no bytes to count the leading dimension by (protocol 3.4).
            shape = tensor.shape if dialect is JSON or 0 not in tensor.shape[1:] else [0, *tensor.shape[1:]]
            assert got[name] == TensorData(tensor.values_np.ravel(), tensor.dtype, shape)


def topk(n: int) -> st.SearchStrategy[TopkLogprobs | None]:
    cell = st.tuples(st.integers(0, 2**31 - 1), st.floats(-50, 0, width=32))
    row = st.none() | st.lists(cell, min_size=1, max_size=3)
    return st.lists(row, min_size=n, max_size=n).map(TopkLogprobs.from_lists)


@st.composite
def sequences(draw: Any) -> SampledSequence:
    n = draw(st.integers(1, 5))
    return SampledSequence(
        draw(st.sampled_from(["stop", "length"])),
        tokens_np=draw(hnp.arrays(np.int32, n, elements=st.integers(0, 2**31 - 1))),
        logprobs_np=draw(st.none() | hnp.arrays(np.float32, n, elements=NUMBERS)),
        topk_logprobs_np=draw(topk(n)),
    )


@st.composite
def samples(draw: Any) -> SampleResponse:
    n = draw(st.integers(1, 4))
    alternatives = hnp.arrays(np.int64, (n, 2), elements=st.integers(0, 2**31 - 1)).map(TensorData.from_numpy)
    scores = hnp.arrays(np.float32, (n, 2), elements=NUMBERS).map(TensorData.from_numpy)
    return SampleResponse(
        draw(st.lists(sequences(), max_size=3)),
        prompt_logprobs_np=draw(st.none() | hnp.arrays(np.float32, n, elements=NUMBERS)),
        topk_prompt_logprobs_np=draw(topk(n)),
        target_prompt_logprobs=draw(st.none() | dense(NUMBERS).filter(lambda tensor: tensor.dtype == "float32")),
        prompt_cache_hit_tokens=draw(st.integers(0, 2**31 - 1)),
        prompt_alt_tokens=draw(st.none() | st.builds(PromptAltTokens, alternatives, scores)),
    )


@DIALECTS
@settings(deadline=None, max_examples=50)
@given(sample=samples())
def test_a_sample_comes_back(dialect: Dialect, sample: SampleResponse) -> None:
    assert through_a_poll("asample", sample, dialect) == sample


@DIALECTS
@settings(deadline=None, max_examples=50)
@given(
    prompt=INPUTS,
    stop=st.none() | NAMES | st.lists(NAMES, max_size=3) | st.lists(st.integers(0, 9), max_size=3),
    target=st.none() | sparse(),
)
def test_a_sample_request_comes_back(
    dialect: Dialect, prompt: ModelInput, stop: Any, target: TensorData | None
) -> None:
    message = SampleRequest(
        prompt=prompt, sampling_params=SamplingParams(stop=stop), target_prompt_logprobs=target, seq_id=5_000_000_001
    )

    sent = encode_request(ROUTES["asample"], message, dialect)

    assert decode_request(ROUTES["asample"], sent) == message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_metrics_that_json_cannot_carry_come_back_as_nan(value: float) -> None:
    output = ForwardBackwardOutput("X", [], {"loss:sum": value})
    step = OptimStepResponse(metrics={"grad_norm:mean": value})

    assert np.isnan(through_a_poll("forward", output, JSON).metrics["loss:sum"])
    assert np.isnan(through_a_poll("optim_step", step, JSON).metrics["grad_norm:mean"])
    np.testing.assert_equal(through_a_poll("forward", output, HOSTED).metrics["loss:sum"], value)


def test_json_refuses_a_request_that_holds_nan_and_names_the_tensor() -> None:
    datum = Datum(ModelInput.from_ints([1]), {"weights": [float("nan")]})
    batch = ForwardBackwardInput(data=[datum], loss_fn="cross_entropy")
    request = ForwardBackwardRequest(forward_backward_input=batch, model_id="m", seq_id=1)

    with pytest.raises(LocalWireError, match=r"data\[0\].loss_fn_inputs\['weights'\] holds NaN"):
        encode_request(ROUTES["forward_backward"], request, JSON)


def test_an_image_pointer_samples_but_does_not_train() -> None:
    prompt = ModelInput(chunks=[ImageAssetPointerChunk(location="a/b", format="png", expected_tokens=3)])
    batch = ForwardBackwardInput(data=[Datum(prompt)], loss_fn="cross_entropy")
    sample = SampleRequest(prompt=prompt, sampling_params=SamplingParams())

    sent = encode_request(ROUTES["asample"], sample, HOSTED)

    assert decode_request(ROUTES["asample"], sent) == sample
    with pytest.raises(LocalWireError, match="ImageAssetPointerChunk cannot be trained on"):
        encode_request(
            ROUTES["forward_backward"], ForwardBackwardRequest(forward_backward_input=batch, model_id="m"), HOSTED
        )


@pytest.mark.parametrize("name", ["forward", "forward_backward"])
@pytest.mark.parametrize("only", [False, True])
def test_a_forward_pass_goes_where_the_dialect_has_it(name: str, only: bool) -> None:
    batch = ForwardBackwardInput(data=[], loss_fn="cross_entropy")
    request = ForwardBackwardRequest(forward_backward_input=batch, model_id="m", seq_id=1, forward_only=only)
    forward = only or name == "forward"

    hosted = encode_request(ROUTES[name], request, HOSTED)
    old = encode_request(ROUTES[name], request, JSON)

    assert hosted.path == "/api/v1/forward_backward"
    assert decode_request(ROUTES["forward_backward"], hosted).forward_only is forward
    assert old.path == ("/api/v1/forward" if forward else "/api/v1/forward_backward")
    assert decode_request(ROUTES[old.path.rpartition("/")[2]], old).forward_only is forward


def test_the_server_takes_either_key_on_either_training_route() -> None:
    batch = b'{"data":[],"loss_fn":"ppo"}'
    body = encode_request(
        ROUTES["forward_backward"],
        ForwardBackwardRequest(
            forward_backward_input=ForwardBackwardInput(data=[], loss_fn="ppo"), model_id="m", forward_only=True
        ),
        HOSTED,
    )

    for key in (b"forward_input", b"forward_backward_input"):
        body.headers = {"content-type": "application/json"}
        body.body = b'{"' + key + b'":' + batch + b',"model_id":"m","of_a_later_version":1}'
        assert decode_request(ROUTES["forward"], body).forward_only
        assert decode_request(ROUTES["forward_backward"], body).forward_only is (key == b"forward_input")
    body.body = b'{"model_id":"m"}'
    with pytest.raises(RemoteWireError, match="neither `forward_backward_input` nor `forward_input`"):
        decode_request(ROUTES["forward"], body)
