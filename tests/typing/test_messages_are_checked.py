"""mypy and basedpyright find wrong messages and pass correct ones: the cases of the message styles compared."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORRECT = Path(__file__).with_name("messages.py")

ACTOR = """
from tinkex_actors.runtime import Actor, ActorRef, handler

class Scorer(Actor):
    @handler
    async def grade(self, text: str, weight: float = 1.0) -> float:
        return len(text) * weight

    @handler
    def peek(self) -> int:
        return 1

    def private(self) -> None: ...

async def use(ref: ActorRef[Scorer]) -> None:
"""

# What is wrong: the line, mypy's code and basedpyright's rule.
WRONG = {
    "wrong argument of an async handler": ("await ref.call.grade(3)", "arg-type", "reportArgumentType"),
    "wrong argument of a def handler": ("await ref.call.peek(3)", "call-arg", "reportCallIssue"),
    "missing argument": ("ref.cast.grade()", "call-arg", "reportCallIssue"),
    "wrong argument within": ("await ref.within(1.0).call.grade(text=b'')", "arg-type", "reportArgumentType"),
    "wrong reply type of an async handler": (
        "x: str = await ref.call.grade('a')",
        "assignment",
        "reportAssignmentType",
    ),
    "wrong reply type of a def handler": ("x: str = await ref.call.peek()", "assignment", "reportAssignmentType"),
    "unknown message": ("ref.cast.grad('a')", "attr-defined", "reportAttributeAccessIssue"),
    "forgotten await": ("x: float = ref.call.grade('a')", "assignment", "reportAssignmentType"),
}


def write_wrong_uses(folder: Path) -> None:
    for index, (line, *_) in enumerate(WRONG.values()):
        (folder / f"wrong_{index}.py").write_text(f"{ACTOR}    {line}\n", encoding="utf-8")


def mypy(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_correct_uses_pass_without_noise() -> None:
    checked = mypy(str(CORRECT))
    assert checked.returncode == 0, checked.stdout


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_wrong_use_is_found(tmp_path: Path) -> None:
    """One run over all snippets: each in a file of its own, each with its own error and no other."""
    write_wrong_uses(tmp_path)
    checked = mypy(str(tmp_path))
    for index, (name, (line, code, _)) in enumerate(WRONG.items()):
        errors = [text for text in checked.stdout.splitlines() if f"wrong_{index}.py" in text and " error: " in text]
        assert len(errors) == 1, (name, line, errors)
        assert errors[0].endswith(f"[{code}]"), (name, errors)


def basedpyright(folder: Path, mode: str, *checked: Path) -> list[dict[str, Any]]:
    """Run it in one of its modes over files or folders; return what it has to say."""
    config = folder / "pyrightconfig.json"
    settings = {"include": [str(path) for path in checked], "extraPaths": [str(ROOT)], "typeCheckingMode": mode}
    config.write_text(json.dumps(settings), encoding="utf-8")
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable, "-p", str(config)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] >= 1, done.stderr
    found: list[dict[str, Any]] = report["generalDiagnostics"]
    return found


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_basedpyright_passes_correct_uses_without_noise_in_its_strict_mode(tmp_path: Path) -> None:
    assert basedpyright(tmp_path, "strict", CORRECT) == []


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_basedpyright_finds_every_wrong_use(tmp_path: Path) -> None:
    write_wrong_uses(tmp_path)
    found = basedpyright(tmp_path, "standard", tmp_path)
    for index, (name, (line, _, code)) in enumerate(WRONG.items()):
        rules = [each["rule"] for each in found if each["file"].endswith(f"wrong_{index}.py")]
        assert rules == [code], (name, line, rules)
