"""What a journal says, read in one go."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

import msgspec

from tinkex_actors.runs.spec import RunSpec

__all__ = ["CheckpointRow", "HistoryRow", "Opening", "OpeningRow", "Record", "SentRow", "read_record"]


class HistoryRow(msgspec.Struct, frozen=True, kw_only=True):
    """One committed step.

    Args:
        index: its number, from 0.
        metrics: what its ``forward_backward`` told, combined where there were several; empty where there was none.
        optim_metrics: what its ``optim_step`` told; None where the server has none.
        cursor: the program's own place in its data, after the step.
        seconds: from the step's beginning to its confirmation.
        at: when it was confirmed; ISO 8601, UTC.
        next_seq: the number that the model's next request had.
        epoch: in which opening of the run it was done, from 1.
    """

    index: int
    metrics: dict[str, float]
    optim_metrics: dict[str, float] | None
    cursor: Any
    seconds: float
    at: str
    next_seq: int
    epoch: int


class CheckpointRow(msgspec.Struct, frozen=True, kw_only=True):
    """One checkpoint, taken after ``step`` steps."""

    path: str
    step: int
    epoch: int
    next_seq: int
    cursor: Any
    state: str
    at: str


class Opening(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an opening when it begins.

    Args:
        epoch: which opening it is, from 1.
        at: when.
        pid: the process that opened it.
        host: its machine.
        command: its command line, where it is known.
        folder: its working folder.
        way: ``created``, ``attached`` to the living model, or ``restored`` from a checkpoint.
        base_url: the server.
        session_id: the session.
        model_id: the model that the run has from then on.
        first_step: the first step that this opening does.
        next_seq: the number that the model's next request has.
    """

    epoch: int
    at: str
    pid: int
    host: str
    command: list[str] | None
    folder: str
    way: str
    base_url: str
    session_id: str
    model_id: str
    first_step: int
    next_seq: int


class OpeningRow(Opening, frozen=True, kw_only=True):
    """One opening of the run, and how it ended: ``finished``, ``stopped``, or the name of what ended it."""

    closed_at: str | None
    ending: str | None


class SentRow(msgspec.Struct, frozen=True, kw_only=True):
    """A training request of the last opening that no committed step stands behind.

    Args:
        promises: the server's names for it, where its answer was awaited.
    """

    step: int
    place: int
    kind: str
    first_seq: int
    count: int
    digest: str
    promises: list[str] = []


class Record(msgspec.Struct, kw_only=True):
    """A journal's contents.

    Args:
        spec: what the run is; None in a new journal.
        checkpoint_every: as it was asked last.
        history: the committed steps, in order.
        checkpoints: all that were taken, oldest first.
        openings: all of them, oldest first.
        next_seq: the number that the last model's next request had, once everything before was confirmed.
        sent: requests of the last model under that number and later ones, in order.
        samples: what was drawn and may be asked for again: by (step, place), its digest and the answer as JSON.
        notes: what a person should know: (time, step, kind, text), oldest first.
    """

    spec: RunSpec | None
    checkpoint_every: int | None
    history: list[HistoryRow]
    checkpoints: list[CheckpointRow]
    openings: list[OpeningRow]
    next_seq: int
    sent: list[SentRow]
    samples: dict[tuple[int, int], tuple[str, bytes]]
    notes: list[tuple[str, int | None, str, str]]


def read_record(connection: sqlite3.Connection) -> Record:
    """Read everything but the ended operations.

    Raises:
        sqlite3.DatabaseError: it is damaged.
        msgspec.DecodeError, ValueError: a text in it is not what we write.
    """
    row = connection.execute("SELECT spec, checkpoint_every FROM spec").fetchone()
    history = [_step(row) for row in connection.execute("SELECT * FROM steps ORDER BY step")]
    if [row.index for row in history] != list(range(len(history))):
        raise ValueError("a step is missing between others")
    openings = [_opening(row) for row in connection.execute("SELECT * FROM openings ORDER BY epoch")]
    checkpoints = [
        CheckpointRow(**{**_columns(row), "cursor": _json(row["cursor"])})
        for row in connection.execute("SELECT * FROM checkpoints ORDER BY step, at")
    ]
    next_seq = _next_seq(openings, history, checkpoints)
    sent = connection.execute(
        "SELECT step, place, kind, first_seq, count, digest, request_ids AS promises FROM operations "
        "WHERE model_id = ? AND first_seq >= ? ORDER BY first_seq, epoch",
        (openings[-1].model_id if openings else "", next_seq),
    )
    samples = connection.execute("SELECT step, place, digest, response FROM samples")
    return Record(
        spec=None if row is None else msgspec.json.decode(row["spec"], type=RunSpec),
        checkpoint_every=None if row is None else row["checkpoint_every"],
        history=history,
        checkpoints=checkpoints,
        openings=openings,
        next_seq=next_seq,
        sent=[SentRow(**{**dict(row), "promises": _json(row["promises"]) or []}) for row in sent],
        samples={(row["step"], row["place"]): (row["digest"], row["response"]) for row in samples},
        notes=[tuple(row) for row in connection.execute("SELECT at, step, kind, text FROM notes ORDER BY id")],
    )


def _next_seq(openings: list[OpeningRow], history: list[HistoryRow], checkpoints: list[CheckpointRow]) -> int:
    if not openings:
        return 1
    own = {opening.epoch for opening in openings if opening.model_id == openings[-1].model_id}
    rows: list[Any] = [*openings, *history, *checkpoints]
    return max(int(row.next_seq) for row in rows if row.epoch in own)


def _step(row: sqlite3.Row) -> HistoryRow:
    return HistoryRow(
        index=row["step"],
        metrics=_json(row["metrics"]) or {},
        optim_metrics=_json(row["optim_metrics"]),
        cursor=_json(row["cursor"]),
        seconds=row["seconds"],
        at=row["at"],
        next_seq=row["next_seq"],
        epoch=row["epoch"],
    )


def _opening(row: sqlite3.Row) -> OpeningRow:
    return OpeningRow(**{**_columns(row), "command": _json(row["command"])})


def _columns(row: sqlite3.Row) -> dict[str, Any]:
    return {name: row[name] for name in row.keys() if name != "sum"}  # noqa: SIM118


def _json(text: str | None) -> Any:
    return None if text is None else json.loads(text)
