"""The run queue: which ready actor runs next, and for how long before I/O and timers get a turn."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any

from tinkex_actors.runtime._core.cell import AGAIN, DEAD, IDLE, READY, RUNNING, SUSPENDED_CALL
from tinkex_actors.runtime._core.messages import Reply
from tinkex_actors.runtime._core.tasks import HandlerTask, Tasks, current_task, enter_task, leave_task

if TYPE_CHECKING:
    from tinkex_actors.runtime._core.cell import Cell
    from tinkex_actors.runtime._core.messages import Handler, Message

__all__ = ["Scheduler"]

SLICE_SECONDS = 0.001  # the pump yields after this long: worst turn 3-6 ms measured with handlers of 1 us to 1 ms
MAX_WINDOW = 64  # messages between two looks at the clock, at most
SHORT, LONG = 1e-4, 2.5e-4  # seconds a window should take
MAX_TURN = 4096  # messages a turn may run when the clock stands still (virtual time)
KEPT_MAILBOXES = 1024  # of idle actors: an empty deque alone is 760 bytes, as much as the rest of an idle actor
LOOKS = 64  # at the oldest mailboxes in a turn of the pump
MAX_INLINE = 256  # calls that may run in their callers in a turn, when the clock stands still


class Scheduler:
    """Drains ready actors in one loop callback; no task, no loop callback per message.

    Args:
        loop: the system's loop. One with a ``permutation`` (a seeded ``random.Random``, see ``testing.VirtualLoop``)
            decides order, burst sizes and inline calls by it; every choice is one that real timing could make.
    """

    __slots__ = (
        "_allowance",
        "_looked",
        "_max_inline",
        "_owners",
        "_turn_end",
        "_window",
        "active",
        "asleep",
        "clock",
        "depth",
        "inline",
        "inline_window",
        "loop",
        "permutation",
        "queue",
        "slice_seconds",
        "tasks",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.queue: deque[Cell] = deque()
        self._owners: deque[Cell] = deque()
        self.asleep = True
        self._window = 8
        self.tasks = Tasks(loop)
        self.active: HandlerTask | None = None
        self.depth = 0
        self.inline = 0
        self.inline_window = 8
        self._looked = 0.0
        self._turn_end = 0.0
        self._allowance = 0
        self._max_inline = MAX_INLINE if getattr(loop, "virtual", False) else MAX_TURN
        self.permutation: random.Random | None = getattr(loop, "permutation", None)
        virtual = getattr(loop, "virtual", False)
        self.clock: Callable[[], float] = loop.time if virtual else perf_counter
        self.slice_seconds = SLICE_SECONDS if self.permutation is None else -1.0

    def mailbox(self, cell: Cell) -> deque[Any]:
        """Return an empty mailbox for an actor without one, if possible that of an actor long idle.

        Each new mailbox looks at the two oldest, and each turn of the pump at some more: however many actors have been
        used, those in use and a thousand others keep theirs, and no sweep ever stops the loop.
        """
        self._owners.append(cell)
        box = self._reclaim(2)
        return deque() if box is None else box

    def _reclaim(self, looks: int) -> deque[Any] | None:
        owners, box = self._owners, None
        while looks and len(owners) > KEPT_MAILBOXES:
            looks -= 1
            owner = owners.popleft()
            if owner.state == IDLE and not owner.box:
                box, owner.box = owner.box, None
            elif owner.state != DEAD:
                owners.append(owner)
        return box

    def wake(self) -> None:
        """Let the pump run: the queue has its first actor."""
        self.asleep = False
        self.loop.call_soon(self._pump)

    def restart(self, cell: Cell) -> None:
        """Have the pump start a crashed actor again when its turn comes."""
        cell.lifecycle = AGAIN
        self.queue.append(cell)
        if self.asleep:
            self.wake()

    def may_run_inline(self) -> bool:
        """Return whether one more call may run in its caller, once ``inline``, the number let through, is used up.

        Calls are let through in windows, like the pump's, until they have held the loop for a slice of time; then the
        loop gets a turn.
        """
        if self.permutation is not None:
            if self.permutation.random() < 0.5:
                return False
            self.inline = 0
        now = self.clock()
        if not self._turn_end:
            self.loop.call_soon(self._turned)
            self._turn_end = now + SLICE_SECONDS
            self._allowance = self._max_inline
        else:
            self.inline_window = adapted(self.inline_window, now - self._looked)
        self._looked = now
        if now >= self._turn_end or self._allowance <= 0:
            return False
        window = 1 if self.permutation is not None else min(self.inline_window, self._allowance)
        self._allowance -= window
        self.inline = window
        return True

    def _turned(self) -> None:
        """The loop has had its turn."""
        self._turn_end = 0.0
        self.inline = 0

    def _any(self) -> Cell:
        queue = self.queue
        if len(queue) > 1:
            queue.rotate(-self.permutation.randrange(len(queue)))  # type: ignore[union-attr]
        return queue.popleft()

    def burst(self, window: int) -> int:
        """Return how many messages an actor may handle before another gets its turn."""
        return window if self.permutation is None else self.permutation.choice((1, 1, 2, 4))

    def interrupted(self, task: HandlerTask) -> None:
        """A task is being cancelled: if its burst runs now, that ends with the present message."""
        if self.active is task:
            self.active = None

    def _step(self, cell: Cell, budget: int) -> int:
        """Begin a burst of an actor with ``async def`` handlers; return how many messages it took."""
        box = cell.box
        if len(box) == 1 and type(box[0]) is Reply and box[0].message[0].is_async:
            self._step_one(cell, box.popleft())
            return 1
        loop = self.loop
        task = self.tasks.take()
        burst = cell.begin_burst(task, budget)
        self.active = task
        enter_task(loop, task)
        try:
            awaited = cell.context.run(burst.send, None)  # type: ignore[union-attr]
        except StopIteration as stop:
            used: int = stop.value
        except BaseException:
            task.close()
            raise
        else:
            task.carry_on(awaited)
            return 1
        finally:
            leave_task(loop, task)
            self.active = None
            del burst
        self.tasks.give(task)
        return used

    def _run_one(self, cell: Cell, message: Message) -> None:
        """``Cell.drain`` for the one cast of an actor that was idle."""
        cell.state = RUNNING
        cell.handling = handler = message[0]
        cell.processed += 1
        try:
            if handler.one:
                cell.context.run(handler.function, cell.actor, message[1])  # type: ignore[union-attr]
            else:
                cell.context.run(handler.run, cell.actor, message)  # type: ignore[union-attr]
        except BaseException as error:
            cell.context.run(cell.failed_in_burst, message, None, error)  # type: ignore[union-attr]
        if cell.rare is not None and cell.rare.senders:
            cell.admit()
        if cell.state == RUNNING:  # settle, written out
            cell.handling = None
            if cell.box:
                cell.schedule()
            else:
                cell.state = IDLE

    def _step_one(self, cell: Cell, item: Message | Reply) -> None:
        """Run the one message of an actor that was idle, an ``async def`` one, without a burst around it."""
        reply = item if type(item) is Reply else None
        message: Message = item if reply is None else reply.message  # type: ignore[assignment]
        loop = self.loop
        context = cell.context
        task = cell.task = self.tasks.take()
        cell.state = RUNNING
        cell.handling = handler = message[0]
        cell.processed += 1
        actor = cell.actor
        coroutine = handler.function(actor, message[1]) if handler.one else handler.run(actor, message)
        task.begin(cell, coroutine, context)  # type: ignore[arg-type]
        enter_task(loop, task)
        try:
            awaited = context.run(coroutine.send, None)  # type: ignore[union-attr]
        except StopIteration as stop:
            if reply is not None:
                reply.answer(stop.value)
        except BaseException as error:
            cell.failed_in_burst(message, reply, error)
        else:
            task.item = item
            task.carry_on(awaited)
            return
        finally:
            leave_task(loop, task)
        del coroutine
        if cell.rare is not None and cell.rare.senders:
            cell.admit()
        cell.task = None
        if cell.state == RUNNING:  # settle, written out
            cell.handling = None
            if cell.box:
                cell.schedule()
            else:
                cell.state = IDLE
        self.tasks.give(task)

    def step_inline(self, cell: Cell, message: Message) -> Any:
        """Run the first step of an ``async def`` handler inside the caller.

        Returns:
            Its result, or ``SUSPENDED_CALL``: then the actor's task has the ``Reply`` to wait for.
        """
        handler: Handler[..., Any] = message[0]
        context = cell.context
        loop = self.loop
        caller = current_task(loop)
        task = cell.task = self.tasks.take()
        cell.state = RUNNING
        cell.handling = handler
        cell.processed += 1
        actor = cell.actor
        coroutine = handler.function(actor, message[1]) if handler.one else handler.run(actor, message)
        task.begin(cell, coroutine, context)  # type: ignore[arg-type]
        self.depth += 1
        if caller is not None:
            leave_task(loop, caller)
        enter_task(loop, task)
        over = True
        try:
            awaited = context.run(coroutine.send, None)  # type: ignore[union-attr]
            over = False
            reply = task.item = Reply(loop=loop)
            reply.message = message
            task.carry_on(awaited)
            return SUSPENDED_CALL
        except StopIteration as stop:
            return stop.value
        except BaseException as error:
            answer = cell.failed(handler, error)
            cell.poisoned(handler, error)
            if answer is error or not isinstance(error, (Exception, asyncio.CancelledError)):
                raise
            raise answer from answer.__cause__
        finally:
            leave_task(loop, task)
            if caller is not None:
                enter_task(loop, caller)
            self.depth -= 1
            if over:
                del coroutine
                cell.task = None
                cell.settle()
                self.tasks.give(task)

    def _pump(self) -> None:
        queue, clock = self.queue, self.clock
        take = queue.popleft if self.permutation is None else self._any
        window = self._window
        budget = self.burst(window)
        allowance = MAX_TURN
        then = clock()
        end = then + self.slice_seconds
        try:
            while queue:
                cell = take()
                if cell.state != READY:
                    if cell.lifecycle is AGAIN:
                        cell.parent.family.restart_now(cell)  # type: ignore[union-attr]
                    continue
                box = cell.box
                if len(box) == 1 and type(box[0]) is tuple:  # a cast to an actor that was idle: most of what there is
                    budget -= 1
                    if not cell.kind.tasked:
                        self._run_one(cell, box.popleft())
                    elif box[0][0].is_async:
                        self._step_one(cell, box.popleft())
                    else:
                        self._step(cell, 1)
                elif cell.kind.tasked:
                    budget -= self._step(cell, budget)
                else:
                    budget -= cell.context.run(cell.drain, budget)  # type: ignore[union-attr]
                if budget > 0:
                    continue
                now = clock()
                window = adapted(window, now - then)
                allowance -= window
                if now >= end or allowance <= 0:
                    break
                then = now
                budget = self.burst(window)
        finally:
            self._window = window
            if queue:
                self.loop.call_soon(self._pump)
            else:
                self.asleep = True
                self._reclaim(LOOKS)


def adapted(window: int, elapsed: float) -> int:
    """Return the next window, in messages, after one that took ``elapsed`` seconds."""
    if elapsed < SHORT:
        return min(window * 2, MAX_WINDOW)
    if elapsed > LONG:
        return int(window * LONG / elapsed) or 1
    return window
