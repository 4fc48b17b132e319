"""Commands as a user types them: help, version, lists, wrong usage, and errors in one line."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest
from typer.testing import CliRunner

from tinkex_actors.cli.main import app


def command(*arguments: str, timeout: float = 50.0) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "tinkex_actors", *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=timeout, check=False)


def test_version_prints_the_installed_version() -> None:
    done = command("version")

    assert (done.returncode, done.stdout, done.stderr) == (0, version("tinkex-actors") + "\n", "")


def test_help_lists_every_command() -> None:
    done = command("--help")

    assert done.returncode == 0
    for name in ("demo", "serve", "sample", "models", "version"):
        assert f"\n  {name} " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["frobnicate"], "No such command"),
        (["serve"], "Missing option '--model'"),
        (["serve", "--model", "tiny", "--port", "70000"], "'--port'"),
        (["serve", "--model", "tiny", "--dialect", "morse"], "'morse'"),
        (["sample", "tiny"], "Missing argument 'TEXT'"),
        (["sample", "tiny", "hello", "--max-tokens", "0"], "'--max-tokens'"),
        (["models", "push"], "No such command"),
    ],
)
def test_wrong_usage_is_told_and_exits_with_2(arguments: list[str], complaint: str) -> None:
    result = CliRunner().invoke(app, arguments)

    assert result.exit_code == 2
    assert complaint in result.output


def test_models_list_names_the_local_models() -> None:
    done = command("models", "list")

    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line for line in done.stdout.splitlines()[1:]}
    assert {"tiny", "smollm2-135m"} <= set(rows)
    assert "135" in rows["smollm2-135m"]


def test_pulling_an_unknown_model_says_which_there_are() -> None:
    done = command("models", "pull", "gpt-17")

    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")
    assert "gpt-17" in done.stderr
    assert "smollm2-135m" in done.stderr


@pytest.mark.slow
def test_sample_prints_an_answer_and_the_same_one_for_the_same_seed() -> None:
    one, two = (
        command("sample", "tiny", "hello", "--max-tokens", "8", "--temperature", "1", "--seed", "7") for _ in "ab"
    )

    assert one.returncode == 0, one.stderr
    assert one.stdout.strip()
    assert one.stdout == two.stdout
    assert one.stderr == ""


@pytest.mark.slow
def test_sampling_from_an_unknown_model_is_one_line_of_error() -> None:
    done = command("sample", "gpt-17", "hello")

    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert "gpt-17" in done.stderr
    assert "Traceback" not in done.stderr
