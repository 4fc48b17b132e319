"""What is written to a journal. Each entry is idempotent: written again after a crash, it changes nothing."""

from __future__ import annotations

import json
import sqlite3
from typing import Any, ClassVar, Protocol

import msgspec

from tinkex_actors.runs.journal.checksums import row_sum
from tinkex_actors.runs.journal.digests import digest_of
from tinkex_actors.runs.journal.record import Opening

__all__ = [
    "CheckpointState",
    "Entry",
    "Note",
    "OperationEnded",
    "OperationSent",
    "RunClosed",
    "RunOpened",
    "SampleDrawn",
    "StepCommitted",
    "StepsWithdrawn",
    "json_text",
    "write_spec",
]


class Entry(Protocol):
    """Something to write.

    Attributes:
        synced: whether it has to outlive the machine, and not only the process, once it is reported as written.
    """

    synced: ClassVar[bool]

    def write(self, connection: sqlite3.Connection) -> None:
        """Write it, within a transaction."""


def json_text(value: object) -> str | None:
    """Return a value as JSON text; None stays None. Every float comes back as it was, NaN and infinities too."""
    return None if value is None else json.dumps(value, separators=(",", ":"))


class RunOpened(Opening, frozen=True, kw_only=True):
    """The run was opened, on the model it has now."""

    synced: ClassVar[bool] = True

    def write(self, connection: sqlite3.Connection) -> None:
        """Write it."""
        values = msgspec.structs.asdict(self)
        _put(connection, "openings", values | {"command": json_text(self.command)})


class RunClosed(msgspec.Struct, frozen=True, kw_only=True):
    """The run was closed in order: with ``finished``, ``stopped``, or the name of what ended it."""

    synced: ClassVar[bool] = True

    epoch: int
    at: str
    ending: str

    def write(self, connection: sqlite3.Connection) -> None:
        """Write it."""
        query = "SELECT * FROM openings WHERE epoch = ?"
        for row in connection.execute(query, (self.epoch,)).fetchall():
            _put(connection, "openings", dict(row) | {"closed_at": self.at, "ending": self.ending})


class OperationSent(msgspec.Struct, frozen=True, kw_only=True):
    """A training request was submitted.

    Args:
        number: which one of its opening, from 1.
        place: which one of its step, from 0.
        first_seq: its first number in the model's order; ``count`` of them.
        content: what it carries, told apart by :func:`digest_of` when this is written.
    """

    synced: ClassVar[bool] = False

    epoch: int
    number: int
    model_id: str
    step: int
    place: int
    kind: str
    first_seq: int
    count: int
    content: Any
    at: str

    def write(self, connection: sqlite3.Connection) -> None:
        """Write it, and note where a step that is repeated has other content than before."""
        digest = digest_of(self.content)
        earlier = connection.execute(
            "SELECT digest FROM operations WHERE step = ? AND place = ? AND kind = ? AND epoch < ? "
            "ORDER BY epoch DESC LIMIT 1",
            (self.step, self.place, self.kind, self.epoch),
        ).fetchone()
        if earlier is not None and earlier[0] != digest:
            text = f"{self.kind} of step {self.step} was repeated with other data or settings than before"
            Note(at=self.at, step=self.step, kind="diverged", text=text).write(connection)
        values = msgspec.structs.asdict(self)
        del values["content"]
        _put(connection, "operations", values | {"key": f"{self.model_id}:{self.first_seq}", "digest": digest})


class OperationEnded(msgspec.Struct, frozen=True, kw_only=True):
    """A training request ended: ``done`` with its metrics, ``failed`` with the error's text, or ``cancelled``."""

    synced: ClassVar[bool] = False

    epoch: int
    number: int
    state: str
    request_ids: list[str]
    outcome: Any = None

    def write(self, connection: sqlite3.Connection) -> None:
        """Write it."""
        connection.execute(
            "UPDATE operations SET state = ?, request_ids = ?, outcome = ? WHERE epoch = ? AND number = ?",
            (self.state, json_text(self.request_ids), json_text(self.outcome), self.epoch, self.number),
        )


