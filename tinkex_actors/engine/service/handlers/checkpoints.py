"""Handlers that change checkpoints and hand out their files (protocol 1.7.29 to 1.7.36, appendix B)."""

from __future__ import annotations

import hashlib
import io
import tarfile
from typing import TYPE_CHECKING
from uuid import uuid4

import msgspec

from tinkex_actors.engine.service.downloads import LINK_LIFETIME
from tinkex_actors.errors import BadRequestError
from tinkex_actors.types import (
    CheckpointArchiveUrlResponse,
    CopyWeightsResponse,
    ExternalWeightsUrlsResponse,
    ParsedCheckpointTinkerPath,
)
from tinkex_actors.wire.exchange import header

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tinkex_actors.engine.service.call import Call
    from tinkex_actors.engine.service.cell import EngineCell
    from tinkex_actors.engine.store.store import CheckpointRecord

__all__ = [
    "copy_weights",
    "delete_checkpoint",
    "get_checkpoint_archive_url",
    "get_external_weights_urls",
    "publish_checkpoint",
    "set_checkpoint_ttl",
    "unpublish_checkpoint",
]


async def delete_checkpoint(cell: EngineCell, call: Call) -> None:
    """Delete a checkpoint. Samplers that have read it go on."""
    await cell.on_disk(cell.store.delete, *_address(call))


async def publish_checkpoint(cell: EngineCell, call: Call) -> None:
    """Mark a checkpoint as public; 409 when it is already."""
    await cell.on_disk(cell.store.publish, *_address(call), public=True)


async def unpublish_checkpoint(cell: EngineCell, call: Call) -> None:
    """Take the mark back; 409 when there is none."""
    await cell.on_disk(cell.store.publish, *_address(call), public=False)


async def set_checkpoint_ttl(cell: EngineCell, call: Call) -> None:
    """Let a checkpoint expire so many seconds from now, or never."""
    await cell.on_disk(cell.store.set_ttl, *_address(call), call.message.ttl_seconds)


async def copy_weights(cell: EngineCell, call: Call) -> CopyWeightsResponse:
    """Copy a checkpoint into a training run of its own. A request that is sent again finds its first copy."""
    message = call.message
    parsed = ParsedCheckpointTinkerPath.from_tinker_path(message.source_path)
    kind, _, name = parsed.checkpoint_id.partition("/")
    key = header(call.request.headers, "x-idempotency-key")
    identity = hashlib.blake2b(key.encode(), digest_size=16).hexdigest() if key else uuid4().hex
    record = await cell.on_disk(
        cell.store.copy,
        (parsed.training_run_id, kind, name),
        f"copy-{identity}:train:0",
        ttl_seconds=message.ttl_seconds,
        project_id=message.destination_project_id,
    )
    return CopyWeightsResponse(tinker_path=record.tinker_path)


async def get_external_weights_urls(cell: EngineCell, call: Call) -> ExternalWeightsUrlsResponse:
    """Answer one link for each file of an external checkpoint."""
    run_id, kind, name = _address(call)
    if kind != "external_weights":
        raise BadRequestError(
            f"{kind}/{name} is no external checkpoint. Make one with save_weights_external(NAME).", status_code=400
        )
    await cell.on_disk(cell.store.checkpoint, run_id, kind, name)
    files = await cell.on_disk(_files, cell.store.checkpoint_folder(run_id, kind, name))
    urls = {path.name: cell.downloads.offer(call.request, path.name, path.read_bytes) for path in files}
    return ExternalWeightsUrlsResponse(urls=urls, expires=cell.wall_clock() + LINK_LIFETIME)


async def get_checkpoint_archive_url(cell: EngineCell, call: Call) -> CheckpointArchiveUrlResponse:
    """Redirect to a tar file of a checkpoint: the same bytes at every download, so that one can be gone on with."""
    run_id, kind, name = _address(call)
    record = await cell.on_disk(cell.store.checkpoint, run_id, kind, name)
    folder = cell.store.checkpoint_folder(run_id, kind, name)
    url = cell.downloads.offer(call.request, f"{name}.tar", _archive(folder, record))
    return CheckpointArchiveUrlResponse(url=url, expires=(cell.wall_clock() + LINK_LIFETIME).isoformat())


def _address(call: Call) -> tuple[str, str, str]:
    """Return ``(run, kind, name)`` of the checkpoint in a request's path."""
    kind, _, name = call.path["checkpoint_id"].partition("/")
    return call.path["training_run_id"], kind, name


def _files(folder: Path) -> list[Path]:
    """Return the files of a checkpoint that mean something outside of this store."""
    return sorted(path for path in folder.iterdir() if path.is_file() and path.name != "meta.json")


def _archive(folder: Path, record: CheckpointRecord) -> Callable[[], bytes]:
    def read() -> bytes:
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
            described = msgspec.json.format(msgspec.json.encode(record), indent=2)
            for name, body in [("meta.json", described), *((path.name, path.read_bytes()) for path in _files(folder))]:
                entry = tarfile.TarInfo(name)
                entry.size, entry.mtime = len(body), int(record.time.timestamp())
                tar.addfile(entry, io.BytesIO(body))
        return made.getvalue()

    return read
