"""Batches on disk, while the server is away: written by one process, sent by it or by a later one.

Each batch is a file of its own, written once under a name that nobody else has and then renamed into place, so a file
has one writer and a reader never meets a half of one, except after a power cut: what can be read of such a file is
sent, and its torn end is dropped. Who sends a file renames it first; of two processes that try, one succeeds. A claim
whose owner died is given back after ten minutes. A batch may arrive twice that way; its events keep their ids.

Everything here blocks for a moment: call it on a thread of the system's.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from typing import TYPE_CHECKING

import msgspec

from tinkex_actors.types import TelemetryEvent, TelemetrySendRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

__all__ = ["Claim", "Spool", "spool_name"]

# Some 80 full batches of ordinary events: hours of a busy program, and nothing that anybody's disk would notice.
_MAX_BYTES = 8 * 2**20
_MAX_AGE = 7 * 86_400.0
_CLAIM_LIVES = 600.0

_READY, _CLAIMED, _PART = ".jsonl", ".sending", ".part"

_event = msgspec.json.Decoder(TelemetryEvent)
_head = msgspec.json.Decoder(TelemetrySendRequest)


class Claim(msgspec.Struct, frozen=True):
    """A batch that this process may send, and the file it came from."""

    path: Path
    request: TelemetrySendRequest


def spool_name(base_url: str, api_key: str | None) -> str:
    """Return the folder's name for a server and a credential: what one account did is not told to another.

    The name does not show either of them.
    """
    return hashlib.sha256(f"{base_url}\0{api_key or ''}".encode()).hexdigest()[:16]


class Spool:
    """The batches kept for one server and credential.

    Args:
        folder: where they are; made with the first batch, readable by its owner only.
        max_bytes: the newest batches are kept up to this size, in all.
        max_age: seconds after which a batch is not worth sending any more.

    An instant ``now`` is in seconds since 1970, because it must mean the same to the next process.
    """

    def __init__(self, folder: Path, *, max_bytes: int = _MAX_BYTES, max_age: float = _MAX_AGE) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self.max_age = max_age
        self._held: set[Path] = set()

    @property
    def exists(self) -> bool:
        """Whether anything was ever kept here; a quick look that needs no thread."""
        return self.folder.is_dir()

    def write(self, requests: Iterable[TelemetrySendRequest], now: float) -> None:
        """Keep batches, then drop the oldest where they are too many.

        Raises:
            OSError: the folder or a file cannot be written.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for request in requests:
            name = f"{round(now * 1000):015d}-{uuid.uuid4().hex}"
            part = self.folder / (name + _PART)
            lines = [msgspec.structs.replace(request, events=[]), *request.events]
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
            part.replace(self.folder / (name + _READY))
            now += 0.001  # names keep the order
        self._trim(now)

    def claim(self, now: float) -> Claim | None:
        """Take the oldest batch that is still worth sending, if there is one; then `remove` it, or `give_back`.

        Raises:
            OSError: the folder cannot be read or changed.
        """
        if not self.exists:
            return None
        self._trim(now)
        for path in self._files(_READY):
            claimed = path.with_suffix(_CLAIMED)
            try:
                # The claim's age counts from here, so the time is set before anybody can see the claim.
                os.utime(path, (now, now))
                path.rename(claimed)
                request = _read(claimed)
            except FileNotFoundError:
                continue  # another process was quicker
            if request is not None:
                self._held.add(claimed)
                return Claim(claimed, request)
            claimed.unlink(missing_ok=True)
        return None

    def remove(self, claim: Claim) -> None:
        """The batch was sent, or is refused: forget it."""
        self._held.discard(claim.path)
        claim.path.unlink(missing_ok=True)

    def give_back(self, claim: Claim) -> None:
        """The batch could not be sent: leave it for later."""
        self._held.discard(claim.path)
        _put_back(claim.path)

    def give_back_all(self) -> None:
        """Leave every batch claimed here, and not yet settled, for later."""
        while self._held:
            _put_back(self._held.pop())

    def _trim(self, now: float) -> None:
        for path in self._files(_CLAIMED, _PART):
            if _since_change(path, now) > _CLAIM_LIVES:
                _put_back(path) if path.suffix == _CLAIMED else path.unlink(missing_ok=True)
        total = 0
        for path in sorted(self._files(_READY), reverse=True):
            total += _size(path)
            if total > self.max_bytes or now - _written_at(path) > self.max_age:
                path.unlink(missing_ok=True)

    def _files(self, *suffixes: str) -> Iterator[Path]:
        yield from sorted(path for path in self.folder.iterdir() if path.suffix in suffixes)


def _read(path: Path) -> TelemetrySendRequest | None:
    head, *lines = path.read_bytes().split(b"\n")
    events: list[TelemetryEvent] = []
    try:
        request = _head.decode(head)
        # One at a time: what stands before a torn line is whole.
        for line in filter(None, lines):
            events.append(_event.decode(line))  # noqa: PERF401
    except (msgspec.DecodeError, UnicodeDecodeError):
        if not events:
            return None
    return msgspec.structs.replace(request, events=events) if events else None


def _put_back(path: Path) -> None:
    try:
        path.rename(path.with_suffix(_READY))
    except FileNotFoundError:
        return  # somebody else did


def _since_change(path: Path, now: float) -> float:
    try:
        return now - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _written_at(path: Path) -> float:
    try:
        return int(path.name.partition("-")[0]) / 1000
    except ValueError:
        return 0.0  # not one of ours: too old, whatever it is
