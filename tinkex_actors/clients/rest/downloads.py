"""Checkpoints as files on this machine: interrupted downloads go on, and files appear when all of them are there.

Beside the folder that is being made, ``.NAME.part`` holds what has arrived, and beside each file ``FILE.left`` says of
which content it is. A restarted courier, a second call and another process all go on from there.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from tinkex_actors.clients.rest.asking import at_checkpoint
from tinkex_actors.clients.rest.unpacking import ArchiveLimits, safe_name, unpack
from tinkex_actors.errors import (
    APIConnectionError,
    APIResponseValidationError,
    APIStatusError,
    InputError,
    status_error,
)
from tinkex_actors.machines.retry import Failure, RetryPolicy, decide
from tinkex_actors.transport.files import FileOnItsWay, open_link
from tinkex_actors.wire.exchange import Request, header
from tinkex_actors.wire.routes import PREFIX, ROUTES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tinkex_actors.actors.futures import ApiFuture
    from tinkex_actors.clients.backbone import Backbone

__all__ = ["download_checkpoint"]

T = TypeVar("T")

_EXECUTOR = "downloads"
_BUFFER = 1 << 20
_POLICY = RetryPolicy(max_attempts=4, base=0.25)  # of attempts in a row that bring nothing
_STALE = frozenset({401, 403, 404, 410, 416})  # a link whose time has passed, or a file that became another


class _Left(msgspec.Struct):
    """Of which content the bytes of an interrupted download are."""

    total: int | None = None
    tag: str = ""


def download_checkpoint(
    core: Backbone,
    tinker_path: str,
    folder: str | os.PathLike[str],
    *,
    overwrite: bool,
    limits: ArchiveLimits,
    on_progress: Callable[[int, int | None], object] | None,
) -> ApiFuture[Path]:
    """Download a checkpoint's files; see ``RestClient.download_checkpoint``."""
    core.use()
    address = at_checkpoint(tinker_path)
    job = _Job(core, tinker_path, Path(folder), overwrite=overwrite, limits=limits, on_progress=on_progress)
    if address["checkpoint_id"].startswith("external_weights/"):
        return core.courier.send("download_checkpoint", job.files, **address)
    return core.courier.send("download_checkpoint", job.archive, **address)


