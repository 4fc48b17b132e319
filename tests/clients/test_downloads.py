"""Checkpoints downloaded: what arrives, what is gone on with, what is refused."""

from __future__ import annotations

import asyncio
import io
import tarfile
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from tinkex_actors import (
    APIConnectionError,
    APIResponseValidationError,
    ArchiveLimits,
    Config,
    InputError,
    NotFoundError,
    ServiceClient,
    TinkerPathError,
)
from tinkex_actors.clients.rest.unpacking import safe_name, unpack
from tinkex_actors.engine.transport import LocalTransport
from tinkex_actors.runtime import ActorSystem
from tinkex_actors.wire.exchange import Request, Response

PATH = "tinker://run:1/weights/a"


def tar_of(*entries: tuple[str, bytes] | tarfile.TarInfo, compression: str = "") -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=f"w:{compression}") as tar:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                tar.addfile(entry)
            else:
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                tar.addfile(info, io.BytesIO(entry[1]))
    return made.getvalue()


class ArchivesElsewhere:
    """The engine's transport, but a checkpoint's archive is on another host, as with the hosted service."""

    def __init__(self, inner: LocalTransport) -> None:
        self._inner = inner
        self.link = ""
        self.asked = 0

    async def send(self, request: Request) -> Response:
        if request.path.endswith("/archive"):
            self.asked += 1
            return Response(302, {"location": self.link, "content-length": "0"})
        return await self._inner.send(request)

    async def close(self) -> None:
        await self._inner.close()


class FileHost:
    """Serves one file by ranges, and breaks off where it is told to.

    Attributes:
        body: the file.
        breaks: for each request to come, how many bytes it gets; after the last, all of them.
        refusals: statuses to answer first.
        seen: ``Range`` of each request, and whether it had a key.
    """

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.breaks: list[int] = []
        self.refusals: list[int] = []
        self.seen: list[tuple[str, bool]] = []
        self.tag = '"one"'
        self.ranges = True

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((request.headers.get("Range", ""), "x-api-key" in request.headers))
        if self.refusals:
            return web.Response(status=self.refusals.pop(0))
        first = 0
        same = request.headers.get("If-Range", self.tag) == self.tag
        if self.ranges and same and (asked := request.headers.get("Range")):
            first = int(asked.removeprefix("bytes=").removesuffix("-"))
        if first >= len(self.body) > 0:
            return web.Response(status=416)
        headers = {"ETag": self.tag} if self.tag else {}
        headers["Content-Length"] = str(len(self.body) - first)
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(self.body) - 1}/{len(self.body)}"
        response = web.StreamResponse(status=206 if first else 200, headers=headers)
        await response.prepare(request)
        length = self.breaks.pop(0) if self.breaks else len(self.body)
        await response.write(self.body[first : first + length])
        if first + length < len(self.body):
            assert request.transport is not None
            request.transport.close()
        return response


