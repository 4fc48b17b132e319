"""The page of guarantees names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "pages" / "explanation" / "runtime-semantics.md"


def test_every_test_the_page_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE.read_text(encoding="utf-8")))
    existing: set[str] = set()
    for folder in ("runtime", "testing", "typing"):
        for path in (ROOT / "tests" / folder).glob("*.py"):
            existing |= set(re.findall(r"^(?:async )?def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE))
    assert len(named) > 60
    assert named <= existing, sorted(named - existing)


def test_every_guarantee_names_a_test() -> None:
    guarantees, _ = PAGE.read_text(encoding="utf-8").split("## Speed")
    rows = [line for line in guarantees.splitlines() if line.startswith("| ")]
    missing = [row for row in rows if "`test_" not in row and not row.startswith(("| guarantee", "| option"))]
    assert missing == []
