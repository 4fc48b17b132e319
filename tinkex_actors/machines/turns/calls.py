"""What a sequence remembers, and what it asks of its shell."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal, TypeAlias

from msgspec import Struct, field

__all__ = ["Broken", "Call", "Effect", "Kind", "Post", "Skipped", "Turns", "Withdrawn", "holder", "pass_on"]

Kind: TypeAlias = Literal["adds", "applies", "clears", "other"]
"""What a call does to the model's gradient: adds to it, applies it, drops it (by loading other weights), or nothing."""


class Post(Struct, frozen=True):
    """Effect: post chunk ``index`` (from 0) of operation ``op_id`` under ``seq_id``, now.

    ``fill``: post something harmless in its place.
    """

    op_id: int
    seq_id: int
    index: int
    fill: bool = False


class Broken(Struct, frozen=True):
    """Effect: these operations, in call order, can no longer run, because ``first_failed_seq_id`` was lost.

    The operation that lost the number is not among them: it fails with its own error.
    """

    op_ids: tuple[int, ...]
    first_failed_seq_id: int


class Withdrawn(Struct, frozen=True):
    """Effect: these operations will not be posted; their numbers have been given back."""

    op_ids: tuple[int, ...]


class Skipped(Struct, frozen=True):
    """Effect: this operation is not posted, because the gradient it was to apply lacks ``failed_seq_id``.

    Args:
        op_id: the operation.
        failed_seq_id: the request whose gradient is missing.
        leftover: other parts of the gradient are in the model, and wait there for the next optimizer step.
    """

    op_id: int
    failed_seq_id: int
    leftover: bool


Effect: TypeAlias = Post | Broken | Withdrawn | Skipped


class Call(Struct):
    """One call in the queue: its numbers, how many have not been started, and which await an answer or a result."""

    op_id: int
    first_seq: int
    count: int
    parallel: bool
    unstarted: int
    kind: Kind = "other"
    held: bool = False
    doubts: bool = False
    filling: bool = False
    cancelled: bool = False
    posting: set[int] = field(default_factory=set)
    running: set[int] = field(default_factory=set)

    @property
    def untouched(self) -> bool:
        """Whether none of its posts has started."""
        return self.unstarted == self.count


class Turns(Struct):
    """One model's sequence: mutated in place by the functions of this package.

    Args:
        model_id: for messages only.
        next_seq: the next wire number to allot; 1 for a fresh model.
        awaits_results: post a number only when everything before it has its result (rule 2).
        calls: what is not finished with, by operation id, in call order; only the first can be posting.
        broken_at: the first lost number, or None while the sequence is whole.
        added: requests taken since the last optimizer step that add to the gradient and have not failed.
        spoiled_by: the first request since then whose gradient is missing, or None.
        applied_at: number of the last optimizer step that was taken; 0 before the first.
    """

    model_id: str = ""
    next_seq: int = 1
    awaits_results: bool = False
    calls: OrderedDict[int, Call] = field(default_factory=OrderedDict)
    broken_at: int | None = None
    added: int = 0
    spoiled_by: int | None = None
    applied_at: int = 0


def holder(turns: Turns) -> Call | None:
    """Return the call that holds the turn."""
    return next(iter(turns.calls.values()), None)


def pass_on(turns: Turns, call: Call) -> None:
    """Pass the turn on when nothing of the call that holds it is left to post or to await."""
    if not call.posting and not call.running and (call.unstarted == 0 or turns.broken_at is not None):
        del turns.calls[call.op_id]
