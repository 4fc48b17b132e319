"""What refusals teach, in the shell: requests go again in another form, under the same number and key; it is told."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tests.plugins.counting_server import datum
from tinkex_actors import (
    AdamParams,
    BadRequestError,
    InternalServerError,
    NotFoundError,
    OutcomeUnknownError,
    ServiceClient,
    UnsupportedByServerError,
)
from tinkex_actors.actors.link.speech import DialectLearnt
from tinkex_actors.testing import virtual_time
from tinkex_actors.testing.model_server import Faults, ModelServer
from tinkex_actors.types import ClientConfigResponse
from tinkex_actors.wire.exchange import Request, Response
from tinkex_actors.wire.routes import ROUTES
from tinkex_actors.wire.server import encode_error, encode_response

Before = Callable[[Request], Response | None]


class Picky(ModelServer):
    """A counting server that may refuse first."""

    def __init__(self, before: Before) -> None:
        super().__init__(random.Random(0), Faults(latency=0.01, compute=0.0))
        self.before = before
        self.requests: list[Request] = []

    async def send(self, request: Request) -> Response:
        self.requests.append(request)
        return self.before(request) or await super().send(request)

    def to(self, path: str) -> list[Request]:
        return [request for request in self.requests if request.path.endswith(path)]


def a_service(before: Before) -> tuple[ServiceClient, Picky, list[DialectLearnt]]:
    server = Picky(before)
    service = ServiceClient(base_url="http://127.0.0.1:1", transport=server)
    learnt: list[DialectLearnt] = []
    service.system.events.subscribe(learnt.append, DialectLearnt)
    return service, server, learnt


def kinds(requests: list[Request]) -> list[str]:
    return [request.headers["Content-Type"].rpartition("/")[2].removeprefix("x-") for request in requests]


def is_protobuf(request: Request) -> bool:
    return "protobuf" in request.headers.get("Content-Type", "")


def crash(request: Request) -> Response | None:
    return Response(500, {"content-type": "text/plain"}, b"Internal Server Error") if is_protobuf(request) else None


def refuse_fields(path: str, *fields: str) -> Before:
    """FastAPI's answer to the fields of ``fields`` that are there."""

    def before(request: Request) -> Response | None:
        if not request.path.endswith(path):
            return None
        found = [field for field in fields if field in msgspec.json.decode(request.body)]
        items = [{"type": "extra_forbidden", "loc": ["body", field], "msg": "no"} for field in found]
        body = msgspec.json.encode({"detail": items})
        return Response(422, {"content-type": "application/json"}, body) if found else None

    return before


@virtual_time()
async def test_a_crash_at_the_first_protobuf_body_is_mended_at_once_and_once() -> None:
    service, server, learnt = a_service(crash)
    async with service:
        training = await service.create_lora_training_client("m")
        began = service.system.now()
        await training.forward_backward([datum()], "cross_entropy")
        assert service.system.now() - began < 0.2, "no back-off: this was no failure of the server's"
        await training.forward_backward([datum()], "cross_entropy")
        assert service.server_dialect[1:] == ("training batches travel as JSON: protobuf is refused",)
        assert "protobuf is refused" in str(service.explain())

    posts = server.to("/forward_backward")
    assert kinds(posts) == ["protobuf", "json", "json"]
    assert posts[0].headers["X-Idempotency-Key"] == posts[1].headers["X-Idempotency-Key"]
    assert posts[1].headers["x-stainless-retry-count"] == "0"
    assert server.posted[training.model_id] == [1, 2]
    assert [event.route for event in learnt] == ["forward_backward", "forward_backward"]
    assert "JSON is tried" in learnt[0].what
    assert "JSON is understood" in learnt[1].what


@virtual_time()
async def test_many_batches_in_flight_at_the_first_crash_are_all_mended() -> None:
    service, server, _ = a_service(crash)
    async with service:
        training = await service.create_lora_training_client("m")
        flags = msgspec.structs.replace(service._use().session.flags, fwdbwd_max_chunk_len=1)
        service._use().session.flags = flags
        passed = await training.forward_backward([datum() for _ in range(6)], "cross_entropy")
        assert passed.metrics["loss:sum"] == 6.0
    assert sorted(server.posted[training.model_id]) == [1, 2, 3, 4, 5, 6]


@virtual_time()
async def test_a_crash_that_has_nothing_to_do_with_protobuf_stays_what_it_is() -> None:
    failures = iter(range(3))

    def before(request: Request) -> Response | None:
        broken = request.path.endswith("/forward_backward") and next(failures, None) is not None
        return encode_error(500, "out of memory") if broken else None

    service, server, _ = a_service(before)
    async with service:
        training = await service.create_lora_training_client("m")
        await training.forward_backward([datum()], "cross_entropy")
        assert service.server_dialect == ("hosted dialect",)

    # Tried in JSON, acquitted, and then repeated as any 500 is.
    assert kinds(server.to("/forward_backward")) == ["protobuf", "json", "protobuf", "protobuf"]