class _Job:
    """One download; may be begun again."""

    def __init__(
        self,
        core: Backbone,
        tinker_path: str,
        folder: Path,
        *,
        overwrite: bool,
        limits: ArchiveLimits,
        on_progress: Callable[[int, int | None], object] | None,
    ) -> None:
        name = re.sub(r"[^\w.-]", "_", tinker_path.partition("://")[2])
        self._core = core
        self._address = at_checkpoint(tinker_path)
        self._target = folder / name
        self._part = folder / f".{name}.part"
        self._overwrite = overwrite
        self._limits = limits
        self._on_progress = on_progress
        self._arrived = 0

    async def archive(self, future: ApiFuture[Any]) -> Path:
        """Download one archive and unpack it."""
        await self._on_disk(self._prepare)
        packed = self._part / "archive"
        await self._bring(future, packed, self._archive_link)
        future.waits_for("the archive to be unpacked")
        return await self._on_disk(self._unpack, packed)

    async def files(self, future: ApiFuture[Any]) -> Path:
        """Download the files one by one."""
        await self._on_disk(self._prepare)
        names = sorted((await self._links()).urls)
        if len(names) > self._limits.max_files:
            raise APIResponseValidationError(
                f"The checkpoint has {len(names)} files; ArchiveLimits(max_files={self._limits.max_files})."
            )
        for name in names:
            place = self._part / "files" / safe_name(name)

            async def link(name: str = name) -> str:
                return str((await self._links()).urls[name])

            await self._bring(future, place, link)
        return await self._on_disk(self._appear, self._part / "files")

    # --- links -------------------------------------------------------------------------------------------------------
    async def _archive_link(self) -> str:
        # A server that is still building the archive answers 503, which the link's policy waits for.
        answer = await self._core.link.exchange(ROUTES["get_checkpoint_archive_url"], path=self._address)
        return str(answer.url)

    async def _links(self) -> Any:
        return await self._core.link.exchange(ROUTES["get_external_weights_urls"], path=self._address)

    # --- bytes -------------------------------------------------------------------------------------------------------
    async def _bring(self, future: ApiFuture[Any], place: Path, link: Callable[[], Awaitable[str]]) -> None:
        """Fill a file, with a new link and from the last byte on whenever the way breaks."""
        before, failed = self._arrived, 0
        while True:
            self._arrived = before
            had, left = await self._on_disk(_left, place)
            try:
                async with self._open(await link(), had, left.tag) as file:
                    if await self._fill(future, place, file, had, left):
                        return
                error: APIConnectionError | APIStatusError = APIConnectionError(
                    f"{place.name}: the file ended early, or became another one on the way."
                )
            except (APIConnectionError, APIStatusError) as caught:
                error = caught
            size, _ = await self._on_disk(_left, place)
            failed = 0 if size > had else failed + 1
            status = error.status_code if isinstance(error, APIStatusError) else None
            if status in _STALE and failed < 2:
                if status == 416:
                    await self._on_disk(_forget, place)
                continue
            u = self._core.system.rng.random()
            pause = decide(_POLICY, failed, 0.0, Failure(status), u)
            if pause is None:
                raise error
            future.waits_for(f"another attempt at {place.name}, {size} bytes of which are here: {error}")
            await self._core.link.pause(pause)

    async def _fill(self, future: ApiFuture[Any], place: Path, file: FileOnItsWay, had: int, left: _Left) -> bool:
        """Write what comes; return whether the file is complete."""
        known = file.total == left.total and file.tag == left.tag
        done = had if file.first == had and known else 0
        if file.first != done:  # the rest of another content than the one that is here
            await self._on_disk(_forget, place)
            return False
        if done == 0:
            await self._on_disk(_begin, place, _Left(file.total, file.tag))
        self._told(future, place, done, file.total)
        buffer = bytearray()
        try:
            async for piece in file.pieces:
                buffer += piece
                if self._arrived + done + len(buffer) > self._limits.max_bytes:
                    raise APIResponseValidationError(
                        f"{place.name}: more than {self._limits.max_bytes} bytes arrive. If you trust the checkpoint, "
                        "raise ArchiveLimits(max_bytes=...)."
                    )
                if len(buffer) >= _BUFFER:
                    full, buffer = bytes(buffer), bytearray()
                    await self._on_disk(_write, place, done, full)
                    done += len(full)
                    self._told(future, place, done, file.total)
        finally:  # what has come is not asked for again
            await self._on_disk(_write, place, done, bytes(buffer))
        done += len(buffer)
        self._told(future, place, done, file.total)
        complete = file.total is None or done == file.total
        if complete:
            self._arrived += done
        return complete

    def _told(self, future: ApiFuture[Any], place: Path, done: int, total: int | None) -> None:
        of = "" if total is None else f" of {total}"
        future.waits_for(f"{place.name}: {done}{of} bytes have arrived")
        if self._on_progress is not None:
            self._on_progress(self._arrived + done, None if total is None else self._arrived + total)

    @asynccontextmanager
    async def _open(self, url: str, first: int, tag: str) -> AsyncIterator[FileOnItsWay]:
        if url.startswith(("http://", "https://")):
            async with open_link(url, config=self._core.config, first=first, tag=tag) as file:
                yield file
            return
        # An engine in this process has no address: the transport knows the way.
        path = urlsplit(url).path
        answer = await self._core.transport.send(Request("GET", path[path.index(PREFIX) :], {}))
        if answer.status >= 300:
            raise status_error(answer.status)("the file's link was refused", status_code=answer.status)

        async def pieces() -> AsyncIterator[bytes]:
            yield answer.body

        yield FileOnItsWay(0, len(answer.body), header(answer.headers, "etag"), pieces())

    # --- the disk, on a thread ---------------------------------------------------------------------------------------
    async def _on_disk(self, function: Callable[..., T], *args: Any) -> T:
        return await self._core.system.blocking(function, *args, executor=_EXECUTOR)

    def _prepare(self) -> None:
        if self._target.exists() and not self._overwrite:
            raise InputError(
                f"{self._target} is there already. Move it away, or pass overwrite=True to replace it once the "
                "download is complete."
            )
        self._part.mkdir(parents=True, exist_ok=True)

    def _unpack(self, packed: Path) -> Path:
        into = Path(tempfile.mkdtemp(prefix="unpacked-", dir=self._part))
        try:
            unpack(packed, into, self._limits)
            return self._appear(into)
        except BaseException:
            # What cannot be unpacked would not get better by going on from it.
            shutil.rmtree(into, ignore_errors=True)
            _forget(packed)
            raise

    def _appear(self, made: Path) -> Path:
        """Put the finished folder in its place; what was there goes last."""
        for note in made.rglob("*.left"):
            if note.with_suffix("").exists():
                note.unlink()
        made.chmod(0o755)
        old = self._part / "replaced"
        if self._target.exists():
            os.replace(self._target, old)
        os.replace(made, self._target)
        shutil.rmtree(self._part)
        return self._target


def _left(place: Path) -> tuple[int, _Left]:
    """Return how much of a file has arrived, and of which content."""
    try:
        return place.stat().st_size, msgspec.json.decode(_note(place).read_bytes(), type=_Left)
    except (OSError, msgspec.DecodeError):
        return 0, _Left()


def _begin(place: Path, left: _Left) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"")
    _note(place).write_bytes(msgspec.json.encode(left))


def _write(place: Path, at: int, piece: bytes) -> None:
    with place.open("r+b") as file:
        file.seek(at)
        file.write(piece)


def _forget(place: Path) -> None:
    place.unlink(missing_ok=True)
    _note(place).unlink(missing_ok=True)


def _note(place: Path) -> Path:
    return place.with_name(place.name + ".left")
