"""What a sample costs: against bare aiohttp, a raw protocol and the official SDK doing the same requests; and storms.

The server answers at once from a process of its own. A sample is two requests: its submission and its result, which
every side decodes. The official SDK (``tinker``) runs in a process of its own, where it is installed.

    python -m tests.bench.sampling [--json] [--quick]
"""

from __future__ import annotations

import asyncio
import gc
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import msgspec

from tests.bench.client import CONCURRENT, PARAMS, PROMPT, cpu_per_item, instant_server, official, our_samples
from tests.bench.report import Row, beside, main
from tests.bench.storms import Storm, storm
from tinkex_actors import Config, SampleResponse, SamplingClient, ServiceClient
from tinkex_actors.machines.admission.backoff import ADAPTIVE, PARITY
from tinkex_actors.transport._limits import pool_limits, sample_slots
from tinkex_actors.wire._codec.protobuf import decode_protobuf

TURN = 0.005
BODY = {
    "sampling_session_id": "s:sample:0",
    "seq_id": 1,
    "num_samples": 1,
    "prompt": {"chunks": [{"tokens": list(range(64)), "type": "encoded_text"}]},
    "sampling_params": {"max_tokens": 16, "temperature": 1.0, "top_k": -1, "top_p": 1.0},
    "prompt_logprobs": False,
    "topk_prompt_logprobs": 0,
    "type": "sample",
}


