"""What a server speaks, found from its refusals: every branch, and that no exchange goes on for ever."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinkex_actors.machines.discovery import (
    Acquitted,
    Answered,
    Discovery,
    Refused,
    Resend,
    Stand,
    Unsupported,
    Verdict,
    answered,
    lacks,
    refused,
)


def of_pass(status: int, encoding: str = "protobuf", **more: object) -> Refused:
    return Refused(route="forward_backward", status=status, encoding=encoding, **more)  # type: ignore[arg-type]


def of_sample(**more: object) -> Refused:
    return Refused(route="asample", status=422, encoding="json", **more)  # type: ignore[arg-type]


# --- encodings -------------------------------------------------------------------------------------------------------
def test_protobuf_is_spoken_until_it_is_refused_with_415() -> None:
    state = Discovery()
    assert state.speaks_protobuf
    assert isinstance(refused(state, of_pass(415)), Resend)
    assert not state.speaks_protobuf
    assert state.protobuf == "refused"


def test_compression_is_taken_away_before_protobuf_is() -> None:
    state = Discovery()
    assert isinstance(refused(state, of_pass(415, "zstd")), Resend)
    assert (state.zstd, state.speaks_protobuf) == (False, True)
    assert isinstance(refused(state, of_pass(415, "zstd", stale=True)), Resend), "sent before the first answer came"
    assert refused(state, of_pass(415, "zstd")) == Stand()
    assert isinstance(refused(state, of_pass(415)), Resend)
    assert not state.speaks_protobuf


def test_a_server_that_refuses_json_is_spoken_to_in_protobuf() -> None:
    state = Discovery()
    state.settle(hosted=False)
    assert not state.speaks_protobuf
    assert isinstance(refused(state, of_pass(415, "json")), Resend)
    assert state.speaks_protobuf


@pytest.mark.parametrize(("first", "second"), [("protobuf", "json"), ("json", "protobuf")])
def test_a_server_that_refuses_both_cannot_train(first: str, second: str) -> None:
    state = Discovery()
    refused(state, of_pass(415, first))
    verdict = refused(state, of_pass(415, second))
    assert isinstance(verdict, Unsupported)
    assert verdict.feature == "training requests"


@pytest.mark.parametrize("status", [400, 422, 500])
def test_a_crash_at_the_first_protobuf_body_is_tried_in_json_and_remembered(status: int) -> None:
    state = Discovery()
    assert isinstance(refused(state, of_pass(status)), Resend)
    assert (state.protobuf, state.speaks_protobuf) == ("suspected", False)
    assert isinstance(answered(state, Answered("forward_backward", "json")), Resend)
    assert (state.protobuf, state.speaks_protobuf) == ("refused", False)


@pytest.mark.parametrize("status", [400, 415, 500])
def test_a_crash_that_json_does_not_mend_was_not_about_protobuf(status: int) -> None:
    state = Discovery()
    refused(state, of_pass(500))
    assert refused(state, of_pass(status, "json")) == Acquitted()
    assert (state.protobuf, state.speaks_protobuf) == ("cleared", True)
    assert refused(state, of_pass(500)) == Stand(), "nobody is accused twice"


def test_what_says_nothing_about_the_encoding_leaves_the_trial_open() -> None:
    state = Discovery()
    refused(state, of_pass(500))
    for status in (429, 503, 408, 409, 401):
        assert refused(state, of_pass(status, "json")) == Stand()
    assert state.protobuf == "suspected"


def test_once_understood_protobuf_is_never_suspected() -> None:
    state = Discovery()
    assert answered(state, Answered("forward_backward", "protobuf")) is None
    assert refused(state, of_pass(500)) == Stand()
    assert refused(state, of_pass(400)) == Stand()
    assert state.protobuf == "accepted"


def test_bodies_in_flight_when_protobuf_was_given_up_go_out_again_as_json() -> None:
    state = Discovery()
    refused(state, of_pass(500))
    assert isinstance(refused(state, of_pass(500, stale=True)), Resend)
    assert refused(state, of_pass(500)) == Stand(), "it was to be sent as JSON and was not: no loop"
    answered(state, Answered("forward_backward", "json"))
    assert isinstance(refused(state, of_pass(500, stale=True)), Resend)


@pytest.mark.parametrize("status", [401, 402, 403, 408, 409, 410, 429, 502, 503, 504])
def test_an_overloaded_or_closed_server_is_not_suspected(status: int) -> None:
    state = Discovery()
    assert refused(state, of_pass(status)) == Stand()
    assert state.protobuf == "untried"


def test_other_routes_say_nothing_about_training_bodies() -> None:
    state = Discovery()
    assert refused(state, Refused(route="optim_step", status=500, encoding="json")) == Stand()
    assert refused(state, Refused(route="optim_step", status=415, encoding="json")) == Stand()
    assert refused(state, Refused(route="healthz", status=415)) == Stand()
    assert answered(state, Answered("optim_step", "json")) is None
    assert (state.protobuf, state.json) == ("untried", "untried")


# --- fields ----------------------------------------------------------------------------------------------------------
def test_unknown_fields_are_dropped_once_and_defaults_with_them() -> None:
    state = Discovery()
    verdict = refused(state, of_sample(unknown=("record_stability_info", "topk_sample_logprobs")))
    assert isinstance(verdict, Resend)
    assert "record_stability_info, topk_sample_logprobs" in verdict.why
    assert state.minimal
    assert state.dropped == {("asample", "record_stability_info"), ("asample", "topk_sample_logprobs")}
    assert refused(state, of_sample(unknown=("record_stability_info",))) == Stand()


def test_a_field_that_says_something_is_not_dropped_but_told() -> None:
    state = Discovery()
    verdict = refused(
        state, of_sample(unknown=("topk_prompt_logprobs", "type"), carrying=frozenset({"topk_prompt_logprobs"}))
    )
    assert isinstance(verdict, Unsupported)
    assert verdict.feature == "asample with topk_prompt_logprobs"
    assert state == Discovery()


def test_a_late_complaint_is_answered_by_sending_again() -> None:
    state = Discovery()
    refused(state, of_sample(unknown=("type",)))
    assert isinstance(refused(state, of_sample(unknown=("type",), stale=True)), Resend)


def test_stop_is_sent_as_a_list_where_one_is_wanted() -> None:
    state = Discovery()
    assert isinstance(refused(state, of_sample(not_lists=("sampling_params.stop",))), Resend)
    assert state.stop_as_list
    assert refused(state, of_sample(not_lists=("sampling_params.stop",))) == Stand()
    assert refused(state, of_sample(not_lists=("prompt",))) == Stand()


def test_max_tokens_is_sent_where_it_is_mandatory() -> None:
    state = Discovery()
    assert isinstance(refused(state, of_sample(missing=("sampling_params.max_tokens",))), Resend)
    assert state.max_tokens is not None
    assert refused(state, of_sample(missing=("sampling_params.max_tokens",))) == Stand()
    assert any("without max_tokens" in note for note in state.notes())


def test_defaults_are_sent_again_where_one_of_them_is_missed() -> None:
    state = Discovery()
    state.settle(hosted=False)
    assert state.minimal
    assert isinstance(refused(state, of_sample(missing=("num_samples",))), Resend)
    assert not state.minimal
    assert refused(state, of_sample(missing=("num_samples",))) == Stand()
    assert isinstance(refused(state, of_sample(unknown=("type",))), Resend)
    assert not state.minimal, "the server wants its defaults: what it does not know is dropped by name only"


def test_polls_stop_asking_for_the_size() -> None:
    state = Discovery()
    complaint = Refused(
        route="retrieve_future", status=422, encoding="json", unknown=("allow_metadata_only",), named_object=True
    )
    assert isinstance(refused(state, complaint), Resend)
    assert not state.metadata_only
    assert isinstance(refused(state, complaint), Resend), "and if it was sent all the same, by name"
    assert refused(state, complaint) == Stand()


@pytest.mark.parametrize(
    "complaint",
    [{"missing": ("model_id",)}, {"unknown": ("session_id", "model_seq_id"), "carrying": frozenset({"session_id"})}],
)
def test_creating_by_loading_is_given_up_for_create_then_load(complaint: dict[str, object]) -> None:
    state = Discovery()
    event = Refused(route="load_weights", status=422, encoding="json", **complaint)  # type: ignore[arg-type]
    assert refused(state, event) == Stand(), "the caller goes another way; the same request would not help"
    assert state.create_by_load is False


def test_a_plain_422_is_the_users() -> None:
    state = Discovery()
    assert refused(state, of_sample()) == Stand()
    assert state == Discovery()


# --- routes ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("status", "detail"),
    [
        (405, "Method Not Allowed"),
        (501, ""),
        (404, ""),
        (404, "Not Found"),
        (404, "404: Not Found"),
        (404, "404 page not found"),
        (404, "No route POST /api/v1/weights_info on this engine."),
        (404, "no such endpoint"),
        (404, "Cannot POST /api/v1/weights_info"),
        (404, "<html><body><h1>404</h1></body></html>"),
        (404, "The requested URL was not found on the server. If you entered the URL manually please check it."),
    ],
)
def test_a_missing_route_is_told_by_name_and_remedy(status: int, detail: str) -> None:
    state = Discovery()
    verdict = refused(state, Refused(route="weights_info", status=status, encoding="json", detail=detail))
    assert isinstance(verdict, Unsupported)
    assert verdict.feature == "describing checkpoints"
    assert "load_state" in verdict.remedy
    assert lacks(state, "weights_info") == verdict
    assert any("weights_info" in note for note in state.notes())


@pytest.mark.parametrize("detail", ["model 'x' does not exist", "No checkpoint tinker://a/weights/b.", "unknown model"])
def test_a_missing_object_is_no_missing_route(detail: str) -> None:
    state = Discovery()
    assert refused(state, Refused(route="weights_info", status=404, encoding="json", detail=detail)) == Stand()
    assert lacks(state, "weights_info") is None


def test_a_bare_404_at_a_path_that_names_an_object_is_about_the_object() -> None:
    state = Discovery()
    bare = Refused(route="get_training_run", status=404, detail="Not Found", named_object=True)
    assert refused(state, bare) == Stand()


def test_a_route_that_was_answered_is_there() -> None:
    state = Discovery()
    answered(state, Answered("weights_info", "json"))
    assert refused(state, Refused(route="weights_info", status=404, encoding="json", detail="Not Found")) == Stand()


def test_a_route_that_comes_back_is_no_longer_missing() -> None:
    state = Discovery()
    refused(state, Refused(route="weights_info", status=404, encoding="json"))
    answered(state, Answered("weights_info", "json"))
    assert lacks(state, "weights_info") is None


def test_a_pass_without_a_route_of_its_own_goes_to_forward_backward() -> None:
    state = Discovery()
    state.settle(hosted=False)
    missing = Refused(route="forward", status=404, encoding="json", detail="Not Found")
    assert isinstance(refused(state, missing), Resend)
    assert not state.forward_route
    late = Refused(route="forward", status=404, encoding="json", detail="Not Found", stale=True)
    assert isinstance(refused(state, late), Resend), "two passes were under way"
    verdict = refused(state, missing)
    assert isinstance(verdict, Unsupported)
    assert "without a gradient" in verdict.feature


def test_a_route_without_words_of_its_own_is_named_by_its_name() -> None:
    verdict = refused(Discovery(), Refused(route="list_user_checkpoints", status=405))
    assert isinstance(verdict, Unsupported)
    assert verdict.feature == "list user checkpoints"


# --- the whole -------------------------------------------------------------------------------------------------------
def test_a_server_like_the_hosted_one_has_nothing_to_note() -> None:
    state = Discovery()
    state.settle(hosted=True)
    assert state.notes() == []
    assert (state.speaks_protobuf, state.minimal, state.metadata_only) == (True, False, True)


routes = st.sampled_from(["forward", "forward_backward", "asample", "load_weights", "retrieve_future", "weights_info"])
fields = st.lists(
    st.sampled_from(["type", "sampling_params.stop", "sampling_params.max_tokens", "model_id"]), max_size=3
)
refusals = st.builds(
    Refused,
    route=routes,
    status=st.sampled_from([400, 404, 405, 408, 409, 415, 422, 429, 500, 501, 503]),
    encoding=st.sampled_from(["none", "json", "protobuf", "zstd"]),
    detail=st.sampled_from(["", "Not Found", "no model m"]),
    named_object=st.booleans(),
    unknown=fields.map(tuple),
    missing=fields.map(tuple),
    not_lists=fields.map(tuple),
)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.one_of(refusals, st.builds(Answered, routes, st.sampled_from(["json", "protobuf"]))), max_size=20))
def test_one_request_is_sent_again_a_handful_of_times_at_most(history: list[Refused | Answered]) -> None:
    """Whatever a server has said before and however it goes on refusing, each exchange ends."""
    state = Discovery()
    for event in history:
        if isinstance(event, Answered):
            answered(state, event)
        else:
            refused(state, event)
    for stubborn in (event for event in history if isinstance(event, Refused)):
        sent = 0
        verdict: Verdict = Resend("")
        while isinstance(verdict, Resend):
            # The body goes out as the state has it now.
            encoding = stubborn.encoding
            if stubborn.route.startswith("forward"):
                encoding = "json" if not state.speaks_protobuf else "zstd" if state.zstd else "protobuf"
            now = Refused(
                route=stubborn.route,
                status=stubborn.status,
                encoding=encoding,
                detail=stubborn.detail,
                unknown=stubborn.unknown,
                missing=stubborn.missing,
                not_lists=stubborn.not_lists,
            )
            verdict = refused(state, now)
            sent += 1
            assert sent <= 10
