"""Kill the client, the server or both, with SIGKILL, anywhere: the run ends as if nothing had happened, bit for bit."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import pytest

from tests.runs.killing import Moment, Outcome, Scene, Victim, draw_moment, outcome_of, undisturbed

# How many moments a soak kills at, for each kind of run and victim: 30 where it is asked for as many seeds.
MOMENTS = int(os.environ.get("TINKEX_TEST_SEEDS") or 0)
# In one run, at most: some of them while it starts again.
KILLS = 4
CASES = [(kind, victim) for kind in ("sft", "rl") for victim in get_args(Victim)]


@pytest.fixture
def scenes() -> Iterator[list[Scene]]:
    made: list[Scene] = []
    yield made
    for scene in made:
        scene.close()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Outcome]:
    """What a run of a kind comes to when nobody kills anything; found once."""
    found: dict[str, Outcome] = {}

    def of(kind: str) -> Outcome:
        if kind not in found:
            found[kind] = undisturbed(kind, tmp_path_factory.mktemp(kind))
        return found[kind]

    return of


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_ends_as_one_that_was_not_killed(
    expected: Callable[[str], Outcome], scenes: list[Scene], tmp_path: Path
) -> None:
    """What the suite has the time for: `test_example` kills a supervised training with its engine."""
    scene = Scene("rl", tmp_path / "killed", served=True)
    scenes.append(scene)
    # In the middle of a step, whose model lives on; then the server, while it computes.
    moments = [Moment("client", write=120), Moment("server", line=3, seconds=0.01)]

    scene.play(moments)

    assert len(scene.deaths) == len(moments), scene.told()
    differences = outcome_of(tmp_path / "killed").differences(expected("rl"))
    assert not differences, f"{differences}{scene.told()}"


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.skipif(not MOMENTS, reason="takes half an hour and more: `make soak` does it")
@pytest.mark.parametrize(("kind", "victim"), CASES)
def test_wherever_a_run_is_killed_it_ends_as_one_that_was_not(
    kind: str, victim: Victim, expected: Callable[[str], Outcome], scenes: list[Scene], tmp_path: Path
) -> None:
    wanted, killed, seed = expected(kind), 0, 0
    while killed < MOMENTS:
        rng = random.Random(f"{kind} {victim} {seed}")
        scene = Scene(kind, tmp_path / str(seed), served=victim != "client with its engine")
        scenes.append(scene)

        scene.play([draw_moment(rng, victim) for _ in range(min(KILLS, MOMENTS - killed))])
        scene.close()

        differences = outcome_of(tmp_path / str(seed)).differences(wanted)
        assert not differences, f"{kind}, {victim}, seed {seed}: {differences}{scene.told()}"
        killed, seed = killed + len(scene.deaths), seed + 1
