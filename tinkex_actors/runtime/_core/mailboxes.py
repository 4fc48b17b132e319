"""What becomes of queued messages when an actor restarts, finishes what it has, or ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinkex_actors.errors import ActorRestartedError, ActorStoppedError, RestartsExhaustedError
from tinkex_actors.runtime._core.cell import AWAY, CLOSED, IDLE, Cell
from tinkex_actors.runtime._core.messages import Handler, Last, Message, Reply, Retried
from tinkex_actors.runtime.exits import Crashed, ExitReason, NoActor, Normal, Shutdown

__all__ = [
    "close_and_drain",
    "close_mailbox",
    "phrase_of",
    "refuse_for_restart",
    "reopen",
    "set_aside",
    "stopped_error",
]


# --- between two incarnations ----------------------------------------------------------------------------------------
def set_aside(cell: Cell) -> None:
    """Do with the queued messages what the actor's restart policy says, now that its incarnation has ended."""
    policy, box = cell.kind.policy, cell.box
    if cell.fate is not None or (policy.casts == policy.calls == "keep" and not policy.fail_fast):
        return
    if box:
        items = list(box)
        box.clear()
        box.extend(item for item in items if _stays(cell, item))
        for item in items:
            if not _stays(cell, item):
                refuse_for_restart(cell, item)
    if policy.fail_fast:
        if box is None:
            cell.box = cell.system.scheduler.mailbox(cell)
        if cell.capacity != CLOSED:
            cell.capacity = AWAY
        _refuse_senders(cell, lambda message: _restarted_error(cell, message))
    elif box is not None:
        cell.admit()


def reopen(cell: Cell) -> None:
    """Let messages in again."""
    if cell.capacity == AWAY:
        cell.capacity = cell.spec.mailbox.capacity


def _stays(cell: Cell, item: Message | Reply) -> bool:
    policy = cell.kind.policy
    return (policy.calls if isinstance(item, Reply) else policy.casts) == "keep" or _is_own(cell, item)


def _is_own(cell: Cell, item: Message | Reply) -> bool:
    message = item.message if isinstance(item, Reply) else item
    return isinstance(message, (Last, Retried)) or message[0] in cell.kind.hooks.values()


def refuse_for_restart(cell: Cell, item: Message | Reply) -> None:
    """Fail a call that a restarted actor did not come to, or record a cast."""
    if isinstance(item, Reply):
        item.fail(_restarted_error(cell, item.message[0].name))
    else:
        cell.system.lost(cell, item[0].name, "actor restarted")


def _refuse_senders(cell: Cell, error: Callable[[str], Exception]) -> None:
    """Wake who waits for room, with the error of its message."""
    senders = cell.rare.senders if cell.rare is not None else ()
    while senders:
        item, room = senders.popleft()
        if not room.done():
            room.set_exception(error((item.message if isinstance(item, Reply) else item)[0].name))


def _restarted_error(cell: Cell, message: str) -> ActorRestartedError:
    return ActorRestartedError(
        f"{cell.path} restarted before it came to {message}: the handler never ran, so the call is safe to repeat.",
        actor=cell.path,
    )


# --- the end -----------------------------------------------------------------------------------------------------
def close_mailbox(cell: Cell, reason: ExitReason) -> None:
    """Turn queued and later casts into dead letters; fail queued calls and waiting senders."""
    box, cell.box = cell.box, None
    cell.fate = reason  # from here on ``put`` refuses
    if box:
        for item in box:
            if not isinstance(item, Last):
                cell.system.refuse(cell, item)
            elif item[-1] is not None:
                item[-1].cancel()
    if cell.rare is not None:
        _refuse_senders(cell, lambda _: stopped_error(cell))


def stopped_error(cell: Cell) -> Exception:
    """Return what a caller of a stopped actor gets."""
    why = cell.fate.why if isinstance(cell.fate, Shutdown) else None
    if isinstance(why, RestartsExhaustedError):
        error = RestartsExhaustedError(why.message, actor=why.actor)
        error.__cause__ = why.__cause__
        return error
    return ActorStoppedError(
        f"{cell.path} has stopped ({phrase_of(cell.fate)}); the message was not delivered.", actor=cell.path
    )


def phrase_of(reason: ExitReason | None) -> str:
    """Return a few words on why an actor ended."""
    if reason is None:
        return "it is finishing what it had"
    if isinstance(reason, NoActor):
        return "no such actor"
    if isinstance(reason, Normal):
        return "it had finished"
    if isinstance(reason, Shutdown):
        return f"shutdown: {reason.why}" if reason.why else "shutdown"
    if isinstance(reason, Crashed):
        return f"crashed: {type(reason.error).__name__}: {reason.error}"
    return "killed"


# --- the last messages -----------------------------------------------------------------------------------------------
def close_and_drain(cell: Cell, reason: ExitReason) -> bool:
    """Take no more messages, and stop for ``reason`` once those queued are handled or its ``shutdown`` has passed.

    Returns:
        False if there is nothing to wait for: the caller stops the actor.
    """
    if cell.fate is not None or (cell.state == IDLE and not cell.box):
        return False
    if cell.capacity == CLOSED:
        return True  # asked before
    system, grace = cell.system, cell.spec.grace
    alarm = None if grace == float("inf") else system.loop.call_later(grace, _stop, cell, reason)
    if cell.box is None:
        cell.box = system.scheduler.mailbox(cell)
    cell.box.append(Last((LAST, cell, reason, alarm)))
    cell.capacity = CLOSED
    _refuse_senders(cell, lambda _: stopped_error(cell))
    return True


def _stop(cell: Cell, reason: ExitReason) -> None:
    parent = cell.parent
    assert parent is not None
    assert parent.family is not None
    parent.family.stop(cell, reason)


def last(_: Any, cell: Cell, reason: ExitReason, alarm: Any) -> None:
    """Stop the actor: everything before has been handled."""
    if alarm is not None:
        alarm.cancel()
    _stop(cell, reason)


LAST: Handler[..., Any] = Handler(last)
