"""Unpacking an archive that somebody else made: plain files only, none outside of its folder, and not without end."""

from __future__ import annotations

import lzma
import tarfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

import msgspec

from tinkex_actors.errors import APIResponseValidationError, InputError

if TYPE_CHECKING:
    from typing import IO

__all__ = ["DEFAULT_LIMITS", "ArchiveLimits", "safe_name", "unpack"]

_PIECE = 1 << 20


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
    unsafe = place.is_absolute() or ".." in place.parts or elsewhere.anchor or "\\" in name or "\0" in name
    if unsafe or not place.parts:
        raise APIResponseValidationError(
            f"The checkpoint has a file named {name!r}, which leads out of its folder. Nothing was unpacked; do not "
            "use this checkpoint."
        )
    return place


def unpack(archive: Path, folder: Path, limits: ArchiveLimits) -> None:
    """Write the files of a tar archive, plain or compressed, into an empty folder.

    Links, devices and names that lead elsewhere are refused, as are archives beyond the limits; a name that comes twice
    is. Permissions and owners are not taken over.

    Raises:
        APIResponseValidationError: one of these, or the archive is damaged. The folder is left half filled.
    """
    files = room = 0
    try:
        with tarfile.open(archive, "r:*") as tar:
            for member in tar:
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
                with target.open("xb") as file:
                    room += _copy(content, file, limits.max_unpacked_bytes - room)
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise APIResponseValidationError(f"The checkpoint's archive is damaged: {error}. Download it again.") from error
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise APIResponseValidationError(f"The checkpoint's archive holds a name twice: {error.filename!r}.") from error


def _copy(source: IO[bytes], target: IO[bytes], room: int) -> int:
    """Copy what is there and return its size; by what arrives, not by what the archive promises."""
    size = 0
    while piece := source.read(_PIECE):
        size += len(piece)
        if size > room:
            raise _beyond("unpacked bytes", room, "max_unpacked_bytes")
        target.write(piece)
    return size


def _beyond(what: str, limit: int, field: str) -> APIResponseValidationError:
    return APIResponseValidationError(
        f"The checkpoint's archive has more than {limit} {what} left to it. If you trust it, raise "
        f"ArchiveLimits({field}=...)."
    )
