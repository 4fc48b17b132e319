"""Calls come, wait for their turn, and are posted; some go without having been."""

from __future__ import annotations

from typing import Literal, TypeAlias

from tinkex_actors.errors import SequenceBrokenError
from tinkex_actors.machines.turns.calls import Call, Effect, Kind, Post, Skipped, Turns, Withdrawn, holder

__all__ = ["Position", "abandoned", "advance", "cancelled", "outstanding", "position", "release", "submit"]

Position: TypeAlias = tuple[Literal["waiting"], int, int] | tuple[Literal["posting"], tuple[int, ...]]


def submit(
    turns: Turns,
    op_id: int,
    count: int,
    parallel: bool,
    *,
    kind: Kind = "other",
    held: bool = False,
    failure_seen: bool = False,
) -> range:
    """Allot numbers to a call, at once, and queue it; follow with `advance` to start what may start.

    Args:
        turns: the sequence.
        op_id: the operation, unique within this sequence.
        count: its chunks, at least 1.
        parallel: whether chunks may be posted concurrently (rule 3).
        kind: what it does to the gradient (rule 8).
        held: it waits for `release` (rule 7).
        failure_seen: the caller has seen the failure in ``turns.spoiled_by``, where there is one (rule 8).

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
    parallel = parallel and not turns.awaits_results
    call = Call(op_id, first, count, parallel, unstarted=count, kind=kind, held=held)
    call.doubts = kind == "applies" and turns.spoiled_by is not None and not failure_seen
    turns.calls[op_id] = call
    turns.next_seq = first + count
    return range(first, first + count)


def advance(turns: Turns) -> list[Effect]:
    """Start every post that may start now (rules 2 and 3). Repeating it starts nothing twice."""
    effects: list[Effect] = []
    while (call := holder(turns)) is not None and _may_post(turns, call):
        if not (call.doubts and call.untouched and turns.spoiled_by is not None and not call.filling):
            return effects + _posts(call)
        effects.append(Skipped(call.op_id, turns.spoiled_by, leftover=turns.added > 0))
        if not turns.added:
            turns.spoiled_by = None  # nothing of that gradient is left: the steps behind have theirs whole
        effects += _drop(turns, call)
    return effects


def release(turns: Turns, op_id: int) -> list[Effect]:
    """Let a held call take its turn (rule 7); unknown ones and others are left alone."""
    call = turns.calls.get(op_id)
    if call is not None:
        call.held = False
    return advance(turns)


def abandoned(turns: Turns, op_id: int) -> list[Effect]:
    """Take note that a held call has nothing to post: give its numbers back, or fill them (rule 7)."""
    call = turns.calls.get(op_id)
    if call is None or not call.held:
        return []
    return _drop(turns, call) + advance(turns)


def cancelled(turns: Turns, op_id: int) -> list[Effect]:
    """Take note that nobody wants the call's result any more; withdraw what rule 6 allows.

    Returns:
        ``Withdrawn`` with the operations that will not be posted, latest first; not there where the call has started
        or a later one still needs its numbers answered. An unknown or finished call changes nothing.
    """
    call = turns.calls.get(op_id)
    if call is None:
        return []
    call.cancelled = True
    effects = _withdraw(turns)
    if call.held and op_id in turns.calls:
        effects += abandoned(turns, op_id)
    return effects


def outstanding(turns: Turns) -> list[Post]:
    """Return the posts that were started and not answered, in seq_id order; a restarted shell issues them again."""
    call = holder(turns)
    if call is None:
        return []
    return [Post(call.op_id, seq_id, seq_id - call.first_seq, call.filling) for seq_id in sorted(call.posting)]


def position(turns: Turns, op_id: int) -> Position | None:
    """Say where a call stands.

    Returns:
        ``("posting", seq_ids)`` with the numbers awaiting an answer; ``("waiting", op_id, seq_id)`` with the call that
        holds the turn and its lowest unanswered number; None for a call that is finished with or unknown, or whose
        result alone is awaited.
    """
    call = turns.calls.get(op_id)
    first = holder(turns)
    if call is None or first is None:
        return None
    if call is not first:
        return ("waiting", first.op_id, _lowest_unanswered(first))
    return None if call.running and not call.posting else ("posting", tuple(sorted(call.posting)))


def _may_post(turns: Turns, call: Call) -> bool:
    return not (call.posting or call.running or call.held or turns.broken_at is not None)


def _posts(call: Call) -> list[Effect]:
    """Start what the call may post next."""
    if call.parallel and call.untouched and call.count > 1:
        indexes = range(1, call.count)
    elif call.parallel and call.count > 1:
        indexes = range(1)
    else:
        start = call.count - call.unstarted
        indexes = range(start, start + 1)
    call.posting.update(call.first_seq + index for index in indexes)
    call.unstarted -= len(indexes)
    return [Post(call.op_id, call.first_seq + index, index, call.filling) for index in indexes]


def _drop(turns: Turns, call: Call) -> list[Effect]:
    """Give up what a call was to post: as if cancelled where that frees its numbers, else with its numbers filled."""
    call.cancelled = True
    call.held = False
    call.filling = True
    return _withdraw(turns)


def _withdraw(turns: Turns) -> list[Effect]:
    withdrawn: list[int] = []
    while turns.calls:
        last = turns.calls[next(reversed(turns.calls))]
        if not last.cancelled or not last.untouched:
            break
        del turns.calls[last.op_id]
        turns.next_seq = last.first_seq
        withdrawn.append(last.op_id)
    return [Withdrawn(tuple(withdrawn))] if withdrawn else []


def _lowest_unanswered(call: Call) -> int:
    """Return the lowest number of an unfinished call that is still to be posted, answered or awaited."""
    if call.unstarted and call.parallel:
        # Chunk 1 goes last (rule 3), so the first number is open until everything is.
        return call.first_seq
    return min(call.posting | call.running, default=call.first_seq + call.count - call.unstarted)
