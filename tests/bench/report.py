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
        target: of the ratio, or, without a baseline, of the value; None where nothing is asked.
        at_most: the target is a ceiling; always so where there is no baseline.
        held: whether it was reached; None where nothing is asked or the baseline was not there to measure.
    """

    measure: str
    ours: float
    unit: str
    baseline: float | None = None
    against: str = ""
    ratio: float | None = None
    loop: str = ""
    target: float | None = None
    held: bool | None = None
    at_most: bool = False


def beside(measure: str, ours: float, base: float, against: str, target: float | None) -> Row:
    """A duration beside a baseline's; seconds in, microseconds out."""
    ratio = ours / base
    return Row(
        measure=measure,
        ours=ours * 1e6,
        baseline=base * 1e6,
        unit="us",
        against=against,
        ratio=ratio,
        target=target,
        held=None if target is None else ratio <= target,
        at_most=True,
    )


def text(title: str, rows: list[Row]) -> str:
    """Return the table as text; columns for targets only where there are any."""
    asked = any(row.target is not None for row in rows)
    heads = f"{'target':>9}  {'':<12}" if asked else ""
    wide = max([38, *(len(row.measure) for row in rows)])
    lines = [title, f"  {'measure':<{wide}} {'ours':>12} {'baseline':>12} {'unit':<8} {'ours/base':>9} {heads} against"]
    for row in rows:
        base = "" if row.baseline is None else f"{row.baseline:,.2f}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        against = " on ".join(filter(None, (row.against, row.loop)))
        verdict = f"{_target(row):>9}  {_verdict(row):<12}" if asked else ""
        values = f"{row.ours:>12,.2f} {base:>12} {row.unit:<8} {ratio:>9} {verdict}"
        lines.append(f"  {row.measure:<{wide}} {values} {against}".rstrip())
    return "\n".join(lines)


def _target(row: Row) -> str:
    if row.target is None:
        return ""
    return f"{'>=' if row.against and not row.at_most else '<='} {row.target:g}"


def _verdict(row: Row) -> str:
    if row.target is None:
        return ""
    return {True: "held", False: "FELL", None: "not measured"}[row.held]


def main(title: str, run: Callable[[bool], list[Row]]) -> None:
    """Run one bench as a command: ``[--json] [--quick]``."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: to see that it runs, not to quote")
    options = parser.parse_args()
    rows = run(options.quick)
    sys.stdout.write((msgspec.json.encode(rows).decode() if options.json else text(title, rows)) + "\n")
