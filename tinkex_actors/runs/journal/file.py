"""The journal's file: opened, checked, written, copied. Every method blocks; call them on one thread.

What is promised of the disk: an entry that is reported as written survives the process, however it ends. Openings and
checkpoints survive the machine too, with all that was written before them: their transactions are synced
(``synchronous=FULL``), those of single steps are not (``NORMAL``). After a power cut the last steps' lines may be
missing; they are done again, or asked for again under their numbers, like any step that was not committed. What arrives
while a write is under way goes into the next transaction together, and nobody trains more slowly for any of it.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from tinkex_actors.errors import JournalDamagedError, RunError
from tinkex_actors.runs.journal.checksums import verify
from tinkex_actors.runs.journal.entries import write_spec
from tinkex_actors.runs.journal.record import Record, read_record
from tinkex_actors.runs.journal.schema import migrate, version_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tinkex_actors.runs.journal.entries import Entry
    from tinkex_actors.runs.spec import RunSpec

__all__ = ["COPY", "JOURNAL", "JournalFile", "read_journal", "repair"]

JOURNAL, COPY = "journal.sqlite3", "journal.copy.sqlite3"

# Another process may read while this one writes; a reader never waits, a writer waits for a reader's checkpoint.
_BUSY_SECONDS = 10.0


class JournalFile:
    """One run's journal, open for writing.

    Args:
        folder: the run's folder; it exists.

    Attributes:
        path: the file.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / JOURNAL
        self._connection: sqlite3.Connection | None = None
        self._synced: bool | None = None

    def open(self) -> Record:
        """Open the file, or make it; check it whole; bring it to today's tables; return what it says.

        Raises:
            JournalDamagedError: it is damaged.
            RunError: a newer version wrote it, or the folder cannot be written.
        """
        # Before the journal: a copy says less than what it was made from.
        known = _known_to_copy(self.path)
        connection = _connect(self.path)
        try:
            record = _checked(connection, self.path, known, write=True)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return record

    def begin(self, spec: RunSpec, checkpoint_every: int | None) -> None:
        """Write down what the run is."""
        with self._transaction() as connection:
            write_spec(connection, msgspec.json.encode(spec).decode(), checkpoint_every, datetime.now(UTC).isoformat())

    def write(self, entries: Sequence[Entry]) -> None:
        """Write entries, all of them or none.

        Raises:
            RunError: they cannot be written.
        """
        with self._transaction(synced=any(entry.synced for entry in entries)) as connection:
            for entry in entries:
                entry.write(connection)

    def copy(self) -> None:
        """Keep a copy as it is now, for :func:`repair`. The previous copy stays until this one is complete."""
        assert self._connection is not None
        fresh = self.path.with_name(f"{COPY}.new")
        fresh.unlink(missing_ok=True)
        try:
            with contextlib.closing(sqlite3.connect(fresh)) as target:
                self._connection.backup(target)
            with fresh.open("rb+") as file:
                os.fsync(file.fileno())
            fresh.replace(self.path.with_name(COPY))
        except (sqlite3.Error, OSError) as error:
            raise _unwritable(self.path, error) from error

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._connection is not None:
            self._connection.close()
            self._connection = self._synced = None

    @contextlib.contextmanager
    def _transaction(self, *, synced: bool = True) -> Iterator[sqlite3.Connection]:
        assert self._connection is not None
        try:
            if synced is not self._synced:
                self._connection.execute(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")
                self._synced = synced
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.rollback()
                raise
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise _unwritable(self.path, error) from error


def read_journal(folder: Path) -> Record:
    """Return what a run's journal says, without changing it, also while another process writes it.

    Raises:
        RunError: there is no journal, or a newer version wrote it.
        JournalDamagedError: it is damaged.
    """
    path = folder / JOURNAL
    known = _known_to_copy(path)
    if not path.is_file():
        raise RunError(
            f"There is no run in {folder}: it has no {JOURNAL}. `tinkex-actors run list` finds runs.", path=str(folder)
        )
    with contextlib.closing(_connect(path)) as connection:
        return _checked(connection, path, known, write=False)


def repair(folder: Path) -> tuple[Path, Record]:
    """Put the copy that was kept with the last checkpoint in the place of a damaged journal.

    Returns:
        Where the damaged one was put, and what the copy says.

    Raises:
        RunError: there is no copy.
        JournalDamagedError: the copy is damaged too.
    """
    path, copy = folder / JOURNAL, folder / COPY
    if not copy.is_file():
        raise RunError(
            f"{folder} has no copy of its journal: one is made with each checkpoint. Begin anew in another folder; "
            "the checkpoints that the server still has can be its beginning (from_checkpoint=).",
            path=str(folder),
        )
    with contextlib.closing(_connect(copy)) as connection:
        record = _checked(connection, copy, frozenset(), write=False)
    aside = folder / f"journal.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S%f}.sqlite3"
    for suffix in ("-wal", "-shm", ""):
        found = path.with_name(path.name + suffix)
        if found.exists():
            found.replace(aside.with_name(aside.name + suffix))
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_bytes(copy.read_bytes())
    fresh.replace(path)
    return aside, record


def _connect(path: Path) -> sqlite3.Connection:
    try:
        # One thread uses it at a time; which one of the executor's threads that is, does not matter.
        connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise _unwritable(path, error) from error
    connection.row_factory = sqlite3.Row
    return connection


def _checked(connection: sqlite3.Connection, path: Path, known: frozenset[str], *, write: bool) -> Record:
    """Return what a journal says, once it is known to be whole; ``known`` are checkpoints that it must know."""
    try:
        if write:
            connection.execute("PRAGMA journal_mode = WAL")
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise _damaged(path, found)
        if not (write or known or version_of(connection, str(path))):
            raise RunError(f"The run in {path.parent} has not begun: its journal is empty.", path=str(path.parent))
        with contextlib.nullcontext(connection) if write else contextlib.closing(_in_memory(connection)) as today:
            migrate(today, str(path))
            verify(today)
            record = read_record(today)
    except sqlite3.OperationalError as error:
        raise _unwritable(path, error) from error
    except (sqlite3.DatabaseError, msgspec.DecodeError, ValueError, TypeError) as error:
        raise _damaged(path, error) from error
    if known - {row.path for row in record.checkpoints}:
        raise _damaged(path, f"it is older than its copy: its end is missing, which may have been in {path.name}-wal")
    return record


def _in_memory(connection: sqlite3.Connection) -> sqlite3.Connection:
    """Return a journal as it is at this moment, to be brought to today's tables where nothing may be changed."""
    memory = sqlite3.connect(":memory:", isolation_level=None)
    memory.row_factory = sqlite3.Row
    connection.backup(memory)
    return memory


def _known_to_copy(path: Path) -> frozenset[str]:
    """Return the checkpoints that a journal's copy knows; none where there is no copy, or none that can be read.

    Raises:
        JournalDamagedError: there is a copy, and nothing that it is the copy of.
    """
    copy = path.with_name(COPY)
    if not copy.is_file():
        return frozenset()
    if not (path.is_file() and path.stat().st_size):
        raise _damaged(path, "it is empty" if path.is_file() else "it is missing")
    try:
        with contextlib.closing(sqlite3.connect(f"{copy.resolve().as_uri()}?immutable=1", uri=True)) as connection:
            return frozenset(name for (name,) in connection.execute("SELECT path FROM checkpoints"))
    except sqlite3.Error:
        return frozenset()


def _damaged(path: Path, what: object) -> JournalDamagedError:
    copy = path.with_name(COPY)
    way = (
        f"Its copy of the last checkpoint is there: `tinkex-actors run repair {path.parent}` puts it in place, and the "
        "run goes on from that checkpoint."
        if copy.is_file() and copy != path
        else "There is no copy of it. Begin anew in another folder; the checkpoints that the server still has can be "
        "its beginning (from_checkpoint=)."
    )
    found = " ".join(str(what).split())
    return JournalDamagedError(f"The journal {path} is damaged ({found}). {way}", path=str(path.parent))


def _unwritable(path: Path, error: Exception) -> RunError:
    return RunError(
        f"The journal {path} cannot be used ({error}). See that its folder is writable and its disk has room; the run "
        "goes on where it stood.",
        path=str(path.parent),
    )
