"""The program of the tutorial, ``examples/04_crawler.py``: it runs, and it keeps its promise under faults."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tinkex_actors.testing import Faults, StrictSystem, seeds

PATH = Path(__file__).resolve().parents[2] / "examples" / "04_crawler.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("crawler_example", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


crawler = load()


@seeds(200)
async def test_the_crawl_finishes_whatever_crashes() -> None:
    async with StrictSystem(max_restarts=10) as system:
        crawl = await crawler.start(system, crawler.Web())
        faults = Faults(system)
        faults.crash("/crawl", "fetched", within=4)
        faults.crash("/crawl", "report", at=2)
        crawl.cast.visit("home")
        while True:
            try:
                book = await crawler.finished(crawl)
                break
            except RuntimeError:  # the planted one: whoever asked gets it
                continue
        assert sorted(book.found) == ["about", "deep", "flaky", "home", "team"]
        assert book.lost == ("missing",)


@pytest.mark.slow
def test_the_program_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(PATH)],
        env={**os.environ, "PYTHONPATH": str(PATH.parents[1])},
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "found about deep flaky home team" in done.stdout
    assert "lost missing" in done.stdout
    assert "actor.crashed" in done.stderr
