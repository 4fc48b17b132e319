"""The demo, ``examples/01_first_fine_tune.py``: its parts on ``tiny``, and the whole of it with the real model."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tinkex_actors.cli.demo import find_script, load_script

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
    found = re.fullmatch(r"demo: loss (\d+\.\d+) -> (\d+\.\d+) in 20 steps, \d+\.\d s", done.stdout.splitlines()[-1])
    assert found, done.stdout
    assert float(found[2]) < float(found[1]) / 2
    assert done.stdout.count("step ") == 20
    assert (tmp_path / "demo-loss.png").read_bytes().startswith(PNG)
