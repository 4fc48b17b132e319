"""The cell: identity, mailbox and execution of one actor. It outlives restarts; the user's object does not.

States: IDLE has nothing to do and is in no queue; READY waits for its turn; RUNNING is inside (or between) handlers;
STARTING, HALTING and SUSPENDED belong to the lifecycle and let messages queue; DEAD turns them into dead letters.
Only IDLE is falsy, so ``put`` needs one test to know whether to schedule.

Two ways to run. A class with ``def`` handlers only is drained by the scheduler's pump, with no task anywhere. A class
with an ``async def`` handler gets one task per burst of messages, created at the idle-to-busy edge and ended when the
mailbox is empty: the task is the actor's own, so ``current_task().cancel()``, ``asyncio.timeout``, TaskGroups and
context variables mean what they mean in plain asyncio and can never reach another actor.
"""

from __future__ import annotations

import asyncio
from asyncio import _enter_task, _leave_task  # the documented hooks of third-party task implementations
from collections import deque
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Any

from tinkex_actors.errors import ActorCrashedError, ActorStoppedError, CallCycleError, MailboxFullError
from tinkex_actors.runtime._core.messages import Continuation, Kind, Message, Reply, Retried
from tinkex_actors.runtime.events import Poisoned
from tinkex_actors.runtime.exits import Crashed, ExitReason

if TYPE_CHECKING:
    from tinkex_actors.runtime._core.children import Children
    from tinkex_actors.runtime._core.messages import Handler
    from tinkex_actors.runtime.child_spec import ChildSpec
    from tinkex_actors.runtime.system import ActorSystem

__all__ = ["Cell", "DeadBox", "Rare", "Reject", "current"]

IDLE, READY, RUNNING, STARTING, HALTING, SUSPENDED, DEAD = range(7)
STATES = ("idle", "ready", "running", "starting", "stopping", "suspended", "dead")

CLOCK_EVERY = 32  # messages of one burst between two looks at the clock

current: ContextVar[Cell | None] = ContextVar("tinkex_actors.current", default=None)


