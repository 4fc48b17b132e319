"""Sampling: budgets, the back-off window, lost samples, cancellation."""

from __future__ import annotations

import asyncio
import random

import numpy as np
import pytest

from tests.plugins.counting_server import counting
from tinkex_actors import ModelInput, RequestFailedError, RetryConfig, SamplingParams, ServiceClient
from tinkex_actors.actors.dispatcher import BackoffWindowOpened
from tinkex_actors.errors import APIStatusError
from tinkex_actors.testing import seeds, settle, virtual_time
from tinkex_actors.testing.model_server import Faults, ModelServer

PROMPT = ModelInput.from_ints([1, 2, 3])


@virtual_time()
async def test_samples_carry_their_sequence_ids_and_numbers_count_up() -> None:
    service, _ = counting()
    async with service:
        sampler = await service.create_sampling_client(base_model="m")
        answers = await asyncio.gather(*(sampler.sample(PROMPT, 2, SamplingParams(max_tokens=3)) for _ in range(3)))

    assert [answer.sequences[0].tokens for answer in answers] == [[0, 1, 2], [1, 2, 3], [2, 3, 4]]
    assert all(sequence.sequence_id for answer in answers for sequence in answer.sequences)


@virtual_time()
async def test_compute_logprobs_is_a_list_that_begins_with_none() -> None:
    service, _ = counting()
    async with service:
        sampler = await service.create_sampling_client(base_model="m")

        assert await sampler.compute_logprobs(PROMPT) == [None, -1.0, -1.0]


@virtual_time()
async def test_a_429_opens_one_window_for_all_and_everything_is_answered_in_the_end() -> None:
    service, server = counting(latency=0.0)
    async with service:
        sampler = await service.create_sampling_client(base_model="m")
        opened: list[object] = []
        service.system.events.subscribe(opened.append, BackoffWindowOpened)
        server.faults = Faults(limited=1.0, latency=0.0)
        waiting = [sampler.sample(PROMPT) for _ in range(50)]
        await settle()
        refused = server.seen["asample"]
        assert opened
        assert "back-off" in str(service.explain())
        await asyncio.sleep(0.4)
        assert server.seen["asample"] == refused, "nothing is posted while the window is open"
        server.faults = Faults(latency=0.0)
        await asyncio.gather(*waiting)
        statistics = server.seen["asample"]

    assert statistics <= refused + 50 + 10


@seeds(50)
async def test_every_sample_ends_once_whatever_breaks() -> None:
    seed = asyncio.get_running_loop().seed  # type: ignore[attr-defined]
    service, server = counting(seed, lost_request=0.1, lost_answer=0.1, busy=0.1, limited=0.2, latency=0.1)
    async with service:
        sampler = await service.create_sampling_client(base_model="m")
        answers = await asyncio.gather(*(sampler.sample(PROMPT) for _ in range(30)))
        await settle()
        assert len(answers) == 30
        assert server.polls_open == 0
        assert len(service.explain()) == 0


@virtual_time()
async def test_cancelling_gives_the_place_back_and_stops_the_poll() -> None:
    service, server = counting(compute=1000.0, latency=0.0)
    async with service:
        sampler = await service.create_sampling_client(base_model="m")
        futures = [sampler.sample(PROMPT) for _ in range(5)]
        await settle()
        assert server.polls_open == 5
        for future in futures[:3]:
            assert future.cancel()
        await settle()
        assert server.polls_open == 2
        with pytest.raises(asyncio.CancelledError):
            await futures[0]
        await asyncio.gather(*futures[3:])


@virtual_time()
async def test_without_retry_logic_the_first_loss_is_the_answer() -> None:
    service, server = counting()
    async with service:
        sampler = await service.create_sampling_client(
            base_model="m", retry_config=RetryConfig(enable_retry_logic=False)
        )
        server.faults = Faults(busy=1.0)
        with pytest.raises(APIStatusError, match="503"):
            await sampler.sample(PROMPT)
        server.faults = Faults()


@virtual_time()
async def test_a_lost_promise_is_sampled_again_under_a_new_number() -> None:
    service, server = counting(latency=0.0)
    async with service:
        sampler = await service.create_sampling_client(base_model="m")
        server.faults = Faults(compute=0.0, latency=0.0)
        future = sampler.sample(PROMPT, 1, SamplingParams(max_tokens=2))
        server.forget_promises = True
        answer = await future

    assert answer.sequences[0].tokens == [1, 2], "number 1: number 0 was lost with its promise"


@virtual_time()
async def test_what_the_server_ran_and_failed_is_not_repeated() -> None:
    service, server = counting(latency=0.0)
    async with service:
        sampler = await service.create_sampling_client(base_model="m")
        server.fail_with = ("the prompt is cursed", "user")
        with pytest.raises(RequestFailedError, match="cursed") as caught:
            await sampler.sample(PROMPT)

    assert caught.value.category == "user"
    assert server.seen["asample"] == 1


class Restarting(ModelServer):
    """A server that can lose every promise it has given so far, as a restart does."""

    def restart(self) -> None:
        """Forget everything; polls that are waiting are answered 410."""
        self._promises.clear()
        for task in list(self._running):
            task.cancel()


@virtual_time()
async def test_a_server_that_loses_thousands_of_samples_at_once_is_asked_for_all_of_them_again() -> None:
    server = Restarting(random.Random(0), Faults(latency=0.0, compute=0.0))
    async with ServiceClient(base_url="http://127.0.0.1:1", transport=server) as service:
        sampler = await service.create_sampling_client(base_model="m")
        server.faults = Faults(latency=0.0, compute=1000.0)
        waiting = [sampler.sample(PROMPT) for _ in range(1900)]
        await settle()
        server.restart()
        server.faults = Faults(latency=0.0, compute=0.0)
        answers = await asyncio.gather(*waiting)

    assert len(answers) == 1900


class Narrow(ModelServer):
    """A server reached over a transport that has room for three samples."""

    sample_slots = 3


@virtual_time()
async def test_no_more_samples_are_in_flight_than_the_transport_has_room_for() -> None:
    server = Narrow(random.Random(0), Faults(latency=0.0, compute=0.0))
    async with ServiceClient(base_url="http://127.0.0.1:1", transport=server) as service:
        sampler = await service.create_sampling_client(base_model="m")
        server.faults = Faults(latency=0.0, compute=5.0)
        waiting = [sampler.sample(PROMPT) for _ in range(7)]
        await settle()
        assert server.polls_open == 3
        assert "waiting for room: 4 waiting" in str(service.explain())
        await asyncio.gather(*waiting)


@virtual_time()
async def test_numpy_scalars_are_numbers_too() -> None:
    service, _ = counting()
    async with service:
        sampler = await service.create_sampling_client(base_model="m")
        prompt = ModelInput.from_ints(list(np.arange(3)))
        params = SamplingParams(max_tokens=int(np.int64(2)), temperature=np.float32(0.5))  # type: ignore[arg-type]

        assert len((await sampler.sample(prompt, 1, params)).sequences[0].tokens) == 2