@asynccontextmanager
async def host_of(body: bytes) -> AsyncIterator[tuple[FileHost, str]]:
    host = FileHost(body)
    app = web.Application()
    app.router.add_get("/file", host.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield host, f"http://127.0.0.1:{runner.addresses[0][1]}/file"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def client_of(tmp_path: Path) -> AsyncIterator[tuple[ServiceClient, ArchivesElsewhere]]:
    config = Config(base_url="local://tiny", engine_store=tmp_path / "store")
    async with ActorSystem() as system:
        transport = ArchivesElsewhere(LocalTransport("tiny", system=system, config=config))
        async with ServiceClient(config=config, system=system, transport=transport) as service:
            yield service, transport


def service_of(tmp_path: Path) -> ServiceClient:
    return ServiceClient(config=Config(base_url="local://tiny", engine_store=tmp_path / "store"))


async def test_a_checkpoint_of_the_engine_arrives_with_its_weights(tmp_path: Path) -> None:
    async with service_of(tmp_path) as service:
        rest = service.create_rest_client()
        model = await service.create_lora_training_client("tiny", rank=4)
        path = (await model.save_state("a")).path
        told: list[tuple[int, int | None]] = []
        folder = await rest.download_checkpoint(
            path, tmp_path / "out", on_progress=lambda done, total: told.append((done, total))
        )
        assert folder.parent == tmp_path / "out"
        assert folder.name == path.removeprefix("tinker://").replace("/", "_").replace(":", "_")
        assert "meta.json" in {file.name for file in folder.iterdir()}
        assert any(file.suffix == ".safetensors" for file in folder.iterdir())
        assert told[-1][0] == told[-1][1]
        assert [entry.name for entry in (tmp_path / "out").iterdir()] == [folder.name]
        with pytest.raises(InputError, match="overwrite=True"):
            await rest.download_checkpoint(path, tmp_path / "out")
        (folder / "mine").write_text("old")
        assert await rest.download_checkpoint(path, tmp_path / "out", overwrite=True) == folder
        assert not (folder / "mine").exists()


async def test_an_external_checkpoint_arrives_file_by_file(tmp_path: Path) -> None:
    async with service_of(tmp_path) as service:
        rest = service.create_rest_client()
        model = await service.create_lora_training_client("tiny", rank=4)
        path = (await model.save_weights_external("a")).path
        names = set((await rest.get_external_weights_urls(path)).urls)
        folder = await rest.download_checkpoint(path, tmp_path)
        assert {file.name for file in folder.iterdir()} == names
        assert names


async def test_what_is_no_checkpoint_is_told(tmp_path: Path) -> None:
    async with service_of(tmp_path) as service:
        rest = service.create_rest_client()
        with pytest.raises(TinkerPathError):
            rest.download_checkpoint("a", tmp_path)
        with pytest.raises(NotFoundError):
            await rest.download_checkpoint("tinker://a/weights/b", tmp_path)
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match=r"file.*Not a directory"):
            await rest.download_checkpoint("tinker://a/weights/b", tmp_path / "file")


async def test_a_broken_download_goes_on_where_it_broke_and_carries_no_key(tmp_path: Path) -> None:
    weights = bytes(range(256)) * 40_000
    async with host_of(tar_of(("w.bin", weights))) as (host, link), client_of(tmp_path) as (service, transport):
        transport.link = link
        host.breaks, host.refusals = [3 << 20, 0, 3 << 20], [403]
        folder = await service.create_rest_client().download_checkpoint(PATH, tmp_path / "out")
        assert (folder / "w.bin").read_bytes() == weights
        firsts = [int(asked.removeprefix("bytes=").removesuffix("-") or 0) for asked, _ in host.seen]
        assert firsts == sorted(firsts)
        assert firsts[0] == firsts[1] == 0  # the 403, then a new link
        assert firsts[-1] > 2 << 20
        assert not any(key for _, key in host.seen)
        assert transport.asked == len(host.seen)


async def test_a_second_process_goes_on_with_what_the_first_left(tmp_path: Path) -> None:
    body = tar_of(("w.bin", b"x" * 3_000_000))
    async with host_of(body) as (host, link):
        for broken in (True, False):
            async with client_of(tmp_path) as (service, transport):
                transport.link = link
                host.breaks = [1_500_000, *[0] * 3] if broken else []
                download = service.create_rest_client().download_checkpoint(PATH, tmp_path / "out")
                if broken:
                    with pytest.raises(APIConnectionError):
                        await download
                else:
                    assert (await download / "w.bin").stat().st_size == 3_000_000
        assert host.seen[-1][0].startswith("bytes=1")


@pytest.mark.parametrize("change", ["tag", "no ranges", "shorter"])
async def test_a_file_that_became_another_is_read_from_its_beginning(tmp_path: Path, change: str) -> None:
    async with host_of(tar_of(("w.bin", b"x" * 3_000_000))) as (host, link):
        async with client_of(tmp_path) as (service, transport):
            transport.link = link
            host.breaks = [1_500_000, *[0] * 3]
            with pytest.raises(APIConnectionError):
                await service.create_rest_client().download_checkpoint(PATH, tmp_path / "out")
        host.breaks = []
        size = 100 if change == "shorter" else 3_000_000
        host.body = tar_of(("w.bin", b"y" * size))
        host.ranges = change != "no ranges"
        if change == "tag":
            host.tag = '"two"'
        async with client_of(tmp_path) as (service, transport):
            transport.link = link
            folder = await service.create_rest_client().download_checkpoint(PATH, tmp_path / "out")
            assert (folder / "w.bin").read_bytes() == b"y" * size


