"""What a run is: complete from the start, the same for the same seed, and never silently another."""

from __future__ import annotations

import pytest

from tinkex_actors import ConfigError, LoraConfig, RunError
from tinkex_actors.runs.spec import RunSpec, agreed_spec, derived_seed


def test_a_new_run_gets_a_seeded_adapter() -> None:
    spec = agreed_spec(RunSpec(model="tiny"), None, "runs/x")

    assert spec.lora is not None
    assert spec.lora.rank == 32
    assert spec.lora.seed is not None
    assert 0 <= spec.lora.seed < 2**31
    assert spec == agreed_spec(RunSpec(model="tiny"), None, "runs/y")
    assert spec != agreed_spec(RunSpec(model="tiny", seed=1), None, "runs/y")


def test_a_given_seed_is_kept() -> None:
    assert agreed_spec(RunSpec(model="tiny", lora=LoraConfig(rank=4, seed=9)), None, "x").lora == LoraConfig(
        rank=4, seed=9
    )


def test_a_known_run_is_gone_on_with_whatever_is_left_out() -> None:
    known = agreed_spec(RunSpec(model="tiny", lora=LoraConfig(rank=4)), None, "x")

    assert agreed_spec(RunSpec(), known, "x") == known
    assert agreed_spec(RunSpec(model="tiny", lora=LoraConfig(rank=4), seed=5), known, "x") == known


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        (RunSpec(model="other"), "model='tiny'"),
        (RunSpec(model="tiny", lora=LoraConfig(rank=8)), "lora="),
        (RunSpec(model="tiny", lora=LoraConfig(rank=4, seed=1)), "lora="),
        (RunSpec(from_checkpoint="tinker://a/weights/b"), "from_checkpoint=None"),
    ],
)
def test_another_run_in_the_same_folder_is_refused(asked: RunSpec, word: str) -> None:
    known = agreed_spec(RunSpec(model="tiny", lora=LoraConfig(rank=4, seed=7)), None, "x")

    with pytest.raises(RunError, match="another folder") as refused:
        agreed_spec(asked, known, "runs/x")

    assert word in refused.value.message
    assert refused.value.path == "runs/x"


def test_a_new_run_needs_a_model_and_a_checkpoint_has_its_own_shape() -> None:
    with pytest.raises(ConfigError, match="no model is named"):
        agreed_spec(RunSpec(), None, "x")
    with pytest.raises(ConfigError, match="both given"):
        agreed_spec(RunSpec(from_checkpoint="tinker://a/weights/b", lora=LoraConfig(rank=4)), None, "x")


def test_seeds_differ_from_place_to_place() -> None:
    seeds = {
        derived_seed(seed, *place) for seed in range(20) for place in [(), (0,), (1,), (0, 0), (0, 1), ("adapter",)]
    }

    assert len(seeds) == 120
    assert all(0 <= seed < 2**63 for seed in seeds)
