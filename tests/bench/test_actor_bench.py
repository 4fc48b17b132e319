"""The bench runs, its floors are judged right, and what is not installed is said to be missing."""

from __future__ import annotations

import pytest

from tests.bench.actor_floors import FLOORS, OTHERS, Floor, row_of
from tests.bench.contenders import CONTENDERS
from tests.bench.measuring import SUBJECTS, measure
from tests.bench.report import Row, text

TELL = Floor(subject="def", measure="tell", against="call_soon", target=0.5, on_uvloop=0.6)


def rounds(*pairs: tuple[float, float]) -> list[dict[str, dict[str, float]]]:
    return [{"def": {"tell": ours}, "call_soon": {"tell": base}} for ours, base in pairs]


def test_a_ratio_is_the_median_of_the_ratios_within_a_round() -> None:
    row = row_of(TELL, rounds((50, 100), (110, 200), (80, 100)), "asyncio", ())
    assert (row.ours, row.baseline, row.ratio, row.held) == (80, 100, 0.55, True)
    assert row_of(TELL, rounds((55, 100)), "uvloop", ()).held is False


def test_a_value_must_not_be_above_its_target() -> None:
    floor = Floor(subject="restart", measure="restart", target=15.0, unit="us")
    for value, held in ((15.0, True), (15.1, False)):
        row = row_of(floor, [{"restart": {"restart": value}}], "asyncio", ())
        assert (row.ours, row.ratio, row.held) == (value, None, held)


def test_the_best_library_installed_is_the_one_to_beat() -> None:
    floor = Floor(subject="async def", measure="tell, all queued at once", against=OTHERS, target=1.0)
    round_ = {"async def": {floor.measure: 30.0}, "slow": {"tell": 10.0}, "fast": {"tell": 40.0}, "mute": {"call": 1.0}}
    row = row_of(floor, [round_], "asyncio", ("slow", "fast", "mute"))
    assert (row.against, row.baseline, row.ratio, row.held) == ("fast", 40.0, 0.75, False)
    alone = row_of(floor, [round_], "asyncio", ())
    assert (alone.ratio, alone.held) == (None, None)
    assert "not measured best other library on asyncio" in text("t", [alone])


def test_the_table_says_held_or_fell() -> None:
    rows = [
        Row(measure="tell", ours=80.0, unit="k/s", baseline=100.0, against="queue", ratio=0.8, target=0.7, held=True),
        Row(measure="restart", ours=20.0, unit="us", target=15.0, held=False),
    ]
    lines = text("title", rows).splitlines()
    assert lines[2].split()[-5:] == ["0.80", ">=", "0.7", "held", "queue"]
    assert lines[3].split()[-3:] == ["<=", "15", "FELL"]


@pytest.mark.parametrize("subject", [name for name in SUBJECTS if name not in CONTENDERS])
def test_every_subject_gives_the_measures_its_floors_name(subject: str) -> None:
    values = measure(subject, "asyncio", 0.001)
    wanted = {floor.measure for floor in FLOORS if floor.subject == subject}
    wanted |= {floor.measure for floor in FLOORS if floor.against == subject}
    assert wanted <= set(values)
    assert min(values.values()) > 0.0