async def test_limits_hold_for_what_arrives_and_for_what_comes_out(tmp_path: Path) -> None:
    bomb = tar_of(("w.bin", b"\0" * 5_000_000), compression="gz")
    assert len(bomb) < 10_000
    async with host_of(bomb) as (_, link), client_of(tmp_path) as (service, transport):
        transport.link = link
        rest = service.create_rest_client()
        for limits, word in (
            (ArchiveLimits(max_bytes=1000), "max_bytes"),
            (ArchiveLimits(max_unpacked_bytes=4_000_000), "max_unpacked_bytes"),
        ):
            with pytest.raises(APIResponseValidationError, match=word):
                await rest.download_checkpoint(PATH, tmp_path / "out", limits=limits)
        assert (await rest.download_checkpoint(PATH, tmp_path / "out") / "w.bin").stat().st_size == 5_000_000
    with pytest.raises(InputError, match="max_files"):
        ArchiveLimits(max_files=0)


def member(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def flipped(body: bytes) -> bytes:
    return body[:-30] + bytes(byte ^ 0x5A for byte in body[-30:-10]) + body[-10:]


def attributes(size: int) -> tarfile.TarInfo:
    """An entry with so many bytes of attributes, which compress to nothing."""
    info = tarfile.TarInfo("a")
    info.pax_headers = {"comment": "x" * size}
    return info


def attributes_of_attributes() -> Iterator[bytes]:
    """Attributes that describe attributes that describe attributes, and never a file."""
    for _ in range(3000):
        info = tarfile.TarInfo("a")
        info.type, info.size = tarfile.XHDTYPE, 0
        yield info.tobuf()


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (lambda: tar_of(("../evil", b"x")), "leads out"),
        (lambda: tar_of(("/etc/evil", b"x")), "leads out"),
        (lambda: tar_of(("a/../../evil", b"x")), "leads out"),
        (lambda: tar_of(("c:\\evil", b"x")), "leads out"),
        (lambda: tar_of(member("link", tarfile.SYMTYPE, "/etc")), "link or a device"),
        (lambda: tar_of(member("hard", tarfile.LNKTYPE, "../x")), "link or a device"),
        (lambda: tar_of(member("pipe", tarfile.FIFOTYPE)), "link or a device"),
        (lambda: tar_of(("NUL", b"x")), "leads out"),
        (lambda: tar_of(("d/com1.txt", b"x")), "leads out"),
        (lambda: tar_of(("weights:stream", b"x")), "leads out"),
        (lambda: tar_of((".. /evil", b"x")), "leads out"),
        (lambda: tar_of(("a", b"1"), ("a", b"2")), "twice"),
        (lambda: tar_of(("a", b"1"), ("a/b", b"2")), "twice"),
        (lambda: tar_of(("a", b"1" * 20_000), compression="gz")[:-30], "damaged"),
        (lambda: flipped(tar_of(("a", bytes(range(256)) * 80), compression="gz")), "damaged"),
        (lambda: flipped(tar_of(("a", bytes(range(256)) * 80), compression="bz2")), "damaged"),
        (lambda: tar_of(attributes(17 << 20), compression="gz"), "too large"),
        (lambda: b"".join(attributes_of_attributes()), "damaged"),
        (lambda: b"no archive at all", "damaged"),
        (lambda: tar_of(*((str(n), b"") for n in range(20))), "max_files"),
    ],
)
async def test_an_unsafe_archive_is_refused_whole(tmp_path: Path, body: Callable[[], bytes], word: str) -> None:
    async with host_of(body()) as (_, link), client_of(tmp_path) as (service, transport):
        transport.link = link
        with pytest.raises(APIResponseValidationError, match=word):
            await service.create_rest_client().download_checkpoint(
                PATH, tmp_path / "out", limits=ArchiveLimits(max_files=10)
            )
        assert list((tmp_path / "out").iterdir()) == []


def test_folders_and_compression_are_understood(tmp_path: Path) -> None:
    packed = tmp_path / "archive"
    packed.write_bytes(
        tar_of(member("./", tarfile.DIRTYPE), member("d/", tarfile.DIRTYPE), ("d/e/f", b"1"), compression="xz")
    )
    (tmp_path / "into").mkdir()
    unpack(packed, tmp_path / "into", ArchiveLimits())
    assert (tmp_path / "into/d/e/f").read_bytes() == b"1"


@given(st.text(alphabet="a./\\:~\0C", max_size=12))
def test_a_safe_name_never_leaves_its_folder(name: str) -> None:
    try:
        place = safe_name(name)
    except APIResponseValidationError:
        return
    root = Path("/a/folder")
    assert (root / place).resolve().is_relative_to(root)


