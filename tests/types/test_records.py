"""Parameters are checked where they are made; records compare, pickle and print; paths parse."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import msgspec
import numpy as np
import pytest

from tinkex_actors import types
from tinkex_actors.errors import InputError, TinkerPathError
from tinkex_actors.types import (
    AdamParams,
    LoraConfig,
    ModelInput,
    ParsedCheckpointTinkerPath,
    SampledSequence,
    SampleResponse,
    SamplingParams,
    TopkLogprobs,
)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: AdamParams(learning_rate=-1.0), "learning_rate must be a finite number >= 0, got -1.0"),
        (lambda: AdamParams(learning_rate=math.inf), "learning_rate"),
        (lambda: AdamParams(eps=math.nan), "eps"),
        (lambda: AdamParams(beta1=1.0), r"beta1 must be a number in \[0, 1\)"),
        (lambda: AdamParams(beta2="0.9"), "beta2"),  # type: ignore[arg-type]
        (lambda: AdamParams(weight_decay=True), "weight_decay"),
        (lambda: AdamParams(grad_clip_norm=-0.5), "grad_clip_norm"),
        (lambda: LoraConfig(rank=0), "rank must be an integer >= 1, got 0"),
        (lambda: LoraConfig(rank=8.0), "rank"),  # type: ignore[arg-type]
        (lambda: LoraConfig(rank=True), "rank"),
        (lambda: LoraConfig(rank=1, train_attn=False, train_mlp=False, train_unembed=False), "nothing to train"),
        (lambda: SamplingParams(max_tokens=0), "max_tokens must be >= 1"),
        (lambda: SamplingParams(seed=-1), "seed"),
        (lambda: SamplingParams(seed=2**64), "seed"),
        (lambda: SamplingParams(temperature=-0.1), "temperature"),
        (lambda: SamplingParams(temperature=math.nan), "temperature"),
        (lambda: SamplingParams(top_k=0), "top_k must be >= 1, or -1"),
        (lambda: SamplingParams(top_p=0.0), "top_p"),
        (lambda: SamplingParams(top_p=1.1), "top_p"),
        (lambda: SamplingParams(stop=["a", 1]), "mixture"),
        (lambda: TopkLogprobs([[1]], [[1.0, 2.0]]), "share a shape"),  # type: ignore[arg-type]
        (lambda: SampledSequence("stop", tokens_np=["a"]), "expected numbers"),  # type: ignore[arg-type]
    ],
)
def test_parameters_out_of_range_are_refused_by_name(make: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()


def test_the_defaults_are_the_official_ones() -> None:
    assert AdamParams() == AdamParams(
        learning_rate=1e-4, beta1=0.9, beta2=0.95, eps=1e-12, weight_decay=0.0, grad_clip_norm=0.0
    )
    assert SamplingParams() == SamplingParams(max_tokens=None, seed=None, stop=None, temperature=1, top_k=-1, top_p=1)
    assert LoraConfig(rank=4) == LoraConfig(rank=4, seed=None, train_unembed=True, train_mlp=True, train_attn=True)


def test_stops_become_a_list() -> None:
    assert SamplingParams(stop=("a", "b")).stop == ["a", "b"]
    assert SamplingParams(stop=[1, 2]).stop == [1, 2]
    assert SamplingParams(stop="a").stop == "a"


SEQUENCE = SampledSequence("stop", "q0", [1, 2], [-0.5, -1.0], TopkLogprobs([[1, 0], [0, 0]], [[-0.5, -99999.0]] * 2))  # type: ignore[arg-type]


def test_samples_have_arrays_and_lists() -> None:
    response = SampleResponse([SEQUENCE], prompt_logprobs_np=[None, -1.5])  # type: ignore[arg-type]

    assert SEQUENCE.tokens_np.dtype == np.int32
    assert SEQUENCE.logprobs_np is not None
    assert SEQUENCE.logprobs_np.dtype == np.float32
    assert SEQUENCE.tokens == [1, 2]
    assert SEQUENCE.logprobs == [-0.5, -1.0]
    assert SEQUENCE.topk_logprobs == [[(1, -0.5)], [(0, -0.5)]]
    assert response.prompt_logprobs_np is not None
    assert math.isnan(response.prompt_logprobs_np[0])
    assert response.prompt_logprobs == [None, -1.5]
    assert response.topk_prompt_logprobs is None
    bare = SampledSequence("length")
    assert (bare.tokens, bare.logprobs, bare.topk_logprobs) == ([], None, None)


def test_topk_lists_and_arrays_are_two_forms_of_one_thing() -> None:
    rows = [None, [(4, -0.5), (9, -1.0)], [(5, -0.25)]]

    topk = TopkLogprobs.from_lists(rows)

    assert topk is not None
    assert topk.token_ids.tolist() == [[0, 0], [4, 9], [5, 0]]
    assert topk.tolist() == rows
    assert TopkLogprobs.from_lists([None, None]) is None
    assert TopkLogprobs(np.zeros((2, 0)), np.zeros((2, 0))).tolist() == []


RECORDS: list[Any] = [
    SEQUENCE,
    SEQUENCE.topk_logprobs_np,
    SampleResponse([SEQUENCE], np.float32([np.nan, -1.0])),
    types.SampleRequest(prompt=ModelInput.from_ints([1]), sampling_params=SamplingParams(stop=["x"])),
    types.CreateModelRequest(session_id="s", model_seq_id=0, base_model="b", lora_config=LoraConfig(rank=1)),
    types.GetInfoResponse(model_data=types.ModelData(), model_id="m"),
    types.WeightsInfoResponse(base_model="b", is_lora=True),
    types.ForwardBackwardOutput("X", [{"a": types.TensorData([1.0], "float32")}], {"loss:sum": 1.0}),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_records_pickle_compare_and_print(record: Any) -> None:
    back = pickle.loads(pickle.dumps(record))

    assert back == record
    assert copy.copy(record) == record
    assert back != "something else"
    assert repr(back) == repr(record)
    assert type(record).__name__ in repr(record)


def test_samples_differ_when_their_numbers_do() -> None:
    other = SampledSequence("stop", "q0", [1, 3], [-0.5, -1.0])  # type: ignore[arg-type]

    assert other != SEQUENCE
    assert SampleResponse([SEQUENCE]) != SampleResponse([other])
    assert repr(other) == "SampledSequence(stop_reason='stop', <2 tokens: 1, 3>, logprobs=yes, sequence_id='q0')"


def test_records_are_frozen() -> None:
    for record in RECORDS:
        name = record.__struct_fields__[0]
        with pytest.raises(AttributeError):
            setattr(record, name, None)


def test_every_record_is_exported_under_its_own_name() -> None:
    for name in types.__all__:
        value = getattr(types, name)
        if isinstance(value, type) and issubclass(value, msgspec.Struct):
            # The two names of a batch of telemetry are the official ones.
            assert value.__name__ == name or name == "TelemetryBatch"
            assert value.__struct_config__.frozen, name


def test_a_secret_stays_out_of_a_request_s_repr() -> None:
    request = types.LoadWeightsRequest(path="tinker://a/weights/b", optimizer=True, weights_access_token="tml-secret")

    assert "tml-secret" not in repr(request)


@pytest.mark.parametrize(
    ("path", "kind", "checkpoint_id"),
    [
        ("tinker://s:train:0/weights/c1", "training", "weights/c1"),
        ("tinker://s:train:0/sampler_weights/c1", "sampler", "sampler_weights/c1"),
        ("tinker://s:train:0/external_weights/c1", "external", "external_weights/c1"),
    ],
)
def test_a_checkpoint_path_has_three_parts(path: str, kind: str, checkpoint_id: str) -> None:
    parsed = ParsedCheckpointTinkerPath.from_tinker_path(path)

    assert (parsed.training_run_id, parsed.checkpoint_type, parsed.checkpoint_id) == ("s:train:0", kind, checkpoint_id)
    assert parsed.tinker_path == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "weights/c1",
        "tinker://a/weights",
        "tinker://a/weights/b/c",
        "tinker://a/models/b",
        "tinker:///weights/b",
        "https://localhost/weights/b",
        None,
    ],
)
def test_any_other_path_is_refused_with_the_form_it_should_have(path: Any) -> None:
    with pytest.raises(TinkerPathError, match="tinker://<training_run_id>/<kind>/<name>"):
        ParsedCheckpointTinkerPath.from_tinker_path(path)
