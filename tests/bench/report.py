"""Tables of measurements: as text for people, as JSON for machines."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import msgspec


class Row(msgspec.Struct, kw_only=True):
    """One measurement.

    Attributes:
        measure: what was measured.
        ours: its value.
        baseline: the baseline's value in the same run, where there is one.
        unit: of both.
        against: what the baseline is.
        ratio: median over rounds of ours / baseline, where there is a baseline.
        loop: the event loop it was measured on, where there is a choice.
    """

    measure: str
    ours: float
    unit: str
    baseline: float | None = None
    against: str = ""
    ratio: float | None = None
    loop: str = ""


def text(title: str, rows: list[Row]) -> str:
    """Return the table as text."""
    lines = [title, f"  {'measure':<38} {'ours':>12} {'baseline':>12} {'unit':<8} {'ours/base':>9}  against"]
    for row in rows:
        base = "" if row.baseline is None else f"{row.baseline:,.2f}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        against = " on ".join(filter(None, (row.against, row.loop)))
        lines.append(f"  {row.measure:<38} {row.ours:>12,.2f} {base:>12} {row.unit:<8} {ratio:>9}  {against}".rstrip())
    return "\n".join(lines)


def main(title: str, run: Callable[[bool], list[Row]]) -> None:
    """Run one bench as a command: ``[--json] [--quick]``."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: to see that it runs, not to quote")
    options = parser.parse_args()
    rows = run(options.quick)
    sys.stdout.write((msgspec.json.encode(rows).decode() if options.json else text(title, rows)) + "\n")