async def test_cancelling_keeps_what_has_arrived(tmp_path: Path) -> None:
    body = tar_of(("w.bin", b"x" * 3_000_000))
    async with host_of(body) as (host, link), client_of(tmp_path) as (service, transport):
        transport.link = link
        holder: list[Any] = []
        host.breaks = [2_000_000]

        def stop(done: int, _: int | None) -> None:
            if done:
                holder[0].cancel()

        holder.append(service.create_rest_client().download_checkpoint(PATH, tmp_path / "out", on_progress=stop))
        await holder[0].wait()
        assert holder[0].cancelled()
        assert (tmp_path / "out/.run_1_weights_a.part/files/archive").stat().st_size >= 1 << 20


# --- what one restart, one neighbour or one old folder may change ---------------------------------------------------
async def test_a_courier_that_is_killed_in_the_middle_goes_on_from_what_is_there(tmp_path: Path) -> None:
    weights = bytes(range(256)) * 40_000
    async with host_of(tar_of(("w.bin", weights))) as (host, link), client_of(tmp_path) as (service, transport):
        transport.link = link
        killed: list[int] = []

        def kill(done: int, _: int | None) -> None:
            if done > 3 << 20 and not killed:
                killed.append(done)
                courier = service.system.whereis("/service/core/courier")
                assert courier is not None
                courier.kill()

        folder = await service.create_rest_client().download_checkpoint(PATH, tmp_path / "out", on_progress=kill)
        assert (folder / "w.bin").read_bytes() == weights
        assert [entry.name for entry in (tmp_path / "out").iterdir()] == [folder.name]
        first, second = (int(asked.removeprefix("bytes=").removesuffix("-") or 0) for asked, _ in host.seen)
        assert (first, second >= killed[0]) == (0, True)


async def test_a_courier_that_is_killed_at_the_very_end_finds_the_folder_it_has_made(tmp_path: Path) -> None:
    async with host_of(tar_of(("w.bin", b"x"))) as (_, link), client_of(tmp_path) as (service, transport):
        transport.link = link
        courier = service.system.whereis("/service/core/courier")
        assert courier is not None
        download = service.create_rest_client().download_checkpoint(PATH, tmp_path / "out")
        while "unpacked" not in str(download.explain()):  # noqa: ASYNC110
            await asyncio.sleep(0)
        courier.kill()
        assert (await download / "w.bin").read_bytes() == b"x"


async def test_of_two_downloads_into_one_folder_one_waits_for_the_other(tmp_path: Path) -> None:
    body = tar_of(("w.bin", bytes(range(256)) * 20_000))
    async with host_of(body) as (host, link), client_of(tmp_path) as (service, transport):
        transport.link = link
        rest = service.create_rest_client()
        first = rest.download_checkpoint(PATH, tmp_path / "out")
        second = rest.download_checkpoint(PATH, tmp_path / "out", overwrite=True)
        while "another download" not in str(service.explain()):  # noqa: ASYNC110
            await asyncio.sleep(0)
        for download in (first, second):
            assert (await download / "w.bin").read_bytes() == bytes(range(256)) * 20_000
        assert [asked for asked, _ in host.seen] == ["", ""]
        assert len(list((tmp_path / "out").iterdir())) == 1


async def test_a_cancelled_download_leaves_the_folder_to_the_next_call(tmp_path: Path) -> None:
    async with host_of(tar_of(("w.bin", b"x" * 3_000_000))) as (_, link), client_of(tmp_path) as (service, transport):
        transport.link = link
        rest = service.create_rest_client()
        arrived = asyncio.Event()
        given_up = rest.download_checkpoint(PATH, tmp_path / "out", on_progress=lambda *_: arrived.set())
        await arrived.wait()
        given_up.cancel()
        folder = await rest.download_checkpoint(PATH, tmp_path / "out")
        assert (folder / "w.bin").stat().st_size == 3_000_000


