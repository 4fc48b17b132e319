"""Looking at actors: frozen records, computed when asked for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import msgspec

from tinkex_actors.runtime._core.cell import DEAD, IDLE, READY, RUNNING, STATES, SUSPENDED
from tinkex_actors.runtime._core.messages import Reply
from tinkex_actors.runtime._core.stacks import handled_in_burst

if TYPE_CHECKING:
    from tinkex_actors.runtime._core.cell import Cell

__all__ = ["ActorStatistics", "ActorTree", "Sightings", "statistics_of", "tree_of"]

KEPT_LOOKS = 64  # of an actor whose messages never run out; beyond that every second one goes
NAME_COLUMNS = 48  # wider names push only their own line
CRASH_COLUMNS = 72
MARKS = {"idle": "○", "ready": "●", "running": "●", "computing": "●", "dead": "✕"}
UNSETTLED = "◌"  # waiting, starting, stopping, suspended, backing off


class ActorStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """One actor, now.

    Attributes:
        path: its place in the tree.
        cls: name of its class.
        state: idle, ready, running, computing (it, or a task of its own, has blocking work on a thread), waiting,
            starting, stopping, suspended, backing off, or dead.
        handling: the message it is in, or None.
        waiting_on: path of the actor its handler waits for, or None.
        computing: functions that run for it, or are queued to run, on the system's threads.
        incarnation: restarts so far.
        processed: messages handled, over all incarnations.
        queued: messages waiting.
        oldest_seconds: age of the oldest of them; None if none waits.
        oldest_is_bound: the age is at least ``oldest_seconds``. Messages are not stamped. What is known exactly is the
            age of a call whose caller waits; of other messages, only which of them an earlier look (``tree()``,
            ``statistics()``, ``explain()``, ``top()``) saw waiting already. A first look knows nothing: at least 0.0.
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
    computing: tuple[str, ...]
    incarnation: int
    processed: int
    queued: int
    oldest_seconds: float | None
    oldest_is_bound: bool
    capacity: int
    blocked_senders: int
    tasks: int
    timers: int
    children: int
    last_crash: str