class StepCommitted(msgspec.Struct, frozen=True, kw_only=True):
    """A step's optimizer step is confirmed.

    Args:
        next_seq: the number that the model's next request will have.
        cursor: the program's own place in its data, after the step.
    """

    synced: ClassVar[bool] = False

    step: int
    epoch: int
    next_seq: int
    metrics: dict[str, float] | None
    optim_metrics: dict[str, float] | None
    cursor: Any
    seconds: float
    at: str

    def write(self, connection: sqlite3.Connection) -> None:
        """Write it."""
        texts = {name: json_text(getattr(self, name)) for name in ("metrics", "optim_metrics", "cursor")}
        _put(connection, "steps", msgspec.structs.asdict(self) | texts)


class StepsWithdrawn(msgspec.Struct, frozen=True, kw_only=True):
    """The model goes back to a checkpoint: the steps from ``first`` on will be done again."""

    synced: ClassVar[bool] = True

    first: int

    def write(self, connection: sqlite3.Connection) -> None:
        """Write it."""
        connection.execute("DELETE FROM steps WHERE step >= ?", (self.first,))


class CheckpointState(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint after ``step`` steps is ``kept``, to be ``dropping``, ``dropped``, or found to be ``lost``."""

    synced: ClassVar[bool] = True

    path: str
    step: int
    epoch: int
    next_seq: int
    cursor: Any
    state: str
    at: str

    def write(self, connection: sqlite3.Connection) -> None:
        """Write it. What was drawn before the oldest checkpoint that is kept cannot be asked for again: it goes."""
        _put(connection, "checkpoints", msgspec.structs.asdict(self) | {"cursor": json_text(self.cursor)})
        if self.state != "kept":
            connection.execute(
                "DELETE FROM samples WHERE step < (SELECT min(step) FROM checkpoints WHERE state = 'kept')"
            )


class SampleDrawn(msgspec.Struct, frozen=True, kw_only=True):
    """What a step drew, so that it need not draw it twice; ``response`` is the answer as JSON."""

    synced: ClassVar[bool] = False

    step: int
    place: int
    digest: str
    response: bytes

    def write(self, connection: sqlite3.Connection) -> None:
        """Write it."""
        _put(connection, "samples", msgspec.structs.asdict(self))


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """Something for a person to know."""

    synced: ClassVar[bool] = False

    at: str
    kind: str
    text: str
    step: int | None = None

    def write(self, connection: sqlite3.Connection) -> None:
        """Write it; the same words about the same moment are written once."""
        connection.execute(
            "INSERT INTO notes (at, step, kind, text) SELECT ?1, ?2, ?3, ?4 WHERE NOT EXISTS "
            "(SELECT 1 FROM notes WHERE at = ?1 AND kind = ?3 AND text = ?4)",
            (self.at, self.step, self.kind, self.text),
        )


def write_spec(connection: sqlite3.Connection, spec: str, checkpoint_every: int | None, at: str) -> None:
    """Write what the run is; written again, only how often it takes checkpoints is new."""
    earlier = connection.execute("SELECT spec, created_at FROM spec").fetchone()
    values = {"spec": spec, "created_at": at} if earlier is None else dict(earlier)
    _put(connection, "spec", {"only": 0, "checkpoint_every": checkpoint_every} | values)


def _put(connection: sqlite3.Connection, table: str, values: dict[str, Any]) -> None:
    """Write a row, in the place of the one with the same key; the names are those of our own fields."""
    values = values | {"sum": row_sum(table, values)}
    names, places = ", ".join(values), ", ".join("?" * len(values))
    connection.execute(f"INSERT OR REPLACE INTO {table} ({names}) VALUES ({places})", tuple(values.values()))
