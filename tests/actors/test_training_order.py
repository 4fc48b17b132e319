"""Training requests reach the server in call order, once each, whatever breaks on the way."""

from __future__ import annotations

import asyncio
import random

import numpy as np
import pytest

from tests.plugins.counting_server import datum
from tinkex_actors import AdamParams, ServiceClient, TrainingClient
from tinkex_actors.runtime import ActorRestarted
from tinkex_actors.testing import seeds, settle, virtual_time
from tinkex_actors.testing.model_server import Faults, ModelServer


def a_service(server: ModelServer) -> ServiceClient:
    return ServiceClient(base_url="http://127.0.0.1:1", transport=server)


async def three_steps(training: TrainingClient) -> tuple[list[float], list[float]]:
    passes, updates = [], []
    for _ in range(3):
        passes.append(training.forward_backward([datum()], "cross_entropy"))
        updates.append(training.optim_step(AdamParams(learning_rate=1e-3)))
    return (
        [(await future).metrics["seq:max"] for future in passes],
        [((await future).metrics or {})["step:max"] for future in updates],
    )


@virtual_time()
async def test_calls_take_effect_in_call_order_without_awaiting_between_them() -> None:
    server = ModelServer(random.Random(0))
    async with a_service(server) as service:
        training = await service.create_lora_training_client("m")
        passes, updates = await three_steps(training)

    assert passes == [1.0, 3.0, 5.0]
    assert updates == [2.0, 4.0, 6.0]
    assert [number for number, _ in server.applied[training.model_id]] == [1, 2, 3, 4, 5, 6]


@virtual_time()
async def test_a_large_batch_is_posted_first_chunk_last_and_combined_in_order() -> None:
    server = ModelServer(random.Random(1))
    async with a_service(server) as service:
        training = await service.create_lora_training_client("m")
        first = training.forward_backward([datum(2 + n % 3) for n in range(2500)], "cross_entropy")
        after = training.optim_step(AdamParams())
        result = await first
        await after

    assert server.posted[training.model_id][-2:] == [1, 4]
    assert sorted(server.posted[training.model_id]) == [1, 2, 3, 4]
    assert [len(output["logprobs"].tolist()) for output in result.loss_fn_outputs] == [2 + n % 3 for n in range(2500)]
    # Each datum's outputs come from its own chunk: 1024, 1024 and 452 of them.
    assert [float(output["logprobs"].to_numpy()[0]) for output in result.loss_fn_outputs[1022:1026]] == [1, 1, 2, 2]
    assert result.metrics["loss:sum"] == 2500.0


@seeds(25)
async def test_nothing_is_lost_or_repeated_when_connections_break() -> None:
    loop = asyncio.get_running_loop()
    rng = random.Random(loop.seed)  # type: ignore[attr-defined]
    server = ModelServer(rng)
    async with a_service(server) as service:
        # The start is tried for twenty seconds only, which is too short for some of ten thousand such lines.
        server.faults = Faults(lost_request=0.15, lost_answer=0.15, busy=0.1, latency=0.2)
        training = await service.create_lora_training_client("m")
        passes, updates = await three_steps(training)

    assert server.applied[training.model_id] == [
        (number, "optim_step" if number % 2 == 0 else "forward_backward") for number in range(1, 7)
    ]
    assert (passes, updates) == ([1.0, 3.0, 5.0], [2.0, 4.0, 6.0])


@seeds(25)
async def test_a_step_survives_its_actors_being_killed_within_the_restart_limits() -> None:
    loop = asyncio.get_running_loop()
    rng = random.Random(loop.seed)  # type: ignore[attr-defined]
    server = ModelServer(rng, Faults(latency=0.3, compute=1.0))
    async with a_service(server) as service:
        training = await service.create_lora_training_client("m")
        core = service.system.whereis("/service/core")
        assert core is not None
        restarted: list[ActorRestarted] = []
        service.system.events.subscribe(restarted.append, ActorRestarted)
        running = loop.create_task(three_steps(training))
        for _ in range(4):
            # Two seconds apart: at most three in five seconds, which the supervisors allow.
            await asyncio.sleep(2.0 + rng.random())
            victim = rng.choice([*core.children, *core.child("trainers").children])
            victim.kill()
        passes, updates = await running
        await settle()
        assert len(restarted) >= 4

    assert [number for number, _ in server.applied[training.model_id]] == [1, 2, 3, 4, 5, 6]
    assert (passes, updates) == ([1.0, 3.0, 5.0], [2.0, 4.0, 6.0])


@virtual_time()
async def test_past_the_restart_limits_every_pending_future_fails_at_once() -> None:
    from tinkex_actors import ClosedError, RestartsExhaustedError

    server = ModelServer(random.Random(3), Faults(compute=1000.0, latency=0.0))
    async with a_service(server) as service:
        training = await service.create_lora_training_client("m")
        pending = training.forward_backward([datum()], "cross_entropy")
        await settle()
        for _ in range(40):
            poller = service.system.whereis("/service/core/poller") if not pending.done() else None
            if poller is None:
                break
            poller.kill()
            await settle()
        with pytest.raises(RestartsExhaustedError, match="crashed more often"):
            await pending
        with pytest.raises(ClosedError, match="given up"):
            training.optim_step(AdamParams())


@virtual_time()
async def test_a_lost_number_breaks_the_sequence_and_says_so() -> None:
    from tinkex_actors import APIConnectionError, OutcomeUnknownError, SequenceBrokenError

    server = ModelServer(random.Random(4))
    async with a_service(server) as service:
        training = await service.create_lora_training_client("m")
        server.faults = Faults(lost_request=1.0)
        lost = training.forward_backward([datum()], "cross_entropy")
        behind = training.optim_step(AdamParams())
        with pytest.raises(OutcomeUnknownError, match=r"request 1 was sent.*last checkpoint") as unknown:
            await lost
        assert unknown.value.seq_id == 1
        assert isinstance(unknown.value.__cause__, APIConnectionError)
        with pytest.raises(SequenceBrokenError) as caught:
            await behind
        assert caught.value.first_failed_seq_id == 1
        with pytest.raises(SequenceBrokenError):
            training.optim_step(AdamParams())
        server.faults = Faults()


@virtual_time()
async def test_cancelling_an_awaiter_leaves_the_step_alone_and_cancelling_the_future_keeps_the_order() -> None:
    server = ModelServer(random.Random(5))
    async with a_service(server) as service:
        training = await service.create_lora_training_client("m")
        first = training.forward_backward([datum()], "cross_entropy")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await first
        second = training.optim_step(AdamParams())
        second.cancel()
        third = training.optim_step(AdamParams())
        assert np.isfinite((await first).metrics["loss:sum"])
        assert (await third).metrics is not None
        with pytest.raises(asyncio.CancelledError):
            await second

    numbers = [number for number, _ in server.applied[training.model_id]]
    assert numbers == sorted(set(numbers))
    assert numbers == list(range(1, len(numbers) + 1))
