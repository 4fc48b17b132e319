"""What the ``run`` commands say."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tinkex_actors.cli.loss_plot import draw, save_png
from tinkex_actors.errors import RunError
from tinkex_actors.runs.journal.file import repair
from tinkex_actors.runs.lease import Lease
from tinkex_actors.runs.overview import find_runs, look_at, loss_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tinkex_actors.runs.journal.record import Record
    from tinkex_actors.runs.overview import RunOverview

__all__ = ["command_of", "listing", "repaired", "report"]

_SHOWN_NOTES = 20


def listing(folder: Path) -> Iterator[str]:
    """Give a line for each run in a folder and below it."""
    found = list(find_runs(folder))
    if not found:
        yield f"no runs in {folder}"
        return
    width = max(len(str(path)) for path in found)
    for path in found:
        try:
            overview, _ = look_at(path)
        except RunError as error:
            yield f"{path!s:<{width}}  {error}"
            continue
        loss = "" if overview.loss is None else f"  loss {overview.loss:.4f}"
        yield f"{overview.path:<{width}}  {overview.model}  {overview.steps} steps{loss}  {overview.state}"


def report(folder: Path, *, plot: Path | None, metric: str | None) -> Iterator[str]:
    """Give the lines about one run; draw into ``plot`` if it is given.

    Raises:
        RunError: there is no run, or no step has the metric.
    """
    overview, record = look_at(folder)
    yield from _summary(overview, record)
    points = [(row.index, value) for row in record.history if (value := loss_of(row, metric)) is not None]
    if metric is not None and not points:
        known = sorted({name for row in record.history for name in (*row.metrics, *(row.optim_metrics or {}))})
        raise RunError(f"No step of {folder} has a metric {metric!r}. There are: {', '.join(known) or 'none'}.")
    label = metric or "loss"
    if points:
        steps, values = [step for step, _ in points], [value for _, value in points]
        yield ""
        yield f"{label}, steps {steps[0]} to {steps[-1]}"
        yield from draw(values)
        if plot is not None:
            save_png(steps, values, plot, title=str(folder), label=label)
            yield f"drawn into {plot}"
    yield from _past(record)


def command_of(folder: Path) -> tuple[list[str], str]:
    """Return the command that opened a run last, and the folder it was given in.

    Raises:
        RunError: the run is open, or its command is not known, or its folder is gone.
    """
    overview, record = look_at(folder)
    if overview.owner is not None:
        raise RunError(f"The run {folder} is {overview.state}; it needs no resuming.", path=str(folder))
    last = record.openings[-1] if record.openings else None
    if last is None or not last.command:
        raise RunError(
            f"Which command opened {folder} is not known: it came from a notebook or an interactive session, or had a "
            "credential in it. Open the run in your program again (DurableRun.open): it goes on where it stopped.",
            path=str(folder),
        )
    if not Path(last.folder).is_dir() or not os.access(last.command[0], os.X_OK):
        raise RunError(
            f"The command of {folder} cannot be given again: {last.command[0]} in {last.folder} is not there. Open the "
            "run in your program (DurableRun.open).",
            path=str(folder),
        )
    return last.command, last.folder


def repaired(folder: Path) -> str:
    """Repair a run's journal from its copy; say what was done.

    Raises:
        RunLockedError: the run is open.
        RunError: there is no copy to repair it from.
    """
    if not folder.is_dir():
        raise RunError(f"There is no run in {folder}.", path=str(folder))
    lease = Lease(folder)
    try:
        aside, record = repair(folder)
    finally:
        lease.release()
    return f"{folder}: the journal of its first {len(record.history)} steps is back; the damaged one is {aside.name}"


def _summary(overview: RunOverview, record: Record) -> Iterator[str]:
    yield f"run         {overview.path}"
    yield f"model       {overview.model}"
    if record.spec is not None and record.spec.lora is not None:
        yield f"adapter     rank {record.spec.lora.rank}, seed {record.spec.lora.seed}"
    loss = "" if overview.loss is None else f", loss {overview.loss:.4f}"
    yield f"steps       {overview.steps}{loss}"
    yield f"state       {overview.state}"
    if overview.owner is None and overview.ending != "closed" and record.openings and record.openings[-1].command:
        yield f"go on       tinkex-actors run resume {overview.path}"


def _past(record: Record) -> Iterator[str]:
    kept = [row for row in record.checkpoints if row.state == "kept"]
    yield ""
    yield f"checkpoints ({len(kept)} kept of {len(record.checkpoints)})"
    yield from (f"  after step {row.step:<6} {row.path}" for row in kept)
    yield ""
    yield "openings"
    for row in record.openings:
        ending = row.ending or "no end"
        yield f"  {row.at[:19]}  {row.way} at step {row.first_step}, process {row.pid} on {row.host}: {ending}"
    if record.notes:
        yield ""
        yield "notes"
        for at, step, kind, text in record.notes[-_SHOWN_NOTES:]:
            where = "" if step is None else f" step {step}:"
            yield f"  {at[:19]}  {kind}:{where} {text}"