@virtual_time()
async def test_a_refusal_that_json_does_not_mend_is_told_in_its_first_words() -> None:
    def before(request: Request) -> Response | None:
        if not request.path.endswith("/forward_backward"):
            return None
        return encode_error(400, "token 9 is out of range" if is_protobuf(request) else "number taken")

    service, _, _ = a_service(before)
    async with service:
        training = await service.create_lora_training_client("m")
        with pytest.raises(BadRequestError, match="token 9"):
            await training.forward_backward([datum()], "cross_entropy")
        with pytest.raises(BadRequestError, match="token 9"):
            await training.forward_backward([datum()], "cross_entropy")


@virtual_time()
async def test_compression_is_given_up_before_protobuf() -> None:
    def before(request: Request) -> Response | None:
        if request.path.endswith("/client/config"):
            return encode_response(ROUTES["client_config"], ClientConfigResponse(proto_compress_fwdbwd=True))
        return encode_error(415, "zstd?") if "Content-Encoding" in request.headers else None

    service, server, _ = a_service(before)
    async with service:
        training = await service.create_lora_training_client("m")
        await training.forward_backward([datum()], "cross_entropy")
        await training.forward_backward([datum()], "cross_entropy")
    posts = server.to("/forward_backward")
    assert ["Content-Encoding" in post.headers for post in posts] == [True, False, False]
    assert kinds(posts) == ["protobuf"] * 3


@virtual_time()
async def test_unknown_fields_are_left_out_from_then_on() -> None:
    service, server, learnt = a_service(refuse_fields("/save_weights", "overwrite", "type"))
    async with service:
        training = await service.create_lora_training_client("m")
        await training.save_state("a")
        await training.save_state("b")
        assert "never sent: save_weights.overwrite, save_weights.type" in service.server_dialect
    assert len(server.to("/save_weights")) == 3
    assert server.posted[training.model_id] == [1, 2]
    assert len(learnt) == 1


@virtual_time()
async def test_a_number_whose_request_the_server_does_not_know_is_filled() -> None:
    service, server, _ = a_service(refuse_fields("/save_weights", "ttl_seconds"))
    async with service:
        training = await service.create_lora_training_client("m")
        saving = training.save_state("a", ttl_seconds=3600)
        stepping = training.optim_step(AdamParams())
        with pytest.raises(UnsupportedByServerError, match="save_weights with ttl_seconds") as caught:
            await saving
        assert caught.value.remedy
        await stepping
    assert server.applied[training.model_id] == [(1, "forward"), (2, "optim_step")]


@virtual_time()
async def test_a_number_that_cannot_be_filled_either_still_lets_the_next_one_go() -> None:
    def before(request: Request) -> Response | None:
        gone = request.path.endswith(("/save_weights", "/forward_backward", "/forward"))
        return encode_error(405, "Method Not Allowed") if gone else None

    service, server, _ = a_service(before)
    async with service:
        training = await service.create_lora_training_client("m")
        with pytest.raises(UnsupportedByServerError, match="save weights"):
            await training.save_state("a")
        training.optim_step(AdamParams())
        await service.system.sleep(1.0)
    assert server.posted[training.model_id] == [2]


@pytest.mark.parametrize(
    ("status", "detail", "kind"),
    [
        (404, "Not Found", UnsupportedByServerError),
        (405, "Method Not Allowed", UnsupportedByServerError),
        (404, "no checkpoint of that name", NotFoundError),
    ],
)
def test_a_missing_route_and_a_missing_object_are_different_errors(
    status: int, detail: str, kind: type[Exception]
) -> None:
    def before(request: Request) -> Response | None:
        return encode_error(status, detail) if request.path.endswith("/weights_info") else None

    @virtual_time()
    async def run() -> None:
        service, _, _ = a_service(before)
        async with service:
            with pytest.raises(kind) as caught:
                await service.create_rest_client().get_weights_info_by_tinker_path("tinker://a/weights/b")
            assert isinstance(caught.value, UnsupportedByServerError) == (kind is UnsupportedByServerError)
            if isinstance(caught.value, UnsupportedByServerError):
                assert caught.value.server == "http://127.0.0.1:1"
                assert caught.value.feature == "describing checkpoints"
                assert str(caught.value).endswith(caught.value.remedy)

    run()


@virtual_time()
async def test_a_poll_that_may_not_ask_for_the_size_does_not() -> None:
    service, server, _ = a_service(refuse_fields("/retrieve_future", "allow_metadata_only"))
    async with service:
        await service.create_lora_training_client("m")
        await service.create_lora_training_client("m")
    asked = ["allow_metadata_only" in msgspec.json.decode(request.body) for request in server.to("/retrieve_future")]
    assert asked == [True, False, False]


@virtual_time()
async def test_a_server_that_is_failing_all_along_is_not_called_incompatible() -> None:
    service, _, learnt = a_service(
        lambda request: encode_error(500, "on fire") if request.path.endswith("/forward_backward") else None
    )
    async with service:
        training = await service.create_lora_training_client("m")
        with pytest.raises(OutcomeUnknownError, match="on fire") as caught:
            await training.forward_backward([datum()], "cross_entropy")
        assert isinstance(caught.value.__cause__, InternalServerError)
        assert service.server_dialect == ("hosted dialect",)
    assert len(learnt) == 1


@virtual_time()
async def test_nothing_is_said_of_a_server_that_was_not_asked() -> None:
    service, _, _ = a_service(lambda _: None)
    assert service.server_dialect == ("not asked yet",)
    explained: Any = service.explain()
    assert "not asked yet" in str(explained)
    await service.close()
