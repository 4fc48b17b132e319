"""Checkpoints: listed, published, kept for a time, copied and downloaded (protocol 1.7.28 to 1.7.36, 2.7)."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar, Final, Literal, cast

from tinkex_actors.errors import TinkerPathError
from tinkex_actors.types._record import Record

__all__ = [
    "Checkpoint",
    "CheckpointArchiveUrlResponse",
    "CheckpointType",
    "CheckpointsListResponse",
    "CopyWeightsRequest",
    "CopyWeightsResponse",
    "Cursor",
    "ExternalWeightsUrlsResponse",
    "ListCheckpointsRequest",
    "ParsedCheckpointTinkerPath",
    "SetCheckpointTtlRequest",
]

CheckpointType = Literal["training", "sampler", "external"]

_SCHEME: Final = "tinker://"
_KINDS: Final[dict[str, CheckpointType]] = {
    "weights": "training",
    "sampler_weights": "sampler",
    "external_weights": "external",
}


class Checkpoint(Record, frozen=True, kw_only=True):
    """A saved checkpoint.

    Args:
        checkpoint_id: ``{kind}/{name}``.
        checkpoint_type: ``training``, ``sampler`` or ``external``.
        time: when it was saved.
        tinker_path: its address.
        size_bytes: its size, where known.
        public: readable by everybody.
        user_metadata: notes given when it was saved.
        expires_at: when it will be deleted; None never.
    """

    checkpoint_id: str
    checkpoint_type: CheckpointType
    time: datetime
    tinker_path: str
    size_bytes: int | None = None
    public: bool = False
    user_metadata: dict[str, str] | None = None
    expires_at: datetime | None = None

    @property
    def training_run_id(self) -> str:
        """The run it belongs to, read from ``tinker_path``; TinkerPathError where that has another shape."""
        return ParsedCheckpointTinkerPath.from_tinker_path(self.tinker_path).training_run_id


class Cursor(Record, frozen=True, kw_only=True):
    """The place in a listing: ``offset`` and ``limit`` as asked, and how many there are in all."""

    offset: int
    limit: int
    total_count: int


class CheckpointsListResponse(Record, frozen=True, kw_only=True):
    """A page of checkpoints; ``cursor`` is None when the listing is whole."""

    checkpoints: list[Checkpoint]
    cursor: Cursor | None = None


class ListCheckpointsRequest(Record, frozen=True, kw_only=True):
    """Query of ``checkpoints``: a page of all the caller's checkpoints, newest first."""

    limit: int = 100
    offset: int = 0


class ParsedCheckpointTinkerPath(Record, frozen=True, kw_only=True):
    """A tinker path's parts.

    Args:
        tinker_path: the whole path.
        training_run_id: the run.
        checkpoint_type: ``training``, ``sampler`` or ``external``.
        checkpoint_id: ``{kind}/{name}``, as the REST endpoints want it.
    """

    tinker_path: str
    training_run_id: str
    checkpoint_type: CheckpointType
    checkpoint_id: str

    @classmethod
    def from_tinker_path(cls, tinker_path: str) -> ParsedCheckpointTinkerPath:
        """Parse ``tinker://{training_run_id}/{kind}/{name}``.

        Raises:
            TinkerPathError: for any other shape or kind.
        """
        given = cast("object", tinker_path)
        parts = given[len(_SCHEME) :].split("/") if isinstance(given, str) and given.startswith(_SCHEME) else []
        if len(parts) != 3 or not all(parts) or parts[1] not in _KINDS:
            raise TinkerPathError(
                f"{tinker_path!r} is not a checkpoint path; expected tinker://<training_run_id>/<kind>/<name> with "
                f"kind one of {', '.join(_KINDS)}. Copy it from the answer of save_state or from a listing."
            )
        run, kind, name = parts
        return cls(
            tinker_path=tinker_path,
            training_run_id=run,
            checkpoint_type=_KINDS[kind],
            checkpoint_id=f"{kind}/{name}",
        )


class SetCheckpointTtlRequest(Record, frozen=True, kw_only=True):
    """Body of ``.../ttl``; ``ttl_seconds`` is sent even when it is None, which removes the expiry.

    The server accepts 3600 seconds to ten years, and judges itself.
    """

    ttl_seconds: int | None = None


class ExternalWeightsUrlsResponse(Record, frozen=True, kw_only=True):
    """Where the files of an external checkpoint can be read: relative path to signed URL, until ``expires``.

    A signed URL is a key to its file, so no representation shows it.
    """

    _secrets: ClassVar[tuple[str, ...]] = ("urls",)

    urls: dict[str, str]
    expires: datetime


class CheckpointArchiveUrlResponse(Record, frozen=True, kw_only=True):
    """Where a checkpoint's archive can be read (protocol appendix B).

    Args:
        url: signed, short-lived.
        expires: until when, as the server writes it: RFC 3339 or an HTTP date.
    """

    _secrets: ClassVar[tuple[str, ...]] = ("url",)

    url: str
    expires: str | None = None


class CopyWeightsRequest(Record, frozen=True, kw_only=True):
    """Body of ``copy_weights``.

    Args:
        source_path: tinker path of the checkpoint to copy.
        destination_project_id: the project that gets the copy.
        ttl_seconds: how long to keep the copy; None keeps it.
        session_id: the session the copy is made for; the official client leaves it out.
        model_seq_id: a number within that session; the official client leaves it out.
        weights_access_token: of the account that owns the source. Clients send it as a header instead.
    """

    _secrets: ClassVar[tuple[str, ...]] = ("weights_access_token",)

    source_path: str
    destination_project_id: str | None = None
    ttl_seconds: int | None = None
    session_id: str | None = None
    model_seq_id: int | None = None
    weights_access_token: str | None = None


class CopyWeightsResponse(Record, frozen=True, kw_only=True):
    """Where the copy is."""

    tinker_path: str
