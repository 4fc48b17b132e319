"""The order of one model's training requests on the wire.

Rules (protocol 6.2 and 6.3, architecture section 5):

1. Wire numbers start at 1, are allotted contiguously at the call, in call order, and never change.
2. One call at a time holds the turn: no number of a later call is posted before every number of the earlier calls has
   been answered (posted or rejected). Results are not awaited, only the answers to the posts.
3. Within a parallel call of n > 1 chunks, chunks 2..n are posted at once and chunk 1 after all of those have been
   answered: the server cannot start before the lowest number, so it finds the batch complete. Any other call posts its
   chunks one after the other.
4. A rejected number is completed by its rejection; the numbers after it go on, also within the same call, because a
   number left out would be a gap.
5. A lost number (outcome unknown, or not delivered after all retries) breaks the sequence: nothing more is posted, all
   calls behind it are broken, and later submissions are refused.
6. A cancelled call is withdrawn only if none of its posts has started and every call after it has been cancelled too:
   then its numbers are the last allotted and are given back. Otherwise it runs, and its result is for nobody.

::

    waiting -> posting -> done                     (all numbers posted or rejected)
       |          `-----> done, sequence broken    (a number lost)
       `----> withdrawn | broken
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal, TypeAlias

from msgspec import Struct, field

from tinkex_actors.errors import SequenceBrokenError

__all__ = [
    "Broken",
    "Post",
    "Turns",
    "Withdrawn",
    "advance",
    "cancelled",
    "lost",
    "outstanding",
    "position",
    "posted",
    "rejected",
    "submit",
]


class Post(Struct, frozen=True):
    """Effect: post chunk ``index`` (from 0) of operation ``op_id`` under ``seq_id``, now."""

    op_id: int
    seq_id: int
    index: int


class Broken(Struct, frozen=True):
    """Effect: these operations, in call order, can no longer run, because ``first_failed_seq_id`` was lost.

    The operation that lost the number is not among them: it fails with its own error.
    """

    op_ids: tuple[int, ...]
    first_failed_seq_id: int


class Withdrawn(Struct, frozen=True):
    """Effect: these cancelled operations will not be posted; their numbers have been given back."""

    op_ids: tuple[int, ...]


Effect: TypeAlias = Post | Broken | Withdrawn
Position: TypeAlias = tuple[Literal["waiting"], int, int] | tuple[Literal["posting"], tuple[int, ...]]


class Call(Struct):
    """One call in the queue: its numbers, how many have not been started, and which await an answer."""

    op_id: int
    first_seq: int
    count: int
    parallel: bool
    unstarted: int
    posting: set[int] = field(default_factory=set)
    cancelled: bool = False


class Turns(Struct):
    """One model's sequence: mutated in place by the functions of this module.

    Args:
        model_id: for messages only.
        next_seq: the next wire number to allot; 1 for a fresh model.
        calls: what is not finished with, by operation id, in call order; only the first can be posting.
        broken_at: the first lost number, or None while the sequence is whole.
    """

    model_id: str = ""
    next_seq: int = 1
    calls: OrderedDict[int, Call] = field(default_factory=OrderedDict)
    broken_at: int | None = None


def submit(turns: Turns, op_id: int, count: int, parallel: bool) -> range:
    """Allot numbers to a call, at once, and queue it; follow with `advance` to start what may start.

    Args:
        turns: the sequence.
        op_id: the operation, unique within this sequence.
        count: its chunks, at least 1.
        parallel: whether chunks may be posted concurrently (rule 3).

    Returns:
        The wire seq_ids, in chunk order.

    Raises:
        SequenceBrokenError: an earlier number was lost (rule 5).
        ValueError: ``count`` < 1, or ``op_id`` is queued already.
    """
    if count < 1:
        raise ValueError(f"operation {op_id}: expected at least 1 chunk, got {count}; refuse empty data before submit")
    if op_id in turns.calls:
        raise ValueError(f"operation {op_id} is queued already; every call needs its own id")
    if turns.broken_at is not None:
        raise SequenceBrokenError(
            f"model {turns.model_id}: training request {turns.broken_at} was lost, so later ones cannot be applied in "
            "order; create a training client from the last checkpoint and go on there",
            model_id=turns.model_id,
            first_failed_seq_id=turns.broken_at,
        )
    first = turns.next_seq
    turns.calls[op_id] = Call(op_id, first, count, parallel, unstarted=count)
    turns.next_seq = first + count
    return range(first, first + count)


def advance(turns: Turns) -> list[Effect]:
    """Start every post that may start now (rules 2 and 3). Repeating it starts nothing twice."""
    call = _holder(turns)
    if call is None or call.posting or turns.broken_at is not None:
        return []
    if call.parallel and call.unstarted == call.count > 1:
        indexes = range(1, call.count)
    elif call.parallel and call.count > 1:
        indexes = range(1)
    else:
        start = call.count - call.unstarted
        indexes = range(start, start + 1)
    posts: list[Effect] = [Post(call.op_id, call.first_seq + index, index) for index in indexes]
    call.posting.update(call.first_seq + index for index in indexes)
    call.unstarted -= len(indexes)
    return posts


def posted(turns: Turns, seq_id: int) -> list[Effect]:
    """Take note that the server has accepted ``seq_id``; return what may start now.

    A repeated answer, as after a shell's restart, changes nothing.

    Raises:
        ValueError: ``seq_id`` was never allotted, or its post has not been started.
    """
    if not _is_open(turns, seq_id):
        return []
    _answer(turns, seq_id)
    return advance(turns)


def rejected(turns: Turns, seq_id: int) -> list[Effect]:
    """Take note that the server has definitely refused ``seq_id``: the number is complete (rule 4).

    Raises:
        ValueError: as `posted`.
    """
    return posted(turns, seq_id)


def lost(turns: Turns, seq_id: int) -> list[Effect]:
    """Take note that ``seq_id`` was lost: break the sequence and every call behind it (rule 5).

    Posts of the same call that are on their way stay outstanding until they are answered.

    Raises:
        ValueError: as `posted`.
    """
    if not _is_open(turns, seq_id):
        return []
    first_loss = turns.broken_at is None
    holder = next(iter(turns.calls))
    behind = tuple(op_id for op_id in turns.calls if op_id != holder)
    if first_loss:
        turns.broken_at = seq_id
        for op_id in behind:
            del turns.calls[op_id]
    _answer(turns, seq_id)
    return [Broken(behind, seq_id)] if first_loss and behind else []


def cancelled(turns: Turns, op_id: int) -> list[Effect]:
    """Take note that nobody wants the call's result any more; withdraw what rule 6 allows.

    Returns:
        ``[Withdrawn(...)]`` with the operations that will not be posted, latest first; empty where the call has
        started or a later one still needs its numbers answered. An unknown or finished call changes nothing.
    """
    call = turns.calls.get(op_id)
    if call is None:
        return []
    call.cancelled = True
    withdrawn: list[int] = []
    while turns.calls:
        last = turns.calls[next(reversed(turns.calls))]
        if not last.cancelled or last.unstarted != last.count:
            break
        del turns.calls[last.op_id]
        turns.next_seq = last.first_seq
        withdrawn.append(last.op_id)
    return [Withdrawn(tuple(withdrawn))] if withdrawn else []


def outstanding(turns: Turns) -> list[Post]:
    """Return the posts that were started and not answered, in seq_id order; a restarted shell issues them again."""
    call = _holder(turns)
    if call is None:
        return []
    return [Post(call.op_id, seq_id, seq_id - call.first_seq) for seq_id in sorted(call.posting)]


def position(turns: Turns, op_id: int) -> Position | None:
    """Say where a call stands.

    Returns:
        ``("posting", seq_ids)`` with the numbers awaiting an answer; ``("waiting", op_id, seq_id)`` with the call that
        holds the turn and its lowest unanswered number; None for a call that is finished with or unknown.
    """
    call = turns.calls.get(op_id)
    holder = _holder(turns)
    if call is None or holder is None:
        return None
    if call is holder:
        return ("posting", tuple(sorted(call.posting)))
    return ("waiting", holder.op_id, _lowest_unanswered(holder))


def _holder(turns: Turns) -> Call | None:
    """Return the call that holds the turn."""
    return next(iter(turns.calls.values()), None)


def _lowest_unanswered(call: Call) -> int:
    """Return the lowest number of an unfinished call that is still to be posted or answered."""
    if call.unstarted and call.parallel:
        # Chunk 1 goes last (rule 3), so the first number is open until everything is.
        return call.first_seq
    return min(call.posting, default=call.first_seq + call.count - call.unstarted)


def _is_open(turns: Turns, seq_id: int) -> bool:
    """Return whether ``seq_id`` awaits an answer; False where it has been answered already."""
    holder = _holder(turns)
    if holder is not None and seq_id in holder.posting:
        return True
    if not 1 <= seq_id < turns.next_seq:
        raise ValueError(f"seq_id {seq_id} was never allotted; numbers so far are 1..{turns.next_seq - 1}")
    if turns.broken_at is None and holder is not None and seq_id >= holder.first_seq and not _started(holder, seq_id):
        raise ValueError(f"seq_id {seq_id} has not been posted yet; only numbers of started posts can be answered")
    return False


def _started(holder: Call, seq_id: int) -> bool:
    """Return whether ``seq_id``, at or after the holder's first number, belongs to a post that was started."""
    index = seq_id - holder.first_seq
    if index >= holder.count or holder.unstarted == holder.count:
        return False
    if holder.parallel and holder.count > 1:
        return index > 0 or holder.unstarted == 0
    return index < holder.count - holder.unstarted


def _answer(turns: Turns, seq_id: int) -> None:
    """Close ``seq_id``; pass the turn on when nothing of its call is left to post."""
    call = turns.calls[next(iter(turns.calls))]
    call.posting.discard(seq_id)
    if not call.posting and (call.unstarted == 0 or turns.broken_at is not None):
        del turns.calls[call.op_id]
