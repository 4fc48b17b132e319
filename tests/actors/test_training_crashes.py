"""An actor is killed at any moment, and the caller sees nothing of it; beyond the limits, everything fails at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from tests.plugins.counting_server import datum
from tinkex_actors import AdamParams, Config, RestartsExhaustedError, ServiceClient
from tinkex_actors.testing import run_virtual, settle, virtual_time
from tinkex_actors.testing.model_server import Faults, ModelServer
from tinkex_actors.types import ClientConfigResponse
from tinkex_actors.wire.exchange import Request, Response

CORE = "/service/core"
ACTORS = ("session", "poller", "courier", "dispatcher", "trainers", "trainers/sess:train:0")


class Interrupting(ModelServer):
    """A counting server that does something when a request comes or an answer goes, the ``at``-th of all of these.

    Attributes:
        passed: how many have come and gone.
        interrupt: what it does, one turn of the loop later.
    """

    def __init__(self, at: int) -> None:
        super().__init__(random.Random(0), Faults(latency=0.05, compute=0.5))
        self.flags = ClientConfigResponse(fwdbwd_max_chunk_len=2)
        self.passed = 0
        self.interrupt: Callable[[], object] = lambda: None
        self._at = at

    async def send(self, request: Request) -> Response:
        """Answer one request."""
        self._pass()
        response = await super().send(request)
        self._pass()
        return response

    def _pass(self) -> None:
        self.passed += 1
        if self.passed == self._at:
            asyncio.get_running_loop().call_soon(self.interrupt)


async def program(victim: str, at: int) -> tuple[list[object], list[tuple[int, str]], int]:
    """Train, save and sample, and kill an actor on the way; returns what came of it, and how much came and went."""
    server = Interrupting(at)
    config = Config(base_url="http://127.0.0.1:1", telemetry=False)
    async with ServiceClient(config=config, transport=server) as service:
        system = service.system

        def kill() -> None:
            # A sequencer that does not exist yet is spared.
            if (ref := system.whereis(f"{CORE}/{victim}")) is not None:
                ref.kill()

        server.interrupt = kill
        training = await service.create_lora_training_client("m")
        calls = []
        for _ in range(2):
            calls.append(training.forward_backward([datum() for _ in range(5)], "cross_entropy"))
            calls.append(training.optim_step(AdamParams()))
        sampler = training.save_weights_and_get_sampling_client()
        results = [getattr(await call, "metrics", None) for call in calls]
        answer = await (await sampler).compute_logprobs(datum().model_input)
        await training.unload_model()
        await settle()
        assert len(service.explain()) == 0
        assert server.polls_open == 0
        return [*results, answer], server.applied[training.model_id], server.passed


@pytest.mark.parametrize("actor", ACTORS)
def test_a_kill_at_any_message_of_the_wire_is_seen_by_nobody(actor: str) -> None:
    results, applied, passed = run_virtual(program(actor, 0))
    assert passed > 40
    killed = 0
    for at in range(1, passed):
        again, applied_again, passed_again = run_virtual(program(actor, at))
        killed += passed_again != passed
        assert repr(again) == repr(results), f"{actor} killed at {at}"
        assert applied_again == applied, f"{actor} killed at {at}"
    # Most kills cost a request or a poll, which is made again.
    assert killed > 0


@pytest.mark.parametrize("actor", ["session", "poller", "courier", "dispatcher"])
@virtual_time()
async def test_past_the_restart_limits_everything_pending_fails_at_once(actor: str) -> None:
    server = ModelServer(random.Random(0), Faults(latency=0.0, compute=1000.0))
    config = Config(base_url="http://127.0.0.1:1", telemetry=False)
    async with ServiceClient(config=config, transport=server) as service:
        server.faults = Faults(latency=0.0, compute=0.0)
        training = await service.create_lora_training_client("m")
        server.faults = Faults(latency=0.0, compute=1000.0)
        pending = [training.forward_backward([datum()], "cross_entropy"), training.optim_step(AdamParams())]
        pending.append(training.save_weights_and_get_sampling_client())
        await settle()
        begun, system = asyncio.get_running_loop().time(), service.system
        while (victim := system.whereis(f"{CORE}/{actor}")) is not None:
            victim.kill()
            await settle()
        for call in pending:
            with pytest.raises(RestartsExhaustedError, match="crashed more often"):
                await call
        assert asyncio.get_running_loop().time() - begun < 60.0
