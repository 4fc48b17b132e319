"""The folder of a download that is under way: what has arrived, of which content, and who is at it. Called on a thread.

Beside the folder that is being made, ``.NAME.part`` holds the bytes, and in it ``notes`` says of each file of which
content they are. One download at a time holds it; what a dead one has left, the next one goes on from.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec

from tinkex_actors.errors import InputError
from tinkex_actors.file_lock import lock

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import PurePath

__all__ = ["Left", "PartFolder"]


class Left(msgspec.Struct, frozen=True):
    """What has arrived of a file.

    Attributes:
        size: bytes that are here.
        total: bytes of the whole file, None where the server did not say.
        tag: the server's name for the content, empty where it has none.
    """

    size: int = 0
    total: int | None = None
    tag: str = ""

    @property
    def complete(self) -> bool:
        """Whether nothing is left to come."""
        return self.total is not None and self.size == self.total


class PartFolder:
    """The place of one download.

    Args:
        target: the folder that is going to appear.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self._part = target.with_name(f".{target.name}.part")
        self._notes = self._part / "notes"
        self._lock: IO[bytes] | None = None

    @property
    def files(self) -> Path:
        """What arrives, below here."""
        return self._part / "files"

    def take(self, *, overwrite: bool) -> bool:
        """Make the folder and hold it; False where another download holds it.

        Raises:
            InputError: the target is there already and stays, or the folder cannot be written.
        """
        if os.path.lexists(self.target) and not overwrite:
            raise InputError(
                f"{self.target} is there already. Move it away, or pass overwrite=True to replace it once the "
                "download is complete."
            )
        if self._part.is_symlink():
            raise InputError(f"{self._part} is a link; a download writes to no other place. Remove it.")
        self._part.mkdir(parents=True, exist_ok=True)
        path = self._part / "lock"
        try:
            file = path.open("ab")
        except FileNotFoundError:  # whoever held it has finished just now
            return False
        if not lock(file) or not _is_still(file, path):
            file.close()
            return False
        self._lock = file
        return True

    def release(self) -> None:
        """Leave the folder to others, and remove it where nothing has arrived. Idempotent."""
        if self._lock is not None and not any(path.is_file() for path in self.files.rglob("*")):
            self._vanish()
        self._close()

    def left(self, name: PurePath) -> Left:
        """Return what has arrived of a file."""
        try:
            noted = msgspec.json.decode(self._note(name).read_bytes(), type=Left)
            return msgspec.structs.replace(noted, size=(self.files / name).stat().st_size)
        except (OSError, msgspec.DecodeError):
            return Left()

    def begin(self, name: PurePath, noted: Left) -> None:
        """Empty a file, and note of which content it is going to be."""
        for path, content in ((self.files / name, b""), (self._note(name), msgspec.json.encode(noted))):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def write(self, name: PurePath, at: int, piece: bytes) -> None:
        """Write what has come."""
        with (self.files / name).open("r+b") as file:
            file.seek(at)
            file.write(piece)

    def forget(self, name: PurePath) -> None:
        """Drop what has arrived of a file."""
        (self.files / name).unlink(missing_ok=True)
        self._note(name).unlink(missing_ok=True)

    def keep_only(self, names: Iterable[PurePath]) -> None:
        """Drop files that the checkpoint has no more."""
        self.files.mkdir(exist_ok=True)
        wanted = {self.files / name for name in names}
        for path in list(self.files.rglob("*")):
            if path.is_file() and path not in wanted:
                self.forget(path.relative_to(self.files))

    def empty_folder(self) -> Path:
        """Return a new folder to unpack into."""
        made = self._part / "unpacked"
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
        return made

    def appear(self, made: Path) -> Path:
        """Put a finished folder in the target's place; what was there goes last, and comes back if that fails."""
        old = self._part / "replaced"
        replaces = os.path.lexists(self.target)
        if replaces:
            _remove(old)
            os.replace(self.target, old)
        try:
            os.replace(made, self.target)
        except BaseException:
            if replaces:
                os.replace(old, self.target)
            raise
        self._vanish()
        return self.target

    def _vanish(self) -> None:
        for path in self._part.iterdir():
            if path.name != "lock":
                _remove(path)
        if os.name == "nt":  # an open file cannot be removed there
            self._close()
        # Last: as long as it is there, nobody else can have it.
        (self._part / "lock").unlink(missing_ok=True)
        self._close()
        try:
            self._part.rmdir()
        except OSError:
            return  # the next download is here already

    def _close(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _note(self, name: PurePath) -> Path:
        return self._notes / name


def _is_still(file: IO[bytes], path: Path) -> bool:
    """Whether the open file is the one of that name: whoever has just finished removes theirs."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
