"""What outlives the process: training runs and checkpoints, as folders that a later process reads.

::

    STORE/
      owners.lock  owners/            who may write (see claim.py)
      runs/RUN/run.json               one training run
      runs/RUN/KIND/NAME/meta.json    one checkpoint: what it is, beside the numeric core's files
      staging/...                     checkpoints being written; never listed

``RUN`` and ``NAME`` are escaped ids; the ids themselves stand in the JSON. A checkpoint appears by one rename of a
complete folder. Every method reads or writes the disk and belongs on a thread. Writing needs the claim, which the first
write takes; readers need none.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote
from uuid import uuid4

import msgspec

from tinkex_actors.engine.store.claim import StoreClaim
from tinkex_actors.errors import ConflictError, InputError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["KINDS", "CheckpointRecord", "RunRecord", "Store", "escape", "tinker_path"]

RecordT = TypeVar("RecordT", bound=msgspec.Struct)

# Kinds of checkpoints this engine writes, and the protocol's word for what each is (protocol 2.8).
KINDS = {"weights": "training", "sampler_weights": "sampler", "external_weights": "external"}

# Protocol 1.7.15: what a server accepts as `ttl_seconds`.
_MIN_TTL, _MAX_TTL = 3600, 10 * 365 * 24 * 3600

_PURGE_INTERVAL = timedelta(hours=1)

# Most file systems allow 255 bytes a name; staging adds to it.
_MAX_NAME_BYTES = 150
_RESERVED = {"con", "prn", "aux", "nul"} | {f"{device}{n}" for device in ("com", "lpt") for n in range(1, 10)}


class RunRecord(msgspec.Struct, kw_only=True):
    """A training run as it stands in ``run.json``; field names of protocol 2.7 and 2.5."""

    training_run_id: str
    base_model: str
    lora_rank: int
    train_attn: bool = True
    train_mlp: bool = True
    train_unembed: bool = True
    created_at: datetime
    last_request_time: datetime
    user_metadata: dict[str, Any] | None = None
    project_id: str | None = None


class CheckpointRecord(msgspec.Struct, kw_only=True):
    """A checkpoint as it stands in ``meta.json``."""

    training_run_id: str
    kind: str
    name: str
    time: datetime
    base_model: str
    lora_rank: int
    train_attn: bool = True
    train_mlp: bool = True
    train_unembed: bool = True
    has_optimizer: bool = False
    public: bool = False
    size_bytes: int = 0
    user_metadata: dict[str, str] | None = None
    expires_at: datetime | None = None

    @property
    def tinker_path(self) -> str:
        """``tinker://RUN/KIND/NAME``."""
        return tinker_path(self.training_run_id, self.kind, self.name)


def tinker_path(run_id: str, kind: str, name: str) -> str:
    """Compose a checkpoint's path (protocol 0.3)."""
    return f"tinker://{run_id}/{kind}/{name}"


def escape(name: str) -> str:
    """Return a file name for an id: safe on every platform, different for different ids, readable where it can be."""
    # The tilde marks shortened names, so no other may have one.
    safe = quote(name, safe="").replace("~", "%7E")
    if safe.startswith(".") or safe.partition(".")[0].lower() in _RESERVED:
        safe = f"%{ord(safe[0]):02X}{safe[1:]}"
    if safe.endswith("."):
        safe = f"{safe[:-1]}%2E"
    if len(safe) > _MAX_NAME_BYTES:
        safe = f"{safe[: _MAX_NAME_BYTES - 33]}~{hashlib.sha256(name.encode()).hexdigest()[:32]}"
    return safe


