"""What every request carries, and what answers say beside their bodies."""

from __future__ import annotations

import logging

import pytest

from tests.plugins.interposed import Interposed, json_answer
from tinkex_actors import APIConnectionError, BadRequestError
from tinkex_actors.testing import virtual_time
from tinkex_actors.wire.exchange import Request, Response
from tinkex_actors.wire.server import encode_error


@virtual_time()
async def test_headers_of_the_program_win_and_come_once() -> None:
    server = Interposed()
    async with server.service(
        cf_access_client_id="id",
        cf_access_client_secret="hush",
        default_headers={"user-agent": "mine", "X-Team": "blue", "accept": "ignored/where-the-codec-decides"},
    ) as service:
        await service.get_server_capabilities()

    for request in server.requests:
        lowered = [name.lower() for name in request.headers]
        assert len(lowered) == len(set(lowered))
        assert request.headers["User-Agent"] == "mine"
        assert request.headers["X-Team"] == "blue"
        assert request.headers["CF-Access-Client-Id"] == "id"
        assert request.headers["CF-Access-Client-Secret"] == "hush"


@virtual_time()
async def test_the_programs_query_goes_along_and_the_requests_own_wins() -> None:
    nothing = {"training_runs": [], "cursor": {"offset": 0, "limit": 7, "total_count": 0}}
    server = Interposed(lambda request: json_answer(nothing) if "training_runs" in request.path else None)
    async with server.service(default_query={"trace": "a b", "limit": "1"}) as service:
        await service.get_server_capabilities()
        await service.create_rest_client().list_training_runs(limit=7)

    assert server.to("capabilities")[0].path.endswith("?trace=a%20b&limit=1")
    [listing] = server.to("training_runs")
    assert "limit=7" in listing.path
    assert "limit=1" not in listing.path
    assert "trace=a%20b" in listing.path


@virtual_time()
async def test_headers_are_dumped_without_what_is_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tinkex_actors.http")
    server = Interposed()
    async with server.service(api_key="tml-secret-key", dump_headers=True, default_headers={"X-My-Token": "hush"}):
        pass

    assert "request.headers" in caplog.text
    assert "AsyncTinker" in caplog.text
    assert "tml-secret-key" not in caplog.text
    assert "hush" not in caplog.text


@virtual_time()
async def test_a_deprecation_is_told_once_at_its_level(caplog: pytest.LogCaptureFixture) -> None:
    def before(request: Request) -> Response | None:
        if "capabilities" in request.path:
            return json_answer({"supported_models": []}, x_deprecation_note="old client", x_deprecation_level="error")
        return None

    server = Interposed(before)
    async with server.service() as service:
        for _ in range(3):
            await service.get_server_capabilities()

    told = [record for record in caplog.records if "old client" in record.getMessage()]
    assert [record.levelno for record in told] == [logging.ERROR]


@virtual_time()
async def test_a_400_without_a_body_is_a_proxys_and_tried_again_until_patience_ends() -> None:
    server = Interposed()
    async with server.service(max_retries=3) as service:
        await service.get_server_capabilities()
        server.before = lambda request: Response(400, {}) if "capabilities" in request.path else None
        kinds = []
        for _ in range(6):
            with pytest.raises((APIConnectionError, BadRequestError)) as caught:
                await service.get_server_capabilities()
            kinds.append(type(caught.value))
        assert kinds == [APIConnectionError] * 4 + [BadRequestError] * 2
        server.before = lambda _: None
        await service.get_server_capabilities()


@virtual_time()
async def test_a_date_in_retry_after_is_meant_by_the_servers_clock() -> None:
    later = encode_error(503, "later")
    later.headers |= {"retry-after": "Sun, 22 Nov 2026 10:00:42 GMT", "date": "Sun, 22 Nov 2026 10:00:00 GMT"}
    answers = [later]

    def before(request: Request) -> Response | None:
        return answers.pop() if "capabilities" in request.path and answers else None

    server = Interposed(before)
    async with server.service() as service:
        began = service.system.now()
        await service.get_server_capabilities()
        assert 42.0 <= service.system.now() - began < 43.0


@pytest.mark.parametrize(("parity", "attempts"), [("beam", 3), ("official", 55), ("python", 35)])
@virtual_time()
async def test_parity_says_how_often_a_request_is_sent(parity: str, attempts: int) -> None:
    server = Interposed()
    async with server.service(parity=parity) as service:
        await service.get_server_capabilities()
        server.requests.clear()
        server.before = lambda request: encode_error(503, "no") if "capabilities" in request.path else None
        with pytest.raises(Exception, match="503"):
            await service.get_server_capabilities()

    sent = server.to("capabilities")
    assert attempts <= len(sent) <= attempts * 1.25, "jitter takes up to a quarter off the delays"
    assert [request.headers["x-stainless-retry-count"] for request in sent] == [str(n) for n in range(len(sent))]


@virtual_time()
async def test_a_trace_goes_along_and_never_over_a_header_of_the_programs() -> None:
    pytest.importorskip("opentelemetry")
    from opentelemetry import trace
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

    span = NonRecordingSpan(SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(1)))
    server = Interposed()
    with trace.use_span(span):
        async with server.service(otel_propagate=True) as service:
            await service.get_server_capabilities()

    assert server.to("capabilities")[0].headers["traceparent"] == f"00-{1:032x}-{2:016x}-01"
