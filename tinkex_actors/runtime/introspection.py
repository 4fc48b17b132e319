"""Questions about a running system: what an actor waits for, and who uses the processor. Asked, never recorded."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from tinkex_actors.runtime._core.cell import DEAD, HALTING, STARTING, SUSPENDED, Cell
from tinkex_actors.runtime._core.mailboxes import phrase_of
from tinkex_actors.runtime._core.stacks import await_chain, place_of, runner_in
from tinkex_actors.runtime.statistics import ActorTree, statistics_of

if TYPE_CHECKING:
    from tinkex_actors.runtime.system import ActorSystem

__all__ = ["ActorLoad", "Explanation", "Situation", "Top", "explain", "top"]

SAMPLE_SECONDS = 0.002


class Situation(msgspec.Struct, frozen=True, kw_only=True):
    """One link of a chain of waits: an actor, and what it is at.

    Attributes:
        path: the actor.
        state: as in its statistics.
        handling: the message it is in, or None.
        place: ``file:line`` in the handler (or hook) where it is now; empty if it is not suspended there.
        waiting_on: path of the actor whose reply its handler waits for, or None.
        seconds: how long it has waited for that reply, or None if that cannot be told.
        queued: messages waiting.
        note: what else there is to say, such as why it ended.
    """

    path: str
    state: str
    handling: str | None
    place: str
    waiting_on: str | None
    seconds: float | None
    queued: int
    note: str = ""

    def __str__(self) -> str:
        words = self.path
        if self.waiting_on is not None:
            since = f" since {self.seconds:.1f} s" if self.seconds is not None else ""
            words += f" waits for {self.waiting_on}{since}"
            if self.handling is not None:
                words += f", in {self.handling}"
        elif self.handling is not None and self.state in ("running", "computing", "stopping"):
            words += f" is stopping, in {self.handling}" if self.state == "stopping" else f" runs {self.handling}"
        else:
            words += f" is {self.state}"
        words += f" at {self.place}" if self.place else ""
        words += f", {self.queued} queued" if self.queued else ""
        return words + (f": {self.note}" if self.note else "")


class Explanation(msgspec.Struct, frozen=True):
    """The chain of waits that begins at an actor; ``str()`` is one line for each link."""

    chain: tuple[Situation, ...]

    def __str__(self) -> str:
        return "\n".join(map(str, self.chain))


class ActorLoad(msgspec.Struct, frozen=True, kw_only=True):
    """One actor's row of ``top``.

    Attributes:
        path: the actor.
        cls: its class.
        state: at the end, as in its statistics.
        share: part of the time, 0.0 to 1.0, in which its handler was on the loop's stack (sampled).
        rate: messages handled per second.
        queued: messages waiting at the end.
        oldest_seconds: age of the oldest of them, or None; at least that if ``oldest_is_bound``, see its statistics.
        oldest_is_bound: whether it is a bound.
        restarts: restarts within the span.
    """

    path: str
    cls: str
    state: str
    share: float
    rate: float
    queued: int
    oldest_seconds: float | None
    oldest_is_bound: bool
    restarts: int

    def _oldest(self) -> str:
        if not self.oldest_seconds:
            return "-"
        return f"{'>=' if self.oldest_is_bound else ''}{self.oldest_seconds:,.1f} s"


class Top(msgspec.Struct, frozen=True):
    """Who was busy, the busiest first; ``str()`` is a table.

    Attributes:
        seconds: length of the span that was looked at.
        rows: one for each actor alive at its end.
    """

    seconds: float
    rows: tuple[ActorLoad, ...]

    def __str__(self) -> str:
        lines = [f"{'share':>6} {'msg/s':>10} {'queued':>7} {'oldest':>9} {'restarts':>8}  {'state':<11}  actor"]
        lines += [
            f"{row.share:>6.1%} {row.rate:>10,.1f} {row.queued:>7,} {row._oldest():>9} {row.restarts:>8}  "
            f"{row.state:<11}  {row.path}  {row.cls}"
            for row in self.rows
        ]
        return "\n".join(lines)


# --- explain ---------------------------------------------------------------------------------------------------------
def explain(cell: Cell) -> Explanation:
    """Follow the waits from an actor to whoever holds everything up."""
    chain: list[Situation] = []
    link: Cell | None = cell
    while link is not None:  # it ends: a call that would close a ring is refused
        chain.append(_situation(link, _note(link)))
        link = link.waiting_on
    return Explanation(tuple(chain))


def _situation(cell: Cell, note: str) -> Situation:
    statistics = statistics_of(cell)
    waiting_on = statistics.waiting_on
    asked = None
    if waiting_on is not None and cell.task is not None:
        # The future a task waits for is an attribute that asyncio's own tools read too.
        asked = cell.system.deadlines.asked_at(getattr(cell.task, "_fut_waiter", None))
    return Situation(
        path=statistics.path,
        state=statistics.state,
        handling=statistics.handling,
        place=_place(cell),
        waiting_on=waiting_on,
        seconds=None if asked is None else cell.system.now() - asked,
        queued=statistics.queued,
        note=note,
    )


def _place(cell: Cell) -> str:
    """Return where the handler is suspended: in its own code, not in the libraries it called."""
    if cell.task is None or cell.state == SUSPENDED:
        return ""
    chain = list(await_chain(cell.task))
    own = [frame for frame in chain if cell.handling is not None and frame.f_code is _code(cell.handling.function)]
    return place_of((own or chain)[-1]) if own or chain else ""


def _code(function: Any) -> object:
    return getattr(getattr(function, "__wrapped__", function), "__code__", None)


def _note(cell: Cell) -> str:
    rare = cell.rare
    if cell.state == DEAD or cell.fate is not None:
        return phrase_of(cell.fate)
    if cell.state in (SUSPENDED, HALTING, STARTING) and rare is not None and rare.last_crash:
        return f"after {rare.last_crash}"
    computing = cell.system.blocking_work_of(cell)
    if computing:
        return f"{', '.join(computing)} on a thread"
    children = cell.family.cells.values() if cell.family is not None else ()
    starting = [child.name for child in children if child.state == STARTING]
    return f"its child {starting[0]} is starting" if starting else ""


# --- top -------------------------------------------------------------------------------------------------------------
async def top(system: ActorSystem, seconds: float) -> Top:
    """Look at the system for some seconds; see ``ActorSystem.top``."""
    before = _flat(system.tree())
    began = system.now()
    sampler = None if getattr(system.loop, "virtual", False) else _Sampler()
    try:
        await asyncio.sleep(seconds)
    finally:
        shares = {} if sampler is None else sampler.stop()
    span = max(system.now() - began, 1e-9)
    rows = []
    for path, tree in _flat(system.tree()).items():
        now, then = tree.statistics, before[path].statistics if path in before else None
        rows.append(
            ActorLoad(
                path=path,
                cls=now.cls,
                state=now.state,
                share=shares.get(path, 0.0),
                rate=max(now.processed - (then.processed if then is not None else 0), 0) / span,
                queued=now.queued,
                oldest_seconds=now.oldest_seconds,
                oldest_is_bound=now.oldest_is_bound,
                restarts=max(now.incarnation - (then.incarnation if then is not None else 0), 0),
            )
        )
    rows.sort(key=lambda row: (-row.share, -row.rate, -row.queued))
    return Top(span, tuple(rows))


def _flat(tree: ActorTree) -> dict[str, ActorTree]:
    return {node.statistics.path: node for node in _below(tree)}


def _below(tree: ActorTree) -> Iterator[ActorTree]:
    for child in tree.children:
        yield child
        yield from _below(child)


class _Sampler:
    """Looks at the loop thread's stack from another thread, for as long as somebody wants to know."""

    def __init__(self) -> None:
        self._loop_thread = threading.get_ident()
        self._stopped = threading.Event()
        self._seen: Counter[str] = Counter()
        self._samples = 0
        self._thread = threading.Thread(target=self._sample, name="top", daemon=True)
        self._thread.start()

    def stop(self) -> dict[str, float]:
        """End, and return the share of each actor's path."""
        self._stopped.set()
        self._thread.join()
        return {path: count / self._samples for path, count in self._seen.items()}

    def _sample(self) -> None:
        while not self._stopped.wait(SAMPLE_SECONDS):
            self._samples += 1
            cell, _ = runner_in(sys._current_frames().get(self._loop_thread))
            if cell is not None:
                self._seen[cell.path] += 1
