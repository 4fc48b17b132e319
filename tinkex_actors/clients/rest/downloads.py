"""Checkpoints as files on this machine: interrupted downloads go on, and files appear when all of them are there.

A restarted courier, a later call and another process all go on from what has arrived (``part_folder``). Of two at
once, one waits for the other.
"""

from __future__ import annotations

import os
import re
from contextlib import asynccontextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from tinkex_actors.clients.rest.asking import at_checkpoint
from tinkex_actors.clients.rest.part_folder import Left, PartFolder
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
_PATIENCE = 0.5  # between two looks at a folder that another download holds
_POLICY = RetryPolicy(max_attempts=4, base=0.25)  # of attempts in a row that bring nothing
_STALE = frozenset({401, 403, 404, 410, 416})  # a link whose time has passed, or a file that became another
_ARCHIVE = PurePosixPath("archive")


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
        self._core = core
        self._address = at_checkpoint(tinker_path)
        self._part = PartFolder(folder / re.sub(r"[^\w.-]", "_", tinker_path.partition("://")[2]))
        self._overwrite = overwrite
        self._limits = limits
        self._on_progress = on_progress
        self._arrived = 0
        self._done: Path | None = None

    async def archive(self, future: ApiFuture[Any]) -> Path:
        """Download one archive and unpack it."""
        async with self._holding(future):
            if self._done is None:
                await self._bring(future, _ARCHIVE, self._archive_link)
                future.waits_for("the archive to be unpacked")
                await self._on_disk(self._unpack)
        return self._target

    async def files(self, future: ApiFuture[Any]) -> Path:
        """Download the files one by one."""
        async with self._holding(future):
            if self._done is None:
                names = self._names((await self._links()).urls)
                await self._on_disk(self._part.keep_only, names)
                for place, name in names.items():

                    async def link(name: str = name) -> str:
                        return str((await self._links()).urls[name])

                    await self._bring(future, place, link)
                await self._on_disk(self._appear, self._part.files)
        return self._target

    @property
    def _target(self) -> Path:
        return self._part.target

    @asynccontextmanager
    async def _holding(self, future: ApiFuture[Any]) -> AsyncIterator[None]:
        self._arrived = 0
        if self._done is not None:  # a courier that is begun again just after the end
            yield
            return
        while not await self._on_disk(lambda: self._part.take(overwrite=self._overwrite)):
            future.waits_for(f"another download into {self._target} to end")
            await self._core.link.pause(_PATIENCE)
        try:
            yield
        finally:
            await self._on_disk(self._part.release)

    # --- links -------------------------------------------------------------------------------------------------------
    async def _archive_link(self) -> str:
        # A server that is still building the archive answers 503, which the link's policy waits for.
        answer = await self._core.link.exchange(ROUTES["get_checkpoint_archive_url"], path=self._address)
        return str(answer.url)

    async def _links(self) -> Any:
        return await self._core.link.exchange(ROUTES["get_external_weights_urls"], path=self._address)

    def _names(self, urls: dict[str, str]) -> dict[PurePosixPath, str]:
        """Return each file's place and the server's name for it."""
        if len(urls) > self._limits.max_files:
            raise APIResponseValidationError(
                f"The checkpoint has {len(urls)} files; ArchiveLimits(max_files={self._limits.max_files})."
            )
        names: dict[PurePosixPath, str] = {}
        folders = {parent for name in urls for parent in safe_name(name).parents}
        for name in sorted(urls):
            place = safe_name(name)
            if place in names or place in folders:
                raise APIResponseValidationError(f"The checkpoint has two files at {str(place)!r}.")
            names[place] = name
        return names

    # --- bytes -------------------------------------------------------------------------------------------------------
    async def _bring(self, future: ApiFuture[Any], place: PurePosixPath, link: Callable[[], Awaitable[str]]) -> None:
        """Fill a file, with a new link and from the last byte on whenever the way breaks."""
        failed = 0
        while True:
            left = await self._on_disk(self._part.left, place)
            status, error = await self._attempt(future, place, link, left)
            if error is None:
                return
            size = (await self._on_disk(self._part.left, place)).size
            failed = 0 if size > left.size else failed + 1
            if status in _STALE and failed < 2:
                if status == 416:
                    await self._on_disk(self._part.forget, place)
                continue
            pause = decide(_POLICY, failed, 0.0, Failure(status), self._core.system.rng.random())
            if pause is None:
                raise error
            future.waits_for(f"another attempt at {place}, {size} bytes of which are here: {error}")
            await self._core.link.pause(pause)

    async def _attempt(
        self, future: ApiFuture[Any], place: PurePosixPath, link: Callable[[], Awaitable[str]], left: Left
    ) -> tuple[int | None, Exception | None]:
        """Read on; return the status, if any, and the error of a way that broke."""
        # Bytes of which nobody can say whether they are of the same content are no beginning.
        first = left.size if left.tag else 0
        try:
            async with self._open(await link(), first, left.tag) as file:
                if await self._fill(future, place, file, first, left):
                    return None, None
            return None, APIConnectionError(f"{place}: the file ended early, or became another one on the way.")
        except APIStatusError as error:
            if error.status_code == 416 and first and left.complete:
                # All of it was here. (Another content would have been sent whole, by its tag.)
                self._arrived += left.size
                return None, None
            return error.status_code, error
        except APIConnectionError as error:
            return None, error

    async def _fill(
        self, future: ApiFuture[Any], place: PurePosixPath, file: FileOnItsWay, had: int, left: Left
    ) -> bool:
        """Write what comes; return whether the file is complete."""
        known = file.total == left.total and file.tag == left.tag
        done = had if file.first == had and known else 0
        if file.first != done:  # the rest of another content than the one that is here
            await self._on_disk(self._part.forget, place)
            return False
        self._refuse_beyond(place, file.total or 0)
        if done == 0:
            await self._on_disk(self._part.begin, place, Left(0, file.total, file.tag))
        self._told(future, place, done, file.total)
        buffer = bytearray()
        try:
            async for piece in file.pieces:
                buffer += piece
                self._refuse_beyond(place, done + len(buffer))
                if len(buffer) >= _BUFFER:
                    full, buffer = bytes(buffer), bytearray()
                    await self._on_disk(self._part.write, place, done, full)
                    done += len(full)
                    self._told(future, place, done, file.total)
        finally:  # what has come is not asked for again
            if buffer:
                await self._on_disk(self._part.write, place, done, bytes(buffer))
        done += len(buffer)
        self._told(future, place, done, file.total)
        complete = file.total is None or done == file.total
        if complete:
            self._arrived += done
        return complete

    def _refuse_beyond(self, place: PurePosixPath, size: int) -> None:
        if self._arrived + size > self._limits.max_bytes:
            raise APIResponseValidationError(
                f"{place}: more than {self._limits.max_bytes} bytes arrive. If you trust the checkpoint, raise "
                "ArchiveLimits(max_bytes=...)."
            )

    def _told(self, future: ApiFuture[Any], place: PurePosixPath, done: int, total: int | None) -> None:
        of = "" if total is None else f" of {total}"
        future.waits_for(f"{place}: {done}{of} bytes have arrived")
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
        try:
            return await self._core.system.blocking(function, *args, executor=_EXECUTOR)
        except OSError as error:
            raise InputError(
                f"download_checkpoint: {error.filename or self._target} cannot be written "
                f"({error.strerror or type(error).__name__}). Make room or choose another folder; what has arrived is "
                "gone on with."
            ) from error

    def _unpack(self) -> None:
        try:
            made = self._part.empty_folder()
            unpack(self._part.files / _ARCHIVE, made, self._limits)
        except APIResponseValidationError:
            # What cannot be unpacked would not get better by going on from it.
            self._part.empty_folder()
            self._part.forget(_ARCHIVE)
            raise
        self._appear(made)

    def _appear(self, made: Path) -> None:
        self._done = self._part.appear(made)
