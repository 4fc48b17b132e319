"""Mailboxes in passing: of an actor between two incarnations, and of one that only finishes what it has."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from typing import Any

from tinkex_actors.errors import ActorRestartedError, ActorStoppedError, RestartsExhaustedError
from tinkex_actors.runtime._core.cell import DEAD, IDLE, Cell, DeadBox
from tinkex_actors.runtime._core.messages import Handler, Last, Message, Reply, Retried
from tinkex_actors.runtime.exits import Crashed, ExitReason, NoActor, Normal, Shutdown

__all__ = [
    "ClosingBox",
    "WaitingBox",
    "close_and_drain",
    "close_mailbox",
    "phrase_of",
    "reopen",
    "set_aside",
    "stopped_error",
]


class WaitingBox(DeadBox):
    """The mailbox of an actor that fails fast while it restarts: refuses, and keeps what is to be handled later."""

    __slots__ = ("kept",)

    def __init__(self, cell: Cell, kept: deque[Message | Reply]) -> None:
        super().__init__(cell)
        self.kept = kept

    def append(self, item: Message | Reply) -> None:
        """Refuse a message, unless it is the runtime's own."""
        if _is_own(self.cell, item):
            self.kept.append(item)
        else:
            _refuse(self.cell, item)


class ClosingBox(deque):  # type: ignore[type-arg]
    """A mailbox that takes no more messages while its actor handles those that are in it."""

    def __init__(self, cell: Cell, items: deque[Message | Reply]) -> None:
        super().__init__(items)
        self.cell = cell

    def append(self, item: Message | Reply) -> None:
        """Refuse a message as a stopped actor does."""
        self.cell.system.refuse(self.cell, item)


# --- between two incarnations ----------------------------------------------------------------------------------------
def set_aside(cell: Cell) -> None:
    """Do with the queued messages what the actor's restart policy says, now that its incarnation has ended."""
    policy, box = cell.kind.policy, cell.box
    if isinstance(box, DeadBox) or (policy.casts == policy.calls == "keep" and not policy.fail_fast):
        return
    if box:
        items = list(box)
        box.clear()
        box.extend(item for item in items if _stays(cell, item))
        for item in items:
            if not _stays(cell, item):
                _refuse(cell, item)
    if policy.fail_fast:
        cell.box = WaitingBox(cell, deque() if box is None else box)
        _refuse_senders(cell, lambda message: _restarted_error(cell, message))
    elif box is not None:
        cell.admit()


def reopen(cell: Cell) -> None:
    """Let messages in again."""
    if isinstance(cell.box, WaitingBox):
        cell.box = cell.box.kept


def _stays(cell: Cell, item: Message | Reply) -> bool:
    policy = cell.kind.policy
    return (policy.calls if isinstance(item, Reply) else policy.casts) == "keep" or _is_own(cell, item)


def _is_own(cell: Cell, item: Message | Reply) -> bool:
    message = item.message if isinstance(item, Reply) else item
    return isinstance(message, (Last, Retried)) or message[0] in cell.kind.hooks.values()


def _refuse(cell: Cell, item: Message | Reply) -> None:
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
    reopen(cell)
    box, cell.box = cell.box, DeadBox(cell)
    cell.fate = reason
    if box and not isinstance(box, DeadBox):
        for item in box:
            if not isinstance(item, Last):
                cell.system.refuse(cell, item)
            elif item[-1] is not None:
                item[-1].cancel()
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
    box = cell.box.kept if isinstance(cell.box, WaitingBox) else cell.box
    if cell.state == DEAD or isinstance(box, DeadBox) or cell.fate is not None or (cell.state == IDLE and not box):
        return False
    if isinstance(box, ClosingBox):
        return True  # asked before
    closing = ClosingBox(cell, box if box is not None else deque())
    if box:
        box.clear()  # a burst under way holds on to this one, and ends
    system = cell.system
    alarm = None if cell.spec.grace == float("inf") else system.loop.call_later(cell.spec.grace, _stop, cell, reason)
    deque.append(closing, Last((LAST, cell, reason, alarm)))
    cell.capacity = sys.maxsize  # full or not, what comes now is refused, not waited with
    if isinstance(cell.box, WaitingBox):
        cell.box.kept = closing
    else:
        cell.box = closing
    _refuse_senders(cell, lambda _: stopped_error(cell))
    return True


def _stop(cell: Cell, reason: ExitReason) -> None:
    if cell.state != DEAD and cell.parent is not None and cell.parent.family is not None:
        cell.parent.family.stop(cell, reason)


def last(_: Any, cell: Cell, reason: ExitReason, alarm: Any) -> None:
    """Stop the actor: everything before has been handled."""
    if alarm is not None:
        alarm.cancel()
    _stop(cell, reason)


LAST: Handler[..., Any] = Handler(last)
