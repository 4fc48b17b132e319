"""CPU time of this process per sample, per training step and per request of the transport alone, against bare aiohttp
(with msgspec for the first two) doing the same requests.

Both sides talk to the same server process, which answers at once; both decode the results. A sample is two requests.
A step is four: a ``forward_backward`` of 64 x 1024 tokens, an ``optim_step``, and the result of each.

    python -m tests.bench.client [--json] [--quick]
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
import msgspec
import numpy as np

from tests.bench.instant_server import LENGTH, ROWS
from tests.bench.report import Row, main
from tinkex_actors import (
    AdamParams,
    Config,
    Datum,
    ModelInput,
    SamplingClient,
    SamplingParams,
    ServiceClient,
    TrainingClient,
)
from tinkex_actors.config import SDK_VERSION
from tinkex_actors.transport.http import HttpTransport
from tinkex_actors.types import (
    ForwardBackwardInput,
    ForwardBackwardRequest,
    OptimStepRequest,
    SampleRequest,
    UntypedAPIFuture,
)
from tinkex_actors.wire.client import base_headers, decode_poll, encode_request, poll_request
from tinkex_actors.wire.dialect import HOSTED
from tinkex_actors.wire.exchange import Response
from tinkex_actors.wire.routes import ROUTES

CONCURRENT = 100
PROMPT = ModelInput.from_ints(list(range(64)))
PARAMS = SamplingParams(max_tokens=16)


@contextmanager
def instant_server() -> Iterator[str]:
    """Run the server for the duration of the block; yields its URL."""
    command = [sys.executable, "-m", "tests.bench.instant_server"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.stdin.close()
            process.wait(timeout=10)


def a_batch() -> list[Datum]:
    """Return 64 rows of 1024 tokens."""
    tokens = np.arange(LENGTH, dtype=np.int64)
    weights = np.ones(LENGTH, np.float32)
    return [
        Datum(
            model_input=ModelInput.from_ints(tokens.tolist()),
            loss_fn_inputs={"target_tokens": tokens, "weights": weights},
        )
        for _ in range(ROWS)
    ]


def official(program: str, url: str, count: int) -> tuple[float, float] | None:
    """CPU and wall seconds of the official SDK for each thing that the program does ``count`` times.

    None where the SDK is not installed or does not get along.
    """
    done = subprocess.run(
        [sys.executable, "-c", program, url, str(count)], capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode:
        sys.stderr.write(f"the official SDK was not measured: {done.stderr.strip().splitlines()[-1:]}\n")
        return None
    cpu, wall = msgspec.json.decode(done.stdout.splitlines()[-1])
    return cpu, wall


async def cpu_per_item(count: int, run: Callable[[int], Awaitable[None]]) -> float:
    """Return CPU seconds of this process per item."""
    began = time.process_time()
    await run(count)
    return (time.process_time() - began) / count


async def _post(session: aiohttp.ClientSession, url: str, body: bytes, kind: str, accept: str) -> Response:
    headers = {"Content-Type": kind, "Accept": accept}
    async with session.post(url, data=body, headers=headers) as answer:
        return Response(answer.status, {"content-type": answer.headers["Content-Type"]}, await answer.read())


async def _bare_exchange(session: aiohttp.ClientSession, url: str, route: str, message: Any) -> Any:
    request = encode_request(ROUTES[route], message, HOSTED)
    promised = await _post(
        session, url + request.path, request.body, request.headers["Content-Type"], "application/json"
    )
    promise = msgspec.json.decode(promised.body, type=UntypedAPIFuture)
    body = msgspec.json.encode({"request_id": promise.request_id, "allow_metadata_only": True})
    accept = "application/x-protobuf" if ROUTES[route].protobuf_result else "application/json"
    answer = await _post(session, url + "/api/v1/retrieve_future", body, "application/json", accept)
    return decode_poll(ROUTES[route], answer, HOSTED)


async def bare_samples(url: str, count: int) -> float:
    """Plain aiohttp: the default session, string URLs, one task for each lane."""
    async with aiohttp.ClientSession() as session:
        message = SampleRequest(prompt=PROMPT, sampling_params=PARAMS, sampling_session_id="s:sample:0", seq_id=1)

        async def lane(share: int) -> None:
            for _ in range(share):
                await _bare_exchange(session, url, "asample", message)

        async def run(total: int) -> None:
            await asyncio.gather(*(lane(total // CONCURRENT) for _ in range(CONCURRENT)))

        await run(CONCURRENT)
        return await cpu_per_item(count, run)


async def our_samples(sampler: SamplingClient, count: int) -> float:
    """Ours: the same number in flight."""

    async def lane(share: int) -> None:
        for _ in range(share):
            await sampler.sample(PROMPT, 1, PARAMS)

    async def run(total: int) -> None:
        await asyncio.gather(*(lane(total // CONCURRENT) for _ in range(CONCURRENT)))

    await run(CONCURRENT)
    return await cpu_per_item(count, run)


async def bare_steps(url: str, batch: list[Datum], count: int) -> float:
    """Plain aiohttp: encode, post and decode both requests of a step, one step after the other."""
    async with aiohttp.ClientSession() as session:

        async def run(total: int) -> None:
            for number in range(total):
                passed = ForwardBackwardRequest(
                    forward_backward_input=ForwardBackwardInput(data=batch, loss_fn="cross_entropy"),
                    model_id="s:train:0",
                    seq_id=2 * number + 1,
                )
                updated = OptimStepRequest(model_id="s:train:0", seq_id=2 * number + 2, adam_params=AdamParams())
                await _bare_exchange(session, url, "forward_backward", passed)
                await _bare_exchange(session, url, "optim_step", updated)

        await run(2)
        return await cpu_per_item(count, run)


async def our_steps(training: TrainingClient, batch: list[Datum], count: int) -> float:
    """Ours: both submitted at once, then awaited."""

    async def run(total: int) -> None:
        for _ in range(total):
            passed = training.forward_backward(batch, "cross_entropy")
            updated = training.optim_step(AdamParams())
            await passed
            await updated

    await run(2)
    return await cpu_per_item(count, run)


async def our_requests(url: str, count: int) -> float:
    """The transport alone: the headers and the clock of a real poll, the body not decoded."""
    transport = HttpTransport(url, config=Config())
    base = base_headers("tml-bench", SDK_VERSION)

    async def lane(share: int) -> None:
        for _ in range(share):
            request = poll_request("asample-1", ROUTES["asample"], HOSTED, iteration=0, allow_metadata_only=True)
            request.headers = base | request.headers
            await transport.send(request)

    async def run(total: int) -> None:
        await asyncio.gather(*(lane(total // CONCURRENT) for _ in range(CONCURRENT)))

    await run(CONCURRENT)
    spent = await cpu_per_item(count, run)
    await transport.close()
    return spent


async def bare_requests(url: str, count: int) -> float:
    """Plain aiohttp: the same request, made by the same codec."""
    base = base_headers("tml-bench", SDK_VERSION)
    async with aiohttp.ClientSession() as session:

        async def lane(share: int) -> None:
            for _ in range(share):
                asked = poll_request("asample-1", ROUTES["asample"], HOSTED, iteration=0, allow_metadata_only=True)
                headers = base | asked.headers
                async with session.post(url + asked.path, data=asked.body, headers=headers) as answer:
                    Response(answer.status, {"content-type": answer.headers["Content-Type"]}, await answer.read())

        async def run(total: int) -> None:
            await asyncio.gather(*(lane(total // CONCURRENT) for _ in range(CONCURRENT)))

        await run(CONCURRENT)
        return await cpu_per_item(count, run)


async def measure(url: str, quick: bool) -> list[Row]:
    """Return the table: medians over rounds, ours and the baseline in turn."""
    rounds, samples, steps = (2, 400, 5) if quick else (7, 2000, 20)
    batch = a_batch()
    pairs: dict[str, list[tuple[float, float]]] = {"sample": [], "step of 64 x 1024": [], "request": []}
    async with ServiceClient(base_url=url) as service:
        sampler = await service.create_sampling_client(base_model="m")
        training = await service.create_lora_training_client("m")
        for _ in range(rounds):
            pairs["sample"].append((await our_samples(sampler, samples), await bare_samples(url, samples)))
            pairs["step of 64 x 1024"].append(
                (await our_steps(training, batch, steps), await bare_steps(url, batch, steps))
            )
            pairs["request"].append((await our_requests(url, samples), await bare_requests(url, samples)))
    return [
        Row(
            measure=f"CPU per {name}",
            ours=statistics.median(ours for ours, _ in found) * 1e6,
            baseline=statistics.median(bare for _, bare in found) * 1e6,
            unit="us",
            against="aiohttp" if name == "request" else "aiohttp + msgspec",
            ratio=statistics.median(ours / bare for ours, bare in found),
        )
        for name, found in pairs.items()
    ]


def run(quick: bool = False) -> list[Row]:
    """Measure and return the table."""
    with instant_server() as url:
        return asyncio.run(measure(url, quick))


if __name__ == "__main__":
    main("client: CPU time of the client's process", run)
