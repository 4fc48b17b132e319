"""The official SDK, unchanged, against ``tinkex-actors serve --model tiny`` over real HTTP."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.served import served

pytestmark = [pytest.mark.peer, pytest.mark.slow, pytest.mark.timeout(180)]

STORY = Path(__file__).with_name("official_sdk_story.py")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server process on a free loopback port; its URL."""
    # A store of its own: the listings are compared whole.
    with served(store=tmp_path_factory.mktemp("store")) as url:
        yield url


@pytest.fixture(scope="module")
def story(server: str) -> dict[str, Any]:
    """What the SDK saw."""
    environment = {**os.environ, "TINKER_API_KEY": "tml-local", "TINKER_TELEMETRY": "1"}
    done = subprocess.run(
        [sys.executable, str(STORY), server], env=environment, capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_it_creates_a_client_and_trains(story: dict[str, Any]) -> None:
    assert story["models"] == ["tiny"]
    assert story["info"] == ["tiny", 8, True]
    assert story["losses"][-1] < 0.2 * story["losses"][0]
    assert story["optim_metrics"]["optim_steps:max"] == 12.0


def test_policy_losses_have_their_documented_values(story: dict[str, Any]) -> None:
    # With ratios r2, r3 of the last two tokens: -(r2 - r3), and for ppo each term is the smaller of plain and clipped.
    assert math.isfinite(story["importance_sampling"])
    assert story["ppo"] >= story["importance_sampling"] - 1e-4


def test_calls_of_several_chunks_are_computed_whole(story: dict[str, Any]) -> None:
    count, loss = story["many"]
    assert count == 1200
    assert loss == pytest.approx(400 * story["forward"][0], rel=1e-4)


def test_it_restores_from_a_checkpoint_with_the_same_forward_loss(story: dict[str, Any]) -> None:
    before, after = story["forward"]
    assert before == after
    assert before < story["losses"][0]
    assert story["shapes"] == [[16]] * 3
    assert story["path"].startswith("tinker://local-")
    assert story["path"].endswith(":train:0/weights/step-12")


def test_it_samples_what_was_trained(story: dict[str, Any]) -> None:
    assert story["answers"] == [[13, 14, 15, 16]] * 2
    assert story["by_path"] == [13, 14, 15, 16]
    assert len(set(story["sequence_ids"])) == 2
    assert story["logprobs"][0] is None
    assert all(value < 0 for value in story["logprobs"][1:])


def test_it_is_told_what_it_did_wrong(story: dict[str, Any]) -> None:
    category, said = story["refused"]
    assert "user" in category.lower()
    assert "'stable_reinforce' is not supported" in said


def test_it_lists_and_deletes(story: dict[str, Any]) -> None:
    run = story["path"].removeprefix("tinker://").partition("/")[0]
    assert run in story["runs"]
    assert len(story["runs"]) == 2
    assert story["checkpoints"] == ["sampler_weights/taught", "weights/step-12"]
    assert story["weights_info"] == 8
    assert story["kept"] == [story["path"]]