async def test_what_is_complete_is_not_fetched_again(tmp_path: Path) -> None:
    body = tar_of(("w.bin", b"x" * 3_000_000))
    async with host_of(body) as (host, link):
        async with client_of(tmp_path) as (service, transport):
            transport.link = link
            holder: list[Any] = []

            def stop(done: int, total: int | None) -> None:
                if done == total:
                    holder[0].cancel()

            holder.append(service.create_rest_client().download_checkpoint(PATH, tmp_path / "out", on_progress=stop))
            await holder[0].wait()
        async with client_of(tmp_path) as (service, transport):
            transport.link = link
            folder = await service.create_rest_client().download_checkpoint(PATH, tmp_path / "out")
        assert (folder / "w.bin").stat().st_size == 3_000_000
        assert [asked for asked, _ in host.seen] == ["", f"bytes={len(body)}-"]


async def test_bytes_of_a_content_without_a_name_are_no_beginning(tmp_path: Path) -> None:
    async with (
        host_of(tar_of(("w.bin", b"x" * 3_000_000))) as (host, link),
        client_of(tmp_path) as (service, transport),
    ):
        transport.link, host.tag, host.breaks = link, "", [1_500_000]
        host.ranges = True
        folder = await service.create_rest_client().download_checkpoint(PATH, tmp_path / "out")
        assert (folder / "w.bin").stat().st_size == 3_000_000
        assert [asked for asked, _ in host.seen] == ["", ""]


async def test_a_file_called_like_a_note_of_ours_arrives(tmp_path: Path) -> None:
    names = ("a", "a.left", "notes", "lock", "archive")
    async with host_of(tar_of(*((name, b"1") for name in names))) as (_, link), client_of(tmp_path) as (service, at):
        at.link = link
        folder = await service.create_rest_client().download_checkpoint(PATH, tmp_path / "out")
        assert sorted(path.name for path in folder.iterdir()) == sorted(names)


async def test_a_full_disk_is_told_as_such_and_is_not_tried_again(tmp_path: Path) -> None:
    async with (
        host_of(tar_of(("w.bin", b"x" * 3_000_000))) as (host, link),
        client_of(tmp_path) as (service, transport),
    ):
        transport.link = link
        files = tmp_path / "out/.run_1_weights_a.part/files"
        files.mkdir(parents=True)
        (files / "archive").symlink_to("/dev/full")
        with pytest.raises(InputError, match=r"No space left on device.*Make room"):
            await service.create_rest_client().download_checkpoint(PATH, tmp_path / "out")
        assert len(host.seen) == 1


async def test_links_where_folders_should_be_are_replaced_or_refused_never_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine").write_text("kept")
    out = tmp_path / "out"
    out.mkdir()
    target, part = out / "run_1_weights_a", out / ".run_1_weights_a.part"
    async with host_of(tar_of(("w.bin", b"x"))) as (_, link), client_of(tmp_path) as (service, transport):
        transport.link = link
        rest = service.create_rest_client()
        part.symlink_to(elsewhere)
        with pytest.raises(InputError, match="is a link"):
            await rest.download_checkpoint(PATH, out)
        part.unlink()
        for destination in (elsewhere, tmp_path / "nowhere"):
            target.symlink_to(destination)
            with pytest.raises(InputError, match="there already"):
                await rest.download_checkpoint(PATH, out)
            await rest.download_checkpoint(PATH, out, overwrite=True)
            assert not target.is_symlink()
            assert (target / "w.bin").read_bytes() == b"x"
            (target / "w.bin").unlink()
            target.rmdir()
    assert [path.name for path in elsewhere.iterdir()] == ["mine"]
    assert list(out.iterdir()) == []


async def test_too_much_is_refused_before_it_comes(tmp_path: Path) -> None:
    async with host_of(tar_of(("w.bin", b"x" * 3_000_000))) as (_, link), client_of(tmp_path) as (service, transport):
        transport.link = link
        told: list[int] = []
        with pytest.raises(APIResponseValidationError, match="max_bytes"):
            await service.create_rest_client().download_checkpoint(
                PATH,
                tmp_path / "out",
                limits=ArchiveLimits(max_bytes=1000),
                on_progress=lambda done, _: told.append(done),
            )
        assert told == []


def test_memory_of_unpacking_is_bounded_whatever_an_entry_says_of_itself(tmp_path: Path) -> None:
    packed = tmp_path / "archive"
    packed.write_bytes(tar_of(attributes(48 << 20), compression="gz"))
    (tmp_path / "into").mkdir()
    tracemalloc.start()
    try:
        with pytest.raises(APIResponseValidationError, match="too large"):
            unpack(packed, tmp_path / "into", ArchiveLimits())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 30 << 20
