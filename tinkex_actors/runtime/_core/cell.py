"""The cell: identity, mailbox and execution of one actor. It outlives restarts; the user's object does not.

States: IDLE has nothing to do and is in no queue; READY waits for its turn; RUNNING is inside (or between) handlers;
STARTING, HALTING and SUSPENDED belong to the lifecycle and let messages queue; DEAD turns them into dead letters.
Only IDLE is falsy, so ``put`` needs one test to know whether to schedule.

Two ways to run, from one run queue. A class with ``def`` handlers only is drained by the scheduler's pump, with no task
anywhere. A class with an ``async def`` handler is stepped by the pump under a task (see ``tasks``), which continues by
itself once a handler suspends: ``current_task().cancel()``, ``asyncio.timeout``, TaskGroups and context variables mean
what they mean in plain asyncio and can never reach another actor. A call to an idle actor runs inside its caller.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from contextvars import Context, ContextVar
from itertools import repeat
from operator import length_hint
from typing import TYPE_CHECKING, Any

from tinkex_actors.errors import ActorCrashedError, ActorStoppedError, CallCycleError, MailboxFullError
from tinkex_actors.runtime._core.messages import Continuation, Kind, Message, Reply, Retried
from tinkex_actors.runtime._core.tasks import current_task, enter_task, leave_task
from tinkex_actors.runtime.events import Poisoned
from tinkex_actors.runtime.exits import Crashed, ExitReason

if TYPE_CHECKING:
    from tinkex_actors.runtime._core.children import Children
    from tinkex_actors.runtime._core.messages import Handler
    from tinkex_actors.runtime._core.tasks import HandlerTask
    from tinkex_actors.runtime.child_spec import ChildSpec
    from tinkex_actors.runtime.system import ActorSystem

__all__ = ["Cell", "Rare", "Reject", "current"]

IDLE, READY, RUNNING, STARTING, HALTING, SUSPENDED, DEAD = range(7)
STATES = ("idle", "ready", "running", "starting", "stopping", "suspended", "dead")

# Capacities of a mailbox that takes nothing for now: while its actor finishes what it has, or restarts and fails fast.
CLOSED, AWAY = -1, -2
INLINE_DEPTH = 32  # calls that may run inside one another; each takes a few frames of the interpreter's stack
POP = deque.popleft  # mapped over repeat(box, n) it takes n messages faster than a loop that counts
AGAIN: Any = object()  # the lifecycle of a crashed actor that the pump starts again, as there is nothing to wait for
SUSPENDED_CALL: Any = object()  # instead of the result of a call whose handler suspended

current: ContextVar[Cell | None] = ContextVar("tinkex_actors.current", default=None)


class Reject(Exception):  # the surface's own name: it is raised as an answer, not as a failure
    """Raised by a handler to say no: the caller gets ``error``, and the actor lives on.

    Args:
        error: what the caller sees.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class Rare:
    """What few actors have; made when first needed, so that an idle actor stays small."""

    __slots__ = (
        "carried",
        "ended",
        "keys",
        "last_crash",
        "links",
        "log",
        "monitors",
        "senders",
        "tasks",
        "timers",
        "watching",
    )

    def __init__(self) -> None:
        self.senders: deque[tuple[Message | Reply, asyncio.Future[None] | Reply]] = deque()
        self.monitors: dict[Cell, bool] = {}  # the value: whether the watcher wants to hear of restarts too
        self.watching: dict[Cell, None] = {}
        self.links: dict[Cell, None] = {}
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.timers: dict[Any, None] = {}
        self.keys: dict[Any, None] = {}
        self.ended: list[asyncio.Future[ExitReason]] = []
        self.log: Any = None
        self.carried: tuple[Any, ...] = ()
        self.last_crash = ""


