"""How one incarnation begins and ends. Each step is awaited by exactly one operation of the parent's ``Children``."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, NoReturn

from tinkex_actors.errors import ActorStoppedError, StartFailedError
from tinkex_actors.runtime._core.carrying import commit, hand_over
from tinkex_actors.runtime._core.cell import (
    DEAD,
    HALTING,
    RUNNING,
    STARTING,
    SUSPENDED,
    Cell,
    current,
)
from tinkex_actors.runtime._core.mailboxes import close_mailbox, reopen
from tinkex_actors.runtime._core.tasks import HandlerTask
from tinkex_actors.runtime.events import ActorStarted, ActorStopped
from tinkex_actors.runtime.exits import Crashed, Down, ExitReason, Killed, NoActor, Normal, Restarted

if TYPE_CHECKING:
    from tinkex_actors.runtime.ref import ActorRef
    from tinkex_actors.runtime.system import ActorSystem

__all__ = [
    "at_rest",
    "begin",
    "begin_now",
    "bury",
    "end_of",
    "halt",
    "interrupt",
    "is_past_children",
    "notify_restarted",
    "rest",
    "undo",
    "wait_for",
]

PRUNE_AT = 16  # futures of one actor's end at which those already cancelled are dropped
CANCEL_PATIENCE_SECONDS = 1.0  # a cancellation ignored for longer is abandoned and reported


# --- beginning -----------------------------------------------------------------------------------------------------
async def begin(cell: Cell) -> None:
    """Construct the user's object and run its ``init``; the cell is ready for messages afterwards.

    Raises:
        StartFailedError: ``__init__`` or ``init`` raised, or the actor was stopped meanwhile. What had been started is
            stopped again.
    """
    try:
        _construct(cell)
        if cell.kind.has_init:
            await _run_init(cell)
        _begun(cell)
    except BaseException as error:
        await undo(cell, error)
    _open(cell)


def begin_now(cell: Cell) -> None:
    """As ``begin``, for an actor without ``init``; what it raises is for ``undo``."""
    _construct(cell)
    _begun(cell)
    _open(cell)


async def undo(cell: Cell, error: BaseException) -> NoReturn:
    """Stop what a failed start had begun, and say that it failed."""
    await halt(cell, Crashed(error), grace=0.0, with_hook=False)
    if isinstance(error, Exception) or (isinstance(error, asyncio.CancelledError) and not _caller_cancelled()):
        raise StartFailedError(
            f"{cell.path} ({cell.spec.cls.__name__}) did not start: {type(error).__name__}: {error}",
            actor=cell.path,
        ) from error
    raise error


def _begun(cell: Cell) -> None:
    if cell.ending is not None or cell.fate is not None:
        raise ActorStoppedError(f"{cell.path} was stopped while it started.", actor=cell.path)
    carried = cell.kind.policy.carry
    if carried is not None:
        commit(cell, carried)


def _open(cell: Cell) -> None:
    """Let the messages come."""
    cell.lifecycle = None
    if cell.capacity < 0:
        reopen(cell)
    cell.state = RUNNING
    cell.settle()
    events = cell.system.events
    if events.active:
        events.publish(ActorStarted(path=cell.path, at=cell.system.now(), incarnation=cell.incarnation))


def _caller_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _construct(cell: Cell) -> None:
    cell.state = STARTING
    cell.ending = None
    context = cell.context = cell.system.context.copy()
    context.run(current.set, cell)
    spec = cell.spec
    actor = spec.cls.__new__(spec.cls, *spec.args, **spec.kwargs)
    actor._cell = cell
    context.run(actor.__init__, *spec.args, **spec.kwargs)
    cell.actor = actor
    carried = cell.kind.policy.carry
    if carried is not None:
        hand_over(cell, carried)


async def _run_init(cell: Cell) -> None:
    context = cell.context
    assert context is not None
    started = context.run(cell.actor.init)
    if not inspect.isawaitable(started):
        return
    task = cell.task = _hook_task(cell, started, "init")
    try:
        await _until_done(task, math.inf, cell.system)
        if not task.done():
            cell.system.abandon(cell.path, "init", task)
        if not task.done() or task.cancelled():
            raise ActorStoppedError(f"init of {cell.path} was cancelled.", actor=cell.path)
        task.result()
    except asyncio.CancelledError:
        task.cancel()  # whoever spawned it went away
        await _until_done(task, CANCEL_PATIENCE_SECONDS)
        raise
    finally:
        cell.task = None


def _hook_task(cell: Cell, awaitable: Any, hook: str) -> asyncio.Task[Any]:
    """Run a hook as the cell's task; a coroutine is not wrapped: a cancel before its first step must reach it."""
    coroutine = awaitable if asyncio.iscoroutine(awaitable) else _awaiting(awaitable)
    return asyncio.Task(coroutine, loop=cell.system.loop, name=f"{cell.name}.{hook}", context=cell.context)


