"""Whatever goes wrong, applied steps are the submitted ones, once, in order; or an error says which is unknown."""

from __future__ import annotations

import asyncio
import random

import msgspec

from tests.plugins.training_storm import Ours, draw_storm, in_doubt, run_storm
from tinkex_actors.testing import seeds


@seeds(200)
async def test_applied_steps_are_the_submitted_ones_once_in_order_or_an_error_says_which_is_unknown() -> None:
    rng = random.Random(asyncio.get_running_loop().seed)  # type: ignore[attr-defined]
    verdict = await run_storm(rng, draw_storm(rng), Ours(rng), in_doubt)

    assert verdict.flawless, verdict


@seeds(60)
async def test_where_the_server_forgets_nothing_every_step_is_applied() -> None:
    rng = random.Random(asyncio.get_running_loop().seed)  # type: ignore[attr-defined]
    verdict = await run_storm(rng, draw_storm(rng, forgetful=False), Ours(rng), in_doubt)

    assert verdict.flawless, verdict
    assert verdict.failed == 0, verdict


@seeds(60)
async def test_a_server_that_would_apply_a_repeated_request_twice_and_in_any_order_is_never_made_to() -> None:
    rng = random.Random(asyncio.get_running_loop().seed)  # type: ignore[attr-defined]
    storm = draw_storm(rng)
    # What the network itself delivers twice, no client can take back.
    quiet = msgspec.structs.replace(storm, faults=msgspec.structs.replace(storm.faults, duplicated=0.0))
    ours = Ours(rng, resend_training=False, training_order="results")
    verdict = await run_storm(rng, quiet, ours, in_doubt, numbered=False)

    assert verdict.flawless, verdict
