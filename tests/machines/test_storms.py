"""The two policies before a server that refuses: 200 seeds of `tests.bench.storms`."""

from __future__ import annotations

import statistics

from tests.bench import backoff_picture
from tests.bench.storms import storm
from tinkex_actors.machines.admission.backoff import ADAPTIVE, PARITY, Backoff

SEEDS = range(200)


def test_the_adaptive_policy_finds_the_servers_pace_and_beats_parity_so_it_is_the_default() -> None:
    adaptive = [storm(seed, ADAPTIVE) for seed in SEEDS]

    assert min(found.goodput for found in adaptive) >= 0.9
    assert max(found.refused for found in adaptive) < 0.05
    assert max(found.unfair for found in adaptive) <= 3.0

    parity = [storm(seed, PARITY) for seed in SEEDS[::4]]
    beside = adaptive[::4]
    assert statistics.median(found.goodput for found in parity) < statistics.median(found.goodput for found in beside)
    assert statistics.median(found.refused for found in parity) > statistics.median(found.refused for found in beside)
    assert Backoff().policy is ADAPTIVE


def test_the_picture_of_the_window_shows_the_machine_as_it_is() -> None:
    assert backoff_picture.PICTURE.read_text(encoding="utf-8") == backoff_picture.picture(), "make generate"
