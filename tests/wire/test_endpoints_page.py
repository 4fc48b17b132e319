"""The page of endpoints is what the routes say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tinkex_actors.wire.routes import ROUTES

ROOT = Path(__file__).resolve().parents[2]


def test_regenerating_the_page_changes_nothing() -> None:
    done = subprocess.run([sys.executable, "docs/endpoints_page.py", "--check"], cwd=ROOT, timeout=50, check=False)

    assert done.returncode == 0, "run make generate and commit the page"


def test_the_page_names_every_endpoint() -> None:
    text = (ROOT / "docs" / "pages" / "reference" / "endpoints.md").read_text(encoding="utf-8")

    for route in ROUTES.values():
        assert f"| {route.method} `{route.path}` |" in text
