"""A sum with each row, so that a changed bit is found where SQLite itself has none: within a value.

SQLite's own check (``PRAGMA quick_check``) sees pages that do not fit together; a flipped bit in a loss, a number or a
seed it reads as another value.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["row_sum", "verify"]

# What is summed of each table: what a run goes on from. Of operations, what is asked again; their outcomes are for
# people, and notes are too.
COLUMNS: Final[dict[str, tuple[str, ...]]] = {
    "spec": ("spec", "checkpoint_every"),
    "openings": (
        *("epoch", "at", "pid", "host", "command", "folder", "way", "base_url", "session_id", "model_id"),
        *("first_step", "next_seq", "closed_at", "ending"),
    ),
    "operations": ("epoch", "number", "model_id", "step", "place", "kind", "first_seq", "count", "digest"),
    "steps": ("step", "epoch", "next_seq", "metrics", "optim_metrics", "cursor", "seconds", "at"),
    "checkpoints": ("path", "step", "epoch", "next_seq", "cursor", "state", "at"),
    "samples": ("step", "place", "digest", "response"),
}


def row_sum(table: str, values: Mapping[str, Any]) -> int | None:
    """Return the sum of a row, from its values by column, those that are missing being NULL; None: it has none."""
    columns = COLUMNS.get(table)
    if columns is None:
        return None
    total = 0
    for column in columns:
        value = values.get(column)
        total = zlib.crc32(value if isinstance(value, bytes) else repr(value).encode(), total)
    return total


def verify(connection: sqlite3.Connection) -> None:
    """Read every row that has a sum, and compare. Rows that were written before there were sums have none.

    Raises:
        ValueError: one is not what was written; names it.
        sqlite3.DatabaseError: the file is damaged.
    """
    for table, columns in COLUMNS.items():
        names = ", ".join(columns)
        for row in connection.execute(f"SELECT {names}, sum FROM {table} WHERE sum IS NOT NULL"):
            if row_sum(table, dict(row)) != row["sum"]:
                raise ValueError(f"a row of {table}, {columns[0]} {row[columns[0]]!r}, is not what was written")
