"""Every record: checked when made, in words that help; equal, picklable and short whatever it holds."""

from __future__ import annotations

import copy
import math
import pickle
import types as builtin_types
import typing
from datetime import UTC, datetime
from typing import Any, Literal, Union

import jax.numpy as jnp
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinkex_actors import types
from tinkex_actors.errors import InputError
from tinkex_actors.types import (
    AdamOptimizerConfig,
    Checkpoint,
    CustomLossInput,
    CustomLossNode,
    Datum,
    DimuonOptimizerConfig,
    DimuonParams,
    ForwardBackwardInput,
    GetAuditLogRequest,
    ImageChunk,
    LoraConfig,
    ModelInput,
    OptimStepRequest,
    RegularizerOutput,
    SampledSequence,
    SampleRequest,
    SampleResponse,
    SamplingParams,
    SaveWeightsExternalRequest,
    SaveWeightsRequest,
    SessionSearchCursor,
    SessionSearchRequest,
    TensorData,
    UserSearchOwner,
)

EMPTY = ModelInput.empty()
PARAMS = SamplingParams()


def wrong(value: object) -> Any:
    return value


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SaveWeightsRequest(model_id=wrong(5)), r"^SaveWeightsRequest: model_id must be text, got 5 \(int\)"),
        (lambda: SaveWeightsRequest(model_id="m", overwrite=wrong(1)), "overwrite must be True or False, got 1"),
        (lambda: SaveWeightsRequest(model_id="m", seq_id=wrong(True)), "seq_id must be an integer or None, got True"),
        (lambda: SaveWeightsRequest(model_id="m", seq_id=wrong(1.0)), "seq_id must be an integer or None, got 1.0"),
        (lambda: SaveWeightsRequest(model_id="m", user_metadata=wrong({"a": 1})), r"user_metadata\['a'\] must be text"),
        (lambda: SaveWeightsRequest(model_id="m", user_metadata=wrong({1: "a"})), "must be a dict from text to text"),
        (lambda: SaveWeightsRequest(model_id="m", user_metadata=wrong([])), r"or None, got \[\] \(list\)"),
        (lambda: SampleRequest(prompt=wrong([1]), sampling_params=PARAMS), r"ModelInput\.from_ints\(\.\.\.\)\.$"),
        (lambda: SampleRequest(prompt=EMPTY, sampling_params=wrong({})), r"Make one with SamplingParams\(\.\.\.\)\.$"),
        (lambda: SampleRequest(prompt=EMPTY, sampling_params=PARAMS, num_samples=0), "integer >= 1, got 0"),
        (lambda: ForwardBackwardInput(data=wrong([1]), loss_fn="x"), r"data\[0\] must be a Datum, got 1 \(int\)"),
        (lambda: ForwardBackwardInput(data=wrong("abc"), loss_fn="x"), "data must be a list, each entry a Datum"),
        (lambda: ForwardBackwardInput(data=wrong(7), loss_fn="x"), "data must be a list, each entry a Datum"),
        (lambda: ModelInput(chunks=wrong([1])), r"chunks\[0\] must be an EncodedTextChunk or an ImageChunk or"),
        (lambda: ImageChunk(data=b"", format=wrong("gif")), "format must be 'png' or 'jpeg', got 'gif'"),
        (lambda: ImageChunk(data=wrong(7), format="png"), "data must be bytes, got 7"),
        (lambda: ImageChunk(data=b"", format="png", expected_tokens=-1), "expected_tokens must be an integer >= 0 or"),
        (lambda: SamplingParams(stop=wrong(5)), "stop must be text or a list"),
        (lambda: SamplingParams(stop=wrong([5, None])), r"stop\[1\] must be text or an integer, got None"),
        (lambda: CustomLossInput(name="logprobs", rank=wrong(3)), "rank must be 0 or 1 or 2, got 3"),
        (lambda: CustomLossInput(name="logprobs", rank=wrong(True)), "rank must be 0 or 1 or 2, got True"),
        (lambda: CustomLossInput(name="", rank=0), "name must be text of a length >= 1"),
        (lambda: CustomLossNode(op=wrong("loop"), name="n", target="t"), "op must be 'placeholder' or 'get_attr'"),
        (lambda: SessionSearchRequest(limit=201), "limit must be an integer >= 1 and <= 200, got 201"),
        (lambda: SessionSearchRequest(statuses=[]), "of a length >= 1"),
        (lambda: SessionSearchRequest(owner=wrong("own")), "owner must be an OwnSearchOwner or"),
        (lambda: UserSearchOwner(owner_urns=["u"] * 11), "of a length <= 10"),
        (lambda: SaveWeightsExternalRequest(model_id="m", path="p", age_encryption_recipients=["a"] * 11), "<= 10"),
        (
            lambda: SessionSearchCursor(last_created_at=datetime(2026, 1, 1), last_session_id="s"),
            "last_created_at must be .* with a time zone",
        ),
        (lambda: SessionSearchCursor(last_created_at=wrong("yesterday"), last_session_id="s"), "RFC 3339"),
        (lambda: GetAuditLogRequest(day="yesterday"), "day must be a date such as '2026-01-31', got 'yesterday'"),
        (lambda: RegularizerOutput(name="l2", value=wrong("1"), weight=1, contribution=1), "value must be a number"),
        (lambda: SampledSequence(wrong("end")), "stop_reason must be 'stop' or 'length', got 'end'"),
        (lambda: SampleResponse(wrong([{}])), r"sequences\[0\] must be a SampledSequence, got \{\}"),
    ],
)
def test_a_wrong_field_is_refused_with_what_was_expected_and_what_came(make: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()


def test_numbers_of_other_libraries_become_pythons() -> None:
    request = SampleRequest(
        prompt=EMPTY,
        sampling_params=SamplingParams(
            max_tokens=wrong(np.int64(5)), temperature=wrong(jnp.float32(0.5)), top_k=wrong(np.array(3))
        ),
        num_samples=wrong(jnp.int32(2)),
        prompt_logprobs=wrong(np.True_),
    )

    params = request.sampling_params
    assert (params.max_tokens, params.temperature, params.top_k) == (5, 0.5, 3)
    assert (request.num_samples, request.prompt_logprobs) == (2, True)
    assert [type(value) for value in (params.max_tokens, params.temperature, params.top_k)] == [int, float, int]
    assert [type(value) for value in (request.num_samples, request.prompt_logprobs)] == [int, bool]


def test_sequences_become_lists_and_other_forms_their_usual_one() -> None:
    class Text(str):
        pass

    assert SamplingParams(stop=wrong(np.array([1, 2]))).stop == [1, 2]
    assert ForwardBackwardInput(data=wrong((Datum(EMPTY),)), loss_fn="x").data == [Datum(EMPTY)]
    assert ImageChunk(data=wrong(bytearray(b"ab")), format="png").data == b"ab"
    assert type(SaveWeightsRequest(model_id=Text("m")).model_id) is str
    assert SaveWeightsRequest(
        model_id="m", user_metadata=wrong(builtin_types.MappingProxyType({"a": "b"}))
    ).user_metadata == {"a": "b"}
    cursor = SessionSearchCursor(last_created_at=wrong("2026-01-01T00:00:00Z"), last_session_id="s")
    assert cursor.last_created_at == datetime(2026, 1, 1, tzinfo=UTC)


def test_what_needs_no_change_is_kept_as_it_is() -> None:
    batch = [Datum(EMPTY)]
    notes = {"a": "b"}

    assert ForwardBackwardInput(data=batch, loss_fn="x").data is batch
    assert SaveWeightsRequest(model_id="m", user_metadata=notes).user_metadata is notes


def test_a_bound_is_kept_when_a_record_is_read_too() -> None:
    with pytest.raises(msgspec.ValidationError, match=r"limit"):
        msgspec.json.decode(b'{"limit": 0}', type=SessionSearchRequest)
    with pytest.raises(InputError, match="limit"):
        msgspec.structs.replace(SessionSearchRequest(), limit=0)


# --- representations -----------------------------------------------------------------------------------------------
def test_a_representation_shows_what_is_not_at_its_default() -> None:
    assert repr(LoraConfig(rank=8)) == "LoraConfig(rank=8)"
    assert repr(LoraConfig(rank=8, train_mlp=False)) == "LoraConfig(rank=8, train_mlp=False)"
    assert repr(SamplingParams()) == "SamplingParams()"
    assert repr(ModelInput.from_ints(range(1024))) == (
        "ModelInput(chunks=[EncodedTextChunk(tokens=[0, 1, 2, 3, 4, 5, ... <1024 in all>])])"
    )


def test_no_representation_grows_with_what_is_in_it() -> None:
    datum = Datum(ModelInput.from_ints(range(4096)), {f"x{n}": np.ones((4096, 4)) for n in range(20)})
    sequence = SampledSequence("stop", "q", wrong(range(4096)), wrong([0.0] * 4096))
    records = [
        ForwardBackwardInput(data=[datum] * 1024, loss_fn="x" * 10_000),
        types.ForwardBackwardOutput("X", [datum.loss_fn_inputs] * 1024, {f"m{n}": 1.0 for n in range(1000)}),
        SampleResponse([sequence] * 64, np.zeros(4096, np.float32)),
        ImageChunk(data=bytes(10_000), format="png"),
        types.DmelChunk(dmel=bytes(10_000)),
        types.FutureCompletedResponse(result={"a": [["x" * 1000] * 1000] * 1000}),
        SaveWeightsRequest(model_id="m", user_metadata={str(n): "v" * 1000 for n in range(1000)}),
    ]

    assert {type(record).__name__: len(repr(record)) for record in records if len(repr(record)) > 5000} == {}


@pytest.mark.parametrize(
    "record",
    [
        types.LoadWeightsRequest(path="p", optimizer=True, weights_access_token="tml-secret"),
        types.CopyWeightsRequest(source_path="p", weights_access_token="tml-secret"),
        types.AuthTokenResponse(jwt="tml-secret"),
        types.CheckpointArchiveUrlResponse(url="https://a.example/tml-secret"),
        types.SessionTraceExportResponse(status="ready", url="https://a.example/tml-secret"),
        types.ExternalWeightsUrlsResponse(urls={"a": "tml-secret"}, expires=datetime.now(UTC)),
    ],
    ids=lambda record: type(record).__name__,
)
def test_a_secret_is_in_no_representation(record: Any) -> None:
    assert "tml-secret" in str(msgspec.to_builtins(record))
    assert "tml-secret" not in repr(record)
    assert "tml-secret" not in repr(list(record.__rich_repr__()))


def test_a_secret_is_in_no_refusal() -> None:
    with pytest.raises(InputError, match="jwt must be text, got <secret>") as caught:
        types.AuthTokenResponse(jwt=wrong(["tml-secret"]))

    assert "tml-secret" not in str(caught.value)


# --- optimizers ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: DimuonParams(learning_rate=-1.0),
            "DimuonParams: learning_rate must be a finite number >= 0, got -1.0",
        ),
        (lambda: DimuonParams(learning_rate=math.nan), "learning_rate"),
        (lambda: DimuonParams(learning_rate=0.1, beta1=1.0), r"beta1 must be a number in \[0, 1\)"),
        (lambda: DimuonParams(learning_rate=0.1, grad_clip_norm=math.inf), "grad_clip_norm must be a finite number"),
        (lambda: DimuonOptimizerConfig(version=0), "version must be an integer >= 1"),
        (lambda: OptimStepRequest(model_id="m", optimizer_params={"beta": 1}), "its name|name under 'type'"),
        (lambda: OptimStepRequest(model_id="m", optimizer_params=types.AdamParams()), "AdamParams go into adam_params"),
        (
            lambda: OptimStepRequest(model_id="m", adam_params=types.AdamParams(), optimizer_params={"type": "lion"}),
            "both given",
        ),
        (
            lambda: types.CreateModelRequest(session_id="s", model_seq_id=0, base_model="b", optimizer_config="adamw"),
            "CreateModelRequest: optimizer_config must be an AdamOptimizerConfig",
        ),
        (lambda: types.LoadWeightsRequest(path="p", optimizer=True, optimizer_config={}), "optimizer_config"),
    ],
)
def test_a_wrong_optimizer_is_refused(make: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()


def test_a_step_s_settings_go_under_the_wire_s_name_for_their_optimizer() -> None:
    adam, dimuon, other = types.AdamParams(), DimuonParams(learning_rate=0.1, grad_clip_norm=-1.0), {"type": "lion"}

    assert OptimStepRequest.of("m", adam, 3) == OptimStepRequest(model_id="m", seq_id=3, adam_params=adam)
    assert OptimStepRequest.of("m", dimuon) == OptimStepRequest(model_id="m", optimizer_params=dimuon)
    assert OptimStepRequest.of("m", other) == OptimStepRequest(model_id="m", optimizer_params=other)


@pytest.mark.parametrize(
    ("config", "becomes"),
    [
        ({"type": "adamw"}, AdamOptimizerConfig()),
        ({"type": "dimuon", "version": 2}, DimuonOptimizerConfig(version=2)),
        ({"type": "dimuon", "new": 1}, {"type": "dimuon", "new": 1}),
        ({"type": "lion"}, {"type": "lion"}),
    ],
)
def test_an_optimizer_that_is_known_becomes_its_type(config: dict[str, Any], becomes: Any) -> None:
    for record in (
        types.GetInfoResponse(model_data=types.ModelData(), model_id="m", optimizer_config=config),
        types.WeightsInfoResponse(base_model="b", is_lora=True, optimizer_config=config),
        types.LoadWeightsRequest(path="p", optimizer=False, optimizer_config=config),
        types.CreateModelRequest(session_id="s", model_seq_id=0, base_model="b", optimizer_config=config),
    ):
        assert record.optimizer_config == becomes


# --- links ---------------------------------------------------------------------------------------------------------
def test_saved_weights_have_their_pages() -> None:
    saved = types.SaveWeightsForSamplerResponse(path="tinker://s:train:0/sampler_weights/a b")

    assert saved.get_console_url().endswith("/checkpoints/s:train:0/sampler_weights%2Fa%20b")
    assert saved.get_playground_url().endswith("checkpoint=tinker%3A%2F%2Fs%3Atrain%3A0%2Fsampler_weights%2Fa%20b")
    assert (
        types.SaveWeightsResponse(path="tinker://r/weights/c").get_console_url().endswith("/checkpoints/r/weights%2Fc")
    )


def test_a_checkpoint_knows_its_run() -> None:
    made = Checkpoint(
        checkpoint_id="weights/c",
        checkpoint_type="training",
        time=datetime.now(UTC),
        tinker_path="tinker://r/weights/c",
    )

    assert made.training_run_id == "r"


# --- every record, with anything in it -----------------------------------------------------------------------------
RECORDS = sorted(
    {
        value
        for value in (getattr(types, name) for name in types.__all__)
        if isinstance(value, type) and issubclass(value, msgspec.Struct)
    },
    key=lambda kind: kind.__name__,
)
TEXT = st.text("abc:/ é", max_size=6)
TENSORS = st.builds(TensorData, st.lists(st.integers(-9, 9), max_size=4), st.sampled_from(["int64", "float32"]))
ARRAYS = st.lists(st.integers(0, 9), max_size=4).map(np.array)
OPTIMIZERS = st.sampled_from([AdamOptimizerConfig(), DimuonOptimizerConfig(version=3), {"type": "lion", "x": 1}])
# Fields whose rule is not their annotation alone.
SPECIAL: dict[str, st.SearchStrategy[Any]] = {
    "EncodedTextChunk.tokens": st.lists(st.integers(0, 2**31 - 1), max_size=5),
    "tokens_np": ARRAYS,
    "logprobs_np": st.none() | ARRAYS,
    "prompt_logprobs_np": st.none() | ARRAYS,
    "loss_fn_inputs": st.dictionaries(TEXT, TENSORS, max_size=2),
    "optimizer_config": OPTIMIZERS,
    "optimizer_params": st.none() | st.builds(DimuonParams, learning_rate=st.floats(0, 1)),
    "adam_params": st.none(),
    "day": st.none() | st.just("2026-01-31"),
    "stop": st.none() | TEXT | st.lists(TEXT) | st.lists(st.integers(0, 9)),
    "top_p": st.floats(0.1, 1),
    "top_k": st.just(-1) | st.integers(1, 9),
    "max_tokens": st.none() | st.integers(1, 9),
    "seed": st.none() | st.integers(0, 2**64 - 1),
    "train_attn": st.just(True),
    "model_input_spans": st.none(),
    "loss_fn_input_spans": st.none(),
    **{
        name: st.floats(0, 0.5) for name in ("learning_rate", "beta1", "beta2", "eps", "weight_decay", "grad_clip_norm")
    },
    "temperature": st.floats(0, 2),
}
SIMPLE: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXT,
    int: st.integers(-(2**40), 2**40),
    float: st.floats(allow_nan=False, allow_infinity=False, width=32),
    bool: st.booleans(),
    bytes: st.binary(max_size=8),
    type(None): st.none(),
    Any: st.none() | TEXT | st.integers(0, 9),
    datetime: st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)),
    TensorData: TENSORS,
    types.TopkLogprobs: st.just(types.TopkLogprobs(np.zeros((2, 1), np.int32), np.zeros((2, 1), np.float32))),
}


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Return values of an annotation, within its bounds."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return bounded(arguments[0], arguments[1])
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (Union, builtin_types.UnionType):
        return st.one_of([values(argument) for argument in arguments])
    if origin is list:
        return st.lists(values(arguments[0]), max_size=2)
    if origin is dict:
        return st.dictionaries(TEXT, values(arguments[1]), max_size=2)
    return SIMPLE[hint] if hint in SIMPLE else records(hint)


