"""The demo, ``examples/01_first_fine_tune.py``: its parts on ``tiny``, and the whole of it with the real model."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import termios
import threading
from io import FileIO
from pathlib import Path
from types import ModuleType

import pytest

from tinkex_actors.cli.demo import draw, find_script, load_script

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script(find_script())


def test_the_script_is_the_example_of_the_checkout() -> None:
    root = Path(__file__).resolve().parents[2]

    assert find_script() == root / "examples" / "01_first_fine_tune.py"


def test_the_summary_is_the_last_line_as_documented(script: ModuleType) -> None:
    history = [script.Progress(1, 20, 4.6912, 500, 3.0), script.Progress(20, 20, 0.17, 10_000, 26.04)]

    assert script.summary(history) == "demo: loss 4.691 -> 0.170 in 20 steps, 26.0 s"


def test_answers_stand_side_by_side(script: ModuleType) -> None:
    text = script.side_by_side(["short"] * 3, ["a longer answer that wraps " * 3] * 3, width=30)

    lines = text.splitlines()
    assert lines[0] == script.UNSEEN[0]
    assert lines[1] == f"  {'before:':<30}  after:"
    assert lines[2] == f"  {'short':<30}  a longer answer that wraps a"
    assert lines[3].startswith(" " * 34)


def test_the_plot_is_a_png(script: ModuleType, tmp_path: Path) -> None:
    history = [script.Progress(step + 1, 20, 4.0 / (step + 1), 0, 1.0) for step in range(20)]

    script.plot(history, tmp_path / "loss.png")

    assert (tmp_path / "loss.png").read_bytes().startswith(PNG)


def test_a_picture_that_cannot_be_written_does_not_end_the_demo(script: ModuleType, tmp_path: Path) -> None:
    history = [script.Progress(1, 1, 4.0, 0, 1.0)]

    said = draw(script, history, tmp_path / "missing" / "loss.png")

    assert said.startswith(f"The loss curve could not be written to {tmp_path / 'missing' / 'loss.png'} (")


def test_the_unseen_questions_are_not_in_the_data(script: ModuleType) -> None:
    text = script.DATA.read_text(encoding="utf-8")

    assert 16 <= len(text.splitlines()) <= 64
    assert [question for question in script.UNSEEN if question in text] == []


async def test_a_datum_learns_the_answer_and_its_end_only(script: ModuleType) -> None:
    from tinkex_actors import ServiceClient

    async with ServiceClient(base_url="local://tiny") as service:
        training = await service.create_lora_training_client("tiny", rank=4)
        datum = script.build_datum(training, "who?", "me")
        prompt, answer = script.chat(training, "who?"), training.tokenizer.encode("me")

    targets = datum.loss_fn_inputs["target_tokens"].tolist()
    weights = datum.loss_fn_inputs["weights"].tolist()
    learned = [token for token, weight in zip(targets, weights, strict=True) if weight]
    assert datum.model_input.to_ints() == [*prompt, *answer]
    assert learned == [*answer, training.tokenizer.eos_id]


def last_line(output: str) -> re.Match[str]:
    found = re.fullmatch(r"demo: loss (\d+\.\d+) -> (\d+\.\d+) in 20 steps, \d+\.\d s", output.splitlines()[-1].strip())
    assert found, output
    return found


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_in_a_terminal_the_demo_draws_the_actors_and_the_loss(tmp_path: Path) -> None:
    """The whole command on a pseudo-terminal, with the tiny model."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (40, 120))
    process = subprocess.Popen(
        [sys.executable, "-m", "tinkex_actors", "demo", "--model", "tiny"],
        cwd=tmp_path,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "PYTHONFAULTHANDLER": "1"},
    )
    os.close(theirs)
    # A demo that hangs is made to say where: its stacks are then the last thing on the screen.
    watch = threading.Timer(50, process.send_signal, [signal.SIGABRT])
    watch.start()
    chunks = []
    try:
        with os.fdopen(ours, "rb", buffering=0) as screen:
            while chunk := read_terminal(screen):
                chunks.append(chunk)
        assert process.wait(timeout=30) == 0, b"".join(chunks).decode(errors="replace")
    finally:
        watch.cancel()
        process.kill()
        process.wait()

    drawn = b"".join(chunks).decode(errors="replace")
    assert "LiveView" in drawn
    assert "Sequencer" in drawn
    assert "step     20/20" in drawn
    assert "\x1b[" in drawn
    found = last_line(drawn)
    assert float(found[2]) < float(found[1])
    assert (tmp_path / "demo-loss.png").read_bytes().startswith(PNG)


def read_terminal(screen: FileIO) -> bytes:
    try:
        return screen.read(65536) or b""
    except OSError:  # Linux tells the end of a pseudo-terminal with EIO
        return b""


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_demo_runs_beside_a_process_that_writes_to_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    (store / "tiny" / "owners").mkdir(parents=True)
    monkeypatch.setenv("TINKEX_ENGINE_STORE", str(store))
    with (store / "tiny" / "owners" / "elsewhere-4242-abc.owner").open("w") as other:
        import fcntl

        fcntl.flock(other, fcntl.LOCK_EX)
        done = subprocess.run(
            [sys.executable, "-m", "tinkex_actors", "demo", "--model", "tiny"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    last_line(done.stdout)
    assert not (store / "tiny" / "runs").exists()


@pytest.mark.slow
@pytest.mark.smollm
@pytest.mark.timeout(420)
def test_the_demo_halves_the_loss_and_changes_the_voice(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tinkex_actors", "demo"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    found = last_line(done.stdout)
    assert float(found[2]) < float(found[1]) / 2
    assert done.stdout.count("step ") == 20
    assert (tmp_path / "demo-loss.png").read_bytes().startswith(PNG)