class Reject(Exception):  # the surface's own name: it is raised as an answer, not as a failure
    """Raised by a handler to say no: the caller gets ``error``, and the actor lives on.

    Args:
        error: what the caller sees.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class DeadBox:
    """The mailbox of an actor that has stopped or is stopping: whatever is put in is a dead letter."""

    __slots__ = ("cell",)

    def __init__(self, cell: Cell) -> None:
        self.cell = cell

    def __len__(self) -> int:
        return 0

    def append(self, item: Message | Reply) -> None:
        """Refuse a message: a cast is recorded, a call fails at once."""
        self.cell.system.refuse(self.cell, item)


def try_again(cell: Cell, message: Message, reply: Reply | None) -> None:
    """Put a message that crashed its actor before everything the next incarnation will handle."""
    item: Message | Reply = message
    if reply is not None:
        reply.message = message
        item = reply
    box: Any = cell.box
    if isinstance(box, DeadBox):  # the actor fails fast, and its own messages are kept aside
        box = box.kept  # type: ignore[attr-defined]
    box.appendleft(item)


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
        self.task: asyncio.Task[Any] | None = None
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
            box = self.box = deque()
        elif len(box) >= self.capacity:
            self._overflow(message)
            return
        box.append(message)
        if not self.state:
            self._schedule()

    def post(self, message: Message) -> None:
        """Queue a message of the runtime's own (a timer, a ``Down``) past the mailbox's bound."""
        if self.box is None:
            self.box = deque()
        self.box.append(message)
        if not self.state:
            self._schedule()

    def push(self, message: Message) -> None:
        """Queue a continuation: before everything but earlier continuations."""
        box = self.box
        if box is None:
            box = self.box = deque()
        elif isinstance(box, DeadBox):
            box.append(message)
            return
        index = 0
        while index < len(box) and type(box[index]) is Continuation:
            index += 1
        box.insert(index, Continuation(message))
        if not self.state:
            self._schedule()

    async def deliver(self, message: Message) -> None:
        """Queue a message, waiting while the mailbox is full. Raises ``ActorStoppedError`` if the actor stops first."""
        box = self.box
        if box is None or len(box) < self.capacity:
            self.put(message)
            return
        room: asyncio.Future[None] = self.system.loop.create_future()
        self.more().senders.append((message, room))
        me = self._begin_wait()
        try:
            await room
        finally:
            if me is not None:
                me.waiting_on = None

    async def ask(self, message: Message, timeout: float) -> Any:
        """Send a call and wait for its reply, at most ``timeout`` seconds.

        A ``def`` handler of an idle actor runs here and now, under the actor's context and outside the caller's task:
        the mailbox is empty, so the order of messages is the same as through the queue.
        """
        me = self._begin_wait()
        system = self.system
        try:
            if self.state == IDLE and not message[0].is_async and system.scheduler.may_run_inline():
                return self._run_inline(message)
            reply = Reply(loop=system.loop)
            reply.message = message
            box = self.box
            if box is not None and len(box) >= self.capacity and self.spec.mailbox.when_full == "wait":
                self.more().senders.append((reply, reply))
            else:
                self.put(reply)
            if not reply.done():
                system.deadlines.add(reply, timeout, self)
            return await reply
        finally:
            if me is not None:
                me.waiting_on = None

    async def ask_queued(self, message: Message, timeout: float) -> Any:
        """As ``ask``, but never inside the caller: for handlers that may be tried again."""
        me = self._begin_wait()
        try:
            reply = Reply(loop=self.system.loop)
            reply.message = message
            box = self.box
            if box is not None and len(box) >= self.capacity and self.spec.mailbox.when_full == "wait":
                self.more().senders.append((reply, reply))
            else:
                self.put(reply)
            if not reply.done():
                self.system.deadlines.add(reply, timeout, self)
            return await reply
        finally:
            if me is not None:
                me.waiting_on = None

    def _begin_wait(self) -> Cell | None:
        """Mark the calling actor as waiting for this one; only a call by a handler's own task blocks its actor."""
        me = current.get()
        if me is None or me.task is None or me.task is not asyncio.current_task():
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
        if policy == "drop_oldest":
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
    def _schedule(self) -> None:
        self.state = READY
        if self.kind.tasked:
            # Not loop.create_task: an eager task factory would run the handler inside the sender.
            self.task = asyncio.Task(self._work(), loop=self.system.loop, name=self.name, context=self.context)
        else:
            self.system.scheduler.add(self)

    def settle(self) -> None:
        """After a burst: back to the queue or to sleep, unless the lifecycle has taken over."""
        if self.state != RUNNING:
            return
        self.handling = None
        if self.box:
            self._schedule()
        else:
            self.state = IDLE

    def _run_inline(self, message: Message) -> Any:
        handler: Handler[..., Any] = message[0]
        context = self.context
        loop = self.system.loop
        caller = asyncio.current_task()
        self.state = RUNNING
        self.handling = handler
        self.processed += 1
        if caller is not None:
            _leave_task(loop, caller)
        try:
            return context.run(handler.run, self.actor, message)  # type: ignore[union-attr]
        except BaseException as error:
            answer = self.failed(handler, error)
            self._poisoned(handler, error)
            if answer is error or not isinstance(error, (Exception, asyncio.CancelledError)):
                raise
            raise answer from answer.__cause__
        finally:
            if caller is not None:
                _enter_task(loop, caller)
            self.settle()

    def drain(self, budget: int) -> int:
        """Run up to ``budget`` queued messages of a class without ``async def`` handlers; return how many ran."""
        box = self.box
        actor = self.actor
        self.state = RUNNING
        count = 0
        while box and count < budget and self.state == RUNNING:
            item = box.popleft()
            count += 1
            reply = None
            if type(item) is Reply:
                reply = item
                item = reply.message
            self.handling = handler = item[0]
            try:
                if len(item) == 2 and not handler.keywords:  # a call with a star takes three times as long
                    result = handler.function(actor, item[1])
                else:
                    result = handler.run(actor, item)
            except BaseException as error:
                self._failed_in_burst(item, reply, error)
            else:
                if reply is not None:
                    reply.answer(result)
        self.processed += count
        if self.rare is not None and self.rare.senders:
            self.admit()
        self.settle()
        return count

    async def _work(self) -> None:
        """Run queued messages until there are none, a time slice is over, or the lifecycle takes over."""
        task = self.task
        if self.state != READY:
            return
        self.state = RUNNING
        box, actor, scheduler = self.box, self.actor, self.system.scheduler
        end = 0.0
        window = CLOCK_EVERY if scheduler.permutation is None else scheduler.burst(CLOCK_EVERY)
        while box and self.state == RUNNING:
            item = box.popleft()
            reply = None
            if type(item) is Reply:
                reply = item
                item = reply.message
            self.handling = handler = item[0]
            self.processed += 1
            try:
                result = handler.run(actor, item)
                if handler.is_async:
                    result = await result
            except BaseException as error:
                self._failed_in_burst(item, reply, error)
            else:
                if reply is not None:
                    reply.answer(result)
            if self.rare is not None and self.rare.senders:
                self.admit()
            if task.cancelling():  # type: ignore[union-attr]  # a cancel left behind must not hit the next message
                break
            window -= 1
            if window == 0:
                now = scheduler.clock()
                if not end:  # the first look starts the slice: most bursts never get here
                    end = now + scheduler.slice_seconds
                if now >= end:
                    break
                window = CLOCK_EVERY
        if self.task is task:
            self.task = None
            self.settle()

    # --- failing ---------------------------------------------------------------------------------------------------
    def _failed_in_burst(self, message: Message, reply: Reply | None, error: BaseException) -> None:
        if isinstance(error, GeneratorExit):  # the loop is gone and the task is being collected
            raise error
        handler: Handler[..., Any] = message[0]
        answer = self.failed(handler, error)
        if handler.retry_once and type(message) is not Retried and self._comes_back_from(error):
            try_again(self, Retried(message), reply)
            return
        self._poisoned(handler, error)
        if reply is not None:
            reply.fail(answer)
        if not isinstance(error, (Exception, asyncio.CancelledError)):
            raise error

    def _comes_back_from(self, error: BaseException) -> bool:
        """Return whether this error has just ended the incarnation, and another is to follow."""
        ended_by_it = isinstance(self.ending, Crashed) and self.ending.error is error and self.fate is None
        family = self.parent.family if self.parent is not None else None
        return ended_by_it and self.spec.restart != "temporary" and family is not None and not family.closing

    def _poisoned(self, handler: Handler[..., Any], error: BaseException) -> None:
        """Publish that a message is lost because it crashed the actor."""
        if self.system.events.active and isinstance(self.ending, Crashed) and self.ending.error is error:
            event = Poisoned(path=self.path, at=self.system.now(), message=handler.name, error=error)
            self.system.events.publish(event)

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
        elif self.state == RUNNING:
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
