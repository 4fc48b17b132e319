"""What an errand did before its courier was killed is found again, not done twice."""

from __future__ import annotations

import asyncio
import gc
import random
import weakref

import pytest

from tests.plugins.counting_server import counting, datum
from tinkex_actors import AdamParams, ServiceClient
from tinkex_actors.testing import seeds, settle, virtual_time
from tinkex_actors.testing.model_server import Faults, ModelServer
from tinkex_actors.tokenizers import Tokenizer
from tinkex_actors.tokenizers.byte_level import ByteTokenizer


class WithTokenizer(ModelServer):
    """A counting server in this process: it has its model's tokenizer, after a while."""

    async def tokenizer(self, base_model: str) -> Tokenizer:
        await asyncio.sleep(1.0)
        return ByteTokenizer()


@virtual_time()
async def test_a_model_whose_creation_is_begun_again_has_one_sequencer() -> None:
    server = WithTokenizer(random.Random(0), Faults(latency=0.0, compute=0.0))
    async with ServiceClient(base_url="http://127.0.0.1:1", transport=server) as service:
        creating = service.create_lora_training_client("m")
        await asyncio.sleep(0.5)
        assert server.seen["get_info"] == 1, "it waits for the tokenizer now"
        courier = service.system.whereis("/service/core/courier")
        assert courier is not None
        courier.kill()
        training = await creating
        async with asyncio.timeout(60.0):
            await training.optim_step(AdamParams())

    assert server.posted[training.model_id] == [1]


@seeds(200)
async def test_clients_are_created_whenever_the_courier_is_killed() -> None:
    rng = random.Random(asyncio.get_running_loop().seed)  # type: ignore[attr-defined]
    server = WithTokenizer(rng, Faults(latency=0.2, compute=0.5))
    async with ServiceClient(base_url="http://127.0.0.1:1", transport=server) as service:
        creating = service.create_lora_training_client("m")
        for _ in range(2):
            await asyncio.sleep(rng.random() * 1.5)
            courier = service.system.whereis("/service/core/courier")
            assert courier is not None
            courier.kill()
        async with asyncio.timeout(120.0):
            training = await creating
            sampling = training.save_weights_and_get_sampling_client()
            unloading = training.unload_model()
            await asyncio.sleep(rng.random())
            courier = service.system.whereis("/service/core/courier")
            assert courier is not None
            courier.kill()
            await sampling
            await unloading
        await settle()
        assert len(service.explain()) == 0
        assert server.polls_open == 0


@virtual_time()
async def test_a_cancelled_call_that_was_posted_leaves_nothing_behind() -> None:
    service, server = counting(latency=0.0)
    async with service:
        training = await service.create_lora_training_client("m")
        server.faults = Faults(compute=1000.0, latency=0.0)
        step = training.forward_backward([datum()], "cross_entropy")
        await settle()
        assert server.posted[training.model_id] == [1]
        step.cancel()
        await settle()
        seen = weakref.ref(step)
        del step
        gc.collect()
        assert seen() is None


@virtual_time()
async def test_a_cancelled_call_that_waits_for_its_turn_is_forgotten_when_it_has_had_it() -> None:
    service, server = counting(latency=0.0)
    async with service:
        training = await service.create_lora_training_client("m")
        server.faults = Faults(latency=1.0, compute=0.0)
        calls = [training.forward_backward([datum()], "cross_entropy") for _ in range(3)]
        calls[1].cancel()
        await calls[2]
        with pytest.raises(asyncio.CancelledError):
            await calls[1]
        await settle()
        seen = weakref.ref(calls[1])
        calls.clear()
        gc.collect()
        assert seen() is None

    assert server.posted[training.model_id] == [1, 2, 3]