async def _in_lanes(count: int, sample: Callable[[], Awaitable[object]]) -> float:
    async def lane(share: int) -> None:
        for _ in range(share):
            await sample()

    async def run(total: int) -> None:
        await asyncio.gather(*(lane(total // CONCURRENT) for _ in range(CONCURRENT)))

    await run(CONCURRENT)
    return await cpu_per_item(count, run)


def _bare(session: aiohttp.ClientSession, url: str) -> Callable[[], Awaitable[SampleResponse]]:
    """Plain aiohttp and msgspec: string URLs, the headers that the server needs."""
    encode, decode = msgspec.json.encode, msgspec.json.decode

    async def sample() -> SampleResponse:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        async with session.post(f"{url}/api/v1/asample", data=encode(BODY), headers=headers) as answer:
            promise = decode(await answer.read())
        body = encode({"request_id": promise["request_id"], "allow_metadata_only": True})
        headers = {"Content-Type": "application/json", "Accept": "application/x-protobuf"}
        async with session.post(f"{url}/api/v1/retrieve_future", data=body, headers=headers) as answer:
            found: SampleResponse = decode_protobuf(SampleResponse, await answer.read())
            return found

    return sample


class _Raw(asyncio.Protocol):
    """One connection, one request at a time: what HTTP costs where nothing is looked at but the length."""

    def __init__(self) -> None:
        self._buffer = b""
        self._waiter: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        mark = self._buffer.find(b"Content-Length: ")
        size = int(self._buffer[mark + 16 : self._buffer.index(b"\r", mark)])
        if len(self._buffer) >= head + 4 + size and self._waiter is not None:
            body, self._buffer = self._buffer[head + 4 :], b""
            self._waiter.set_result(body)

    async def post(self, path: bytes, body: bytes) -> bytes:
        self._waiter = asyncio.get_running_loop().create_future()
        head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (path, len(body))
        self._transport.write(head + body)  # type: ignore[attr-defined]
        return await self._waiter


async def raw_samples(url: str, count: int) -> float:
    """The limit: an asyncio protocol, a connection for each lane."""
    host, port = url.removeprefix("http://").split(":")
    loop = asyncio.get_running_loop()
    made = [(await loop.create_connection(_Raw, host, int(port))) for _ in range(CONCURRENT)]
    idle = [protocol for _, protocol in made]

    async def sample() -> None:
        protocol = idle.pop()
        promise = msgspec.json.decode(await protocol.post(b"/api/v1/asample", msgspec.json.encode(BODY)))
        body = msgspec.json.encode({"request_id": promise["request_id"], "allow_metadata_only": True})
        decode_protobuf(SampleResponse, await protocol.post(b"/api/v1/retrieve_future", body))
        idle.append(protocol)

    spent = await _in_lanes(count, sample)
    for transport, _ in made:
        transport.close()
    return spent


async def latency(sample: Callable[[], Awaitable[object]], count: int) -> float:
    """Seconds of one sample after the other."""
    for _ in range(20):
        await sample()
    began = time.perf_counter()
    for _ in range(count):
        await sample()
    return (time.perf_counter() - began) / count


async def turns_while(work: Awaitable[object]) -> float:
    """The p99 of how much later than asked a timer of the loop rings meanwhile, in seconds."""
    late: list[float] = []

    async def watch() -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(TURN)
            late.append(time.perf_counter() - began - TURN)

    watcher = asyncio.ensure_future(watch())
    await work
    watcher.cancel()
    return sorted(late)[int(len(late) * 0.99)] if late else 0.0


def _resident() -> int:
    with open("/proc/self/statm") as pages:
        return int(pages.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def flood(sampler: SamplingClient, count: int) -> tuple[float, float, float]:
    """Submit everything at once; returns bytes of memory each, seconds, and the p99 of a loop turn meanwhile."""
    gc.collect()
    before, began = _resident(), time.perf_counter()
    futures = [sampler.sample(PROMPT, 1, PARAMS) for _ in range(count)]
    each = (_resident() - before) / count

    async def all_of_them() -> None:
        for future in futures:
            await future

    turn = await turns_while(all_of_them())
    return each, time.perf_counter() - began, turn


OFFICIAL = """
import asyncio, json, sys, time, warnings
warnings.simplefilter("ignore")
import tinker
from tinker import types
url, count = sys.argv[1], int(sys.argv[2])
service = tinker.ServiceClient(base_url=url, api_key="tml-bench")
sampler = service.create_sampling_client(base_model="m")
prompt, params = types.ModelInput.from_ints(list(range(64))), types.SamplingParams(max_tokens=16)
def run(total):
    asked = [sampler.sample(prompt, 1, params) for _ in range(total)]
    for future in asked:
        future.result(120)
run(50)
cpu, wall = time.process_time(), time.perf_counter()
run(count)
print(json.dumps([(time.process_time() - cpu) / count, (time.perf_counter() - wall) / count]))
"""


async def measure(url: str, quick: bool) -> list[Row]:
    """Return the table: medians of ratios over rounds, ours and the baseline in turn."""
    rounds, samples, one_by_one, many = (2, 400, 100, 2000) if quick else (7, 2000, 500, 20_000)
    pairs, waits, limits = [], [], []
    files = _open_files()
    async with ServiceClient(base_url=url) as service, aiohttp.ClientSession() as session:
        sampler = await service.create_sampling_client(base_model="m")
        bare = _bare(session, url)
        for _ in range(rounds):
            pairs.append((await our_samples(sampler, samples), await _in_lanes(samples, bare)))
            limits.append(await raw_samples(url, samples))
            waits.append(
                (await latency(lambda: sampler.sample(PROMPT, 1, PARAMS), one_by_one), await latency(bare, one_by_one))
            )
        ours, base = sorted(pairs, key=lambda pair: pair[0] / pair[1])[rounds // 2]
        wait, bare_wait = sorted(waits, key=lambda pair: pair[0] / pair[1])[rounds // 2]
        idle = await turns_while(asyncio.sleep(1.0))
        began = time.perf_counter()
        await our_samples(sampler, samples)
        wall = (time.perf_counter() - began) / samples
        await session.close()
        each, seconds, turn = await flood(sampler, many)
        # Nothing that was opened is closed before it was idle for half a minute, so this was the most.
        sockets = _open_files() - files
    rows = [
        beside("CPU per sample", ours, base, "aiohttp + msgspec", 1.25),
        beside("CPU per sample", ours, statistics.median(limits), "a raw protocol", None),
        beside("latency of one after the other", wait, bare_wait, "aiohttp + msgspec", 1.3),
        _ceiling(f"memory per waiting sample of {many}", each, "bytes", 4096.0),
        _ceiling(f"p99 of a loop turn, {many} at once", turn * 1e3, "ms", 20.0),
        _ceiling("p99 of a loop turn, idle", idle * 1e3, "ms", None),
        _ceiling(f"samples/s, {many} at once", many / seconds, "1/s", None),
        _ceiling(f"open sockets, {many} at once", sockets, "", _most_sockets()),
    ]
    if (sdk := await asyncio.to_thread(official, OFFICIAL, url, 200 if quick else 1000)) is not None:
        rows.append(beside("CPU per sample", ours, sdk[0], "the official SDK", 0.1))
        rows.append(beside("wall time per sample", wall, sdk[1], "the official SDK", 0.1))
    return rows


def _most_sockets() -> float:
    """Polls, posts, training and the session's own, as architecture section 5 bounds them."""
    limits = pool_limits(Config())
    return float(min(limits["sample"], sample_slots(None)) + limits["retrieve_promise"] + limits["session"])


def _ceiling(measure: str, value: float, unit: str, target: float | None) -> Row:
    held = None if target is None else value <= target
    return Row(measure=measure, ours=value, unit=unit, target=target, held=held)


def storms(quick: bool) -> list[Row]:
    """Both policies before the same storms of 429s; a share of 1 is everything."""
    seeds = range(20 if quick else 200)
    found = {name: [storm(seed, policy) for seed in seeds] for name, policy in (("a", ADAPTIVE), ("p", PARITY))}

    def worst(what: str, pick: Callable[[list[float]], float]) -> tuple[float, float]:
        values: dict[str, list[float]] = {name: [getattr(one, what) for one in list_] for name, list_ in found.items()}
        return pick(values["a"]), pick(values["p"])

    assert all(isinstance(one, Storm) for one in found["a"])
    goodput, refused, unfair = worst("goodput", min), worst("refused", max), worst("unfair", max)

    def row(measure: str, pair: tuple[float, float], target: float, *, at_most: bool = True) -> Row:
        return Row(
            measure=measure,
            ours=pair[0],
            baseline=pair[1],
            unit="",
            against="parity policy",
            target=target,
            held=pair[0] <= target if at_most else pair[0] >= target,
            at_most=at_most,
        )

    return [
        row("storms: least goodput", goodput, 0.9, at_most=False),
        row("storms: most 429s", refused, 0.05),
        row("storms: longest wait in fair shares", unfair, 3.0),
    ]


def run(quick: bool = False) -> list[Row]:
    """Measure and return the table."""
    with instant_server() as url:
        rows: list[Any] = asyncio.run(measure(url, quick))
    return [*rows, *storms(quick)]


if __name__ == "__main__":
    main("sampling: what a sample costs, and what 429s do to it", run)
