"""The official SDK under the storms of the failure model: the same server, over HTTP, at twenty times the speed.

The SDK's pauses are real ones, so both sides' clocks are hastened rather than jumped: the numbers are measured, and
differ by a few from run to run, where those of the clients in virtual time are the same on every machine.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import Any

from aiohttp import web

from tests.bench.official_program import FastLoop
from tests.plugins.training_storm import STEPS, Call, Verdict, blow, draw_storm, judge
from tinkex_actors import APIConnectionError
from tinkex_actors.testing.model_server import Faults, ModelServer
from tinkex_actors.types import ClientConfigResponse
from tinkex_actors.wire.exchange import Request

NAME = "the official SDK"

# Seconds of its own clock that a program waits for a call: far beyond the 300 s for which the SDK tries one.
PATIENCE = 1800.0
PROCESSES = 4


class OfficialError(Exception):
    """What the SDK raised.

    Attributes:
        doubtful: it leaves open what happened; in its favour: no answer, 404, 408, 410, 5xx and no end count.
    """

    def __init__(self, told: dict[str, Any]) -> None:
        super().__init__(f"{told['kind']}: {told['text']}")
        unanswered = ("APIConnectionError", "APITimeoutError", "RetryableException", "TimeoutError")
        status = told["status"]
        self.doubtful = told["kind"] in unanswered or status in (404, 408, 410) or (status or 0) >= 500


def installed() -> bool:
    """Whether there is an SDK to measure."""
    return find_spec("tinker") is not None


@asynccontextmanager
async def _served(server: ModelServer) -> AsyncIterator[str]:
    """Serve over HTTP; where the server breaks a connection, it is broken."""

    async def answer(request: web.Request) -> web.StreamResponse:
        asked = Request(
            method=request.method, path=request.raw_path, headers=dict(request.headers), body=await request.read()
        )
        try:
            found = await server.send(asked)
        except APIConnectionError:
            if request.transport is not None:
                request.transport.abort()
            raise
        return web.Response(status=found.status, headers=found.headers, body=found.body)

    app = web.Application(client_max_size=1 << 26)
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, auto_decompress=False, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
        await server.close()


async def _one(process: asyncio.subprocess.Process, seed: int) -> Verdict:
    """One storm: drawn as for the other clients, from the same seed."""
    assert process.stdin is not None
    assert process.stdout is not None
    rng = random.Random(seed)
    storm = draw_storm(rng)
    server = ModelServer(rng)
    server.flags = ClientConfigResponse(fwdbwd_max_chunk_len=storm.chunk_len)
    # In its favour, as for the loops: a number that never comes stops nobody for longer than a minute.
    server.gap_after = 60.0
    async with _served(server) as url:
        asked = {"url": url, "chunk_len": storm.chunk_len, "steps": STEPS, "patience": PATIENCE}
        process.stdin.write(json.dumps(asked).encode() + b"\n")
        ready = await process.stdout.readline()
        if ready.strip() != b"ready":
            raise RuntimeError(f"the official SDK did not begin storm {seed}: {ready!r}")
        server.faults = storm.faults
        weather = asyncio.get_running_loop().create_task(blow(server, storm))
        process.stdin.write(b"go\n")
        told = json.loads(await process.stdout.readline())
        weather.cancel()
        server.faults = Faults()
    calls = [
        Call(
            one["operation"],
            tuple(one["numbers"]),
            len(one["numbers"]),
            None if one["error"] is None else OfficialError(one["error"]),
        )
        for one in told
    ]
    (applied,) = server.applied.values() or [[]]
    return judge(applied, calls, lambda error: isinstance(error, OfficialError) and error.doubtful)


async def _worker(seeds: list[int], found: dict[int, Verdict]) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.bench.official_program",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        limit=1 << 24,
    )
    try:
        while seeds:
            seed = seeds.pop()
            found[seed] = await _one(process, seed)
    finally:
        process.kill()
        await process.wait()


async def _all(seeds: int) -> dict[int, Verdict]:
    waiting, found = list(range(seeds)), {}
    async with asyncio.TaskGroup() as group:
        for _ in range(PROCESSES):
            group.create_task(_worker(waiting, found))
    return found


def measure(seeds: int) -> dict[str, int]:
    """Run every storm; returns sums over the runs, as ``failure_model.measure`` does."""
    with asyncio.Runner(loop_factory=FastLoop) as runner:
        found = runner.run(_all(seeds))
    total = {"runs": len(found), "flawless": sum(verdict.flawless for verdict in found.values())}
    for field in Verdict.__struct_fields__:
        total[field] = sum(getattr(verdict, field) for verdict in found.values())
    return total