def bounded(hint: Any, meta: msgspec.Meta) -> st.SearchStrategy[Any]:
    if hint is int:
        least = meta.ge if meta.ge is not None else 0
        return st.integers(int(least), int(meta.le) if meta.le is not None else 2**40)
    if meta.min_length or meta.max_length:
        return values(hint).filter(lambda value: len(value) >= (meta.min_length or 0))
    return values(hint)


def records(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    if kind in SIMPLE:
        return SIMPLE[kind]
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = {}
    for name in kind.__struct_fields__:
        special = [SPECIAL[key] for key in (name, f"{kind.__name__}.{name}") if key in SPECIAL]
        fields[name] = special[0] if special else values(hints[name])
    return st.deferred(lambda: st.builds(kind, **fields))


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
def test_every_record_pickles_copies_compares_and_stays_short(kind: type[msgspec.Struct]) -> None:
    @settings(deadline=None, max_examples=6)
    @given(record=records(kind))
    def holds(record: Any) -> None:
        assert pickle.loads(pickle.dumps(record)) == record
        assert copy.copy(record) == record
        assert copy.deepcopy(record) == record
        assert repr(pickle.loads(pickle.dumps(record))) == repr(record)
        assert repr(record).startswith(f"{kind.__name__}(")
        assert len(repr(record)) < 5000
        assert record != object()

    holds()


ARRAY_RECORDS = {"SampledSequence", "SampleResponse", "TopkLogprobs", "SampleRequest", "PromptAltTokens", "Datum"}


@pytest.mark.parametrize(
    "kind",
    [
        kind
        for kind in RECORDS
        if kind.__name__ not in ARRAY_RECORDS
        and not kind.__name__.startswith("Forward")
        and kind is not OptimStepRequest
    ],
    ids=lambda kind: kind.__name__,
)
def test_every_plain_record_comes_back_from_json(kind: type[msgspec.Struct]) -> None:
    """The records alone, without the wire's own rules: their annotations can be read as they are written."""

    @settings(deadline=None, max_examples=6)
    @given(record=records(kind))
    def holds(record: Any) -> None:
        assert msgspec.json.decode(msgspec.json.encode(record), type=kind) == record

    holds()


@pytest.mark.parametrize(
    "kind", [kind for kind in RECORDS if kind.__struct_config__.tag_field], ids=lambda kind: kind.__name__
)
def test_every_discriminator_can_be_read(kind: type[msgspec.Struct]) -> None:
    config = kind.__struct_config__

    @settings(deadline=None, max_examples=1)
    @given(record=records(kind))
    def holds(record: Any) -> None:
        assert getattr(record, str(config.tag_field)) == config.tag

    holds()
