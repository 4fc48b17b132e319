"""Samples under everything that can go wrong at once: each ends once, and nothing is left behind."""

from __future__ import annotations

import asyncio

import pytest

from tests.plugins.sampling_server import sampling
from tinkex_actors import ModelInput, SamplingParams
from tinkex_actors.testing import Faults as ActorFaults
from tinkex_actors.testing import seeds, settle
from tinkex_actors.testing.model_server import Faults

PROMPT = ModelInput.from_ints([1, 2, 3])
STORM = Faults(lost_request=0.1, lost_answer=0.1, duplicated=0.1, busy=0.1, limited=0.1, latency=0.2, compute=30.0)


@pytest.mark.parametrize("by_session", [False, True])
@seeds(100)
async def test_every_sample_ends_once_whatever_breaks_and_whoever_dies(by_session: bool) -> None:
    loop = asyncio.get_running_loop()
    seed: int = loop.seed  # type: ignore[attr-defined]
    service, server = sampling(seed, STORM, sample_use_retrieve_futures=by_session)
    async with service:
        faults = ActorFaults(service.system)
        for name in ("dispatcher", "poller"):
            faults.crash(f"/service/core/{name}", within=5)
        sampler = await service.create_sampling_client(base_model="m")
        ended: list[int] = []
        futures = [sampler.sample(PROMPT, 1, SamplingParams(max_tokens=1)) for _ in range(12)]
        for number, future in enumerate(futures):
            future.add_done_callback(lambda _, number=number: ended.append(number))
        given_up = [number for number in range(12) if server.rng.random() < 0.15]
        loop.call_later(server.rng.uniform(0.0, 40.0), server.restart)
        for number in given_up:
            loop.call_later(server.rng.uniform(0.0, 20.0), futures[number].cancel)
        found = await asyncio.gather(*futures, return_exceptions=True)
        await settle()

        assert sorted(ended) == list(range(12)), "each ends once"
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
