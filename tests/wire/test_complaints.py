"""What refusals ask for, in the words of the validators that servers are built with."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tinkex_actors.types import (
    AdamParams,
    CreateSessionRequest,
    ModelInput,
    OptimStepRequest,
    SampleRequest,
    SamplingParams,
    SaveWeightsForSamplerRequest,
    SaveWeightsRequest,
)
from tinkex_actors.wire.complaints import carries, fields_wanted_as_lists, missing_fields


def fastapi(*items: tuple[str, list[Any]]) -> dict[str, Any]:
    return {"detail": [{"type": kind, "loc": place, "msg": "..."} for kind, place in items]}


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (fastapi(("missing", ["body", "sampling_params", "max_tokens"])), ("sampling_params.max_tokens",)),
        (fastapi(("value_error.missing", ["body", "model_id"])), ("model_id",)),
        (fastapi(("missing", ["body", "prompt", "chunks", 0, "type"])), ("prompt.chunks.type",)),
        (fastapi(("missing", ["body", "a"]), ("extra_forbidden", ["body", "b"]), ("missing", ["c"])), ("a", "c")),
        (fastapi(("missing", ["body"])), ()),
        ({"detail": "missing field `model_id` at line 1 column 20"}, ("model_id",)),
        (
            {"error": "Object missing required field `max_tokens` - at `$.sampling_params`"},
            ("sampling_params.max_tokens",),
        ),
        ({"message": "Object missing required field `type` - at `$.prompt.chunks[...]`"}, ("prompt.chunks.type",)),
        ({"detail": "'model_id' is a required property"}, ("model_id",)),
        ({"detail": {"error": "missing field 'a', missing field 'a'"}}, ("a",)),
        ("missing field 'plain'", ("plain",)),
        ({"detail": [{"type": "missing", "loc": "model_id"}, "words", {"type": "missing"}]}, ()),
        ({"detail": "model_id is wrong"}, ()),
        ({"other": 1}, ()),
        (None, ()),
        ([1, 2], ()),
    ],
)
def test_missing_fields_are_found_in_every_dialect_of_complaint(body: object, fields: tuple[str, ...]) -> None:
    assert missing_fields(body) == fields


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (fastapi(("list_type", ["body", "sampling_params", "stop"])), ("sampling_params.stop",)),
        (fastapi(("type_error.list", ["body", "sampling_params", "stop"])), ("sampling_params.stop",)),
        (fastapi(("string_type", ["body", "sampling_params", "stop"])), ()),
        ({"detail": "Expected `array`, got `str` - at `$.sampling_params.stop`"}, ("sampling_params.stop",)),
        ({"detail": "Expected `array | null`, got `str` - at `$.sampling_params.stop`"}, ("sampling_params.stop",)),
        ({"detail": "Expected `int`, got `str` - at `$.sampling_params.seed`"}, ()),
        (None, ()),
    ],
)
def test_fields_that_are_wanted_as_lists_are_found(body: object, fields: tuple[str, ...]) -> None:
    assert fields_wanted_as_lists(body) == fields


SAMPLE = SampleRequest(
    prompt=ModelInput.from_ints([1, 2]),
    sampling_params=SamplingParams(max_tokens=4, top_k=5),
    sampling_session_id="s",
    seq_id=3,
    topk_prompt_logprobs=2,
    record_stability_info=True,
)


@pytest.mark.parametrize(
    ("message", "field", "says"),
    [
        (SAMPLE, "topk_prompt_logprobs", True),
        (SAMPLE, "topk_sample_logprobs", False),
        (SAMPLE, "seq_id", True),
        (SAMPLE, "sampling_params", True),
        (SAMPLE, "sampling_params.top_k", True),
        (SAMPLE, "sampling_params.top_p", False),
        (SAMPLE, "sampling_params.seed", False),
        (SAMPLE, "sampling_params.no_such_field", False),
        (SAMPLE, "no_such.field", False),
        (SAMPLE, "record_stability_info", False),
        (SAMPLE, "type", False),
        (SAMPLE, "prompt.chunks.tokens", True),
        (SaveWeightsRequest(model_id="m", path="a", ttl_seconds=60), "ttl_seconds", True),
        (SaveWeightsRequest(model_id="m", path="a"), "ttl_seconds", False),
        (SaveWeightsRequest(model_id="m", path="a"), "overwrite", False),
        (SaveWeightsRequest(model_id="m", path="a", overwrite=True), "overwrite", True),
        (SaveWeightsForSamplerRequest(model_id="m", kind="inflight"), "kind", True),
        (SaveWeightsForSamplerRequest(model_id="m"), "kind", False),
        (OptimStepRequest(model_id="m", adam_params=AdamParams(learning_rate=1e-3)), "adam_params", True),
        (
            CreateSessionRequest(tags=["a"], user_metadata={"b": "c"}, sdk_version="1", project_id="p"),
            "project_id",
            True,
        ),
        (CreateSessionRequest(tags=["a"], user_metadata={"b": "c"}, sdk_version="1"), "tags", False),
        (None, "anything", False),
    ],
)
def test_a_field_carries_something_unless_it_holds_its_default_or_a_note(
    message: msgspec.Struct | None, field: str, says: bool
) -> None:
    assert carries(message, field) is says
