"""Runs seen from outside: which there are, how far they are, and their history for other programs."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

import msgspec

from tinkex_actors.errors import RunError
from tinkex_actors.runs.journal.file import COPY, JOURNAL, read_journal
from tinkex_actors.runs.lease import Owner, owner_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tinkex_actors.runs.journal.record import HistoryRow, Record

__all__ = ["RunOverview", "find_runs", "history_csv", "history_json", "look_at", "loss_of"]

# Runs lie in folders such as runs/sft; a whole disk is not searched.
_DEEPEST = 3


class RunOverview(msgspec.Struct, frozen=True, kw_only=True):
    """How a run stands.

    Args:
        path: its folder.
        model: what it trains.
        steps: how many steps are committed.
        loss: the last step's, where it told one.
        checkpoint: the step that it would go back to, 0 for the beginning.
        openings: how often it was opened.
        owner: who has it open, or None.
        ending: how the last opening ended; None where it has not, or was killed.
        last_at: when something was committed, or else when it was opened last; empty for one that never was.
    """

    path: str
    model: str
    steps: int
    loss: float | None
    checkpoint: int
    openings: int
    owner: Owner | None
    ending: str | None
    last_at: str

    @property
    def state(self) -> str:
        """The same in words: open, closed, or how it was left."""
        if self.owner is not None:
            return f"open in {self.owner}"
        if self.ending == "closed":
            return "closed"
        return "left without an end" if self.ending is None else f"ended by {self.ending}"


def find_runs(folder: Path) -> Iterator[Path]:
    """Give the folders of the runs in a folder and in those below it, by name."""
    # A copy without its journal is a run that wants repair.
    patterns = ["*/" * depth + name for depth in range(_DEEPEST + 1) for name in (JOURNAL, COPY)]
    found = {path.parent for pattern in patterns for path in folder.glob(pattern)}
    yield from sorted(found)


def look_at(folder: Path) -> tuple[RunOverview, Record]:
    """Return how a run stands, and all that its journal says. Changes nothing; the run may be open.

    Raises:
        RunError: there is none, or it cannot be read (``JournalDamagedError``).
    """
    record = read_journal(folder)
    spec, history, openings = record.spec, record.history, record.openings
    last = openings[-1] if openings else None
    kept = [row.step for row in record.checkpoints if row.state == "kept"]
    overview = RunOverview(
        path=str(folder),
        model=(spec.model or spec.from_checkpoint or "?") if spec else "?",
        steps=len(history),
        loss=loss_of(history[-1]) if history else None,
        checkpoint=max(kept, default=0),
        openings=len(openings),
        owner=owner_of(folder),
        ending=last.ending if last else None,
        last_at=history[-1].at if history else last.at if last else "",
    )
    return overview, record


def loss_of(row: HistoryRow, metric: str | None = None) -> float | None:
    """Return a step's metric: by default its loss, per token where the server counts them; None where it has none."""
    if metric is not None:
        return row.metrics.get(metric, (row.optim_metrics or {}).get(metric))
    total, tokens = row.metrics.get("loss:sum"), row.metrics.get("tokens:sum")
    if total is None:
        return row.metrics.get("loss:mean")
    return total / tokens if tokens else total


def history_json(record: Record) -> str:
    """Return spec, history, checkpoints, openings and notes as one JSON object, for people and programs."""
    whole: dict[str, Any] = {
        "spec": record.spec,
        "history": record.history,
        "checkpoints": record.checkpoints,
        "openings": record.openings,
        "notes": [dict(zip(("at", "step", "kind", "text"), note, strict=True)) for note in record.notes],
    }
    return msgspec.json.format(msgspec.json.encode(whole), indent=2).decode()


def history_csv(record: Record) -> str:
    """Return the history as CSV: a line a step, a column a metric; those of ``optim_step`` begin with ``optim/``.

    Raises:
        RunError: no step is committed.
    """
    if not record.history:
        raise RunError("The run has no committed step yet, so there is no table to write. Export it as JSON.")
    rows = [_flat(row) for row in record.history]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _flat(row: HistoryRow) -> dict[str, Any]:
    flat: dict[str, Any] = {"index": row.index, "at": row.at, "seconds": row.seconds, "epoch": row.epoch}
    # By name: in which order a server's metrics come, may be chance.
    flat |= dict(sorted(row.metrics.items()))
    return flat | {f"optim/{name}": value for name, value in sorted((row.optim_metrics or {}).items())}
