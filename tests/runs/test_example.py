"""``examples/02_durable_run.py`` does what it says, when it is killed on the way."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tinkex_actors.runs.journal.file import read_journal

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "02_durable_run.py"


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_example_goes_on_after_it_was_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", str(EXAMPLE), "run", "14"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        for line in first.stdout:
            if line.startswith("step 11 "):
                first.kill()
    second = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)

    assert second.returncode == 0, second.stderr
    assert second.stdout.startswith("restored: 10 of 14 steps are done")
    assert re.findall(r"^step (\d+)", second.stdout, re.MULTILINE) == ["10", "11", "12", "13"]
    assert "14 steps in the history, each once" in second.stdout
    record = read_journal(tmp_path / "run")
    losses = [row.metrics["loss:sum"] for row in record.history]
    assert len(losses) == 14
    assert sum(losses[-3:]) < sum(losses[:3])
    command_line = record.openings[-1].command
    assert command_line is not None
    assert command_line[1:] == command[1:]
