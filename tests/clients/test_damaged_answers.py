"""A service whose server damages its answers at random: every call ends, in one family of errors; nothing crashes.

Once with the counting server in virtual time, where an hour of retries costs nothing, and once over real sockets with
something on the way that damages bytes. ``TINKEX_TEST_SEEDS`` sets how many seeds (``make soak``: many).
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import numpy as np

from tests.plugins.counting_server import datum
from tests.wire.test_fuzz import COSTLY, DAMAGES
from tinkex_actors import AdamParams, Config, ModelInput, RetryConfig, SamplingParams, ServiceClient, TinkexError
from tinkex_actors.testing import run_virtual
from tinkex_actors.testing.model_server import Faults, ModelServer
from tinkex_actors.testing.virtual_time import SEEDS_VARIABLE
from tinkex_actors.transport.server import serve
from tinkex_actors.wire.exchange import Request, Response

SEEDS = int(os.environ.get(SEEDS_VARIABLE) or 40)
PROMPT = ModelInput.from_ints([1, 2, 3])
# A refusal may truly end the session, teach that the server lacks something, or that the key is wrong: what is learnt
# from these is kept, and a later call may be refused by it.
TEACHING = frozenset({401, 404, 410, 415, 422})
IMPATIENT = RetryConfig(progress_timeout=60.0)


class Damaging(ModelServer):
    """A counting server, and a way from it on which answers are damaged.

    Attributes:
        share: of the answers that are damaged.
        damaged: how many were.
        teaching: whether damaged statuses may be ones that a client draws conclusions from.
    """

    def __init__(self, seed: int, *, share: float, teaching: bool) -> None:
        super().__init__(random.Random(seed), Faults(latency=0.01, compute=0.2))
        self.share = share
        self.teaching = teaching
        self.damaged = 0
        self._random = np.random.default_rng(seed)

    async def send(self, request: Request) -> Response:
        """Answer, and damage the answer."""
        whole = await super().send(request)
        if self._random.random() >= self.share:
            return whole
        self.damaged += 1
        response = msgspec.structs.replace(whole, headers=dict(whole.headers))
        for _ in range(self._random.integers(1, 4)):
            kinds = COSTLY if self._random.integers(100) == 0 else DAMAGES
            kinds[int(self._random.integers(len(kinds)))](self._random, response)
        keeps = not self.teaching or "heartbeat" in request.path
        if keeps and response.status in TEACHING:
            response.status = 500
        return response


async def ended(call: Awaitable[Any], outcomes: Counter[str], limit: float = 20_000.0) -> Any:
    """Wait for a call's end; what it is says its class, or "result"."""
    async with asyncio.timeout(limit):
        try:
            result = await call
        except TinkexError as error:
            short = len(str(error)) < 20_000
            outcomes[type(error).__name__ if short else "a flood of words"] += 1
            return None
    outcomes["result"] += 1
    return result


async def clients(service: ServiceClient, outcomes: Counter[str]) -> tuple[Any, Any]:
    return (
        await ended(service.create_lora_training_client("m", rank=4), outcomes),
        await ended(service.create_sampling_client(base_model="m", retry_config=IMPATIENT), outcomes),
    )


async def use(service: ServiceClient, training: Any, sampler: Any, outcomes: Counter[str]) -> None:
    """Train, save, sample and look, many calls at once."""
    rest = service.create_rest_client()
    calls: list[Any] = [rest.get_server_capabilities(), rest.get_weights_info_by_tinker_path(CHECKPOINT)]
    if training is not None:
        for _ in range(4):
            calls.append(training.forward_backward([datum()], "cross_entropy"))
            calls.append(training.optim_step(AdamParams()))
        calls.append(training.save_state("a"))
    if sampler is not None:
        calls += [sampler.sample(PROMPT, 2, SamplingParams(max_tokens=3)) for _ in range(8)]
        calls.append(sampler.compute_logprobs(PROMPT))
    await asyncio.gather(*(ended(call, outcomes) for call in calls))
    assert len(service.explain()) == 0


CHECKPOINT = "tinker://run/weights/a"


def actors(node: Any) -> Iterator[Any]:
    yield node.statistics
    for child in node.children:
        yield from actors(child)


def assert_nobody_crashed(service: ServiceClient) -> None:
    found = {row.path: row for row in actors(service.system.tree()) if row is not None}
    assert any(path.endswith("/courier") for path in found)
    assert {path: row.incarnation for path, row in found.items() if row.incarnation} == {}


