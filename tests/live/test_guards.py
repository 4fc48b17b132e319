"""The live suite runs only when asked, spends no more than agreed, and works: shown on a server on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.purse import smallest
from tests.plugins.live import live_config
from tests.plugins.served import served
from tinkex_actors import SupportedModel

ROOT = Path(__file__).resolve().parents[2]
KEY = {"TINKER_API_KEY": "tml-on-loopback"}


def run_live(*options: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TINKER_", "TINKEX_LIVE"))}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/live/test_service.py", *options],
        cwd=ROOT,
        env=kept | environ,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


@pytest.mark.parametrize("environ", [{}, KEY, {"TINKEX_LIVE": "0", **KEY}, {"TINKEX_LIVE": "off"}])
def test_it_is_not_asked_for_by_default(environ: dict[str, str]) -> None:
    assert live_config(environ) is None


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"TINKEX_LIVE": "1"}, "needs TINKER_API_KEY"),
        ({"TINKEX_LIVE": "perhaps", **KEY}, "TINKEX_LIVE: expected 1 or 0, got 'perhaps'"),
        ({"TINKEX_LIVE": "1", "TINKER_API_KEY": "no-key"}, "unknown form"),
    ],
)
def test_a_half_made_wish_is_refused(environ: dict[str, str], words: str) -> None:
    with pytest.raises(pytest.UsageError, match=words):
        live_config(environ)


@pytest.mark.slow
def test_by_default_it_is_deselected_and_not_skipped() -> None:
    done = run_live(environ=KEY)
    assert "4 deselected" in done.stdout, done.stdout + done.stderr
    assert "skipped" not in done.stdout


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["Qwen/Qwen3-30B-A3B", "meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.1-8B"], "meta-llama/Llama-3.2-1B"),
        (["smollm2-135m", "Qwen/Qwen3-0.6B"], "smollm2-135m"),
        (["tiny"], "tiny"),
        (["org/unsized", "org/big-70B"], "org/big-70B"),
    ],
)
def test_the_smallest_model_is_chosen_by_name(names: list[str], chosen: str) -> None:
    models = [SupportedModel(model_name=name, trainable=True) for name in names]
    fixed = SupportedModel(model_name="org/smaller-0.1B", trainable=False)
    assert smallest([*models, fixed]) == chosen


@pytest.fixture
def loopback(tmp_path: Path) -> Iterator[str]:
    with served(store=tmp_path) as url:
        yield url


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_suite_passes_on_a_server_on_loopback(loopback: str) -> None:
    done = run_live("-m", "live", environ={"TINKEX_LIVE": "1", "TINKER_BASE_URL": loopback, **KEY})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout
