"""``run``: what there is, how far it is, and going on with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tinkex_actors import JournalDamagedError, LoraConfig, RunError, RunLockedError
from tinkex_actors.cli.loss_plot import draw
from tinkex_actors.cli.main import app
from tinkex_actors.runs.command import own_command
from tinkex_actors.runs.journal.entries import CheckpointState, Note, RunClosed, RunOpened, StepCommitted
from tinkex_actors.runs.journal.file import JOURNAL, JournalFile, read_journal
from tinkex_actors.runs.lease import Lease
from tinkex_actors.runs.spec import RunSpec

NOW = "2026-01-05T08:00:00+00:00"


def make(folder: Path, *, steps: int = 3, command: list[str] | None = None, ended: bool = True) -> Path:
    folder.mkdir(parents=True)
    file = JournalFile(folder)
    file.open()
    file.begin(RunSpec(model="tiny", lora=LoraConfig(rank=4, seed=7)), 2)
    opening = RunOpened(
        epoch=1,
        at=NOW,
        pid=4711,
        host="there",
        command=command,
        folder=str(folder),
        way="created",
        base_url="local://tiny",
        session_id="s",
        model_id="s:train:0",
        first_step=0,
        next_seq=1,
    )
    committed = [
        StepCommitted(
            step=step,
            epoch=1,
            next_seq=2 * step + 3,
            metrics={"loss:sum": 8.0 - step, "tokens:sum": 2.0},
            optim_metrics={"grad_norm:mean": 0.5} if step else None,
            cursor=None,
            seconds=1.0,
            at=NOW,
        )
        for step in range(steps)
    ]
    taken = CheckpointState(path="tinker://s/weights/2", step=2, epoch=1, next_seq=9, cursor=None, state="kept", at=NOW)
    note = Note(at=NOW, kind="queue_paused", text="no room", step=1)
    ending = [RunClosed(epoch=1, at=NOW, ending="closed")] if ended else []
    file.write([opening, *committed, taken, note, *ending])
    file.copy()
    file.close()
    return folder


def say(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["run", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_runs_are_listed_with_how_far_they_are(tmp_path: Path) -> None:
    make(tmp_path / "a" / "sft")
    broken = make(tmp_path / "broken")
    (broken / JOURNAL).write_bytes(b"x" * 5000)
    lease = Lease(make(tmp_path / "open", steps=0))

    lines = say("list", str(tmp_path)).splitlines()
    lease.release()

    assert len(lines) == 3
    assert "tiny  3 steps  loss 3.0000  closed" in lines[0]
    assert "is damaged" in lines[1]
    assert f"0 steps  open in process {os.getpid()}" in lines[2]
    assert say("list", str(tmp_path / "a" / "sft" / "nothing")) == f"no runs in {tmp_path / 'a' / 'sft' / 'nothing'}\n"


def test_a_run_is_shown_with_its_loss_drawn(tmp_path: Path) -> None:
    run = make(tmp_path / "sft")

    shown = say("show", str(run), "--plot", str(tmp_path / "loss.png"))

    for words in (
        "rank 4, seed 7",
        "steps       3, loss 3.0000",
        "after step 2",
        "process 4711 on there: closed",
        "no room",
    ):
        assert words in shown
    assert "█" in shown
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert "grad_norm:mean, steps 1 to 2" in say("show", str(run), "--metric", "grad_norm:mean")
    with pytest.raises(RunError, match=r"'nope'.*There are: grad_norm:mean, loss:sum, tokens:sum"):
        say("show", str(run), "--metric", "nope")


def test_a_run_that_was_killed_is_shown_with_the_way_on(tmp_path: Path) -> None:
    killed = make(tmp_path / "killed", command=["python", "x.py"], ended=False)
    closed = make(tmp_path / "closed", command=["python", "x.py"])

    assert f"left without an end\ngo on       tinkex-actors run resume {killed}\n" in say("show", str(killed))
    assert "run resume" not in say("show", str(closed))


def test_a_run_is_exported_for_other_programs(tmp_path: Path) -> None:
    run = make(tmp_path / "sft")

    whole = json.loads(say("export", str(run)))
    table = say("export", str(run), "--format", "csv").splitlines()
    say("export", str(run), "--format", "csv", "--output", str(tmp_path / "x.csv"))

    assert [row["metrics"]["loss:sum"] for row in whole["history"]] == [8.0, 7.0, 6.0]
    assert whole["spec"]["model"] == "tiny"
    assert whole["notes"][0]["text"] == "no room"
    assert table[0] == "index,at,seconds,epoch,loss:sum,tokens:sum,optim/grad_norm:mean"
    assert table[1] == f"0,{NOW},1.0,1,8.0,2.0,"
    assert (tmp_path / "x.csv").read_text().splitlines() == table
    with pytest.raises(RunError, match="no committed step"):
        say("export", str(make(tmp_path / "new", steps=0)), "--format", "csv")


def test_a_damaged_run_is_repaired(tmp_path: Path) -> None:
    run = make(tmp_path / "sft")
    (run / JOURNAL).write_bytes(b"x" * 5000)

    with pytest.raises(JournalDamagedError, match=f"run repair {run}"):
        say("show", str(run))
    (run / JOURNAL).unlink()
    assert f"run repair {run}" in say("list", str(tmp_path))
    lease = Lease(run)
    with pytest.raises(RunLockedError):
        say("repair", str(run))
    lease.release()
    said = say("repair", str(run))

    assert "first 3 steps is back" in said
    assert len(read_journal(run).history) == 3


def test_resuming_gives_the_command_again_in_its_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-S", "program.py", "fast"]
    run = make(tmp_path / "sft", command=command)
    (run / "program.py").write_text("import os, sys\nprint(os.getcwd(), sys.argv)\n")

    done = subprocess.run(
        [sys.executable, "-m", "tinkex_actors", "run", "resume", str(run)],
        capture_output=True, text=True, timeout=50, check=True,
    )  # fmt: skip

    assert done.stdout == f"{run} ['program.py', 'fast']\n"
    assert "program.py fast" in done.stderr


def test_what_cannot_be_resumed_says_why(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="notebook"):
        say("resume", str(make(tmp_path / "a")))
    with pytest.raises(RunError, match="is not there"):
        say("resume", str(make(tmp_path / "b", command=["/nowhere/python", "x.py"])))
    lease = Lease(make(tmp_path / "c", command=[sys.executable, "x.py"]))
    with pytest.raises(RunError, match="needs no resuming"):
        say("resume", str(tmp_path / "c"))
    lease.release()


def test_a_command_with_a_credential_is_not_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", "train.py", "--steps", "5"])
    assert own_command() == ([sys.executable, "train.py", "--steps", "5"], os.getcwd())
    for argv in (["python", "train.py", "--key", "tml-abcdefgh"], ["python"], ["python", "-c", "print(1)"]):
        monkeypatch.setattr(sys, "orig_argv", argv)
        assert own_command()[0] is None


def test_the_drawing_has_its_scale_and_gaps() -> None:
    lines = draw([1.0, float("nan"), 3.0], width=10, height=4)

    assert [line.partition("│")[2] for line in lines] == ["  █", "  █", "  █", "▁ █"]
    assert lines[0].strip().startswith("3")
    assert lines[-1].strip().startswith("1")
    assert draw([], width=4) == ["nothing to draw"]
    assert len(draw([float(n) for n in range(1000)], width=50)[0].partition("│")[2]) == 50
    assert draw([2.0, 2.0], width=4, height=1)[0].endswith("▁▁")