async def _awaiting(awaitable: Any) -> Any:
    return await awaitable


# --- ending --------------------------------------------------------------------------------------------------------
async def halt(
    cell: Cell, reason: ExitReason, *, grace: float, with_hook: bool = True, to_return: bool = False
) -> None:
    """End the incarnation: current message, children, ``on_stop``, linked tasks and timers. The mailbox stays.

    Args:
        cell: the actor.
        reason: given to ``on_stop``, which does not run after a kill.
        grace: seconds for the actor's own code; then it is cancelled, and a second later abandoned.
        with_hook: False for an incarnation that never began.
        to_return: another incarnation is to follow, which may keep the children.
    """
    if cell.state == SUSPENDED:
        await _stop_children(cell)
        return
    cell.state = HALTING
    cell.ending = reason
    system = cell.system
    deadline = min(system.now() + grace, system.stop_deadline)
    if cell.family is not None and cell.kind.cls.supervises:
        cell.family.refuse_starts()  # its own message may be waiting for one
    if cell.task is not None:
        await _finish(cell, cell.task, deadline, cell.handling.name if cell.handling is not None else "init")
        cell.task = None
    _cancel_timers(cell)
    if not (to_return and cell.kind.policy.children == "keep"):
        await _stop_children(cell)
    if with_hook and cell.kind.has_on_stop and cell.actor is not None and not isinstance(reason, Killed):
        await _run_on_stop(cell, reason, max(deadline, min(system.now() + cell.spec.grace, system.stop_deadline)))
    rare = cell.rare
    if rare is not None:
        await _end_tasks(cell)
        _cancel_timers(cell)  # of ``on_stop``, and of the tasks' last steps
        for watched in rare.watching:
            watched.more().monitors.pop(cell, None)
        rare.watching.clear()
    rest(cell)


def _cancel_timers(cell: Cell) -> None:
    for timer in list(cell.rare.timers) if cell.rare is not None else ():
        timer.cancel()


def is_past_children(cell: Cell) -> bool:
    """Return whether the incarnation's children have been stopped: nobody would stop what it starts now."""
    return cell.state in (HALTING, SUSPENDED, DEAD) and type(cell.task) is not HandlerTask


def rest(cell: Cell) -> None:
    """Forget the user's object: between two incarnations, or before the end."""
    cell.actor = None
    cell.handling = None
    cell.waiting_on = None
    cell.state = SUSPENDED


async def _stop_children(cell: Cell) -> None:
    if cell.family is not None:
        await cell.family.stop_all()
        cell.family = None


async def _run_on_stop(cell: Cell, reason: ExitReason, deadline: float) -> None:
    context = cell.context
    assert context is not None
    try:
        ended = context.run(cell.actor.on_stop, reason)
        if inspect.isawaitable(ended):
            task = cell.task = _hook_task(cell, ended, "on_stop")
            await _finish(cell, task, deadline, "on_stop")
            cell.task = None
            if not task.done() or task.cancelled():
                return
            failure = task.exception()
            if failure is not None:  # if it is an exit, the hook's own task has let it leave the loop
                cell.system.crashed(cell, failure, "on_stop")
    except Exception as error:
        cell.system.crashed(cell, error, "on_stop")


async def _end_tasks(cell: Cell) -> None:
    """Cancel the linked tasks, all at once, and wait for them and for those that they start meanwhile."""
    tasks, system = cell.more().tasks, cell.system
    patience = max(CANCEL_PATIENCE_SECONDS, min(cell.spec.grace, system.stop_deadline - system.now()))
    deadline = system.now() + patience
    while tasks:
        asked = list(tasks)
        for task in asked:
            task.cancel()
        for task in asked:
            await _until_done(task, deadline - system.now())
            if not task.done():
                system.abandon(cell.path, f"task {task.get_name()}", task)
            tasks.pop(task, None)


