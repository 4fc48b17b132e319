"""One process writes to a store; any number of engines in it, and any number of reading processes beside it.

Each engine that writes keeps one file open and locked under ``owners/``, named after its process. Who wants to write
first takes the short-lived lock ``owners.lock`` and looks through the others' files: one of its own process is no
obstacle, one whose lock can be had belongs to a dead process and is removed, any other refuses. The kernel frees locks
when a process ends, however it ends, so nothing is stale for longer than the next look.
"""

from __future__ import annotations

import os
import socket
from typing import IO, TYPE_CHECKING
from uuid import uuid4

from tinkex_actors.errors import ConfigError
from tinkex_actors.file_lock import lock

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["StoreClaim"]


class StoreClaim:
    """The right of one engine to write to a store.

    Args:
        folder: the store's folder; made when missing.

    Attributes:
        alone: whether no other engine held the store when this one came: what is half written then belongs to nobody.

    Raises:
        ConfigError: another living process writes to the store (the message has its process id), or nobody can.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self._take(folder)
        except OSError as error:
            raise ConfigError(
                f"The engine store {folder} cannot be written ({error.strerror or error}). Make it writable, "
                "or set TINKEX_ENGINE_STORE to another folder."
            ) from error

    def _take(self, folder: Path) -> None:
        self._owners = folder / "owners"
        self._owners.mkdir(parents=True, exist_ok=True)
        process = f"{socket.gethostname()}-{os.getpid()}"
        with (folder / "owners.lock").open("a+") as gate:
            lock(gate, wait=True)
            self.alone = not [
                path for path in sorted(self._owners.glob("*.owner")) if self._lives(folder, path, process)
            ]
            self._path = self._owners / f"{process}-{uuid4().hex}.owner"
            self._file: IO[str] | None = self._path.open("w")
            lock(self._file)

    def release(self) -> None:
        """Give the right back. Idempotent."""
        if self._file is not None:
            # Closed first: an open file cannot be removed everywhere. In between, others see a dead process's file.
            self._file.close()
            self._file = None
            self._path.unlink(missing_ok=True)

    @staticmethod
    def _lives(folder: Path, path: Path, process: str) -> bool:
        """Whether ``path`` is another engine of this process; a dead process's file goes, a living one's refuses."""
        host_and_pid = path.stem.rpartition("-")[0]
        if host_and_pid == process:
            return True
        with path.open("a+") as other:
            alive = not lock(other)
        if alive:
            host, _, pid = host_and_pid.rpartition("-")
            raise ConfigError(
                f"The engine store {folder} is written by process {pid} on {host}. Stop that process, "
                "or give this one a store of its own: set TINKEX_ENGINE_STORE to another folder."
            )
        path.unlink(missing_ok=True)
        return False
