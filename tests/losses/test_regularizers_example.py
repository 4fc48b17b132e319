"""``examples/03_regularizers.py``: it runs as a script, and prints the golden numbers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).resolve().parents[2] / "examples" / "03_regularizers.py"


@pytest.mark.slow
def test_the_example_prints_the_golden_numbers_and_draws(tmp_path: Path) -> None:
    picture = tmp_path / "shares.png"
    done = subprocess.run(
        [sys.executable, str(PATH), "--plot", str(picture)], capture_output=True, text=True, check=True, timeout=60
    )
    lines = done.stdout.splitlines()
    assert lines[-4].split() == ["total", "1.3016", "0.2216", "0.3195"]
    assert lines[-3:] == [
        "in threads, at the same time: 1.3016",
        "with an asynchronous term: 1.1016",
        f"plotted to {picture}",
    ]
    assert picture.stat().st_size > 10_000
