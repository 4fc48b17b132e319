"""The engine over HTTP: the same answers as in process, on a port."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.plugins.wire_client import WireClient, engine_config, local_engine, pass_request, step_request
from tinkex_actors import types
from tinkex_actors.engine.serving import serve_model
from tinkex_actors.errors import APIConnectionError, APITimeoutError, BadRequestError, ConfigError
from tinkex_actors.transport.http import HttpTransport
from tinkex_actors.transport.server import Server, serve
from tinkex_actors.wire.exchange import Request, Response


async def story(client: WireClient) -> list[Any]:
    """A bit of everything; what it returns depends on nothing but the engine's arithmetic."""
    model_id = await client.model()
    found: list[Any] = [await client.do("forward_backward", pass_request(model_id, 1))]
    found.append(await client.do("optim_step", step_request(model_id, 2)))
    saved = await client.do("save_weights", types.SaveWeightsRequest(model_id=model_id, seq_id=3, path="über: 1"))
    session_id = model_id.partition(":")[0]
    load = types.LoadWeightsRequest(session_id=session_id, model_seq_id=1, path=saved.path, optimizer=True)
    await client.do("load_weights", load)
    found.append(await client.do("forward_backward", pass_request(f"{session_id}:train:1", 1)))
    request = types.SaveWeightsForSamplerRequest(model_id=model_id, seq_id=4, sampling_session_seq_id=0)
    sampler_id = (await client.do("save_weights_for_sampler", request)).sampling_session_id
    asked = types.SampleRequest(
        sampling_session_id=sampler_id,
        seq_id=0,
        num_samples=2,
        prompt=types.ModelInput.from_ints([5, 6, 7]),
        sampling_params=types.SamplingParams(max_tokens=8, seed=3),
        prompt_logprobs=True,
    )
    found.append(await client.do("asample", asked))
    listed = await client.call("list_checkpoints", training_run_id=model_id)
    found.append([entry.checkpoint_id for entry in listed.checkpoints])
    await client.call("delete_checkpoint", training_run_id=model_id, checkpoint_id=found[-1][0])
    return found


async def test_http_and_in_process_give_equal_numbers(tmp_path: Path) -> None:
    async with local_engine(tmp_path / "one") as client:
        direct = await story(client)
        server = await serve(client.transport)
        transport = HttpTransport(
            server.url, config=msgspec.structs.replace(engine_config(tmp_path), base_url=server.url)
        )
        try:
            assert await story(WireClient(transport)) == direct
        finally:
            await transport.close()
            await server.close()


class Scripted:
    """A transport that answers from a function, for what an engine would not do."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.seen: list[Request] = []
        self.arrived = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def send(self, request: Request) -> Response:
        self.seen.append(request)
        self.arrived.set()
        try:
            found = self.answer(request)
            return await found if asyncio.iscoroutine(found) else found
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def close(self) -> None:
        pass


def fail_with(error: Exception) -> Any:
    def answer(request: Request) -> Response:
        raise error

    return answer


async def exchange(server: Server, head: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
    """One raw HTTP/1.1 exchange."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(f"{head}\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    raw = await asyncio.wait_for(reader.read(), 30.0)
    writer.close()
    await writer.wait_closed()
    top, _, rest = raw.partition(b"\r\n\r\n")
    lines = top.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    return int(lines[0].split()[1]), headers, rest


@pytest.fixture
async def echo() -> AsyncIterator[tuple[Scripted, Server]]:
    transport = Scripted(lambda request: Response(200, {"content-type": "application/json"}, b"{}"))
    server = await serve(transport)
    yield transport, server
    await server.close()


async def test_a_request_arrives_as_it_was_sent(echo: tuple[Scripted, Server]) -> None:
    transport, server = echo
    path = "/base/api/v1/training_runs/a:b%20c/checkpoints?limit=3&x=%2F"
    status, headers, body = await exchange(
        server, f"POST {path} HTTP/1.1\r\nContent-Encoding: gzip\r\nX-Stainless-Read-Timeout: 45", b"not gzip"
    )
    assert (status, body, headers["content-length"]) == (200, b"{}", "2")
    (seen,) = transport.seen
    assert (seen.method, seen.path, seen.body, seen.timeout) == ("POST", path, b"not gzip", 45.0)
    assert seen.headers["Content-Encoding"] == "gzip"