async def _finish(cell: Cell, task: asyncio.Task[Any], deadline: float, what: str) -> None:
    """Wait for the actor's own task until the deadline, then cancel it, then give it up."""
    remaining = deadline - cell.system.now()
    if remaining > 0.0 and not task.done():
        await _until_done(task, remaining, cell.system)
    if not task.done():
        task.cancel()
        await _until_done(task, CANCEL_PATIENCE_SECONDS)
        if not task.done():
            cell.system.abandon(cell.path, what, task)


async def _until_done(task: asyncio.Task[Any], seconds: float, system: ActorSystem | None = None) -> None:
    """Wait for a task without raising its exception and without cancelling it.

    Args:
        task: what to wait for.
        seconds: at most; may be ``inf``.
        system: given, the wait also ends at the deadline of the system's stop, which may be set meanwhile.
    """
    if not task.done():
        futures = (task,) if system is None else (task, system.overdue)
        timeout = None if seconds == math.inf else max(seconds, 0.0)
        await asyncio.wait(futures, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)


async def wait_for(cell: Cell, coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a wait of the lifecycle (a back-off) as the cell's task, so that ``interrupt`` can end it."""
    task = cell.task = asyncio.Task(coroutine, loop=cell.system.loop, name=f"{cell.name}.wait")
    try:
        await _until_done(task, math.inf)
    finally:
        task.cancel()
        cell.task = None


def interrupt(cell: Cell) -> None:
    """Cancel what the actor's own code or the lifecycle waits for on its behalf."""
    task = cell.task
    if task is not None and task is not asyncio.current_task(cell.system.loop):
        task.cancel()


# --- the end -------------------------------------------------------------------------------------------------------
def at_rest(cell: Cell) -> bool:
    """Return whether an end has nothing to wait for: no code running, no hook, no child, no task, no timer."""
    rare = cell.rare
    return (
        cell.task is None
        and cell.family is None
        and not cell.kind.has_on_stop
        and (rare is None or not (rare.tasks or rare.timers or rare.watching))
    )


def bury(cell: ActorRef[Any] | Cell, reason: ExitReason) -> None:
    """Make the end final: dead letters, registry, monitors, links, name, and last the ``stopped`` future."""
    if cell.state == DEAD:
        return
    close_mailbox(cell, reason)
    cell.state = DEAD
    cell.actor = None
    cell.context = None
    system = cell.system
    system.forget(cell)
    parent = cell.parent
    assert parent is not None
    assert parent.family is not None
    parent.family.removed(cell)
    if system.events.active:
        system.events.publish(
            ActorStopped(path=cell.path, at=system.now(), incarnation=cell.incarnation, reason=reason)
        )
    rare = cell.rare
    if rare is None:
        return
    down = Down(ref=cell, reason=reason, incarnation=cell.incarnation)  # type: ignore[arg-type]
    monitors, rare.monitors = rare.monitors, {}
    for watcher in monitors:
        watcher.more().watching.pop(cell, None)
        _tell(watcher, "on_down", down)
    links, rare.links = rare.links, {}
    for other in links:
        other.more().links.pop(cell, None)
        if other.kind.hooks["on_exit"] is not None:
            _tell(other, "on_exit", down)
        elif not isinstance(reason, Normal):
            other.exit(reason)
    for future in rare.ended:
        if not future.done():
            future.set_result(reason)
    rare.ended.clear()


def notify_restarted(cell: Cell, reason: ExitReason) -> None:
    """Tell the monitors that asked for it about a new incarnation."""
    if cell.rare is not None:
        notice = Restarted(ref=cell, reason=reason, incarnation=cell.incarnation)  # type: ignore[arg-type]
        for watcher, wants_restarts in list(cell.rare.monitors.items()):
            if wants_restarts:
                _tell(watcher, "on_restarted", notice)


def end_of(cell: Cell) -> asyncio.Future[ExitReason]:
    """Return a new future of the final reason: whoever cancels it, or a wait for it, cancels nobody else's."""
    future: asyncio.Future[ExitReason] = cell.system.loop.create_future()
    if cell.state == DEAD:
        future.set_result(cell.fate if cell.fate is not None else NoActor())
        return future
    rare = cell.more()
    if len(rare.ended) >= PRUNE_AT:
        rare.ended = [other for other in rare.ended if not other.done()]
    rare.ended.append(future)
    return future


def _tell(cell: Cell, hook: str, notice: Down | Restarted) -> None:
    handler = cell.kind.hooks[hook]
    assert handler is not None
    cell.post((handler, notice))