class Store:
    """The folder of one base model's runs and checkpoints.

    Args:
        folder: ``Config.engine_store / MODEL``; made at the first write.
        wall_clock: returns the time of day, timezone-aware.
    """

    def __init__(self, folder: Path, wall_clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.folder = folder
        self._wall_clock = wall_clock
        self._claim: StoreClaim | None = None
        # The compute thread saves while the store's own thread deletes.
        self._changing = threading.RLock()
        self._purged_at = datetime.min.replace(tzinfo=UTC)

    def claim(self) -> None:
        """Take the right to write, once; and put right what a killed writer left half done.

        Raises:
            ConfigError: another process has it.
        """
        with self._changing:
            if self._claim is None:
                self._claim = StoreClaim(self.folder)
                if self._claim.alone:
                    self._recover()

    def close(self) -> None:
        """Give the right to write back. Idempotent."""
        if self._claim is not None:
            self._claim.release()
            self._claim = None

    # --- runs ------------------------------------------------------------------------------------------------------
    def write_run(self, run: RunRecord) -> None:
        """Write or replace a run's record."""
        self.claim()
        folder = self._run_folder(run.training_run_id)
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / "run.json", run)

    def runs(self) -> list[RunRecord]:
        """Return every run, the one used last first."""
        records = (_read(path, RunRecord) for path in self.folder.glob("runs/*/run.json"))
        return sorted(
            (r for r in records if r), key=lambda run: (run.last_request_time, run.training_run_id), reverse=True
        )

    def run(self, run_id: str) -> RunRecord:
        """Return one run.

        Raises:
            NotFoundError: no such run.
        """
        if record := _read(self._run_folder(run_id) / "run.json", RunRecord):
            return record
        raise NotFoundError(
            f"No training run {run_id!r} in {self.folder}. List what there is with list_training_runs().",
            status_code=404,
        )

    # --- checkpoints -----------------------------------------------------------------------------------------------
    def checkpoints(self, run_id: str | None = None) -> list[CheckpointRecord]:
        """Return the checkpoints that have not expired, of one run or of all, newest first."""
        run = "*" if run_id is None else self._run_folder(run_id).name
        found = [record for kind in KINDS for record in self._read_all(f"runs/{run}/{kind}/*/meta.json")]
        return sorted(found, key=lambda record: (record.time, record.tinker_path), reverse=True)

    def checkpoint(self, run_id: str, kind: str, name: str) -> CheckpointRecord:
        """Return one checkpoint.

        Raises:
            NotFoundError: no such checkpoint, or it has expired.
        """
        record = (
            _read(self.checkpoint_folder(run_id, kind, name) / "meta.json", CheckpointRecord) if kind in KINDS else None
        )
        if record is None or self._expired(record):
            raise NotFoundError(
                f"No checkpoint {tinker_path(run_id, kind, name)} in {self.folder}. "
                "List what there is with list_user_checkpoints(); it may have expired or been deleted.",
                status_code=404,
            )
        return record

    def checkpoint_folder(self, run_id: str, kind: str, name: str) -> Path:
        """Return where a checkpoint's files are, whether it exists or not."""
        return self._run_folder(run_id) / kind / escape(name)

    def check_new(self, run_id: str, kind: str, name: str, ttl_seconds: int | None, *, overwrite: bool) -> None:
        """Refuse a checkpoint that may not be written, before any work is done for it.

        Raises:
            InputError: the name cannot be part of a path, or the time to live is out of range.
            ConflictError: it exists and ``overwrite`` is off.
        """
        if not name or "/" in name:
            raise InputError(f"checkpoint name {name!r}: expected a non-empty name without '/'. Choose another name.")
        _check_ttl(ttl_seconds)
        if not overwrite:
            with contextlib.suppress(NotFoundError):
                self.checkpoint(run_id, kind, name)
                raise ConflictError(
                    f"{tinker_path(run_id, kind, name)} exists already. "
                    "Choose another name, or save with overwrite=True.",
                    status_code=409,
                )

    def put(self, record: CheckpointRecord, ttl_seconds: int | None, write: Callable[[Path], None]) -> CheckpointRecord:
        """Add a checkpoint, or replace the one of that name; ``write`` fills the folder it is given.

        Returns:
            The record with its size, time and expiry filled in.
        """
        self.claim()
        self._purge()
        staged = self.folder / "staging" / uuid4().hex
        staged.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(staged)
            now = self._wall_clock()
            expires_at = _expiry(ttl_seconds, now)
            size = sum(path.stat().st_size for path in staged.rglob("*") if path.is_file())
            record = msgspec.structs.replace(record, time=now, expires_at=expires_at, size_bytes=size)
            _write(staged / "meta.json", record)
            with self._changing:
                self._swap_in(staged, self.checkpoint_folder(record.training_run_id, record.kind, record.name))
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        return record

    def delete(self, run_id: str, kind: str, name: str) -> None:
        """Remove a checkpoint.

        Raises:
            NotFoundError: no such checkpoint.
        """
        self.checkpoint(run_id, kind, name)
        self.claim()
        with self._changing:
            self._discard(self.checkpoint_folder(run_id, kind, name))

    def publish(self, run_id: str, kind: str, name: str, *, public: bool) -> None:
        """Mark a checkpoint as public, or take the mark back.

        Raises:
            NotFoundError: no such checkpoint.
            ConflictError: it is so already.
        """
        with self._changing:
            record = self.checkpoint(run_id, kind, name)
            if record.public is public:
                state = "public" if public else "private"
                raise ConflictError(f"{record.tinker_path} is {state} already.", status_code=409)
            self._rewrite(msgspec.structs.replace(record, public=public))

    def set_ttl(self, run_id: str, kind: str, name: str, ttl_seconds: int | None) -> None:
        """Let a checkpoint expire ``ttl_seconds`` from now; None: never.

        Raises:
            NotFoundError: no such checkpoint.
            InputError: the time is out of range.
        """
        _check_ttl(ttl_seconds)
        with self._changing:
            record = self.checkpoint(run_id, kind, name)
            self._rewrite(msgspec.structs.replace(record, expires_at=_expiry(ttl_seconds, self._wall_clock())))

    def copy(
        self, source: tuple[str, str, str], run_id: str, *, ttl_seconds: int | None, project_id: str | None
    ) -> CheckpointRecord:
        """Copy a checkpoint ``(run, kind, name)`` into a run of its own; one that is there already is returned.

        Raises:
            NotFoundError: no such checkpoint.
            InputError: the time to live is out of range.
        """
        _check_ttl(ttl_seconds)
        with contextlib.suppress(NotFoundError):
            return self.checkpoint(run_id, *source[1:])
        record, run = self.checkpoint(*source), self.run(source[0])
        now = self._wall_clock()
        self.write_run(
            msgspec.structs.replace(
                run, training_run_id=run_id, created_at=now, last_request_time=now, project_id=project_id
            )
        )
        copied = msgspec.structs.replace(record, training_run_id=run_id, public=False)
        folder = self.checkpoint_folder(*source)
        return self.put(copied, ttl_seconds, lambda staged: _copy_files(folder, staged))

    def assign_project(self, run_id: str, project_id: str) -> None:
        """Put a run into a project; one that has no record yet is ignored."""
        with contextlib.suppress(NotFoundError):
            self.write_run(msgspec.structs.replace(self.run(run_id), project_id=project_id))

    # --- files -----------------------------------------------------------------------------------------------------
    def _run_folder(self, run_id: str) -> Path:
        return self.folder / "runs" / escape(run_id)

    def _read_all(self, pattern: str) -> Iterator[CheckpointRecord]:
        for path in self.folder.glob(pattern):
            record = _read(path, CheckpointRecord)
            # A folder kept aside by an overwrite under way has the same record as the one that replaces it.
            if record is not None and path.parent.name == escape(record.name) and not self._expired(record):
                yield record

    def _rewrite(self, record: CheckpointRecord) -> None:
        self.claim()
        _write(self.checkpoint_folder(record.training_run_id, record.kind, record.name) / "meta.json", record)

    def _expired(self, record: CheckpointRecord) -> bool:
        return record.expires_at is not None and record.expires_at <= self._wall_clock()

    def _swap_in(self, staged: Path, final: Path) -> None:
        """Put ``staged`` in the place of ``final``. Killed half way, :meth:`_recover` puts the old one back."""
        final.parent.mkdir(parents=True, exist_ok=True)
        aside = final.with_name(f"{final.name}!old")
        shutil.rmtree(aside, ignore_errors=True)
        if final.exists():
            final.rename(aside)
        staged.rename(final)
        shutil.rmtree(aside, ignore_errors=True)

    def _discard(self, final: Path) -> None:
        staged = self.folder / "staging" / uuid4().hex
        staged.parent.mkdir(parents=True, exist_ok=True)
        final.rename(staged)
        shutil.rmtree(staged, ignore_errors=True)

    def _purge(self) -> None:
        """Delete what has expired, now and then; readers no longer see it anyway."""
        now = self._wall_clock()
        if now - self._purged_at < _PURGE_INTERVAL:
            return
        self._purged_at = now
        with self._changing:
            for path in list(self.folder.glob("runs/*/*/*/meta.json")):
                record = _read(path, CheckpointRecord)
                if record is not None and self._expired(record):
                    self._discard(path.parent)

    def _recover(self) -> None:
        shutil.rmtree(self.folder / "staging", ignore_errors=True)
        for aside in self.folder.glob("runs/*/*/*!old"):
            final = aside.with_name(aside.name.removesuffix("!old"))
            if final.exists():
                shutil.rmtree(aside, ignore_errors=True)
            else:
                aside.rename(final)


def _check_ttl(ttl_seconds: int | None) -> None:
    if ttl_seconds is not None and not _MIN_TTL <= ttl_seconds <= _MAX_TTL:
        raise InputError(
            f"ttl_seconds: expected {_MIN_TTL} to {_MAX_TTL}, got {ttl_seconds}. Leave it out to keep the checkpoint."
        )


def _expiry(ttl_seconds: int | None, now: datetime) -> datetime | None:
    return None if ttl_seconds is None else now + timedelta(seconds=ttl_seconds)


def _copy_files(folder: Path, staged: Path) -> None:
    shutil.copytree(folder, staged, ignore=shutil.ignore_patterns("meta.json"))


def _write(path: Path, record: msgspec.Struct) -> None:
    fresh = path.with_name(f"{path.name}.{uuid4().hex}.new")
    with fresh.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(record), indent=2))
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def _read(path: Path, kind: type[RecordT]) -> RecordT | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError, msgspec.DecodeError):
        # What is no record of ours must not hide those that are.
        return None