@pytest.mark.parametrize("head", ["X-Stainless-Read-Timeout: soon", "X-Stainless-Read-Timeout: -1", "X-A: b"])
async def test_without_a_usable_time_a_request_has_a_minute(echo: tuple[Scripted, Server], head: str) -> None:
    transport, server = echo
    await exchange(server, f"GET /api/v1/healthz HTTP/1.1\r\n{head}")
    assert transport.seen[0].timeout == 60.0


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (APITimeoutError("too slow"), 504),
        (APIConnectionError("gone away"), 502),
        (ConfigError("set TINKEX_ENGINE_STORE"), 400),
    ],
)
async def test_the_absence_of_an_answer_becomes_a_status_with_a_reason(error: Exception, status: int) -> None:
    server = await serve(Scripted(fail_with(error)))
    found, headers, body = await exchange(server, "GET /api/v1/healthz HTTP/1.1")
    await server.close()
    assert (found, headers["content-type"]) == (status, "application/json")
    assert json.loads(body)["detail"] == str(error)


async def test_a_head_request_and_an_unknown_route_are_404(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        server = await serve(client.transport)
        try:
            assert (await exchange(server, "HEAD /api/v1/healthz HTTP/1.1"))[0] == 404
            status, _, body = await exchange(server, "GET /nothing HTTP/1.1")
            assert (status, json.loads(body)["detail"][:8]) == (404, "No route")
            assert (await exchange(server, "GET /api/v1/healthz HTTP/1.1"))[0] == 200
        finally:
            await server.close()


async def test_a_client_that_goes_away_ends_its_exchange() -> None:
    transport = Scripted(lambda request: asyncio.sleep(3600))
    server = await serve(transport)
    _, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(b"POST /api/v1/retrieve_future HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
    await asyncio.wait_for(transport.arrived.wait(), 10.0)
    writer.close()
    await asyncio.wait_for(transport.cancelled.wait(), 10.0)
    await server.close()


async def test_a_port_that_is_taken_is_said(echo: tuple[Scripted, Server]) -> None:
    transport, server = echo
    with pytest.raises(ConfigError, match=f"127.0.0.1:{server.port}: the port is taken.*Choose another port"):
        await serve(transport, port=server.port)


async def test_a_host_that_is_not_here_is_said_without_talk_of_ports() -> None:
    with pytest.raises(ConfigError, match=r"203\.0\.113\.9:0: no such address .*Choose another host"):
        await serve(Scripted(lambda request: asyncio.sleep(0)), host="203.0.113.9")


async def test_closing_the_server_does_not_wait_for_long_polls() -> None:
    transport = Scripted(lambda request: asyncio.sleep(3600))
    server = await serve(transport)
    client = asyncio.ensure_future(exchange(server, "GET /api/v1/healthz HTTP/1.1"))
    await asyncio.wait_for(transport.arrived.wait(), 10.0)
    await asyncio.wait_for(server.close(), 10.0)
    await asyncio.wait([client])
    assert transport.cancelled.is_set()
    client.exception()


async def test_a_served_model_answers_until_it_is_cancelled(tmp_path: Path) -> None:
    up: asyncio.Future[Server] = asyncio.get_running_loop().create_future()
    serving = asyncio.ensure_future(
        serve_model("tiny", dialect="json", config=engine_config(tmp_path), started=up.set_result)
    )
    await asyncio.wait([up, serving], return_when=asyncio.FIRST_COMPLETED)
    server = up.result()
    assert (await exchange(server, "GET /api/v1/healthz HTTP/1.1"))[0] == 200
    assert (await exchange(server, "POST /api/v1/client/config HTTP/1.1", b"{}"))[0] == 404
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    with pytest.raises(OSError, match="Connect"):
        await exchange(server, "GET /api/v1/healthz HTTP/1.1")


@pytest.mark.parametrize(
    ("name", "options", "said"), [("tiny", {"dialect": "old"}, "hosted, json"), ("nothing", {}, "no such local model")]
)
async def test_what_cannot_be_served_is_refused_before_listening(
    tmp_path: Path, name: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        await serve_model(name, config=engine_config(tmp_path), **options)


async def test_a_store_that_another_process_writes_is_a_final_answer_over_http(tmp_path: Path) -> None:
    owners = tmp_path / "tiny" / "owners"
    async with local_engine(tmp_path) as client:
        server = await serve(client.transport)
        transport = HttpTransport(server.url, config=engine_config(tmp_path))
        owners.mkdir(parents=True)
        with (owners / "elsewhere-4242-abc.owner").open("w") as other:
            import fcntl

            fcntl.flock(other, fcntl.LOCK_EX)
            with pytest.raises(BadRequestError, match=r"process 4242 on elsewhere.*TINKEX_ENGINE_STORE"):
                await WireClient(transport).model()
            with pytest.raises(ConfigError, match="process 4242"):
                await client.model()
        assert await client.model()
        await transport.close()
        await server.close()
