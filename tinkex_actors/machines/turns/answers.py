"""What becomes of the numbers that were posted, and what that means for those behind them."""

from __future__ import annotations

from tinkex_actors.machines.turns.calls import Broken, Call, Effect, Turns, holder, pass_on
from tinkex_actors.machines.turns.order import advance

__all__ = ["broken", "failed", "finished", "lost", "posted", "rejected"]


def posted(turns: Turns, seq_id: int) -> list[Effect]:
    """Take note that the server has accepted ``seq_id``; return what may start now.

    A repeated answer, as after a shell's restart, changes nothing.

    Raises:
        ValueError: ``seq_id`` was never allotted, or its post has not been started.
    """
    call = _open_call(turns, seq_id)
    if call is None:
        return []
    if not call.filling:
        _note_gradient(turns, call, seq_id)
        if turns.awaits_results:
            call.running.add(seq_id)
    return _answered(turns, call, seq_id)


def rejected(turns: Turns, seq_id: int) -> list[Effect]:
    """Take note that the server has definitely refused ``seq_id``: the number is complete (rule 4).

    Raises:
        ValueError: as `posted`.
    """
    call = _open_call(turns, seq_id)
    if call is None:
        return []
    if call.kind == "adds" and not call.filling:
        _spoil(turns, seq_id)
    return _answered(turns, call, seq_id)


def lost(turns: Turns, seq_id: int) -> list[Effect]:
    """Take note that ``seq_id`` was lost: break the sequence and every call behind it (rule 5).

    Posts of the same call that are on their way stay outstanding until they are answered.

    Raises:
        ValueError: as `posted`.
    """
    call = _open_call(turns, seq_id)
    if call is None:
        return []
    effects = broken(turns, seq_id)
    call.posting.discard(seq_id)
    if call.op_id in turns.calls:
        pass_on(turns, call)
    return effects


def broken(turns: Turns, seq_id: int) -> list[Effect]:
    """Break the sequence at ``seq_id``, lost or given up: nothing more is posted, and what waits for it is broken."""
    if turns.broken_at is not None:
        return []
    turns.broken_at = seq_id
    first = holder(turns)
    behind = tuple(op_id for op_id, call in turns.calls.items() if call is not first or _is_idle(call))
    for op_id in behind:
        del turns.calls[op_id]
    return [Broken(behind, seq_id)] if behind else []


def finished(turns: Turns, seq_id: int) -> list[Effect]:
    """Take note that the result of ``seq_id`` is here, good or bad; it matters where results are awaited."""
    call = holder(turns)
    if call is None or seq_id not in call.running:
        return []
    call.running.discard(seq_id)
    pass_on(turns, call)
    return advance(turns)


def failed(turns: Turns, seq_id: int, *, adds: bool, unknown: bool = False) -> list[Effect]:
    """Take note that the server took ``seq_id`` and could not do it; call it before `finished`.

    Args:
        turns: the sequence.
        seq_id: the request.
        adds: it was to add to the gradient (rule 8).
        unknown: whether it did is not known, because its result was lost.
    """
    if adds and seq_id > turns.applied_at:
        if not unknown:
            turns.added = max(0, turns.added - 1)
        _spoil(turns, seq_id)
    return advance(turns)


def _is_idle(call: Call) -> bool:
    return not call.posting and not call.running


def _note_gradient(turns: Turns, call: Call, seq_id: int) -> None:
    if call.kind == "adds":
        turns.added += 1
    elif call.kind in ("applies", "clears"):
        turns.added = 0
        turns.spoiled_by = None
        if call.kind == "applies":
            turns.applied_at = seq_id


def _spoil(turns: Turns, seq_id: int) -> None:
    if turns.spoiled_by is None:
        turns.spoiled_by = seq_id
    for call in turns.calls.values():
        if call.kind == "applies" and call.untouched:
            call.doubts = True


def _answered(turns: Turns, call: Call, seq_id: int) -> list[Effect]:
    call.posting.discard(seq_id)
    pass_on(turns, call)
    return advance(turns)


def _open_call(turns: Turns, seq_id: int) -> Call | None:
    """Return the call of a number that awaits its answer; None where it has been answered already."""
    call = holder(turns)
    if call is not None and seq_id in call.posting:
        return call
    if not 1 <= seq_id < turns.next_seq:
        raise ValueError(f"seq_id {seq_id} was never allotted; numbers so far are 1..{turns.next_seq - 1}")
    if turns.broken_at is None and call is not None and seq_id >= call.first_seq and not _started(call, seq_id):
        raise ValueError(f"seq_id {seq_id} has not been posted yet; only numbers of started posts can be answered")
    return None


def _started(call: Call, seq_id: int) -> bool:
    """Return whether ``seq_id``, at or after the first number of the turn, belongs to a post that was started."""
    index = seq_id - call.first_seq
    if index >= call.count or call.untouched:
        return False
    if call.parallel and call.count > 1:
        return index > 0 or call.unstarted == 0
    return index < call.count - call.unstarted
