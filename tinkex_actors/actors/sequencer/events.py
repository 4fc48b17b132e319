"""What happens to one model's training on its own, for whoever subscribes to ``service.system.events``."""

from __future__ import annotations

import msgspec

__all__ = ["QueuePaused", "QueueResumed", "SequenceBroken"]


class QueuePaused(msgspec.Struct, frozen=True, tag="training.queue_paused"):
    """The server says that it has stopped taking this model's requests from its queue; told at once.

    Attributes:
        model_id: the model.
        operation: which call waits.
        queue_state: ``paused_capacity`` or ``paused_rate_limit``.
        reason: the server's words, or "" where it has none.
    """

    model_id: str
    operation: str
    queue_state: str
    reason: str


class QueueResumed(msgspec.Struct, frozen=True, tag="training.queue_resumed"):
    """The queue takes this model's requests again, after ``seconds``."""

    model_id: str
    seconds: float


class SequenceBroken(msgspec.Struct, frozen=True, tag="training.sequence_broken"):
    """A training request was lost; nothing more can be applied to the model in order.

    Attributes:
        model_id: the model.
        seq_id: the request.
        error: why, in words.
    """

    model_id: str
    seq_id: int
    error: str
