"""Locks on open files: one holder at a time, in this process and beside it. The kernel frees them with the process."""

from __future__ import annotations

from typing import IO, Any

__all__ = ["lock"]

try:
    import fcntl

    def lock(file: IO[Any], *, wait: bool = False) -> bool:
        """Lock an open file until it is closed.

        Args:
            file: open for writing.
            wait: wait for another holder; else return at once.

        Returns:
            Whether the lock is had.
        """
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

except ImportError:  # Windows has no fcntl; a lock on the first byte is its nearest thing.
    import msvcrt

    def lock(file: IO[Any], *, wait: bool = False) -> bool:
        """Lock an open file until it is closed; see the other one."""
        file.seek(0)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        except OSError:
            return False
        return True
