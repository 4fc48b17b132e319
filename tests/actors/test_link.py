"""The link retries by the machine's word, keeps the key of a request, and finds out what the server speaks."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.plugins.counting_server import datum
from tinkex_actors import APIConnectionError, AuthenticationError, RemoteWireError, ServiceClient
from tinkex_actors.testing import virtual_time
from tinkex_actors.testing.model_server import ModelServer
from tinkex_actors.wire.exchange import Request, Response
from tinkex_actors.wire.server import encode_error

Before = Callable[[Request], Response | None]


class Interposed(ModelServer):
    """A counting server with something in front of it that may answer first."""

    def __init__(self, before: Before) -> None:
        super().__init__(random.Random(0))
        self.before = before
        self.requests: list[Request] = []

    async def send(self, request: Request) -> Response:
        self.requests.append(request)
        return self.before(request) or await super().send(request)

    def to(self, path: str) -> list[Request]:
        return [request for request in self.requests if path in request.path]


def a_service(before: Before, api_key: str | None = None) -> tuple[ServiceClient, Interposed]:
    server = Interposed(before)
    return ServiceClient(base_url="http://127.0.0.1:1", transport=server, api_key=api_key), server


def not_found(*paths: str) -> Before:
    return lambda request: encode_error(404, "no") if any(path in request.path for path in paths) else None


@virtual_time()
async def test_a_server_without_config_routes_is_spoken_to_in_json() -> None:
    service, server = a_service(not_found("client/config", "dynamic_config"))
    async with service:
        training = await service.create_lora_training_client("m")
        await training.forward([datum()], "cross_entropy")

    [request] = server.to("/forward")
    assert request.path == "/api/v1/forward"
    assert request.headers["Content-Type"] == "application/json"


@virtual_time()
async def test_a_missing_dynamic_config_is_no_error() -> None:
    service, server = a_service(not_found("dynamic_config"))
    async with service:
        training = await service.create_lora_training_client("m")
        await training.forward([datum()], "cross_entropy")

    assert server.to("/forward_backward")[0].headers["Content-Type"] == "application/x-protobuf"


@virtual_time()
async def test_a_server_that_refuses_protobuf_is_spoken_to_in_json_from_then_on() -> None:
    def before(request: Request) -> Response | None:
        refused = request.headers.get("Content-Type") == "application/x-protobuf"
        return encode_error(415, "JSON only") if refused else None

    service, server = a_service(before)
    async with service:
        training = await service.create_lora_training_client("m")
        await training.forward_backward([datum()], "cross_entropy")
        await training.forward_backward([datum()], "cross_entropy")

    kinds = [request.headers["Content-Type"] for request in server.to("/forward_backward")]
    assert kinds == ["application/x-protobuf", "application/json", "application/json"]
    assert [number for number, _ in server.applied[training.model_id]] == [1, 2]


@virtual_time()
async def test_a_refused_key_is_not_tried_again_and_never_shown() -> None:
    service, server = a_service(lambda _: encode_error(401, "who are you, tml-secret?"), api_key="tml-secret")
    with pytest.raises(AuthenticationError) as caught:
        async with service:
            pass

    assert len(server.to("client/config")) == 1
    assert "tml-secret" not in str(caught.value)
    assert "tml-secret" not in repr(caught.value.body)


@virtual_time()
async def test_attempts_are_numbered_and_share_a_key() -> None:
    refusals = iter([503, 429, 408])

    def before(request: Request) -> Response | None:
        if "create_session" not in request.path:
            return None
        status = next(refusals, None)
        return None if status is None else encode_error(status, "later", retry_after=2.0)

    service, server = a_service(before)
    async with service:
        began = service.system.now()

    attempts = server.to("create_session")
    assert [request.headers["x-stainless-retry-count"] for request in attempts] == ["0", "1", "2", "3"]
    assert len({request.headers["X-Idempotency-Key"] for request in attempts}) == 1
    assert began >= 6.0, "the server's hints were honoured"


@virtual_time()
async def test_a_server_that_is_not_there_is_reported_in_seconds() -> None:
    def before(_: Request) -> Response | None:
        raise APIConnectionError("connection refused")

    service, _ = a_service(before)
    with pytest.raises(APIConnectionError, match="refused"):
        async with service:
            pass


@virtual_time()
async def test_an_answer_that_cannot_be_read_is_a_wire_error() -> None:
    def before(request: Request) -> Response | None:
        return Response(200, {"content-type": "text/html"}, b"<html>") if "get_info" in request.path else None

    service, _ = a_service(before)
    async with service:
        with pytest.raises(RemoteWireError):
            await service.create_lora_training_client("m")


@virtual_time()
async def test_every_request_says_who_asks_and_how_long_it_waits() -> None:
    service, server = a_service(lambda _: None, api_key="tml-key")
    async with service:
        await service.create_lora_training_client("m")

    for request in server.requests:
        assert request.headers["X-API-Key"] == "tml-key"
        assert float(request.headers["x-stainless-read-timeout"]) == request.timeout
        assert "Authorization" not in request.headers