class Cell:
    """One actor's place in the tree. ``ActorRef`` is its public face."""

    __slots__ = (
        "actor",
        "box",
        "capacity",
        "context",
        "ending",
        "family",
        "fate",
        "handling",
        "incarnation",
        "kind",
        "lifecycle",
        "name",
        "parent",
        "processed",
        "rare",
        "spec",
        "state",
        "system",
        "task",
        "waiting_on",
    )

    def __init__(self, system: ActorSystem, parent: Cell | None, name: str, spec: ChildSpec, kind: Kind) -> None:
        self.system = system
        self.parent = parent
        self.name = name
        self.spec = spec
        self.kind = kind
        self.capacity = spec.mailbox.capacity
        self.state = STARTING
        self.box: Any = None
        self.actor: Any = None
        self.context: Context | None = None
        self.task: Any = None  # a HandlerTask, or the lifecycle's asyncio.Task
        self.handling: Handler[..., Any] | None = None
        self.waiting_on: Cell | None = None
        self.family: Children | None = None
        self.lifecycle: asyncio.Task[None] | None = None
        self.fate: ExitReason | None = None
        self.ending: ExitReason | None = None
        self.rare: Rare | None = None
        self.processed = 0
        self.incarnation = 0

    @property
    def path(self) -> str:
        """Where the actor is in the tree, such as ``/service/core/poller``."""
        names: list[str] = []
        cell: Cell | None = self
        while cell is not None and cell.parent is not None:
            names.append(cell.name)
            cell = cell.parent
        return "/" + "/".join(reversed(names))

    def more(self) -> Rare:
        """Return the rare fields, made on first use."""
        rare = self.rare
        if rare is None:
            rare = self.rare = Rare()
        return rare

    # --- sending ---------------------------------------------------------------------------------------------------
    def put(self, message: Message | Reply) -> None:
        """Queue a message; the overflow policy decides when the mailbox is full."""
        box = self.box
        if box is None:
            if self.fate is not None:
                self.system.refuse(self, message)
                return
            box = self.box = self.system.scheduler.mailbox(self)
        elif len(box) >= self.capacity:
            self._overflow(message)
            return
        box.append(message)
        if not self.state:
            self.schedule()

    def post(self, message: Message) -> None:
        """Queue a message of the runtime's own (a timer, a ``Down``) past the mailbox's bound."""
        if self.box is None:
            self.put(message)
            return
        self.box.append(message)
        if not self.state:
            self.schedule()

    def push(self, message: Message) -> None:
        """Queue a continuation: before everything but earlier continuations."""
        box = self.box
        if box is None:
            self.put(Continuation(message))
            return
        index = 0
        while index < len(box) and type(box[index]) is Continuation:
            index += 1
        box.insert(index, Continuation(message))
        if not self.state:
            self.schedule()

    async def deliver(self, message: Message) -> None:
        """Queue a message, waiting while the mailbox is full. Raises ``ActorStoppedError`` if the actor stops first."""
        box = self.box
        if box is None or len(box) < self.capacity or self.capacity < 0:
            self.put(message)
            return
        room: asyncio.Future[None] = self.system.loop.create_future()
        self.more().senders.append((message, room))
        me = current.get()
        if me is not None:
            me = self._begin_wait(me)
        try:
            await room
        finally:
            if me is not None:
                me.waiting_on = None

    async def ask(self, message: Message, timeout: float) -> Any:
        """Send a call and wait for its reply, at most ``timeout`` seconds.

        The handler of an idle actor runs here and now, under the actor's context and outside the caller's task: the
        mailbox is empty, so the order of messages is the same as through the queue. If it suspends, it goes on in a
        task of the actor's.
        """
        me = current.get()
        if me is not None:
            me = self._begin_wait(me)
        system = self.system
        try:
            scheduler = system.scheduler
            reply: Any = None
            if not self.state and (scheduler.inline > 0 or scheduler.may_run_inline()):
                scheduler.inline -= 1
                if not message[0].is_async:
                    return self._run_inline(message)
                if scheduler.depth < INLINE_DEPTH:
                    result = scheduler.step_inline(self, message)
                    if result is not SUSPENDED_CALL:
                        return result
                    reply = self.task.item
            if reply is None:
                reply = self._queue_call(message)
            return await self._answered(reply, timeout)
        finally:
            if me is not None:
                me.waiting_on = None

    async def ask_queued(self, message: Message, timeout: float) -> Any:
        """As ``ask``, but never inside the caller: for handlers that may be tried again, which needs an envelope."""
        me = current.get()
        if me is not None:
            me = self._begin_wait(me)
        try:
            return await self._answered(self._queue_call(message), timeout)
        finally:
            if me is not None:
                me.waiting_on = None

    def _queue_call(self, message: Message) -> Reply:
        reply = Reply(loop=self.system.loop)
        reply.message = message
        box = self.box
        if box is not None and len(box) >= self.capacity >= 0 and self.spec.mailbox.when_full == "wait":
            self.more().senders.append((reply, reply))
        else:
            self.put(reply)
        return reply

    async def _answered(self, reply: Reply, timeout: float) -> Any:
        if reply.done():
            return await reply
        queue = self.system.deadlines.add(reply, timeout, self)
        try:
            return await reply
        finally:  # what was answered is not kept alive by its deadline
            while queue and queue[0][1].done():
                queue.popleft()

    def _begin_wait(self, me: Cell) -> Cell | None:
        """Mark the calling actor as waiting for this one; only a call by a handler's own task blocks its actor."""
        if me.task is None or me.task is not current_task(self.system.scheduler.loop):
            return None
        ring = [me.path]
        cell: Cell | None = self
        while cell is not None:
            ring.append(cell.path)
            if cell is me:
                raise CallCycleError(
                    f"This call would wait for itself: {' -> '.join(ring)}. Use cast for one of these messages.",
                    actor=me.path,
                    ring=tuple(ring),
                )
            cell = cell.waiting_on
        me.waiting_on = self
        return me

    def _overflow(self, item: Message | Reply) -> None:
        policy = self.spec.mailbox.when_full
        if self.capacity < 0:
            self.system.refuse(self, item)
        elif policy == "drop_oldest":
            self._drop_oldest()
            self.box.append(item)
        elif policy == "drop_new":
            self.system.drop(self, item, "mailbox full, newest dropped")
        else:
            raise self.full_error()

    def _drop_oldest(self) -> None:
        """Drop the oldest message of somebody else's: who waits for a ``Down`` must get it."""
        hooks = self.kind.hooks.values()
        for index, item in enumerate(self.box):
            message = item.message if type(item) is Reply else item
            if message[0] not in hooks:
                del self.box[index]
                self.system.drop(self, item, "mailbox full, oldest dropped")
                return

    def full_error(self) -> MailboxFullError:
        """Return the error that a sender gets when there is no room."""
        return MailboxFullError(
            f"The mailbox of {self.path} is full ({self.capacity} messages). "
            "Use `await ref.send...` to wait for room, or give it a larger Mailbox.",
            actor=self.path,
            capacity=self.capacity,
        )

    def admit(self) -> None:
        """Let waiting senders' messages in, in order, while there is room."""
        rare = self.rare
        if rare is None:
            return
        senders = rare.senders
        while senders and len(self.box) < self.capacity:
            item, room = senders.popleft()
            if room.done():
                continue
            self.box.append(item)
            if room is not item:
                room.set_result(None)

    # --- running ---------------------------------------------------------------------------------------------------
    def schedule(self) -> None:
        """Join the run queue."""
        self.state = READY
        scheduler = self.system.scheduler
        scheduler.queue.append(self)
        if scheduler.asleep:
            scheduler.wake()

    def settle(self) -> None:
        """After a burst: back to the queue or to sleep, unless the lifecycle has taken over."""
        if self.state != RUNNING:
            return
        self.handling = None
        if self.box:
            self.schedule()
        else:
            self.state = IDLE

    def _run_inline(self, message: Message) -> Any:
        """Run a ``def`` handler inside the caller, as if no task were running."""
        handler: Handler[..., Any] = message[0]
        loop = self.system.scheduler.loop
        caller = current_task(loop)
        self.state = RUNNING
        self.handling = handler
        self.processed += 1
        if caller is not None:
            leave_task(loop, caller)
        try:
            if handler.one:
                return self.context.run(handler.function, self.actor, message[1])  # type: ignore[union-attr]
            return self.context.run(handler.run, self.actor, message)  # type: ignore[union-attr]
        except BaseException as error:
            answer = self.failed(handler, error)
            self.poisoned(handler, error)
            if answer is error or not isinstance(error, (Exception, asyncio.CancelledError)):
                raise
            raise answer from answer.__cause__
        finally:
            if caller is not None:
                enter_task(loop, caller)
            self.settle()

    def over(self, task: HandlerTask) -> None:
        """A task of this actor has come to its end."""
        if self.rare is not None and self.rare.senders:
            self.admit()
        if self.task is task:
            self.task = None
            self.settle()

    def drain(self, budget: int) -> int:
        """Run up to ``budget`` queued messages of a class without ``async def`` handlers; return how many ran."""
        box, actor = self.box, self.actor
        size = min(len(box), budget)
        turns = repeat(box, size)
        self.state = RUNNING
        handler = None
        for item in map(POP, turns):
            reply = None
            if type(item) is Reply:
                reply = item
                item = reply.message
            if handler is not item[0]:
                self.handling = handler = item[0]
                function, one = handler.function, handler.one
            try:
                result = function(actor, item[1]) if one else handler.run(actor, item)
            except BaseException as error:
                self.failed_in_burst(item, reply, error)
            else:
                if reply is not None and not reply.done():
                    reply.set_result(result)
            if self.state != RUNNING:
                break
        count = size - length_hint(turns)
        self.processed += count
        if self.rare is not None and self.rare.senders:
            self.admit()
        if self.state == RUNNING:  # settle, written out
            self.handling = None
            if box:
                self.schedule()
            else:
                self.state = IDLE
        return count

    def begin_burst(self, task: HandlerTask, budget: int) -> Coroutine[Any, Any, int]:
        """Return the coroutine that runs up to ``budget`` queued messages, ready for its first step under ``task``."""
        self.state = RUNNING
        self.task = task
        burst = self.work(task, budget)
        task.begin(self, burst, self.context)  # type: ignore[arg-type]
        return burst

    async def work(self, task: HandlerTask, budget: int) -> int:
        """Run queued messages until one suspends, ``budget`` is used up, or the lifecycle takes over."""
        box, actor, scheduler = self.box, self.actor, self.system.scheduler
        size = min(len(box), budget)
        turns = repeat(box, size)
        handler = None
        for item in map(POP, turns):
            reply = None
            if type(item) is Reply:
                reply = item
                item = reply.message
            if handler is not item[0]:
                self.handling = handler = item[0]
                function, one, is_async = handler.function, handler.one, handler.is_async
            try:
                result = function(actor, item[1]) if one else handler.run(actor, item)
                if is_async:
                    result = await result
            except BaseException as error:
                if self.task is not task:
                    self.outlived(reply, error)
                    return 0
                self.failed_in_burst(item, reply, error)
            else:
                if reply is not None and not reply.done():
                    reply.set_result(result)
            # After a suspension the rest has to queue again; a cancel left behind must not hit the next message.
            if scheduler.active is not task or self.state != RUNNING:
                break
        count = size - length_hint(turns)
        self.processed += count
        self.over(task)
        return count

    # --- failing ---------------------------------------------------------------------------------------------------
    def failed_in_burst(self, message: Message, reply: Reply | None, error: BaseException) -> None:
        """Do what follows from an exception of a handler; what leaves the loop is raised again."""
        if isinstance(error, GeneratorExit):  # the loop is gone and the task is being collected
            raise error
        self.fail(message, reply, error)
        if not isinstance(error, (Exception, asyncio.CancelledError)):
            raise error

    def fail(self, message: Message, reply: Reply | None, error: BaseException) -> None:
        """Tell the supervisor and the caller of an exception of a handler, or have the message tried once more."""
        handler: Handler[..., Any] = message[0]
        answer = self.failed(handler, error)
        if handler.retry_once and type(message) is not Retried and self._comes_back_from(error):
            self._try_again(message, reply)
            return
        self.poisoned(handler, error)
        if reply is not None:
            reply.fail(answer)

    def _comes_back_from(self, error: BaseException) -> bool:
        """Return whether this error has just ended the incarnation, and another is to follow."""
        ended_by_it = isinstance(self.ending, Crashed) and self.ending.error is error and self.fate is None
        family = self.parent.family if self.parent is not None else None
        return ended_by_it and self.spec.restart != "temporary" and family is not None and not family.closing

    def _try_again(self, message: Message, reply: Reply | None) -> None:
        """Put a message that crashed its actor before everything the next incarnation will handle."""
        item: Message | Reply = Retried(message)
        if reply is not None:
            reply.message = Retried(message)
            item = reply
        self.box.appendleft(item)

    def poisoned(self, handler: Handler[..., Any], error: BaseException) -> None:
        """Publish that a message is lost, if it crashed the actor."""
        if self.system.events.active and isinstance(self.ending, Crashed) and self.ending.error is error:
            event = Poisoned(path=self.path, at=self.system.now(), message=handler.name, error=error)
            self.system.events.publish(event)

    def outlived(self, reply: Reply | None, error: BaseException) -> None:
        """A handler given up on has ended after all, with an error: it is not the present incarnation's."""
        if reply is not None:
            reply.fail(ActorStoppedError(f"{self.path} was stopped while it ran this message.", actor=self.path))
        if not isinstance(error, (Exception, asyncio.CancelledError)):
            raise error

    def failed(self, handler: Handler[..., Any], error: BaseException) -> BaseException:
        """Decide what an exception of a handler means for the actor; return what its caller gets."""
        if isinstance(error, Reject):
            error.error.__cause__ = error.error.__cause__ or error.__cause__
            self.system.rejected(self, handler, error.error)
            return error.error
        if isinstance(error, handler.raises):
            self.system.rejected(self, handler, error)
            return error
        if isinstance(error, Exception):
            self.crash(error, handler.name)
            return error
        if not isinstance(error, asyncio.CancelledError):
            self.system.escaped(self, handler.name, error)
            answer: BaseException = ActorCrashedError(
                f"{self.path} left the event loop in {handler.name}: {error!r}.", actor=self.path
            )
        elif self.state == RUNNING and not self.system.loop_is_ending():
            self.crash(error, handler.name)
            answer = ActorCrashedError(
                f"{handler.name} of {self.path} was cancelled by nobody who was asked to: an awaited task was "
                "cancelled under it. The actor restarts by its supervisor's rules.",
                actor=self.path,
            )
        elif isinstance(self.ending, Crashed):
            answer = ActorCrashedError(f"{self.path} crashed while it ran {handler.name}.", actor=self.path)
            answer.__cause__ = self.ending.error
            return answer
        else:
            answer = ActorStoppedError(f"{self.path} was stopped while it ran {handler.name}.", actor=self.path)
        answer.__cause__ = error
        return answer

    def crash(self, error: BaseException, where: str) -> None:
        """Report a crash once and leave the rest to the supervisor."""
        self.more().last_crash = f"{type(error).__name__}: {error}"
        self.system.crashed(self, error, where)
        self.exit(Crashed(error))

    def exit(self, reason: ExitReason) -> None:
        """End the incarnation for a reason of the actor's own; its parent decides what follows."""
        if self.state == DEAD or self.parent is None or self.parent.family is None:
            return
        self.parent.family.child_exited(self, reason)
