"""Unpacking an archive that somebody else made: plain files only, none outside of its folder, and not without end."""

from __future__ import annotations

import lzma
import re
import tarfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

import msgspec

from tinkex_actors.errors import APIResponseValidationError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO, Any

__all__ = ["DEFAULT_LIMITS", "ArchiveLimits", "safe_name", "unpack"]

_PIECE = 1 << 20
# What describes one entry (names, attributes, maps of holes) is held in memory as a whole.
_MOST_AT_ONCE = 16 << 20
# Devices and streams of other systems, which are opened by a name in any folder; and what they drop from a name's end.
_NO_PLAIN_NAME = re.compile(
    r"(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(?:\..*)?|.*[:\x00-\x1f].*|.*[. ]", re.I | re.S
)


class ArchiveLimits(msgspec.Struct, frozen=True):
    """The most that a download may bring.

    Args:
        max_bytes: bytes that arrive, of the archive or of all files.
        max_unpacked_bytes: bytes of the files in the archive.
        max_files: files and folders in the archive.
    """

    max_bytes: int = 64 << 30
    max_unpacked_bytes: int = 128 << 30
    max_files: int = 10_000

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise InputError(f"ArchiveLimits({name}=...) must be a whole number above 0, got {value!r}.")


DEFAULT_LIMITS = ArchiveLimits()


def safe_name(name: str) -> PurePosixPath:
    """Return the place of a file below the folder it is unpacked into.

    Raises:
        APIResponseValidationError: the name leads elsewhere, on this system or on another.
    """
    place, elsewhere = PurePosixPath(name), PureWindowsPath(name)
    unsafe = place.is_absolute() or elsewhere.anchor or "\\" in name
    if unsafe or not place.parts or any(_NO_PLAIN_NAME.fullmatch(part) for part in place.parts):
        raise APIResponseValidationError(
            f"The checkpoint has a file named {name!r}, which leads out of its folder, here or on another "
            "system. Nothing was unpacked; do not use this checkpoint."
        )
    return place


def unpack(archive: Path, folder: Path, limits: ArchiveLimits) -> None:
    """Write the files of a tar archive, plain or compressed, into an empty folder.

    Links, devices and names that lead elsewhere are refused, as are archives beyond the limits; a name that comes twice
    is. Permissions and owners are not taken over.

    Raises:
        APIResponseValidationError: one of these, or the archive is damaged. The folder is left half filled.
    """
    files = size = 0
    try:
        with archive.open("rb") as file, _Tar.open(fileobj=file, mode="r:*") as tar:
            reader: Any = tar.fileobj
            while (member := tar.next()) is not None:
                files += 1
                if files > limits.max_files:
                    raise _beyond("files", limits.max_files, "max_files")
                place = safe_name(member.name) if member.name not in (".", "./") else PurePosixPath(".")
                target = folder / place
                if member.isdir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                if not member.isreg():
                    raise APIResponseValidationError(
                        f"The checkpoint's archive holds {member.name!r}, which is a link or a device. Nothing was "
                        "unpacked; do not use this checkpoint."
                    )
                target.parent.mkdir(parents=True, exist_ok=True)
                content = tar.extractfile(member)
                assert content is not None  # of a regular member
                with target.open("xb") as made:
                    size += _copy(content, made, limits.max_unpacked_bytes - size, reader.refill)
                reader.refill()
            # To the end, where the checksum of a compressed archive is; padding is all that may come.
            reader.seek(tar.offset)
            _copy(reader, _Nowhere(), limits.max_unpacked_bytes - size, reader.refill)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise APIResponseValidationError(f"The checkpoint's archive holds a name twice: {error.filename!r}.") from error
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, ValueError, OverflowError, RecursionError) as error:
        raise _damaged(error) from error
    except OSError as error:
        if error.errno is not None:
            raise  # the disk's; those of the decompressors have no number
        raise _damaged(error) from error


class _Nowhere:
    def write(self, data: bytes) -> int:
        return len(data)


class _Bounded:
    """A file of which only so much may be read before ``refill``: what describes an entry is small."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._room = _MOST_AT_ONCE
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def refill(self) -> None:
        self._room = _MOST_AT_ONCE

    def read(self, size: int) -> bytes:
        if size > self._room:
            raise tarfile.ReadError("the description of an entry is too large")
        data = self._file.read(size)
        self._room -= len(data)
        return data


class _Tar(tarfile.TarFile):
    @classmethod
    def taropen(cls, name: Any, mode: Any = "r", fileobj: Any = None, **options: Any) -> Any:
        # Every way of opening an archive ends here, with the decompressed stream.
        return super().taropen(name, mode, _Bounded(fileobj), **options)  # type: ignore[arg-type]


def _damaged(error: Exception) -> APIResponseValidationError:
    return APIResponseValidationError(f"The checkpoint's archive is damaged: {error}. Download it again.")


def _copy(
    source: _Bounded | IO[bytes], target: _Nowhere | IO[bytes], room: int, before_each: Callable[[], None]
) -> int:
    """Copy what is there and return its size; by what arrives, not by what the archive promises."""
    size = 0
    while True:
        before_each()
        if not (piece := source.read(_PIECE)):
            return size
        size += len(piece)
        if size > room:
            raise _beyond("unpacked bytes", room, "max_unpacked_bytes")
        target.write(piece)


def _beyond(what: str, limit: int, field: str) -> APIResponseValidationError:
    return APIResponseValidationError(
        f"The checkpoint's archive has more than {limit} {what} left to it. If you trust it, raise "
        f"ArchiveLimits({field}=...)."
    )
