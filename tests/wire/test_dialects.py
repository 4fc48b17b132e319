"""What a dialect's switches change in a request, what a refusal names, and the older forms that answers may have."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wire.golden_cases import REQUESTS
from tinkex_actors import types as t
from tinkex_actors.errors import LocalWireError, RemoteWireError
from tinkex_actors.wire.answers import Failed, Ready, TryAgain
from tinkex_actors.wire.client import decode_poll, decode_response, encode_request
from tinkex_actors.wire.complaints import unknown_fields
from tinkex_actors.wire.dialect import HOSTED, JSON, Dialect
from tinkex_actors.wire.exchange import Response
from tinkex_actors.wire.prompts import aligned
from tinkex_actors.wire.routes import ROUTES
from tinkex_actors.wire.server import encode_response

MINIMAL = msgspec.structs.replace(JSON, minimal=True)


def body(name: str, dialect: Dialect, message: Any = None) -> Any:
    given_message, path = REQUESTS[name]
    route = ROUTES[name.split(".")[0]]
    return json.loads(encode_request(route, message or given_message, dialect, path=path).body)


def sample(**params: Any) -> t.SampleRequest:
    return t.SampleRequest(prompt=t.ModelInput.from_ints([1]), sampling_params=t.SamplingParams(**params))


# --- minimal bodies ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "sent"),
    [
        (
            "create_model",
            {"session_id": "sess-1", "model_seq_id": 0, "base_model": "Qwen/Qwen3-8B", "lora_config": {"rank": 8}},
        ),
        ("save_weights_for_sampler", {"model_id": "sess-1:train:0", "path": "s1", "seq_id": 6}),
        ("session_heartbeat", {"session_id": "sess-1"}),
        (
            "asample",
            {
                "prompt": {"chunks": [{"type": "encoded_text", "tokens": [1, 2, 3]}]},
                "sampling_params": {"max_tokens": 4, "stop": [], "temperature": 1.0, "top_k": -1, "top_p": 1.0},
                "num_samples": 2,
                "sampling_session_id": "sess-1:sample:0",
                "seq_id": 0,
                "prompt_logprobs": True,
            },
        ),
        (
            "optim_step",
            {
                "model_id": "sess-1:train:0",
                "seq_id": 2,
                "adam_params": {"learning_rate": 1e-4, "beta1": 0.9, "beta2": 0.95, "eps": 1e-12},
            },
        ),
        (
            "optim_step.dimuon",
            {
                "model_id": "sess-1:train:0",
                "seq_id": 2,
                "optimizer_params": {"learning_rate": 0.001, "type": "dimuon"},
            },
        ),
        (
            "retrieve_futures",
            {
                "target": {"sampling_session_id": "sess-1:sample:0", "type": "sampling_session"},
                "prev_cursor": 1,
                "timeout": 0.0,
                "retrieved_request_ids": ["sess-1:sample:0:0"],
            },
        ),
        # What removes an expiry is the null itself.
        ("set_checkpoint_ttl.never", {"ttl_seconds": None}),
        ("finish_session", {"reason": {"type": "success"}, "detail": None}),
    ],
)
def test_a_minimal_body_says_only_what_is_not_a_default(name: str, sent: Any) -> None:
    assert body(name, MINIMAL) == sent


@pytest.mark.parametrize("name", REQUESTS)
def test_a_minimal_body_adds_nothing_to_the_whole_one(name: str) -> None:
    message, path = REQUESTS[name]
    route = ROUTES[name.split(".")[0]]
    whole, least = (encode_request(route, message, dialect, path=path) for dialect in (JSON, MINIMAL))

    def within(small: Any, large: Any) -> bool:
        if isinstance(small, dict):
            return all(key in large and within(value, large[key]) for key, value in small.items())
        if isinstance(small, list):
            return len(small) == len(large) and all(map(within, small, large))
        return bool(small == large)

    assert (least.method, least.path, least.headers) == (whole.method, whole.path, whole.headers)
    assert within(json.loads(least.body or b"{}"), json.loads(whole.body or b"{}"))


def test_protobuf_bodies_know_no_switches() -> None:
    bare = msgspec.structs.replace(HOSTED, minimal=True).without("forward_backward", ["model_id"])
    message, _ = REQUESTS["forward_backward"]

    requests = [encode_request(ROUTES["forward_backward"], message, dialect) for dialect in (HOSTED, bare)]

    assert requests[0].body == requests[1].body


# --- dropped fields ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "path", "left"),
    [
        ("create_session", "display_name", lambda sent: "display_name" not in sent and sent["tags"] == ["a", "b"]),
        ("asample", "sampling_params.top_k", lambda sent: set(sent["sampling_params"]) == JSON_PARAMS - {"top_k"}),
        ("asample", "prompt.chunks.type", lambda sent: sent["prompt"]["chunks"] == [{"tokens": [1, 2, 3]}]),
        ("asample", "prompt.chunks.encoded_text.type", lambda sent: "type" not in sent["prompt"]["chunks"][0]),
        ("asample", "prompt.chunks.image.type", lambda sent: "type" in sent["prompt"]["chunks"][0]),
        ("asample", "nothing.like.it", lambda sent: sent["seq_id"] == 0),
        ("forward", "forward_input.data.loss_fn_inputs.weights.shape", lambda sent: weights_of(sent) == DATA),
    ],
)
def test_a_dropped_field_is_not_sent_and_the_others_are(name: str, path: str, left: Any) -> None:
    assert left(body(name, JSON.without(name, [path])))
    assert body(name, JSON.without("another_route", [path])) == body(name, JSON)


JSON_PARAMS = {"max_tokens", "stop", "temperature", "top_k", "top_p"}
DATA = {"data": [0.0, 1.0, 0.5], "dtype": "float32"}


def weights_of(sent: Any) -> Any:
    return sent["forward_input"]["data"][0]["loss_fn_inputs"]["weights"]


def test_what_is_dropped_from_a_pass_is_dropped_whichever_name_it_was_asked_under() -> None:
    batch = t.ForwardBackwardInput(data=[], loss_fn="ppo")
    message = t.ForwardBackwardRequest(forward_backward_input=batch, model_id="m", seq_id=1, forward_only=True)
    for asked in ("forward", "forward_backward"):
        sent = encode_request(ROUTES["forward_backward"], message, JSON.without(asked, ["seq_id"]))

        assert sent.path == "/api/v1/forward"
        assert "seq_id" not in json.loads(sent.body)


def test_dropping_leaves_the_callers_values_alone() -> None:
    notes = {"type": "mine", "deep": {"a": 1}}
    message = t.CreateSessionRequest(tags=[], user_metadata=notes, sdk_version="0")

    sent = body("create_session", JSON.without("create_session", ["user_metadata.deep.a", "type"]), message)

    assert sent["user_metadata"] == {"type": "mine", "deep": {}}
    assert notes == {"type": "mine", "deep": {"a": 1}}


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.text(max_size=3)), max_size=4))
def test_dropping_adds_up_and_repeats_change_nothing(fields: list[tuple[str, str]]) -> None:
    dialect = HOSTED
    for route, field in fields + fields:
        dialect = dialect.without(route, [field])

    assert dialect.dropped == frozenset(fields)
    assert msgspec.structs.replace(dialect, dropped=frozenset()) == HOSTED


# --- samples -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("stop", "sent"), [("END", ["END"]), (["a"], ["a"]), ([7], [7]), ([], []), (None, "absent"), ("", [""])]
)
def test_stop_is_a_list_for_servers_that_want_one(stop: Any, sent: Any) -> None:
    dialect = msgspec.structs.replace(JSON, stop_as_list=True)

    assert body("asample", dialect, sample(stop=stop))["sampling_params"].get("stop", "absent") == sent
    assert body("asample", JSON, sample(stop=stop))["sampling_params"].get("stop", "absent") == (
        "absent" if stop is None else stop
    )


def test_max_tokens_is_sent_where_it_must_be_and_never_over_the_callers() -> None:
    dialect = msgspec.structs.replace(HOSTED, max_tokens=256, minimal=True)

    assert body("asample", dialect, sample())["sampling_params"]["max_tokens"] == 256
    assert body("asample", dialect, sample(max_tokens=3))["sampling_params"]["max_tokens"] == 3
    assert "max_tokens" not in body("asample", HOSTED, sample())["sampling_params"]


# --- headers -------------------------------------------------------------------------------------------------------
def test_a_token_for_anothers_weights_travels_as_a_header_only() -> None:
    message, _ = REQUESTS["copy_weights"]
    sent = encode_request(ROUTES["copy_weights"], message, HOSTED)

    assert sent.headers["X-Tinker-Weights-Access-Token"] == "tml-other"
    assert b"tml-other" not in sent.body
    assert (
        "X-Tinker-Weights-Access-Token"
        not in encode_request(
            ROUTES["copy_weights"], t.CopyWeightsRequest(source_path="tinker://a/weights/b"), HOSTED
        ).headers
    )


@pytest.mark.parametrize("token", ["", "a\r\nX-Evil: 1", "a\n", " a", "é", "a\x00"])
def test_what_would_break_a_header_is_refused_without_being_shown(token: str) -> None:
    message = t.CopyWeightsRequest(source_path="tinker://a/weights/b", weights_access_token=token)

    with pytest.raises(LocalWireError, match="X-Tinker-Weights-Access-Token") as caught:
        encode_request(ROUTES["copy_weights"], message, HOSTED)

    assert "Evil" not in str(caught.value)


# --- refusals ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("refusal", "fields"),
    [
        ({"detail": [{"type": "extra_forbidden", "loc": ["body", "a", 0, "b"], "msg": "x"}]}, ("a.b",)),
        ({"detail": [{"type": "value_error.extra", "loc": ["body", "a"], "msg": "x"}]}, ("a",)),
        ({"detail": [{"type": "missing", "loc": ["body", "a"]}, {"type": "extra_forbidden"}, "x"]}, ()),
        ({"detail": "Object contains unknown field `b` - at `$.a[...].c`"}, ("a.c.b",)),
        ({"detail": "Object contains unknown field `b`"}, ("b",)),
        ({"error": {"message": "unknown field `b`, expected one of `a`"}}, ("b",)),
        ('json: unknown field "b"', ("b",)),
        ({"detail": "Additional properties are not allowed ('a', 'b' were unexpected)"}, ("a", "b")),
        ({"detail": "Additional properties are not allowed ('a' was unexpected)"}, ("a",)),
        ({"detail": "rank too large"}, ()),
        (None, ()),
        ([], ()),
    ],
)
def test_a_refusal_names_the_fields_it_does_not_know(refusal: Any, fields: tuple[str, ...]) -> None:
    assert unknown_fields(refusal) == fields


# --- answers of other servers --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (b'{"status":"pending"}', TryAgain("active")),
        (b'{"status":"completed","result":{"metrics":{"a:sum":1}}}', Ready(t.OptimStepResponse(metrics={"a:sum": 1}))),
        (b'{"status":"failed","error":{"message":"no","category":"user"}}', Failed("no", "user")),
        (b'{"status":"failed","error":{"message":"no"},"category":"server"}', Failed("no", "server")),
        (b'{"metrics":{}}', Ready(t.OptimStepResponse(metrics={}))),
        (b"{}", Ready(t.OptimStepResponse())),
    ],
)
def test_older_forms_of_a_poll_are_read(answer: bytes, found: Any) -> None:
    assert decode_poll(ROUTES["optim_step"], Response(200, {}, answer), JSON) == found


@pytest.mark.parametrize("metrics", [b"", b',"metrics":null', b',"metrics":{}'])
def test_a_training_result_without_metrics_is_read(metrics: bytes) -> None:
    answer = b'{"loss_fn_outputs":[{}]' + metrics + b"}"

    found = decode_poll(ROUTES["forward"], Response(200, {}, answer), JSON)

    assert found == Ready(t.ForwardBackwardOutput("ArrayRecord", [{}], {}))


def test_a_promise_without_sequence_ids_is_a_promise() -> None:
    promise = decode_response(ROUTES["asample"], Response(202, {}, b'{"request_id":"f"}'))

    assert promise == t.UntypedAPIFuture(request_id="f")


@pytest.mark.parametrize("path", ["tinker://a/weights/b", "ckpt-7", "s3://bucket/x", "tinker://a/b/c/d?e", ""])
def test_a_path_of_another_shape_is_passed_on(path: str) -> None:
    saved = decode_poll(ROUTES["save_weights"], Response(200, {}, json.dumps({"path": path}).encode()), JSON)
    message = t.LoadWeightsRequest(path=path, optimizer=False, model_id="m")

    assert saved == Ready(t.SaveWeightsResponse(path=path))
    assert body("load_weights", JSON, message)["path"] == path


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_the_address_of_an_archive_may_be_a_redirect_or_an_answer(status: int) -> None:
    route = ROUTES["get_checkpoint_archive_url"]
    where = "https://files.example.com/x?sig=1"

    located = decode_response(route, Response(status, {"location": where, "expires": "soon"}))
    answered = decode_response(route, Response(200, {}, json.dumps({"url": where, "expires": None}).encode()))

    assert located == t.CheckpointArchiveUrlResponse(url=where, expires="soon")
    assert answered == t.CheckpointArchiveUrlResponse(url=where)


def test_an_archives_address_that_is_no_header_is_refused() -> None:
    with pytest.raises(LocalWireError, match="location"):
        encode_response(
            ROUTES["get_checkpoint_archive_url"], t.CheckpointArchiveUrlResponse(url="https://x/\r\nSet-Cookie: a=b")
        )


def test_a_page_in_place_of_json_says_to_check_the_address() -> None:
    page = Response(200, {"content-type": "text/html"}, b"<html>Welcome</html>")

    with pytest.raises(RemoteWireError, match=r"the answer is text/html, not JSON\. Check that base_url"):
        decode_response(ROUTES["create_session"], page)


# --- prompt scores -------------------------------------------------------------------------------------------------
SCORES = [-1.0, -2.0, -3.0]
ROWS = [[(1, -0.5)], [(2, -0.25)], [(3, -1.5)]]


@pytest.mark.parametrize(
    ("entries", "last_n"),
    [([None, *SCORES], None), (SCORES, None), ([-9.0, *SCORES], None), (SCORES, 3), ([None, *SCORES], 3)],
)
def test_prompt_scores_have_an_entry_for_each_token_and_none_for_the_first(entries: Any, last_n: Any) -> None:
    rows = [[(9, -9.0)] if entries[0] == -9.0 else None, *ROWS] if len(entries) == 4 else ROWS
    response = t.SampleResponse([], entries, t.TopkLogprobs.from_lists(rows))

    found = aligned(response, 4, last_n=last_n)

    assert found.prompt_logprobs == [None, *SCORES]
    assert found.topk_prompt_logprobs == [None, *ROWS]
    assert aligned(found, 4) is found


def test_a_scored_suffix_stands_at_the_end() -> None:
    response = t.SampleResponse([], np.float32([-1.0, -2.0]))

    assert aligned(response, 5, last_n=2).prompt_logprobs == [None, None, None, -1.0, -2.0]


@pytest.mark.parametrize("count", [0, 2, 5])
def test_scores_of_another_prompt_are_refused(count: int) -> None:
    with pytest.raises(RemoteWireError, match=f"prompt_logprobs: {count} entries for a prompt of 4 tokens"):
        aligned(t.SampleResponse([], np.zeros(count, np.float32)), 4)
    with pytest.raises(RemoteWireError, match="topk_prompt_logprobs"):
        aligned(t.SampleResponse([], None, t.TopkLogprobs.from_lists([[(1, -1.0)]] * 6)), 4)


def test_without_scores_there_is_nothing_to_align() -> None:
    response = t.SampleResponse([])

    assert aligned(response, 4) is response
