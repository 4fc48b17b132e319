"""One process at a time writes to a run.

Who holds the run keeps ``run.lock`` open and locked, and says in ``owner.json`` who it is. The kernel frees the lock
when the process ends, however it ends, so a dead process holds nobody up: the next one finds the lock free, and the
note of a predecessor that never gave it back.
"""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING

import msgspec

from tinkex_actors.errors import RunError, RunLockedError
from tinkex_actors.file_lock import lock

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Lease", "Owner", "owner_of"]

_LOCK, _OWNER = "run.lock", "owner.json"


class Owner(msgspec.Struct, frozen=True):
    """Who has a run open.

    Args:
        pid: its process id.
        host: the machine's name.
        since: when it opened the run; ISO 8601, UTC.
    """

    pid: int
    host: str
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


class Lease:
    """The right to write to a run, from the moment it is made until :meth:`release`.

    Args:
        folder: the run's folder; made when missing.

    Attributes:
        predecessor: a process that held the run and died with it; None where the last one gave it back.

    Raises:
        RunLockedError: another living process has it, or this process has it already.
        RunError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = (folder / _LOCK).open("a+", encoding="utf-8")
        except OSError as error:
            raise _unwritable(folder, error) from error
        if not lock(file):
            file.close()
            raise _locked(folder, _read(folder))
        self._file: IO[str] | None = file
        self.predecessor = _read(folder)
        owner = Owner(os.getpid(), socket.gethostname(), datetime.now(UTC).isoformat(timespec="seconds"))
        fresh = folder / f"{_OWNER}.new"
        try:
            fresh.write_bytes(msgspec.json.encode(owner))
            fresh.replace(folder / _OWNER)
        except OSError as error:
            file.close()
            raise _unwritable(folder, error) from error

    def release(self) -> None:
        """Give the right back. Idempotent."""
        if self._file is not None:
            (self._folder / _OWNER).unlink(missing_ok=True)
            self._file.close()
            self._file = None


def owner_of(folder: Path) -> Owner | None:
    """Return who has a run open at this moment, or None. Takes nothing and changes nothing."""
    try:
        with (folder / _LOCK).open("r+", encoding="utf-8") as file:
            free = lock(file)
    except OSError:
        return None
    return None if free else _read(folder) or Owner(0, "an unknown machine", "an unknown time")


def _unwritable(folder: Path, error: OSError) -> RunError:
    return RunError(
        f"The run's folder {folder} cannot be written ({error.strerror or error}). Make it writable and see that its "
        "disk has room, or open the run in another folder.",
        path=str(folder),
    )


def _locked(folder: Path, owner: Owner | None) -> RunLockedError:
    who = "another process" if owner is None else str(owner)
    return RunLockedError(
        f"The run {folder} is open already: {who}. A run has one writer; stop that one, or open another folder.",
        path=str(folder),
        pid=owner.pid if owner else 0,
        host=owner.host if owner else "",
        since=owner.since if owner else "",
    )


def _read(folder: Path) -> Owner | None:
    try:
        return msgspec.json.decode((folder / _OWNER).read_bytes(), type=Owner)
    except (OSError, msgspec.DecodeError):
        return None
