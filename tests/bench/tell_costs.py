"""What a tell pays for, piece by piece: why bare ``call_soon`` is out of reach with these guarantees.

Each row has one piece more than the row before it, in loops that are otherwise the same: the difference is its price.
The bare cell hands a value to one function; an actor's message crosses a typed proxy into a bounded mailbox, names its
handler, may want an answer, may crash its actor, and leaves a loop that the lifecycle may end at any message.

    python -m tests.bench.tell_costs [--json] [--quick]
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from itertools import repeat
from typing import Any

from tests.bench.actor_subjects import BURST, Sink
from tests.bench.report import Row, main
from tinkex_actors.runtime._core.messages import Handler, Reply

ROUNDS, QUICK_ROUNDS = 2000, 100
POP = deque.popleft
RUNNING = 2


class Cell:
    """The fields of an actor's cell that a tell touches."""

    __slots__ = ("actor", "box", "capacity", "handling", "state")

    def __init__(self) -> None:
        self.actor = Sink()
        self.box: deque[Any] = deque()
        self.capacity = 1 << 40
        self.state = RUNNING
        self.handling: Any = None

    def tell(self, value: Any) -> None:
        self.box.append(value)
        if not self.state:
            raise AssertionError


TELL: Handler[..., Any] = vars(Sink)["tell"]


class Proxy:
    """What ``ref.cast`` gives: the handlers' signatures, checked where they are called."""

    __slots__ = ("_cell",)

    def __init__(self, cell: Cell) -> None:
        self._cell = cell

    def plain(self, value: Any) -> None:
        cell = self._cell
        cell.box.append(value)
        if not cell.state:
            raise AssertionError

    def bounded(self, value: Any) -> None:
        cell = self._cell
        box = cell.box
        if box is None or len(box) >= cell.capacity:
            raise AssertionError
        box.append(value)
        if not cell.state:
            raise AssertionError

    def named(self, value: Any) -> None:
        cell = self._cell
        box = cell.box
        if box is None or len(box) >= cell.capacity:
            raise AssertionError
        box.append((TELL, value))
        if not cell.state:
            raise AssertionError


def bare(cell: Cell) -> None:
    box, function = cell.box, cell.actor.tell
    while box:
        function(box.popleft())


def dispatched(cell: Cell) -> None:
    actor, handler = cell.actor, None
    for item in map(POP, repeat(cell.box, len(cell.box))):
        if handler is not item[0]:
            cell.handling = handler = item[0]
            function, one = handler.function, handler.one
        function(actor, item[1]) if one else handler.run(actor, item)


def answerable(cell: Cell) -> None:
    actor, handler = cell.actor, None
    for item in map(POP, repeat(cell.box, len(cell.box))):
        reply = None
        if type(item) is Reply:
            reply = item
            item = reply.message
        if handler is not item[0]:
            cell.handling = handler = item[0]
            function, one = handler.function, handler.one
        result = function(actor, item[1]) if one else handler.run(actor, item)
        if reply is not None and not reply.done():
            reply.set_result(result)


def supervised(cell: Cell) -> None:
    actor, handler = cell.actor, None
    for item in map(POP, repeat(cell.box, len(cell.box))):
        reply = None
        if type(item) is Reply:
            reply = item
            item = reply.message
        if handler is not item[0]:
            cell.handling = handler = item[0]
            function, one = handler.function, handler.one
        try:
            result = function(actor, item[1]) if one else handler.run(actor, item)
        except BaseException:
            raise AssertionError from None
        else:
            if reply is not None and not reply.done():
                reply.set_result(result)
        if cell.state != RUNNING:
            break


SENDS: list[tuple[str, Callable[[Cell], Callable[[int], None]]]] = [
    ("send: a method, one append", lambda cell: cell.tell),
    ("send: + through a typed proxy", lambda cell: Proxy(cell).plain),
    ("send: + into a bounded mailbox", lambda cell: Proxy(cell).bounded),
    ("send: + a message that names its handler", lambda cell: Proxy(cell).named),
]
DRAINS: list[tuple[str, Callable[[Cell], None], bool]] = [
    ("handle: one function for all", bare, False),
    ("handle: + the handler that is named", dispatched, True),
    ("handle: + a caller who may wait", answerable, True),
    ("handle: + crashes and stops, at any message", supervised, True),
]


def send_time(send: Callable[[Cell], Callable[[int], None]], cell: Cell) -> float:
    """Return nanoseconds of one send, in a burst."""
    cell.box.clear()
    tell = send(cell)
    began = time.perf_counter_ns()
    for number in range(BURST):
        tell(number)
    return (time.perf_counter_ns() - began) / BURST


def drain_time(drain: Callable[[Cell], None], named: bool, cell: Cell) -> float:
    """Return nanoseconds of one message handled, in bursts of 64 as the pump's are."""
    cell.box.clear()
    cell.box.extend([(TELL, number) if named else number for number in range(64)])
    began = time.perf_counter_ns()
    drain(cell)
    return (time.perf_counter_ns() - began) / 64


def measure(quick: bool) -> list[Row]:
    """Return a row for each piece; the best of many short bursts, since a shared machine only ever adds."""
    cell = Cell()
    best: dict[str, float] = {}
    for _ in range(QUICK_ROUNDS if quick else ROUNDS):
        for name, send in SENDS:
            best[name] = min(best.get(name, 1e9), send_time(send, cell))
        for name, drain, named in DRAINS:
            best[name] = min(best.get(name, 1e9), drain_time(drain, named, cell))
    whole = {"send": best[SENDS[0][0]], "handle": best[DRAINS[0][0]]}
    rows = []
    for name, value in best.items():
        base = whole[name.partition(":")[0]]
        rows.append(
            Row(measure=name, ours=value, baseline=base, unit="ns", ratio=value / base, against="the bare cell")
        )
    bare_tell, tell = sum(whole.values()), best[SENDS[-1][0]] + best[DRAINS[-1][0]]
    rows.append(
        Row(
            measure="tell: both, as messages a second",
            ours=1e3 / tell,
            baseline=1e3 / bare_tell,
            unit="M/s",
            ratio=bare_tell / tell,
            against="the bare cell",
        )
    )
    return rows


if __name__ == "__main__":
    main("what a tell pays for", measure)