async def story(seed: int, outcomes: Counter[str]) -> int:
    server = Damaging(seed, share=0.3 if seed % 4 else 0.1, teaching=seed % 2 == 0)
    share, server.share = server.share, 0.0
    async with ServiceClient(
        config=Config(base_url="http://127.0.0.1:1", telemetry=False), transport=server
    ) as service:
        made = await clients(service, outcomes)
        server.share = share
        await use(service, *made, outcomes)
        await use(service, *await clients(service, outcomes), outcomes)
        server.share = 0.0
        assert_nobody_crashed(service)
        async with asyncio.timeout(100.0):
            assert (await ended(service.get_server_capabilities(), Counter())) or server.teaching
            if not server.teaching:
                training = await service.create_lora_training_client("m", rank=4)
                await training.optim_step(AdamParams())
                sampler = await service.create_sampling_client(base_model="m")
                assert (await sampler.sample(PROMPT, 1, SamplingParams(max_tokens=2))).sequences
        assert_nobody_crashed(service)
    return server.damaged


def told(seed: int, outcomes: Counter[str]) -> int:
    try:
        return run_virtual(story(seed, outcomes))
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise


def test_whatever_is_answered_every_call_ends_and_the_service_goes_on() -> None:
    outcomes: Counter[str] = Counter()
    damaged = sum(told(seed, outcomes) for seed in range(SEEDS))

    assert "a flood of words" not in outcomes
    assert damaged > 5 * SEEDS
    assert outcomes["result"] > 4 * SEEDS
    assert {"RemoteWireError", "OutcomeUnknownError", "GoneError"} <= outcomes.keys()


def test_nothing_of_it_is_kept() -> None:
    told(0, Counter())
    tracemalloc.start()
    try:
        for seed in range(6):
            told(seed, Counter())
        gc.collect()
        left, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 80_000_000
    assert left < 4_000_000


# --- over sockets ----------------------------------------------------------------------------------------------------
class Wire:
    """What stands between the client and a server, and damages what comes back.

    Attributes:
        share: of the pieces that are damaged.
        damaged: how many were.
    """

    def __init__(self, seed: int, port: int) -> None:
        self.share = 0.0
        self.damaged = 0
        self._chance = random.Random(seed)
        self._port = port

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        asking = asyncio.ensure_future(self._carry(reader, back, whole=True))
        try:
            await self._carry(there, writer, whole=False)
        finally:
            asking.cancel()
            for stream in (writer, back):
                stream.close()
            await asyncio.gather(asking, return_exceptions=True)

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, whole: bool) -> None:
        try:
            while piece := await source.read(65536):
                if not whole and self._chance.random() < self.share:
                    self.damaged += 1
                    if not self._damage(piece, sink):
                        return
                else:
                    sink.write(piece)
                await sink.drain()
        except ConnectionError:
            return

    def _damage(self, piece: bytes, sink: asyncio.StreamWriter) -> bool:
        """Pass on something else; False ends the connection."""
        data, chance = bytearray(piece), self._chance
        match chance.randrange(6):
            case 0:
                data[chance.randrange(len(data))] = chance.randrange(256)
            case 1:
                del data[chance.randrange(len(data)) :]
            case 2:
                data += b"x" * chance.choice([1, 100_000])
            case 3:
                sink.transport.abort()
                return False
            case 4:
                sink.write(bytes(data[: chance.randrange(len(data))]))
                return False
            case _:
                at = chance.randrange(len(data))
                data[at:at] = chance.randbytes(chance.randrange(1, 30))
        sink.write(bytes(data))
        return True


@asynccontextmanager
async def damaging_way(seed: int) -> AsyncIterator[tuple[Wire, str]]:
    model = ModelServer(random.Random(seed), Faults(latency=0.0, compute=0.0))
    server = await serve(model)
    wire = Wire(seed, int(server.url.rpartition(":")[2]))
    talks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.add(asyncio.ensure_future(wire.talk(reader, writer)))

    way = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield wire, f"http://127.0.0.1:{way.sockets[0].getsockname()[1]}"
    finally:
        way.close()
        for talk in talks:
            talk.cancel()
        await asyncio.gather(*talks, return_exceptions=True)
        await server.close()
        await model.close()


async def test_the_same_over_sockets_with_bytes_damaged_on_the_way() -> None:
    outcomes: Counter[str] = Counter()
    damaged = 0
    for seed in range(min(max(SEEDS // 15, 2), 40)):
        async with damaging_way(seed) as (wire, url):
            config = Config(
                base_url=url,
                telemetry=False,
                timeout=0.5,
                poll_timeout=0.5,
                max_retries=2,
                max_response_bytes=50_000,
            )
            async with ServiceClient(config=config) as service:
                made = await clients(service, outcomes)
                wire.share = 0.25
                await use(service, *made, outcomes)
                await clients(service, outcomes)
                wire.share = 0.0
                assert_nobody_crashed(service)
                async with asyncio.timeout(20.0):
                    training = await service.create_lora_training_client("m", rank=4)
                    await training.optim_step(AdamParams())
                assert_nobody_crashed(service)
            damaged += wire.damaged

    assert damaged > 0
    assert outcomes["result"] > 0
    assert outcomes.total() > outcomes["result"]
