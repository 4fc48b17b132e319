"""An actor is killed at any moment, and the caller sees nothing of it; beyond the limits, everything fails at once."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable
from typing import NamedTuple

import pytest

from tests.plugins.counting_server import datum
from tinkex_actors import AdamParams, Config, RestartsExhaustedError, ServiceClient
from tinkex_actors.runtime import ActorSystem
from tinkex_actors.testing import Faults as ActorFaults
from tinkex_actors.testing import run_virtual, settle, virtual_time
from tinkex_actors.testing.model_server import Faults, ModelServer
from tinkex_actors.types import ClientConfigResponse
from tinkex_actors.wire.exchange import Request, Response

CORE = "/service/core"
ACTORS = ("session", "poller", "courier", "dispatcher", "trainers", "trainers/sess:train:0")

QUIET = 12.0


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


class Story(NamedTuple):
    """What came of the program.

    Attributes:
        results: what its calls gave.
        applied: what the server did to the model, in order.
        passed: how many requests came and answers went.
        crashed: how many handlers crashed.
    """

    results: str
    applied: list[tuple[int, str]]
    passed: int
    crashed: int


async def program(victim: str, *, wire: int = 0, message: int = 0) -> Story:
    """Train, wait, save and sample; an actor is killed at a message of the wire, or crashes at one of its own."""
    server = Interrupting(wire)
    async with ActorSystem() as system:
        faults = ActorFaults(system)
        if message:
            faults.crash(f"{CORE}/{victim}", at=message)
        results, model_id = await train(victim, server, system, again=message > 0)
        return Story(results, server.applied[model_id], server.passed, len(faults.injected))


async def train(victim: str, server: Interrupting, system: ActorSystem, *, again: bool) -> tuple[str, str]:
    """Do the program; returns what its calls gave, and the model's id.

    Where ``again``, each actor is started a second time first: what an incarnation sends itself is counted only where
    it keeps its address from after it was first started.
    """
    config = Config(base_url="http://127.0.0.1:1", telemetry=False)
    async with ServiceClient(config=config, transport=server, system=system) as service:

        def kill(name: str = victim) -> None:
            # A sequencer that does not exist yet is spared.
            if (ref := system.whereis(f"{CORE}/{name}")) is not None:
                ref.kill()

        async def start_again(*names: str) -> None:
            for name in names if again else ():
                await settle()  # it may just be starting
                kill(name)
                await asyncio.sleep(QUIET)

        server.interrupt = kill
        await start_again("session", "poller", "courier", "dispatcher", "trainers")
        training = await service.create_lora_training_client("m")
        await start_again("trainers/sess:train:0")
        calls = []
        for _ in range(2):
            calls.append(training.forward_backward([datum() for _ in range(5)], "cross_entropy"))
            calls.append(training.optim_step(AdamParams()))
        sampler = training.save_weights_and_get_sampling_client()
        results = [getattr(await call, "metrics", None) for call in calls]
        # Long enough for signs of life, and for a look at the server's settings.
        await asyncio.sleep(QUIET)
        answer = await (await sampler).compute_logprobs(datum().model_input)
        await training.unload_model()
        await settle()
        assert len(service.explain()) == 0
        assert server.polls_open == 0
        return repr([*results, answer]), training.model_id


@pytest.mark.parametrize("actor", ACTORS)
def test_a_kill_at_any_message_of_the_wire_is_seen_by_nobody(actor: str) -> None:
    whole = run_virtual(program(actor))
    assert whole.passed > 40
    killed = 0
    for at in range(1, whole.passed):
        story = run_virtual(program(actor, wire=at))
        killed += story.passed != whole.passed
        assert story.results == whole.results, f"{actor} killed at {at}"
        assert story.applied == whole.applied, f"{actor} killed at {at}"
    # Most kills cost a request or a poll, which is made again.
    assert killed > 0


@pytest.mark.parametrize("actor", ACTORS)
def test_a_crash_at_any_message_of_its_own_is_seen_by_nobody(actor: str) -> None:
    whole = run_virtual(program(actor))
    for message in itertools.count(1):
        story = run_virtual(program(actor, message=message))
        if not story.crashed:
            break
        assert story.results == whole.results, f"{actor} crashed at its message {message}"
        assert story.applied == whole.applied, f"{actor} crashed at its message {message}"
    assert message > 1


@pytest.mark.parametrize("actor", ACTORS)
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
        system = service.system
        while not pending[0].done() and (victim := system.whereis(f"{CORE}/{actor}")) is not None:
            victim.kill()
            await settle()
        # Without a moment's passing after the last restart that was allowed.
        assert all(call.done() for call in pending)
        for call in pending:
            with pytest.raises(RestartsExhaustedError, match="crashed more often"):
                await call
