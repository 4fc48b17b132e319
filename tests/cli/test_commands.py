"""Commands as a user types them: help, version, lists, wrong usage, and errors in one line."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

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


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--quirk", "moody"], "quirk 'moody': expected one of protobuf_crashes"),
        (["--without", "client_config,soul"], "without 'soul': expected a feature or a route"),
        (["--provoke", "asample-200"], "provoke 'asample-200': expected"),
    ],
)
def test_a_server_that_cannot_be_is_one_line_of_error(arguments: list[str], complaint: str) -> None:
    done = command("serve", "--model", "tiny", "--port", "0", *arguments)

    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: {complaint}")


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


def test_a_cache_that_cannot_be_written_is_one_line_of_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TINKEX_CACHE_DIR", str(tmp_path / "file" / "cache"))
    done = command("models", "pull", "smollm2-135m")

    assert done.returncode == 1
    assert done.stderr.startswith("Error: model smollm2-135m: the cache ")
    assert "TINKEX_CACHE_DIR" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_where_programs_cannot_be_cached_a_model_runs_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TINKEX_CACHE_DIR", str(tmp_path / "file" / "cache"))
    done = command("sample", "tiny", "hello", "--max-tokens", "2")

    assert done.returncode == 0, done.stderr
    assert "engine.compile_cache_unusable" in done.stderr
    assert "TINKEX_CACHE_DIR" in done.stderr


SECRETIVE = """
from tinkex_actors.cli.logs import log_to_stderr
from tinkex_actors.runtime.log import Logger

def fail(api_key):
    raise RuntimeError("it broke")

log_to_stderr()
try:
    fail("tml-" + "secret")
except RuntimeError as error:
    Logger("tinkex_actors.engine").error("engine.request_failed", exc_info=error)
"""


def test_a_logged_traceback_shows_no_local_variables() -> None:
    done = subprocess.run([sys.executable, "-c", SECRETIVE], capture_output=True, text=True, timeout=50.0, check=True)

    assert "engine.request_failed" in done.stderr
    assert "RuntimeError: it broke" in done.stderr
    assert "tml-secret" not in done.stderr


@pytest.mark.slow
def test_without_the_packages_that_compute_the_error_has_the_line_that_installs_them() -> None:
    program = "import sys; sys.modules['jax'] = None; from tinkex_actors.cli.main import main; main()"
    for arguments in (["sample", "tiny", "hello"], ["serve", "--model", "tiny", "--port", "0"]):
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=50.0, check=False
        )

        assert done.returncode == 1
        assert done.stderr.startswith("Error: local://tiny needs jax")
        assert "pip install 'tinkex-actors[local]'" in done.stderr
        assert "Traceback" not in done.stderr


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
