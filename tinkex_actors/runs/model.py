"""How a run comes by its model: the living one, the last checkpoint's, or a new one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from tinkex_actors.clients.creation import create_model, create_model_from_state
from tinkex_actors.clients.inside import attach_model
from tinkex_actors.errors import (
    BadRequestError,
    GoneError,
    NotFoundError,
    RequestFailedError,
    RunError,
    TinkexError,
    UnprocessableEntityError,
)
from tinkex_actors.machines.retry import NO_RETRY
from tinkex_actors.runtime.log import Logger
from tinkex_actors.types import SessionHeartbeatRequest
from tinkex_actors.wire.routes import ROUTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from tinkex_actors.actors.futures import ApiFuture
    from tinkex_actors.clients import TrainingClient
    from tinkex_actors.clients.backbone import Backbone
    from tinkex_actors.runs.checkpoints import Checkpoints
    from tinkex_actors.runs.journal.record import CheckpointRow, Record
    from tinkex_actors.runs.logbook import Logbook
    from tinkex_actors.runs.spec import RunSpec

__all__ = ["Way", "attach", "begin", "keep_alive", "restore"]

Way = Literal["created", "attached", "restored"]

_log = Logger("tinkex_actors.runs")


async def attach(book: Logbook, record: Record, *, allowed: bool) -> TrainingClient | None:
    """Return the living model of the last opening, or None where there is none to go on with.

    The requests behind the last committed step are sent again under their numbers: a server that has them answers with
    what it answered, and the others run for the first time. So this needs a server that tells a repeated number from a
    new one (protocol appendix A.1 #6): the hosted dialect promises it, and ``Config.resend_training`` takes it back.
    """
    if not record.openings:
        return None
    last, core = record.openings[-1], book.core
    if (
        last.ending == "diverged"
        or last.base_url != core.config.shown_url
        or _tried_in_vain(record)
        or _has_gaps(record)
    ):
        return None
    if (desk := core.tree.trainer(last.model_id)) is not None:
        # The same service has it. What it did behind the last commit cannot be sent again by the same client.
        if record.sent or desk.turns.next_seq != record.next_seq or desk.turns.broken_at or desk.pending():
            return None
    elif not (allowed and core.config.resend_training and core.link.dialect.name == "hosted"):
        return None
    try:
        await core.link.exchange(
            ROUTES["session_heartbeat"], SessionHeartbeatRequest(session_id=last.session_id), policy=NO_RETRY
        )
        training = await attach_model(core, last.model_id, record.next_seq)
    except TinkexError as error:
        _log.info("run.model_gone", run=book.folder, model_id=last.model_id, reason=str(error))
        return None
    book.repeats = {row.first_seq: row for row in record.sent}
    return training


def _has_gaps(record: Record) -> bool:
    """Whether the program has used numbers that the journal does not know, so that later ones cannot be met again."""
    expected = record.next_seq
    for first, count in sorted({(row.first_seq, row.count) for row in record.sent}):
        if first != expected:
            return True
        expected = first + count
    return False


def _tried_in_vain(record: Record) -> bool:
    """Whether the last opening went on with the living model and got no further."""
    last = record.openings[-1]
    return (
        last.way == "attached"
        and last.ending != "closed"
        and not any(row.epoch == last.epoch for row in record.history)
    )


async def restore(book: Logbook, checkpoints: Checkpoints) -> TrainingClient | None:
    """Return a model made from the newest checkpoint that the server has; None where none was ever taken.

    Raises:
        RunError: checkpoints were taken, and none of them is left.
    """
    missing: list[tuple[CheckpointRow, Exception]] = []
    for row in reversed(checkpoints.kept):
        try:
            training = await _from_state(book.core, row.path)
        except TinkexError as error:
            if not _is_missing(error):
                raise
            missing.append((row, error))
        else:
            # Only now: a server that has none of them may be the wrong one, or not itself.
            for lost, why in missing:
                checkpoints.lost(lost, str(why))
            return training
    if missing:
        raise RunError(
            f"The server has none of the checkpoints of the run {book.folder} ({missing[0][1]}). Open it where they "
            "are, or begin anew in another folder, with from_checkpoint= if you have a copy.",
            path=book.folder,
        ) from missing[0][1]
    return None


async def begin(book: Logbook, spec: RunSpec) -> TrainingClient:
    """Return the model that the run begins with."""
    if spec.from_checkpoint is not None:
        return await _from_state(book.core, spec.from_checkpoint, spec.model)
    assert spec.model is not None
    assert spec.lora is not None
    return await create_model(book.core, spec.model, spec.lora, None, None)


def _is_missing(error: TinkexError) -> bool:
    """Whether the server says that it has no such checkpoint, or cannot read it, and would say so again."""
    if isinstance(error, RequestFailedError):
        return error.category == "user"
    return isinstance(error, (NotFoundError, GoneError, BadRequestError, UnprocessableEntityError))


def keep_alive(core: Backbone, session_id: str) -> Callable[[], object] | None:
    """Return what sends a sign of life for another session than the service's own; None where there is no other."""
    if session_id == core.session.session_id:
        return None

    async def beat(_: ApiFuture[Any]) -> None:
        await core.link.exchange(
            ROUTES["session_heartbeat"], SessionHeartbeatRequest(session_id=session_id), policy=NO_RETRY
        )

    def send() -> None:
        core.courier.send("heartbeat", beat, session_id=session_id).add_done_callback(_forget)

    return send


def _forget(beat: ApiFuture[Any]) -> None:
    # Nobody waits for it, and a session that has ended shows in the next request of the model.
    if not beat.cancelled():
        beat.exception()


def _from_state(core: Backbone, path: str, base_model: str | None = None) -> ApiFuture[TrainingClient]:
    return create_model_from_state(
        core,
        "create_training_client_from_state_with_optimizer",
        path,
        optimizer=True,
        user_metadata=None,
        base_model=base_model,
        optimizer_config=None,
        weights_access_token=None,
    )
