"""The errors of training calls, in words that end with the way out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinkex_actors.errors import GradientMissingError, OutcomeUnknownError, QueuePausedError, SequenceBrokenError
from tinkex_actors.redaction import redact

if TYPE_CHECKING:
    from tinkex_actors.actors.sequencer.calls import Call

__all__ = ["broken", "paused", "skipped", "unknown"]

_WAY_OUT = (
    "Create a client from the last checkpoint (create_training_client_from_state_with_optimizer) and go on there."
)


def unknown(call: Call, model_id: str, seq_id: int, error: Exception | None = None) -> OutcomeUnknownError:
    """A request that was sent and never answered."""
    because = (
        "its sender was interrupted, and the server would not know it again (Config.resend_training is False)"
        if error is None
        else redact(str(error)).rstrip(".")
    )
    return OutcomeUnknownError(
        f"{call.future.operation} on {model_id}: request {seq_id} was sent, and whether the server has applied it is "
        f"not known: {because}. Nothing was sent after it. {_WAY_OUT}",
        model_id=model_id,
        seq_id=seq_id,
    )


def broken(call: Call, model_id: str, seq_id: int) -> SequenceBrokenError:
    """A call behind a lost request."""
    return SequenceBrokenError(
        f"{call.future.operation} on {model_id}: training request {seq_id} before it was lost, so it was not sent. "
        f"{_WAY_OUT}",
        model_id=model_id,
        first_failed_seq_id=seq_id,
    )


def skipped(call: Call, model_id: str, seq_id: int, leftover: bool) -> GradientMissingError:
    """An optimizer step whose gradient is not whole."""
    rest = (
        " Other parts of that gradient are in the model, and the next optim_step applies them; "
        "load_state_with_optimizer drops them."
        if leftover
        else ""
    )
    return GradientMissingError(
        f"{call.future.operation} on {model_id}: request {seq_id} failed, which its gradient needs, so it was not "
        f"sent. Look at that call's error, and repeat both, or call optim_step again to go on without it.{rest}",
        model_id=model_id,
        failed_seq_id=seq_id,
        leftover=leftover,
    )


def paused(call: Call, model_id: str, reason: str, seconds: float) -> QueuePausedError:
    """A call that waited in a paused queue for too long."""
    words = f" ({redact(reason)})" if reason else ""
    return QueuePausedError(
        f"{call.future.operation} on {model_id}: the server's queue has been paused for {seconds:.0f} s{words}, longer "
        f"than Config.pause_deadline. What was sent may still be applied. When the queue is active again: {_WAY_OUT}",
        model_id=model_id,
        reason=reason,
        paused_for=seconds,
    )