class ActorTree(msgspec.Struct, frozen=True, kw_only=True):
    """An actor with everything below it. ``str()`` draws it; ``msgspec.json.encode`` takes it as it is.

    The picture cuts long hexadecimal ids in names; ``statistics.path`` has them whole.
    """

    name: str
    statistics: ActorStatistics
    children: tuple[ActorTree, ...] = ()

    def __str__(self) -> str:
        rows = list(self._rows("", ""))
        names = max(min(len(name), NAME_COLUMNS) for name, _ in rows)
        classes = max(len(node.statistics.cls) for _, node in rows)
        return "\n".join(
            f"{name:<{names}}  {node.statistics.cls:<{classes}}  {node._summary()}".rstrip() for name, node in rows
        )

    def _rows(self, first: str, rest: str) -> Iterator[tuple[str, ActorTree]]:
        yield first + (_cut_ids(self.name) or "/"), self
        for child in self.children:
            last = child is self.children[-1]
            yield from child._rows(rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "))

    def _summary(self) -> str:
        return _totals(self) if self.statistics.path == "/" else _words(self.statistics)


# --- the record ------------------------------------------------------------------------------------------------------
class Sightings:
    """What earlier looks saw waiting, which bounds the age of what waits now: no message is stamped for it.

    A look that finds ``processed`` messages handled and ``queued`` waiting knows that one of those still waits for as
    long as fewer than ``processed + queued`` have been handled. Looks at different incarnations are not compared: what
    ends an incarnation may leave messages uncounted. Nothing of a message is kept.
    """

    def __init__(self) -> None:
        self._looks: WeakKeyDictionary[Cell, _Looks] = WeakKeyDictionary()

    def oldest(self, cell: Cell) -> tuple[float | None, bool]:
        """Return the age in seconds of an actor's oldest queued message, and whether that is a lower bound only."""
        box, system = cell.box, cell.system
        if not box:
            self._looks.pop(cell, None)
            return None, False
        now = system.now()
        first_call = next((item for item in box if type(item) is Reply), None)
        asked = None if first_call is None else system.deadlines.asked_at(first_call)
        if asked is not None and first_call is box[0]:
            return now - asked, False
        instants = [instant for instant in (asked, self._seen_since(cell, now)) if instant is not None]
        return now - min(instants, default=now), True

    def _seen_since(self, cell: Cell, now: float) -> float | None:
        if not _counts_what_leaves(cell):
            self._looks.pop(cell, None)
            return None
        if cell.state == RUNNING and cell.task is None:
            return None  # inside a burst of ``def`` handlers, which are counted at its end
        epoch = (cell.incarnation, cell.state in (IDLE, READY, RUNNING))
        looks = self._looks.get(cell)
        if looks is None or looks.epoch != epoch:
            looks = self._looks[cell] = _Looks(epoch)
        return looks.since(now, cell.processed + handled_in_burst(cell), len(cell.box))


class _Looks:
    """The looks at one actor that still say something, oldest first: when, and how many had come by then."""

    def __init__(self, epoch: tuple[int, bool]) -> None:
        self.epoch = epoch
        self.kept: list[tuple[float, int]] = []

    def since(self, now: float, processed: int, queued: int) -> float:
        """Add a look, and return when the oldest queued message was certainly there."""
        kept = self.kept
        while kept and kept[0][1] <= processed:
            del kept[0]
        if not kept or kept[-1][1] < processed + queued:
            kept.append((now, processed + queued))
            if len(kept) > KEPT_LOOKS:
                del kept[1::2]
        return kept[0][0]


def _counts_what_leaves(cell: Cell) -> bool:
    """Whether a message leaves this mailbox only by being handled, or with the actor."""
    policy = cell.kind.policy
    return policy.casts == policy.calls == "keep" and cell.spec.mailbox.when_full != "drop_oldest"


def statistics_of(cell: Cell) -> ActorStatistics:
    """Return the record of a cell."""
    rare, box = cell.rare, cell.box
    computing = cell.system.blocking_work_of(cell)
    oldest_seconds, oldest_is_bound = cell.system.sightings.oldest(cell)
    return ActorStatistics(
        path=cell.path,
        cls=cell.kind.cls.__name__ if cell.parent is not None else type(cell.system).__name__,
        state=_state(cell, computing),
        handling=cell.handling.name if cell.handling is not None and cell.state != DEAD else None,
        waiting_on=cell.waiting_on.path if cell.waiting_on is not None else None,
        computing=computing,
        incarnation=cell.incarnation,
        processed=cell.processed + handled_in_burst(cell),
        queued=len(box) if box is not None else 0,
        oldest_seconds=oldest_seconds,
        oldest_is_bound=oldest_is_bound,
        capacity=cell.spec.mailbox.capacity,
        blocked_senders=len(rare.senders) if rare is not None else 0,
        tasks=len(rare.tasks) if rare is not None else 0,
        timers=len(rare.timers) if rare is not None else 0,
        children=len(cell.family.cells) if cell.family is not None else 0,
        last_crash=rare.last_crash if rare is not None else "",
    )


def _state(cell: Cell, computing: tuple[str, ...]) -> str:
    if cell.waiting_on is not None:
        return "waiting"
    if cell.state == SUSPENDED and cell.task is not None:
        return "backing off"
    return "computing" if computing and cell.state in (IDLE, RUNNING) else STATES[cell.state]


def tree_of(cell: Cell) -> ActorTree:
    """Return the record of a cell and everything below it."""
    below = cell.family.cells.values() if cell.family is not None else ()
    return ActorTree(name=cell.name, statistics=statistics_of(cell), children=tuple(tree_of(child) for child in below))


# --- its picture -----------------------------------------------------------------------------------------------------
def _words(statistics: ActorStatistics) -> str:
    tasks = f"{_count(statistics.tasks, 'task')} running"
    if statistics.tasks and statistics.state == "idle":
        words = [f"{UNSETTLED} {tasks}"]
    else:
        words = [f"{MARKS.get(statistics.state, UNSETTLED)} {_doing(statistics)}", *[tasks][: statistics.tasks]]
    if statistics.queued:
        words.append(f"{statistics.queued:,} queued{_oldest(statistics)}")
    if statistics.blocked_senders:
        words.append(f"{_count(statistics.blocked_senders, 'sender')} blocked")
    if statistics.processed:
        words.append(f"{statistics.processed:,} done")
    if statistics.incarnation:
        words.append(f"restarted {statistics.incarnation}x ({_first_line(statistics.last_crash) or 'killed'})")
    return " · ".join(words)


def _doing(statistics: ActorStatistics) -> str:
    words = statistics.state
    if statistics.waiting_on is not None:
        words += f" for {statistics.waiting_on}"
    if statistics.computing and statistics.state == "computing":
        more = f" and {len(statistics.computing) - 1} more" if len(statistics.computing) > 1 else ""
        words += f" {statistics.computing[0].rpartition('<locals>.')[2]}{more}"
    return words if statistics.handling is None else f"{words} in {statistics.handling}"


def _oldest(statistics: ActorStatistics) -> str:
    seconds = statistics.oldest_seconds
    if seconds is None or seconds < 0.05:  # it would read 0.0 s
        return ""
    return f", oldest {'at least ' if statistics.oldest_is_bound else ''}{seconds:,.1f} s"


def _totals(root: ActorTree) -> str:
    below = [node.statistics for _, node in root._rows("", "")][1:]
    queued, done = sum(row.queued for row in below), sum(row.processed for row in below)
    words = [_count(len(below), "actor")]
    if queued:
        words.append(f"{queued:,} queued")
    if done:
        words.append(f"{done:,} done")
    return " · ".join(words)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _first_line(text: str) -> str:
    line = text.partition("\n")[0]
    return line if len(line) <= CRASH_COLUMNS else f"{line[: CRASH_COLUMNS - 1]}…"


def _cut_ids(name: str) -> str:
    return re.sub(r"[0-9a-f]{16,}", lambda found: f"{found[0][:6]}…", name)
