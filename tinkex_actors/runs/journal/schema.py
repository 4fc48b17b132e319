"""The tables, and how older journals become new ones.

============  ==========================================================================================
spec          one row: what the run is (JSON)
openings      each time the run was opened: by whom, on which model, from which step
operations    each request: number, key, request ids, content digest, outcome; those of abandoned models too
steps         each committed step, once
checkpoints   each checkpoint and whether it is kept
samples       what was drawn in the steps that may be repeated
notes         what a person should know: repeated steps that differed, lost checkpoints, takeovers
============  ==========================================================================================
"""

from __future__ import annotations

import sqlite3

from tinkex_actors.errors import RunError

__all__ = ["APPLICATION_ID", "MIGRATIONS", "migrate", "version_of"]

# Stands in the file's header ("tkxr"), so that another program's database is not taken for a journal.
APPLICATION_ID = 0x746B7872

# Each entry leads from its index to the next version. An entry that was released is never changed.
MIGRATIONS = (
    """
    CREATE TABLE spec (only INTEGER PRIMARY KEY CHECK (only = 0), spec TEXT NOT NULL, created_at TEXT NOT NULL);
    CREATE TABLE openings (
      epoch INTEGER PRIMARY KEY, at TEXT NOT NULL, pid INTEGER, host TEXT, command TEXT, folder TEXT,
      way TEXT NOT NULL, base_url TEXT, session_id TEXT, model_id TEXT, first_step INTEGER NOT NULL,
      next_seq INTEGER NOT NULL,
      closed_at TEXT, ending TEXT);
    CREATE TABLE operations (
      epoch INTEGER NOT NULL, number INTEGER NOT NULL, model_id TEXT NOT NULL, step INTEGER NOT NULL,
      place INTEGER NOT NULL, kind TEXT NOT NULL, first_seq INTEGER NOT NULL, count INTEGER NOT NULL,
      key TEXT NOT NULL, digest TEXT, at TEXT NOT NULL,
      state TEXT NOT NULL DEFAULT 'sent', request_ids TEXT, outcome TEXT,
      PRIMARY KEY (epoch, number)) WITHOUT ROWID;
    CREATE INDEX operations_by_step ON operations (step, place);
    CREATE TABLE steps (
      step INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, next_seq INTEGER NOT NULL, metrics TEXT, optim_metrics TEXT,
      cursor TEXT, seconds REAL, at TEXT NOT NULL);
    CREATE TABLE checkpoints (
      path TEXT PRIMARY KEY, step INTEGER NOT NULL, epoch INTEGER NOT NULL, next_seq INTEGER NOT NULL,
      cursor TEXT, state TEXT NOT NULL, at TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE samples (
      step INTEGER NOT NULL, place INTEGER NOT NULL, digest TEXT NOT NULL, response BLOB NOT NULL,
      PRIMARY KEY (step, place)) WITHOUT ROWID;
    """,
    """
    CREATE TABLE notes (id INTEGER PRIMARY KEY, at TEXT NOT NULL, step INTEGER, kind TEXT NOT NULL, text TEXT NOT NULL);
    ALTER TABLE spec ADD COLUMN checkpoint_every INTEGER;
    """,
    "".join(
        f"ALTER TABLE {table} ADD COLUMN sum INTEGER;\n"
        for table in ("spec", "openings", "operations", "steps", "checkpoints", "samples")
    ),
)


def version_of(connection: sqlite3.Connection, path: str) -> int:
    """Return a journal's version; 0 for one that is empty.

    Raises:
        RunError: a newer version of this package wrote it, or it belongs to another program.
        sqlite3.DatabaseError: it is damaged.
    """
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    (owner,) = connection.execute("PRAGMA application_id").fetchone()
    if version > len(MIGRATIONS):
        raise RunError(
            f"{path} has version {version}; this package reads up to {len(MIGRATIONS)}. Upgrade tinkex-actors.",
            path=path,
        )
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if owner != APPLICATION_ID and (version or tables):
        raise RunError(f"{path} is a database of another program. Open the run in another folder.", path=path)
    return version


def migrate(connection: sqlite3.Connection, path: str) -> None:
    """Bring a journal to the newest version, each step whole or not at all.

    Raises:
        RunError, sqlite3.DatabaseError: as :func:`version_of`.
    """
    for number in range(version_of(connection, path), len(MIGRATIONS)):
        script = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {number + 1};"
        connection.executescript(f"BEGIN IMMEDIATE; {MIGRATIONS[number]} {script} COMMIT;")
