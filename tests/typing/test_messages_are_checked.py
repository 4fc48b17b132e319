"""The type checker finds wrong messages and passes correct ones: the cases of the message styles that were compared."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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

WRONG = {
    "wrong argument of an async handler": ("await ref.call.grade(3)", "arg-type"),
    "wrong argument of a def handler": ("await ref.call.peek(3)", "call-arg"),
    "missing argument": ("ref.cast.grade()", "call-arg"),
    "wrong argument within": ("await ref.within(1.0).call.grade(text=b'')", "arg-type"),
    "wrong reply type of an async handler": ("x: str = await ref.call.grade('a')", "assignment"),
    "wrong reply type of a def handler": ("x: str = await ref.call.peek()", "assignment"),
    "unknown message": ("ref.cast.grad('a')", "attr-defined"),
    "forgotten await": ("x: float = ref.call.grade('a')", "assignment"),
}


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
    for index, (line, _) in enumerate(WRONG.values()):
        (tmp_path / f"wrong_{index}.py").write_text(f"{ACTOR}    {line}\n", encoding="utf-8")
    checked = mypy(str(tmp_path))
    for index, (name, (line, code)) in enumerate(WRONG.items()):
        errors = [text for text in checked.stdout.splitlines() if f"wrong_{index}.py" in text and " error: " in text]
        assert len(errors) == 1, (name, line, errors)
        assert errors[0].endswith(f"[{code}]"), (name, errors)
