"""A service starts at its first use, explains itself, and ends once."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest

from tests.plugins.counting_server import counting, datum
from tinkex_actors import AdamParams, ClosedError, GoneError, WrongLoopError
from tinkex_actors.actors.explanation import OperationStalled
from tinkex_actors.actors.ledger import OperationLost
from tinkex_actors.runtime import ActorSystem
from tinkex_actors.testing import settle, virtual_time
from tinkex_actors.testing.model_server import Faults


@virtual_time()
async def test_the_first_call_starts_it_and_nothing_is_sent_before() -> None:
    service, server = counting()
    await asyncio.sleep(100.0)
    assert not server.seen
    training = await service.create_lora_training_client("m")
    assert training.base_model == "m"
    assert service.session_id == "sess"
    await service.close()

    assert server.seen["finish_session"] == 1
    assert server.seen["create_session"] == 1


@virtual_time()
async def test_heartbeats_go_on_while_the_user_waits() -> None:
    service, server = counting()
    async with service:
        await asyncio.sleep(65.0)

    assert server.seen["session_heartbeat"] == 6


@virtual_time()
async def test_explain_says_what_everything_waits_for() -> None:
    service, _ = counting(compute=50.0, latency=0.0)
    async with service:
        training = await service.create_lora_training_client("m")
        first = training.forward_backward([datum()], "cross_entropy")
        second = training.optim_step(AdamParams())
        at_once = str(service.explain())
        assert "being posted as 1" in at_once
        assert "waiting for its turn behind forward_backward 1" in at_once
        await settle()
        later = service.explain()
        assert [record.operation for record in later] == ["forward_backward", "optim_step"]
        assert "running on the server" in later.records[0].state
        assert str(first.explain()).startswith("1 pending")
        assert first.request_id is not None
        await second
        assert str(service.explain()).startswith("nothing is pending")


@virtual_time()
async def test_a_stalled_wait_is_one_event_and_another_at_each_doubling() -> None:
    service, server = counting(latency=0.0)
    async with service:
        training = await service.create_lora_training_client("m")
        stalled: list[OperationStalled] = []
        service.system.events.subscribe(stalled.append, OperationStalled)
        server.rng.seed(1)
        server.faults = Faults(compute=100_000.0, latency=0.0)
        future = training.forward_backward([datum()], "cross_entropy")
        await asyncio.sleep(200.0)
        assert not future.done()
        # Looked for with each heartbeat, every 10 s.
        ages = [event.record.age for event in stalled]
        assert len(ages) == 2
        assert 60.0 <= ages[0] < 71.0
        assert 120.0 <= ages[1] < 131.0


@virtual_time()
async def test_closing_fails_what_is_pending_and_is_idempotent() -> None:
    service, server = counting(compute=1000.0, latency=0.0)
    await service.__aenter__()
    server.faults = Faults(compute=0.0, latency=0.0)
    training = await service.create_lora_training_client("m")
    server.faults = Faults(compute=1000.0, latency=0.0)
    pending = training.forward_backward([datum()], "cross_entropy")
    await settle()
    closing = service.close("interrupted", "bye")
    assert service.close() is closing
    await closing
    with pytest.raises(ClosedError, match="pending"):
        await pending


@virtual_time()
async def test_a_system_of_the_users_own_outlives_the_service() -> None:
    async with ActorSystem(name="mine") as system:
        from tinkex_actors import ServiceClient

        _, server = counting()
        async with ServiceClient(base_url="http://127.0.0.1:1", system=system, transport=server) as service:
            assert service.system is system
            assert "service" in str(system.tree())
        assert "dispatcher" not in str(system.tree())


@virtual_time()
async def test_an_exception_inside_the_block_is_reported_and_goes_on() -> None:
    service, server = counting()
    with pytest.raises(ZeroDivisionError):
        async with service:
            raise ZeroDivisionError

    assert server.seen["telemetry"] >= 1
    assert server.seen["finish_session"] == 1


@virtual_time()
async def test_a_future_gives_the_same_result_to_everybody_and_to_other_threads() -> None:
    service, _ = counting()
    async with service:
        training = await service.create_lora_training_client("m")
        future = training.optim_step(AdamParams())
        with pytest.raises(asyncio.InvalidStateError):
            future.exception()
        with pytest.raises(WrongLoopError, match="await"):
            future.result()
        first, second = await asyncio.gather(future, future)
        assert first is second is await future
        assert future.done()
        assert future.exception() is None
        found: list[object] = []
        thread = threading.Thread(target=lambda: found.append(future.result(5.0)))
        thread.start()
        thread.join()
        assert found == [first]
        info = await training.get_info()
        assert info.model_data.model_name == "m"


@virtual_time()
async def test_a_failure_that_nobody_looks_at_is_one_event() -> None:
    service, server = counting(latency=0.0)
    async with service:
        training = await service.create_lora_training_client("m")
        lost: list[OperationLost] = []
        service.system.events.subscribe(lost.append, OperationLost)
        server.fail_with = ("no", "user")
        training.forward_backward([datum()], "cross_entropy")
        await asyncio.sleep(5.0)
        gc.collect()

    assert [event.operation for event in lost] == ["forward_backward"]


@virtual_time()
async def test_unloading_waits_for_the_calls_before_it() -> None:
    service, server = counting(compute=3.0)
    async with service:
        training = await service.create_lora_training_client("m")
        step = training.optim_step(AdamParams())
        assert (await training.unload_model()).model_id == training.model_id
        assert step.done()

    assert server.seen["unload_model"] == 1


@virtual_time()
async def test_a_promise_the_server_lost_fails_a_training_call_as_gone() -> None:
    service, server = counting(latency=0.0)
    async with service:
        training = await service.create_lora_training_client("m")
        step = training.optim_step(AdamParams())
        server.forget_promises = True
        with pytest.raises(GoneError, match="not known"):
            await step


@virtual_time()
async def test_explain_says_why_a_request_is_sent_again() -> None:
    service, server = counting(latency=0.0)
    async with service:
        training = await service.create_lora_training_client("m")
        server.faults = Faults(busy=1.0, latency=0.0)
        step = training.optim_step(AdamParams())
        await asyncio.sleep(5.0)
        assert "attempt" in str(step.explain())
        assert "503" in str(step.explain())
        server.faults = Faults(latency=0.0)
        await step


@virtual_time()
async def test_a_model_that_was_unloaded_takes_no_more_calls() -> None:
    service, _ = counting()
    async with service:
        training = await service.create_lora_training_client("m")
        unloading = training.unload_model()
        with pytest.raises(ClosedError, match="unloaded"):
            training.optim_step(AdamParams())
        await unloading
