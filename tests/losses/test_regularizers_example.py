"""The examples 03 and 05, of regularizers: they run as scripts, and print what they should."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

# 03_regularizers.py and 05_regularized_training.py
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(example: str, *options: str) -> list[str]:
    command = [sys.executable, "-W", "error", str(EXAMPLES / example), *options]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.splitlines()


@pytest.mark.slow
def test_the_example_prints_the_golden_numbers_and_draws(tmp_path: Path) -> None:
    picture = tmp_path / "shares.png"
    lines = run("03_regularizers.py", "--plot", str(picture))
    assert lines[-4].split() == ["total", "1.3016", "0.2216", "0.3195"]
    assert lines[-3:] == [
        "in threads, at the same time: 1.3016",
        "with an asynchronous term: 1.1016",
        f"plotted to {picture}",
    ]
    assert picture.stat().st_size > 10_000


@pytest.mark.slow
def test_the_training_example_lowers_the_loss_and_its_lines_add_up(tmp_path: Path) -> None:
    picture = tmp_path / "training.png"
    *lines, last = run("05_regularized_training.py", "--steps", "2", "--plot", str(picture))

    assert last == f"plotted to {picture}"
    assert picture.stat().st_size > 10_000
    totals = []
    for head, shares in zip(lines[::2], lines[1::2], strict=True):
        numbers = [float(number) for number in re.findall(r"-?\d+\.\d{4}", head)]
        added = [float(number) for number in re.findall(r"-?\d+\.\d{4}", shares)]
        assert len(added) == 10
        assert numbers[0] == pytest.approx(numbers[1] + sum(added), abs=1e-3)
        totals.append(numbers[0])
    assert len(totals) == 2
    assert totals[-1] < totals[0]
