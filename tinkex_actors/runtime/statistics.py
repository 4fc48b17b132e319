"""Looking at actors: frozen records, computed when asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from tinkex_actors.runtime._core.cell import DEAD, STATES, SUSPENDED

if TYPE_CHECKING:
    from tinkex_actors.runtime._core.cell import Cell

__all__ = ["ActorStatistics", "ActorTree", "statistics_of", "tree_of"]


class ActorStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """One actor, now.

    Attributes:
        path: its place in the tree.
        cls: name of its class.
        state: idle, ready, running, waiting, starting, stopping, suspended, backing off, or dead.
        handling: the message it is in, or None.
        waiting_on: path of the actor its handler waits for, or None.
        incarnation: restarts so far.
        processed: messages handled, over all incarnations.
        queued: messages waiting.
        capacity: messages that may wait.
        blocked_senders: senders and callers waiting for room.
        tasks: linked tasks alive.
        timers: timers set.
        children: number of children.
        last_crash: type and text of the last crash, or empty.
    """

    path: str
    cls: str
    state: str
    handling: str | None
    waiting_on: str | None
    incarnation: int
    processed: int
    queued: int
    capacity: int
    blocked_senders: int
    tasks: int
    timers: int
    children: int
    last_crash: str


class ActorTree(msgspec.Struct, frozen=True, kw_only=True):
    """An actor with everything below it. ``str()`` draws it; ``msgspec.json.encode`` takes it as it is."""

    name: str
    statistics: ActorStatistics
    children: tuple[ActorTree, ...] = ()

    def __str__(self) -> str:
        return "\n".join(self._lines("", ""))

    def _lines(self, first: str, rest: str) -> list[str]:
        lines = [f"{first}{self.name or '/'}  {_summary(self.statistics)}"]
        for child in self.children:
            last = child is self.children[-1]
            lines += child._lines(rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "))
        return lines


def _summary(statistics: ActorStatistics) -> str:
    words = [statistics.cls, statistics.state]
    if statistics.handling is not None:
        words.append(f"in {statistics.handling}")
    if statistics.waiting_on is not None:
        words.append(f"for {statistics.waiting_on}")
    if statistics.queued:
        words.append(f"{statistics.queued} queued")
    if statistics.blocked_senders:
        words.append(f"{statistics.blocked_senders} senders blocked")
    if statistics.processed:
        words.append(f"{statistics.processed} done")
    if statistics.incarnation:
        words.append(f"restarted {statistics.incarnation}x ({statistics.last_crash})")
    return " · ".join(words)


def statistics_of(cell: Cell) -> ActorStatistics:
    """Return the record of a cell."""
    rare, box = cell.rare, cell.box
    return ActorStatistics(
        path=cell.path,
        cls=cell.kind.cls.__name__,
        state=_state(cell),
        handling=cell.handling.name if cell.handling is not None and cell.state != DEAD else None,
        waiting_on=cell.waiting_on.path if cell.waiting_on is not None else None,
        incarnation=cell.incarnation,
        processed=cell.processed,
        queued=len(box) if box is not None else 0,
        capacity=cell.spec.mailbox.capacity,
        blocked_senders=len(rare.senders) if rare is not None else 0,
        tasks=len(rare.tasks) if rare is not None else 0,
        timers=len(rare.timers) if rare is not None else 0,
        children=len(cell.family.cells) if cell.family is not None else 0,
        last_crash=rare.last_crash if rare is not None else "",
    )


def _state(cell: Cell) -> str:
    if cell.waiting_on is not None:
        return "waiting"
    if cell.state == SUSPENDED and cell.task is not None:
        return "backing off"
    return STATES[cell.state]


def tree_of(cell: Cell) -> ActorTree:
    """Return the record of a cell and everything below it."""
    below = cell.family.cells.values() if cell.family is not None else ()
    return ActorTree(name=cell.name, statistics=statistics_of(cell), children=tuple(tree_of(child) for child in below))
