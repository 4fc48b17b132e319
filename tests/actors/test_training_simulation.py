"""Whatever goes wrong, applied steps are the submitted ones, once, in order; or an error says which is unknown."""

from __future__ import annotations

import asyncio
import random

from tests.plugins.counting_server import datum
from tests.plugins.training_storm import STEPS, Call, Storm, blow, draw_storm, outcome, run_storm
from tinkex_actors import (
    AdamParams,
    Config,
    GoneError,
    OutcomeUnknownError,
    ServiceClient,
)
from tinkex_actors.testing import seeds
from tinkex_actors.testing.model_server import Faults, ModelServer


class Ours:
    """The training client, calling everything at once, its actors killed on the way."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    async def __call__(self, server: ModelServer, storm: Storm) -> tuple[str, list[Call]]:
        loop = asyncio.get_running_loop()
        config = Config(base_url="http://127.0.0.1:1", telemetry=False)
        async with ServiceClient(config=config, transport=server) as service:
            training = await service.create_lora_training_client("m")
            server.faults = storm.faults
            begun = loop.time()
            futures = []
            for step in range(STEPS):
                futures.append(training.forward_backward([datum() for _ in range(4)], "cross_entropy"))
                futures.append(training.optim_step(AdamParams()))
                if step % 2:
                    futures.append(training.save_state(f"step-{step}"))
            weather = loop.create_task(blow(server, storm))
            killing = loop.create_task(self._kill(service, begun, storm))
            calls = []
            for future in futures:
                error = await outcome(future)
                calls.append(Call(future.operation, tuple(future.ids["seq_ids"]), error))
            killing.cancel()
            weather.cancel()
            server.faults = Faults()
            return training.model_id, calls

    async def _kill(self, service: ServiceClient, begun: float, storm: Storm) -> None:
        loop = asyncio.get_running_loop()
        for at in storm.kills:
            await asyncio.sleep(max(0.0, begun + at - loop.time()))
            core = service.system.whereis("/service/core")
            assert core is not None
            victims = [*core.children, *core.child("trainers").children]
            self._rng.choice(victims).kill()


def in_doubt(error: BaseException) -> bool:
    """Whether an error of ours says that nobody knows whether the call was applied."""
    return isinstance(error, OutcomeUnknownError | GoneError)


@seeds(200)
async def test_applied_steps_are_the_submitted_ones_once_in_order_or_an_error_says_which_is_unknown() -> None:
    rng = random.Random(asyncio.get_running_loop().seed)  # type: ignore[attr-defined]
    verdict = await run_storm(rng, draw_storm(rng), Ours(rng), in_doubt)

    assert verdict.flawless, verdict


@seeds(100)
async def test_where_the_server_forgets_nothing_every_step_is_applied() -> None:
    rng = random.Random(asyncio.get_running_loop().seed)  # type: ignore[attr-defined]
    verdict = await run_storm(rng, draw_storm(rng, forgetful=False), Ours(rng), in_doubt)

    assert verdict.flawless, verdict
    assert verdict.failed == 0, verdict
