"""A server that answers at once with prepared bytes, in a process of its own: what is left is the client's cost.

``python -m tests.bench.instant_server`` prints its port and serves until its standard input closes.
"""

from __future__ import annotations

import asyncio
import sys

import msgspec
import numpy as np

from tinkex_actors.types import (
    ClientConfigResponse,
    ClientDynamicConfigResponse,
    CreateModelResponse,
    CreateSamplingSessionResponse,
    CreateSessionResponse,
    ForwardBackwardOutput,
    GetInfoResponse,
    ModelData,
    OptimStepResponse,
    SampledSequence,
    SampleResponse,
    SaveWeightsResponse,
    SessionHeartbeatResponse,
    TelemetryResponse,
    TensorData,
)
from tinkex_actors.wire.routes import ROUTES
from tinkex_actors.wire.server import encode_response, encode_result

ROWS, LENGTH = 64, 1024
PROTOBUF = "application/x-protobuf"
PROMISING = ("create_model", "forward", "forward_backward", "optim_step", "save_weights")


def _head(body: bytes, kind: str) -> bytes:
    return (
        f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: keep-alive\r\n\r\n"
    ).encode() + body


def _direct(route: str, message: object) -> bytes:
    response = encode_response(ROUTES[route], message)
    return _head(response.body, response.headers["content-type"])


def _result(route: str, result: object) -> bytes:
    response = encode_result(ROUTES[route], result, PROTOBUF)
    return _head(response.body, response.headers["content-type"])


def prepared() -> dict[bytes, bytes]:
    """Return the answers by path; promises name the route whose result is asked for later."""
    sequence = SampledSequence("length", tokens_np=np.arange(16, dtype=np.int32), logprobs_np=np.zeros(16, np.float32))
    scores = [{"logprobs": TensorData.from_numpy(np.zeros(LENGTH, np.float32))} for _ in range(ROWS)]
    passed = ForwardBackwardOutput("Scores", scores, {"loss:sum": 1.0})
    answers = {
        "client/config": _direct("client_config", ClientConfigResponse()),
        "client/dynamic_config": _direct("dynamic_config", ClientDynamicConfigResponse()),
        "create_session": _direct("create_session", CreateSessionResponse(session_id="s")),
        "session_heartbeat": _direct("session_heartbeat", SessionHeartbeatResponse()),
        "telemetry": _direct("telemetry", TelemetryResponse()),
        "sessions/s/finish": _head(b"{}", "application/json"),
        "create_sampling_session": _direct(
            "create_sampling_session", CreateSamplingSessionResponse(sampling_session_id="s:sample:0")
        ),
        "get_info": _direct("get_info", GetInfoResponse(model_data=ModelData(model_name="m"), model_id="s:train:0")),
        "result create_model": _result("create_model", CreateModelResponse(model_id="s:train:0")),
        "result forward": _result("forward", passed),
        "result forward_backward": _result("forward_backward", passed),
        "result save_weights": _result("save_weights", SaveWeightsResponse(path="tinker://s:train:0/weights/last")),
        "result optim_step": _result("optim_step", OptimStepResponse(metrics={"step:max": 1.0})),
        "result asample": _result("asample", SampleResponse([sequence])),
    }
    return {f"/api/v1/{path}".encode(): answer for path, answer in answers.items()}


class Instant(asyncio.Protocol):
    """HTTP/1.1 with keep-alive, just enough of it."""

    def __init__(self, answers: dict[bytes, bytes]) -> None:
        self._answers = answers
        self._buffer = bytearray()
        self._next = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._buffer[:end])
            mark = head.lower().find(b"content-length:")
            size = int(head[mark + 15 :].split(b"\r\n", 1)[0]) if mark >= 0 else 0
            if len(self._buffer) < end + 4 + size:
                return
            body = bytes(self._buffer[end + 4 : end + 4 + size])
            del self._buffer[: end + 4 + size]
            self._transport.write(self._answer(head.split(b" ", 2)[1], body))  # type: ignore[attr-defined]

    def _answer(self, path: bytes, body: bytes) -> bytes:
        if path == b"/api/v1/asample":
            # Every sample needs a promise of its own, and names its sequence.
            self._next += 1
            name = f"asample-{id(self):x}-{self._next}"
            return _head(msgspec.json.encode({"request_id": name, "sample_sequence_ids": [name]}), "application/json")
        if path == b"/api/v1/retrieve_future":
            asked = msgspec.json.decode(body)["request_id"].partition("-")[0]
            return self._answers[f"/api/v1/result {asked}".encode()]
        route = path.decode().rpartition("/")[2]
        if route in PROMISING:
            self._next += 1
            name = f"{route}-{id(self):x}-{self._next}"
            return _head(msgspec.json.encode({"request_id": name}), "application/json")
        return self._answers[path]


async def main() -> None:
    loop = asyncio.get_running_loop()
    answers = prepared()
    server = await loop.create_server(lambda: Instant(answers), "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(main())
