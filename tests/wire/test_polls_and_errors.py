"""What a poll can find, and which error a failed answer becomes."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from tinkex_actors import errors
from tinkex_actors.types import AdamOptimizerConfig, CreateModelRequest, GetInfoResponse, ModelData
from tinkex_actors.wire.answers import Failed, MetadataOnly, Ready, Timeout408, TryAgain
from tinkex_actors.wire.classification import classify
from tinkex_actors.wire.client import base_headers, decode_poll, decode_response, encode_request
from tinkex_actors.wire.dialect import HOSTED
from tinkex_actors.wire.exchange import Request, Response
from tinkex_actors.wire.routes import ROUTES
from tinkex_actors.wire.server import (
    decode_request,
    encode_error,
    encode_failure,
    encode_metadata_only,
    encode_response,
    encode_try_again,
    match,
)

GOLDEN = Path(__file__).parent / "golden"
OPTIM = ROUTES["optim_step"]


def golden(name: str) -> Response:
    stored = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    body = stored["body"] if isinstance(stored["body"], str) else json.dumps(stored["body"])
    return Response(stored["status"], stored.get("headers", {"content-type": "application/json"}), body.encode())


@pytest.mark.parametrize(
    ("name", "answer", "served"),
    [
        (
            "poll.try_again.200",
            TryAgain("paused_capacity", "short on capacity"),
            encode_try_again("f", "paused_capacity", "short on capacity"),
        ),
        ("poll.try_again_bare.200", TryAgain("active"), encode_try_again("f", "active")),
        ("poll.metadata.200", MetadataOnly(12345), encode_metadata_only(12345)),
        ("poll.failed.200", Failed("loss is NaN", "user"), encode_failure("loss is NaN", "user")),
        (
            "poll.timeout.408",
            Timeout408("paused_rate_limit", "too many"),
            encode_try_again("f", "paused_rate_limit", "too many", status=408),
        ),
    ],
)
def test_a_poll_answer_is_read_and_written(name: str, answer: Any, served: Response) -> None:
    response = golden(name)

    assert decode_poll(ROUTES["asample"], response, HOSTED) == answer
    assert served.status == response.status
    assert json.loads(served.body) == json.loads(response.body)


@pytest.mark.parametrize(
    ("status", "body", "answer"),
    [
        (408, b"", Timeout408("unknown")),
        (408, b"upstream timeout", Timeout408("unknown")),
        (200, b'{"type":"try_again","queue_state":"on_fire"}', TryAgain("unknown")),
        (200, b'{"type":"try_again"}', TryAgain("active")),
        (200, b'{"type":"TRY_AGAIN","retry_after_ms":0}', TryAgain("active", None, 0.0)),
        (200, b'{"type":"try_again","retry_after_ms":1500}', TryAgain("active", None, 1.5)),
        (408, b'{"queue_state":"active","retry_after_ms":250}', Timeout408("active", None, 0.25)),
        (200, b'{"type":"try_again","retry_after_ms":-1}', TryAgain("active")),
        (200, b'{"type":"try_again","retry_after_ms":true}', TryAgain("active")),
        (200, b'{"type":"try_again","retry_after_ms":"soon"}', TryAgain("active")),
        (200, b'{"type":"try_again","retry_after_ms":1e30}', TryAgain("active")),
        (200, b'{"status":"complete_metadata"}', MetadataOnly(0)),
        (200, b'{"error":"x","category":"User"}', Failed("x", "unknown")),
        (200, b'{"error":{"code":7}}', Failed('{"code":7}', "unknown")),
        (200, b'{"metrics":null,"error":null}', None),
    ],
)
def test_odd_poll_answers_are_understood(status: int, body: bytes, answer: Any) -> None:
    found = decode_poll(OPTIM, Response(status, {}, body), HOSTED)

    assert found == answer if answer is not None else isinstance(found, Ready)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"nonsense", b'{"status":"complete_metadata","response_payload_size":-1}', b'{"metrics":{"a":"b"}}'],
)
def test_an_unreadable_result_is_the_other_sides_fault(body: bytes) -> None:
    with pytest.raises(errors.RemoteWireError):
        decode_poll(OPTIM, Response(200, {}, body), HOSTED)


def test_protobuf_where_json_is_due_is_refused_and_not_guessed() -> None:
    with pytest.raises(errors.RemoteWireError, match="optim_step: a protobuf result"):
        decode_poll(OPTIM, Response(200, {"content-type": "application/x-protobuf"}, b""), HOSTED)


@pytest.mark.parametrize(
    ("name", "kind", "words", "category", "retry_after"),
    [
        ("error.detail_text.404", errors.NotFoundError, "Training run not found", "unknown", None),
        (
            "error.detail_list.422",
            errors.UnprocessableEntityError,
            "model_id: Field required; adam_params.foo: Extra",
            "unknown",
            None,
        ),
        ("error.error_category.400", errors.BadRequestError, "rank too large", "user", None),
        ("error.error_object.429", errors.RateLimitError, "slow down", "unknown", 1.5),
        ("error.plain.500", errors.InternalServerError, "Internal Server Error", "unknown", None),
        ("error.html.502", errors.InternalServerError, "502 Bad Gateway", "unknown", 0.25),
        ("error.billing.402", errors.BillingError, "payment required", "unknown", None),
        ("error.gone.410", errors.GoneError, "session finished", "unknown", None),
        ("error.auth.401", errors.AuthenticationError, "Check the API key", "unknown", None),
        ("error.conflict.409", errors.ConflictError, "checkpoint exists", "unknown", None),
        ("error.forbidden.403", errors.PermissionDeniedError, "not yours", "unknown", None),
    ],
)
@pytest.mark.parametrize("polling", [False, True])
def test_a_failed_status_becomes_its_leaf(
    name: str, kind: type[errors.APIStatusError], words: str, category: str, retry_after: float | None, polling: bool
) -> None:
    response = golden(name)

    with pytest.raises(kind) as caught:
        decode_poll(OPTIM, response, HOSTED) if polling else decode_response(OPTIM, response)

    error = caught.value
    assert type(error) is kind
    assert error.status_code == response.status
    assert words in str(error)
    assert "optim_step" in str(error)
    assert error.category == category
    assert error.retry_after == retry_after
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_an_echoed_key_is_cut_out_of_message_and_body() -> None:
    error = classify(golden("error.auth.401"), "POST /x")

    assert "tml-" not in str(error) + repr(error.body)
    assert error.body == {"detail": "Invalid key ***"}


@pytest.mark.parametrize("value", ["Wed, 21 Oct 2026 07:28:00 GMT", "nan", "-1", "soon"])
def test_a_retry_hint_that_cannot_be_told_in_seconds_is_left_out(value: str) -> None:
    assert classify(Response(429, {"retry-after": value}), "x").retry_after is None


@pytest.mark.parametrize(("value", "wish"), [("true", True), ("False", False), ("maybe", None), ("", None)])
def test_the_server_may_force_or_forbid_a_retry(value: str, wish: bool | None) -> None:
    assert classify(Response(500, {"x-should-retry": value}), "x").should_retry is wish
    assert classify(Response(500, {}), "x").should_retry is None


@pytest.mark.parametrize("status", [300, 304, 405, 418, 599])
def test_other_statuses_are_plain_or_the_servers(status: int) -> None:
    error = classify(Response(status, {}, b""), "GET /x")

    assert type(error) is (errors.InternalServerError if status >= 500 else errors.APIStatusError)
    assert "no detail given" in str(error)


def test_a_400_without_a_body_is_a_proxys_and_may_be_retried() -> None:
    for call in (
        lambda: decode_response(OPTIM, Response(400, {})),
        lambda: decode_poll(OPTIM, Response(400, {}), HOSTED),
    ):
        with pytest.raises(errors.APIConnectionError, match="proxy"):
            call()


def test_a_long_page_is_cut_and_deep_json_does_not_overflow() -> None:
    assert len(str(classify(Response(503, {}, b"x" * 100_000), "GET /x"))) < 800
    assert "HTTP 500" in str(classify(Response(500, {}, b"[" * 50_000), "GET /x"))
    nested = b'{"error":' * 300 + b"1" + b"}" * 300
    assert "HTTP 500" in str(classify(Response(500, {}, nested), "GET /x"))


def test_a_pause_that_is_asked_for_is_written_in_milliseconds() -> None:
    served = encode_try_again("f", "paused_capacity", retry_after=0.25)

    assert json.loads(served.body)["retry_after_ms"] == 250
    assert decode_poll(OPTIM, served, HOSTED) == TryAgain("paused_capacity", None, 0.25)


def test_a_detail_moves_no_terminal() -> None:
    body = json.dumps({"detail": "a\x1b[2Jb\u202ec\x07"}).encode()

    with pytest.raises(errors.APIStatusError) as caught:
        decode_response(ROUTES["get_info"], Response(400, {}, body))

    assert "HTTP 400: a\ufffd[2Jb\ufffdc\ufffd." in str(caught.value)


def test_a_served_error_is_never_empty_and_says_when_to_come_back() -> None:
    response = encode_error(400, "", retry_after=2.5)

    assert response.headers["content-length"] == str(len(response.body)) != "0"
    assert classify(response, "x").retry_after == 2.5
    assert type(classify(response, "x")) is errors.BadRequestError


@pytest.mark.parametrize(
    ("name", "body", "place"),
    [
        ("create_session", b"{}", "session_id"),
        ("create_session", b'{"session_id": []}', r"\$\.session_id"),
        ("session_heartbeat", b'{"type":"other"}', r"\$\.type"),
        ("list_training_runs", b'{"training_runs":[{}],"cursor":null}', r"\$\.training_runs\[0\]"),
        ("create_model", b"<html>", "CreateModel|UntypedAPIFuture"),
    ],
)
def test_a_wrong_answer_names_the_place(name: str, body: bytes, place: str) -> None:
    with pytest.raises(errors.RemoteWireError, match=place):
        decode_response(ROUTES[name], Response(200, {}, body))


def test_numbers_in_strings_are_read_as_the_official_client_does() -> None:
    body = b'{"sample_max_concurrent_requests":"7","refresh_interval_sec":"12.5"}'

    assert decode_response(ROUTES["client_config"], Response(200, {}, body)).sample_max_concurrent_requests == 7
    assert decode_response(ROUTES["dynamic_config"], Response(200, {}, body)).refresh_interval_sec == 12.5


def test_an_optimizer_we_do_not_know_stays_an_object() -> None:
    known = GetInfoResponse(model_data=ModelData(), model_id="m")
    body = b'{"model_data":{},"model_id":"m","optimizer_config":{"type":"lion","version":1}}'

    other = decode_response(ROUTES["get_info"], Response(200, {}, body))

    assert known.optimizer_config == AdamOptimizerConfig()
    assert other.optimizer_config == {"type": "lion", "version": 1}
    assert decode_response(ROUTES["get_info"], encode_response(ROUTES["get_info"], other)) == other


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v1/create_session"),
        ("POST", "/api/v1/nowhere"),
        ("POST", "/create_session"),
        ("DELETE", "/api/v1/training_runs/r/checkpoints/weights"),
        ("DELETE", "/api/v1/training_runs/r/checkpoints/weights/a/b"),
        ("POST", "/api/v1/sessions//finish"),
    ],
)
def test_an_unknown_path_matches_nothing(method: str, path: str) -> None:
    assert match(Request(method, path, {})) is None


def test_a_base_path_and_escapes_are_understood() -> None:
    found = match(Request("GET", "/services/tinker-prod/api/v1/samplers/a%20b?x=1", {}))

    assert found is not None
    assert found == (ROUTES["get_sampler"], {"sampler_id": "a b"})


@pytest.mark.parametrize("value", ["", "..", "a/../b", "a//b"])
def test_an_id_that_would_leave_its_place_in_the_path_is_refused(value: str) -> None:
    with pytest.raises(errors.LocalWireError, match="get_sampler: sampler_id"):
        encode_request(ROUTES["get_sampler"], None, HOSTED, path={"sampler_id": value})


def test_a_slash_travels_only_in_a_checkpoint_id() -> None:
    request = encode_request(
        ROUTES["delete_checkpoint"], None, HOSTED, path={"training_run_id": "a/b?c", "checkpoint_id": "weights/x y"}
    )

    assert request.path == "/api/v1/training_runs/a%2Fb%3Fc/checkpoints/weights/x%20y"


def test_a_missing_path_value_or_a_wrong_message_is_refused_before_sending() -> None:
    with pytest.raises(errors.LocalWireError, match="sampler_id"):
        encode_request(ROUTES["get_sampler"], None, HOSTED)
    with pytest.raises(errors.LocalWireError, match="expected a CreateSessionRequest, got ModelData"):
        encode_request(ROUTES["create_session"], ModelData(), HOSTED)


def test_queries_are_written_as_the_protocol_says() -> None:
    query = {"a": None, "b": True, "c": [1, 2], "d": {"e": "x y"}, "f": "2026-01-01"}

    request = encode_request(ROUTES["get_server_capabilities"], None, HOSTED, query=query)

    assert request.path == "/api/v1/get_server_capabilities?b=true&c=1,2&d%5Be%5D=x%20y&f=2026-01-01"


def test_free_values_must_be_json() -> None:
    def model(metadata: dict[str, Any]) -> CreateModelRequest:
        return CreateModelRequest(session_id="s", model_seq_id=0, base_model="b", user_metadata=metadata)

    with pytest.raises(errors.LocalWireError, match=r"user_metadata\['x'\] is nan"):
        encode_request(ROUTES["create_model"], model({"x": float("nan")}), HOSTED)
    with pytest.raises(errors.LocalWireError, match="CreateModelRequest"):
        encode_request(ROUTES["create_model"], model({"x": object()}), HOSTED)


def test_null_inside_free_values_is_kept() -> None:
    message = CreateModelRequest(session_id="s", model_seq_id=0, base_model="b", user_metadata={"x": None})

    request = encode_request(ROUTES["create_model"], message, HOSTED)

    assert json.loads(request.body)["user_metadata"] == {"x": None}
    assert decode_request(ROUTES["create_model"], request) == message


def test_every_request_says_who_sends_it_and_never_in_its_repr() -> None:
    headers = base_headers("tml-secret", "0.38.0")
    request = encode_request(ROUTES["get_server_capabilities"], None, HOSTED, headers=headers)

    assert headers["X-API-Key"] == "tml-secret"
    assert headers["User-Agent"] == "AsyncTinker/Python 0.38.0"
    assert "Authorization" not in headers
    assert "X-API-Key" not in base_headers(None, "0.38.0")
    assert "tml-secret" not in repr(request)
    assert request.headers["X-API-Key"] == "tml-secret"
    assert repr(Response(200, {"content-type": "text/plain"}, b"tml-x")) == "Response(200, text/plain, 5 bytes)"


def test_asample_says_that_429_is_understood() -> None:
    assert encode_request(ROUTES["asample"], None, HOSTED).headers["X-Tinker-Sampling-Backpressure"] == "1"
