"""Samples under everything that can go wrong at once: each ends once, and nothing is left behind."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from tests.plugins.sampling_server import SamplingServer
from tinkex_actors import ModelInput, SamplingParams, ServiceClient
from tinkex_actors.testing import Faults as ActorFaults
from tinkex_actors.testing import seeds, settle
from tinkex_actors.testing.model_server import Faults
from tinkex_actors.wire.exchange import Request, Response

PROMPT = ModelInput.from_ints([1, 2, 3])
STORM = Faults(lost_request=0.1, lost_answer=0.1, duplicated=0.1, busy=0.1, limited=0.1, latency=0.2, compute=30.0)
SAMPLES = 12


class Interrupting(SamplingServer):
    """Does something in the turn after the n-th sample or poll came or its answer went, in the middle of some task.

    Attributes:
        at: what it does, by n.
    """

    at: dict[int, Callable[[], object]]
    passed = 0

    async def send(self, request: Request) -> Response:
        """Answer one request."""
        counts = request.path.endswith(("/asample", "/retrieve_future", "/retrieve_futures"))
        self._pass(counts)
        try:
            return await super().send(request)
        finally:
            self._pass(counts)

    def _pass(self, counts: bool) -> None:
        self.passed += counts
        if counts and self.passed in self.at:
            asyncio.get_running_loop().call_soon(self.at.pop(self.passed))


def plant(service: ServiceClient, server: Interrupting) -> None:
    """Dispatcher and poller crash at one of their first messages, and are killed while their tasks post and poll."""
    system, faults = service.system, ActorFaults(service.system)

    def kill(path: str) -> None:
        if (actor := system.whereis(path)) is not None:
            actor.kill()

    server.at = {}
    for name in ("dispatcher", "poller"):
        path = f"/service/core/{name}"
        faults.crash(path, within=5)
        # Half of the moments lie where all samples are being posted, half anywhere.
        for latest in (4 * SAMPLES, 20 * SAMPLES):
            server.at[server.rng.randrange(1, latest)] = lambda path=path: kill(path)


@pytest.mark.parametrize("by_session", [False, True])
@seeds(100)
async def test_every_sample_ends_once_whatever_breaks_and_whoever_dies(by_session: bool) -> None:
    loop = asyncio.get_running_loop()
    seed: int = loop.seed  # type: ignore[attr-defined]
    server = Interrupting(random.Random(seed), STORM, sample_use_retrieve_futures=by_session)
    server.at = {}
    async with ServiceClient(base_url="http://127.0.0.1:1", transport=server) as service:
        plant(service, server)
        sampler = await service.create_sampling_client(base_model="m")
        ended: list[int] = []
        futures = [sampler.sample(PROMPT, 1, SamplingParams(max_tokens=1)) for _ in range(SAMPLES)]
        for number, future in enumerate(futures):
            future.add_done_callback(lambda _, number=number: ended.append(number))
        given_up = [number for number in range(SAMPLES) if server.rng.random() < 0.15]
        loop.call_later(server.rng.uniform(0.0, 40.0), server.restart)
        for number in given_up:
            loop.call_later(server.rng.uniform(0.0, 20.0), futures[number].cancel)
        found = await asyncio.gather(*futures, return_exceptions=True)
        await settle()

        assert sorted(ended) == list(range(SAMPLES)), "each ends once"
        for number, one in enumerate(found):
            cancelled = isinstance(one, asyncio.CancelledError)
            assert not cancelled or number in given_up
            assert cancelled or not isinstance(one, BaseException), one
        desk, poller = service._use().dispatcher, service._use().poller
        view = sampler.statistics()
        assert (view.waiting, view.dispatching, view.in_flight, view.dispatching_bytes) == (0, 0, 0, 0)
        assert (len(desk._samples), len(desk.sessions), len(desk.later), len(poller.promises)) == (0, 0, 0, 0)
        assert desk.admission.backoff._posting == 0
        assert len(desk.admission._queue) == 0
        assert poller.gate._budget.balance == 52_428_800
        assert all(not state.waiting for state in poller.sessions.values())
        assert len(service.explain()) == 0
        server.faults = Faults()
