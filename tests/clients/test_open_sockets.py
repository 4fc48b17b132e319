"""How many connections a flood of samples opens: its places and no more, with some left for training."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.bench.instant_server import Instant, prepared
from tinkex_actors import AdamParams, Config, ModelInput, SamplingParams, ServiceClient
from tinkex_actors.transport.http import HttpTransport

SLOTS, FOR_TRAINING = 64, 32
SAMPLES = 3000
PROMPT = ModelInput.from_ints([1, 2, 3])


class House:
    """A server that keeps every poll of a sample waiting until it is let go.

    Attributes:
        doors: the connections that are open.
        most: how many there were at once, at most.
        asking: for each path, the connections that it was asked over.
        held: the polls that wait.
        full: set when as many wait as may.
    """

    def __init__(self) -> None:
        self.doors: set[Door] = set()
        self.most = 0
        self.asking: dict[str, set[int]] = {}
        self.held: list[tuple[Door, bytes, bytes]] = []
        self.full = asyncio.Event()
        self.open = False

    def let_go(self) -> None:
        """Answer all polls, those that wait and those that come."""
        self.open = True
        for door, path, body in self.held:
            door.say(path, body)


class Door(Instant):
    """One connection of it."""

    def __init__(self, answers: dict[bytes, bytes], house: House) -> None:
        super().__init__(answers)
        self._house = house

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        house = self._house
        house.doors.add(self)
        house.most = max(house.most, len(house.doors))

    def connection_lost(self, exc: Exception | None) -> None:
        self._house.doors.discard(self)

    def say(self, path: bytes, body: bytes) -> None:
        """Give an answer that was held back."""
        assert isinstance(self._transport, asyncio.WriteTransport)
        self._transport.write(super()._answer(path, body))

    def _answer(self, path: bytes, body: bytes) -> bytes:
        house = self._house
        house.asking.setdefault(path.decode().rpartition("/")[2], set()).add(id(self))
        if path.endswith(b"/retrieve_future") and b"asample" in body and not house.open:
            house.held.append((self, path, body))
            if len(house.held) >= SLOTS:
                house.full.set()
            return b""
        return super()._answer(path, body)


@asynccontextmanager
async def serving(house: House) -> AsyncIterator[str]:
    answers = prepared()
    server = await asyncio.get_running_loop().create_server(lambda: Door(answers, house), "127.0.0.1", 0, backlog=500)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for door in list(house.doors):
            assert isinstance(door._transport, asyncio.WriteTransport)
            door._transport.abort()


async def test_a_flood_holds_its_places_and_leaves_training_its_own() -> None:
    house = House()
    limits = {"retrieve_promise": SLOTS + FOR_TRAINING}
    async with serving(house) as url:
        config = Config(base_url=url, telemetry=False, pool_limits=limits)
        async with ServiceClient(config=config) as service:
            sampler = await service.create_sampling_client(base_model="m")
            samples = [sampler.sample(PROMPT, 1, SamplingParams(max_tokens=1)) for _ in range(SAMPLES)]
            await house.full.wait()
            # Each is several requests and polls, and more than enough time for one sample too many.
            training = await service.create_lora_training_client("m", rank=1)
            steps = [training.optim_step(AdamParams()) for _ in range(FOR_TRAINING)]
            await asyncio.gather(*steps)
            view = sampler.statistics()
            assert (view.in_flight, view.dispatching, view.waiting) == (SLOTS, 0, SAMPLES - SLOTS)
            assert len(house.held) == SLOTS
            house.let_go()
            answers = await asyncio.gather(*samples)

    assert len(answers) == SAMPLES
    assert len(house.asking["asample"]) <= SLOTS
    assert SLOTS < len(house.asking["retrieve_future"]) <= SLOTS + FOR_TRAINING
    sessions_and_training = 8 + 32
    assert house.most <= 2 * SLOTS + FOR_TRAINING + sessions_and_training


def test_by_default_samples_may_hold_a_quarter_of_the_files_that_the_process_may_open() -> None:
    resource = pytest.importorskip("resource")
    limit = resource.RLIMIT_NOFILE
    soft, hard = resource.getrlimit(limit)
    try:
        resource.setrlimit(limit, (1024, hard))
        transport = HttpTransport("http://127.0.0.1:1", config=Config())
        assert transport.sample_slots == 256
        assert transport._limits["retrieve_promise"] == 256 + FOR_TRAINING
        resource.setrlimit(limit, (min(hard, 100_000) if hard > 0 else 100_000, hard))
        assert HttpTransport("http://127.0.0.1:1", config=Config()).sample_slots <= 1000
    finally:
        resource.setrlimit(limit, (soft, hard))
