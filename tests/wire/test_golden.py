"""Every route against its golden files, byte for byte, in both directions.

The files were held against the protocol reference by eye; ``golden_files`` says how they come to be.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.wire.golden_cases import FAILURES, REQUESTS, RESPONSES, RESULTS
from tests.wire.golden_files import PROTOBUF_TYPE, failed, present, read_request, read_response, render
from tinkex_actors import errors
from tinkex_actors.wire.answers import Ready
from tinkex_actors.wire.client import decode_poll, decode_response, encode_request, poll_request
from tinkex_actors.wire.dialect import HOSTED, JSON, Dialect
from tinkex_actors.wire.routes import ROUTES
from tinkex_actors.wire.server import decode_request, encode_error, encode_response, encode_result, match

DIALECTS = pytest.mark.parametrize("dialect", [HOSTED, JSON], ids=lambda dialect: dialect.name)
TRAINING = [name for name in REQUESTS if ROUTES[name.split(".")[0]].protobuf_request]
STATUSES = [(name, status) for name, failures in FAILURES.items() for status in failures]


def ours(name: str, status: int) -> bool:
    """Whether the failure has the one shape that our server writes."""
    failure = FAILURES[name][status]
    return isinstance(failure.body, dict) and isinstance(failure.body.get("detail"), str) and not failure.headers


def file_of(name: str, suffix: str, protobuf: bool = False) -> str:
    return f"{name}.{suffix}" + (".protobuf" if protobuf else "")


def answer_file(name: str) -> str:
    return file_of(name, f"response.{encode_response(ROUTES[name], RESPONSES[name]).status}")


def test_every_route_has_its_request_its_answer_and_its_result() -> None:
    assert {name.split(".")[0] for name in REQUESTS} == set(ROUTES)
    streamed = {name for name, route in ROUTES.items() if route.streamed}
    assert set(RESPONSES) == set(ROUTES) - streamed - {"retrieve_future"}
    assert set(RESULTS) == {name for name, route in ROUTES.items() if route.asynchronous}


def test_the_files_are_what_the_codec_writes_byte_for_byte() -> None:
    assert render() == present(), "run python -m tests.wire.golden_files and read the difference"


def test_the_protocol_has_46_endpoints_three_older_ones_and_a_stream() -> None:
    others = {"forward", "unload_model", "get_checkpoint_archive_url", "stream_sample"}

    assert others < set(ROUTES)
    assert len(ROUTES) == 46 + len(others)
    assert len({(route.method, route.path) for route in ROUTES.values()}) == len(ROUTES)


@pytest.mark.parametrize(
    ("name", "protobuf"), [*((name, False) for name in REQUESTS), *((name, True) for name in TRAINING)]
)
def test_the_server_reads_the_request(name: str, protobuf: bool) -> None:
    message, path = REQUESTS[name]
    request = read_request(file_of(name, "request", protobuf))

    matched = match(request)

    assert matched is not None
    route, parameters = matched
    assert parameters == path
    assert decode_request(route, request) == message
    if not protobuf:
        assert route is ROUTES[name.split(".")[0]]


@pytest.mark.parametrize("name", RESPONSES)
def test_the_client_reads_the_answer(name: str) -> None:
    assert decode_response(ROUTES[name], read_response(answer_file(name))) == RESPONSES[name]


@pytest.mark.parametrize("status", [200, 201, 202, 203])
@pytest.mark.parametrize("name", RESPONSES)
def test_any_success_is_a_success(name: str, status: int) -> None:
    response = read_response(answer_file(name))
    response.status = status

    assert decode_response(ROUTES[name], response) == RESPONSES[name]


@pytest.mark.parametrize("name", RESPONSES)
def test_the_client_ignores_fields_it_does_not_know(name: str) -> None:
    response = read_response(answer_file(name))
    response.body = json.dumps(widened(json.loads(response.body))).encode()

    assert decode_response(ROUTES[name], response) == RESPONSES[name]


def widened(value: Any) -> Any:
    """Put a field of a later version into every object that is a record, and leave free values alone."""
    if isinstance(value, list):
        return [widened(item) for item in value]
    if not isinstance(value, dict):
        return value
    free = ("user_metadata", "event_details", "urls", "sessions", "optimizer_config")
    wider = {key: item if key in free else widened(item) for key, item in value.items()}
    return {**wider, "of_a_later_version": {"deep": [1]}}


@pytest.mark.parametrize(
    ("name", "protobuf"),
    [*((name, False) for name in RESULTS), *((name, True) for name in RESULTS if ROUTES[name].protobuf_result)],
)
def test_the_client_reads_the_result_of_a_promise(name: str, protobuf: bool) -> None:
    answer = decode_poll(ROUTES[name], read_response(file_of(name, "result.200", protobuf)), JSON)

    assert answer == Ready(RESULTS[name])


@DIALECTS
@pytest.mark.parametrize("name", RESULTS)
def test_a_result_comes_back_whole_in_what_the_poll_accepts(name: str, dialect: Dialect) -> None:
    route = ROUTES[name]
    poll = poll_request("f", route, dialect, iteration=0, allow_metadata_only=True)

    response = encode_result(route, RESULTS[name], poll.headers["Accept"])

    assert ("protobuf" in response.headers["content-type"]) == (dialect.protobuf and route.protobuf_result)
    assert decode_poll(route, response, dialect) == Ready(RESULTS[name])


@pytest.mark.parametrize(("name", "status"), STATUSES)
def test_a_failure_becomes_the_error_of_its_status_and_says_the_servers_words(name: str, status: int) -> None:
    failure = FAILURES[name][status]

    with pytest.raises(errors.APIStatusError) as caught:
        decode_response(ROUTES[name], read_response(file_of(name, f"response.{status}")))

    assert type(caught.value).__name__ == failure.error
    assert caught.value.status_code == status
    assert ROUTES[name].path in str(caught.value)
    assert str(caught.value)[-1] == "."


@pytest.mark.parametrize(("name", "status"), [case for case in STATUSES if ours(*case)])
def test_the_server_writes_the_failure(name: str, status: int) -> None:
    failure = FAILURES[name][status]

    response = encode_error(status, failure.body["detail"])

    assert response.body == failed(status, failure).body
    assert response.headers == {"content-type": "application/json", "content-length": str(len(response.body))}


def test_a_poll_carries_the_headers_of_the_protocol() -> None:
    first = poll_request("f", ROUTES["asample"], HOSTED, iteration=0, allow_metadata_only=True, roundtrip=0.25)
    later = poll_request("f", ROUTES["optim_step"], HOSTED, iteration=3, allow_metadata_only=False, roundtrip=0.25)
    old = poll_request("f", ROUTES["forward"], JSON, iteration=0, allow_metadata_only=True)

    assert first.headers == {
        "Accept": PROTOBUF_TYPE,
        "Content-Type": "application/json",
        "X-Stainless-Raw-Response": "raw",
        "X-Tinker-Request-Iteration": "0",
        "X-Tinker-Request-Type": "Sample",
        "X-Tinker-Create-Promise-Roundtrip-Time": "0.25",
    }
    assert (first.pool, first.timeout) == ("retrieve_promise", 45.0)
    assert later.headers["Accept"] == "application/json"
    assert later.headers["X-Tinker-Request-Iteration"] == "3"
    assert "X-Tinker-Create-Promise-Roundtrip-Time" not in later.headers
    assert json.loads(later.body) == {"request_id": "f", "allow_metadata_only": False}
    assert json.loads(old.body) == {"request_id": "f"}
    assert old.headers["Accept"] == "application/json"


@DIALECTS
@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_that_is_sent_again_is_the_same(name: str, dialect: Dialect) -> None:
    message, path = REQUESTS[name]

    first, second = (encode_request(ROUTES[name.split(".")[0]], message, dialect, path=path) for _ in range(2))

    assert (first.method, first.path, first.headers, first.body) == (
        second.method,
        second.path,
        second.headers,
        second.body,
    )
