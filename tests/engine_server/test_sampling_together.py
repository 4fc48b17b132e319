"""Samples of many clients at once: seeds keep their tokens, cancelled ones give way, training goes on in between."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from tests.plugins.wire_client import WireClient, engine_config, local_engine, pass_request, step_request
from tinkex_actors import types
from tinkex_actors.engine.service.host import lease
from tinkex_actors.engine.service.state.jobs import Job, JobQueue, SampleJob
from tinkex_actors.engine.service.state.promises import Promise
from tinkex_actors.errors import RequestFailedError
from tinkex_actors.runtime import ActorSystem

PROMPT = types.ModelInput.from_ints([10, 11, 12])
LONG = types.SamplingParams(max_tokens=1900, stop=[])


async def base_sampler(client: WireClient) -> str:
    request = types.CreateSamplingSessionRequest(
        session_id=await client.session(), sampling_session_seq_id=0, base_model="tiny"
    )
    answer: types.CreateSamplingSessionResponse = await client.call("create_sampling_session", request)
    return answer.sampling_session_id


def asking(sampler_id: str, seq_id: int, params: types.SamplingParams, **options: object) -> types.SampleRequest:
    return types.SampleRequest(
        sampling_session_id=sampler_id, seq_id=seq_id, prompt=PROMPT, sampling_params=params, **options
    )  # type: ignore[arg-type]


async def test_a_seed_gives_the_same_answer_alone_and_among_sixteen_others(tmp_path: Path) -> None:
    seeded = types.SamplingParams(max_tokens=40, seed=7, stop=[])
    async with local_engine(tmp_path) as client:
        sampler_id = await base_sampler(client)
        by_itself = await client.do("asample", asking(sampler_id, 0, seeded, num_samples=2, prompt_logprobs=True))
        others = [
            client.do("asample", asking(sampler_id, 1 + number, types.SamplingParams(max_tokens=8 + 5 * number)))
            for number in range(16)
        ]
        mine = client.do("asample", asking(sampler_id, 50, seeded, num_samples=2, prompt_logprobs=True))
        *beside, among = await asyncio.gather(*others, mine)
    assert among == by_itself
    assert [sequence.logprobs for sequence in among.sequences] == [
        sequence.logprobs for sequence in by_itself.sequences
    ]
    assert len({tuple(answer.sequences[0].tokens) for answer in beside}) == 16


async def test_a_cancelled_sample_gives_way_while_it_is_decoded(tmp_path: Path) -> None:
    async with ActorSystem() as system, local_engine(tmp_path, system=system) as client:
        sampler_id = await base_sampler(client)
        held = await lease("tiny", system=system, config=engine_config(tmp_path))
        promise = await client.call("asample", asking(sampler_id, 0, LONG, num_samples=64))
        async with asyncio.timeout(30.0):
            while not held.cell.jobs.decoding:
                await asyncio.to_thread(threading.Event().wait, 0.005)
        await client.call("cancel_future", types.CancelFutureRequest(request_id=promise.request_id))
        with pytest.raises(RequestFailedError, match="its client cancelled it") as caught:
            await client.result("asample", promise)
        assert caught.value.category == "user"
        # Had it gone on, 120,000 tokens would be drawn first.
        assert (await client.do("asample", asking(sampler_id, 1, types.SamplingParams(max_tokens=2)))).sequences
        assert held.cell.jobs.decoding == {}
        await held.release()


async def test_training_does_not_wait_for_long_samples_nor_they_for_it(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        sampler_id = await base_sampler(client)
        model_id = await client.model()
        order: list[str] = []

        async def noted(name: str, route: str, message: object) -> None:
            await client.do(route, message)
            order.append(name)

        await client.do("forward_backward", pass_request(model_id, 1))
        long = asyncio.ensure_future(noted("long", "asample", asking(sampler_id, 0, LONG)))
        await asyncio.sleep(0)
        await noted("step", "optim_step", step_request(model_id, 2))
        await noted("short", "asample", asking(sampler_id, 1, types.SamplingParams(max_tokens=2)))
        await noted("pass", "forward_backward", pass_request(model_id, 3))
        await long
    assert order == ["step", "short", "pass", "long"]


async def test_a_model_that_cannot_be_loaded_fails_its_samples(tmp_path: Path) -> None:
    async with ActorSystem() as system, local_engine(tmp_path, system=system) as client:
        sampler_id = await base_sampler(client)
        held = await lease("tiny", system=system, config=engine_config(tmp_path))
        held.cell.asked = "nothing"
        for seq_id in (0, 1):
            with pytest.raises(RequestFailedError, match="no such local model") as caught:
                await client.do("asample", asking(sampler_id, seq_id, LONG))
            assert caught.value.category == "user"
        held.cell.asked = "tiny"
        assert (await client.do("asample", asking(sampler_id, 2, types.SamplingParams(max_tokens=2)))).sequences
        await held.release()


async def test_a_killed_driver_loses_no_sample(tmp_path: Path) -> None:
    async with ActorSystem() as system, local_engine(tmp_path, system=system) as client:
        sampler_id = await base_sampler(client)
        seeded = types.SamplingParams(max_tokens=400, seed=3, stop=[])
        expected = await client.do("asample", asking(sampler_id, 0, seeded))
        supervisor = system.whereis("engine-tiny")
        assert supervisor is not None
        promises = [await client.call("asample", asking(sampler_id, 1 + number, seeded)) for number in range(3)]
        before = supervisor.child("host").statistics()
        supervisor.child("host").kill("test")
        results = [await client.result("asample", promise) for promise in promises]
        assert [result.sequences[0].tokens for result in results] == [expected.sequences[0].tokens] * 3
        assert supervisor.child("host").statistics() != before


def a_job(number: int, queue: JobQueue, *, sample: bool) -> Job:
    promise = Promise(str(number), "asample" if sample else "optim_step", f"session-{number % 2}")
    job = (
        SampleJob(promise, lambda core, job: None, lambda core, drawing: None)
        if sample
        else Job(promise, lambda core, job: None, lambda value: value)
    )
    queue.put(job)
    return job


async def test_no_sample_runs_before_a_step_that_was_asked_before_it() -> None:
    queue = JobQueue()
    first, step, second, third = (a_job(number, queue, sample=number != 1) for number in range(4))
    assert queue.admit(8) == [first]
    assert queue.admit(8) == []
    assert queue.next() is step
    assert queue.next() is step  # until it is settled
    queue.running = None
    assert queue.admit(1) == [second]
    assert list(queue.decoding) == [first, second]
    assert queue.next() is None
    assert len(queue) == 1
    # Withdrawn where it waits, told to stop where it is decoded.
    assert queue.withdraw("3") is third
    assert not third.cancelled
    assert queue.withdraw("0") is first
    assert first.cancelled
    assert queue.withdraw("3") is None
    a_job(4, queue, sample=True), a_job(5, queue, sample=False), a_job(6, queue, sample=True)
    queue.cancel("session-0")
    assert (len(queue), second.cancelled) == (1, True)
    queue.cancel()
    assert len(queue) == 0
