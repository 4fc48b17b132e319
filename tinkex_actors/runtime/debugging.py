"""Debug mode: tasks that escape their handler. It costs nothing unless a system is made with ``debug=True``."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import weakref
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Literal, cast

from tinkex_actors.runtime._core.carrying import committing
from tinkex_actors.runtime._core.cell import Cell, current
from tinkex_actors.runtime._core.messages import Handler, Kind
from tinkex_actors.runtime._core.stacks import place_of
from tinkex_actors.runtime.events import Event

if TYPE_CHECKING:
    from tinkex_actors.runtime.system import ActorSystem

__all__ = ["Debugger", "StrayTask"]

ASYNCIO = os.path.dirname(asyncio.__file__)


class StrayTask(Event, frozen=True, kw_only=True):
    """A task has escaped the handler it belongs to.

    Attributes:
        message: the handler.
        how: ``made``: the handler made it (``asyncio.create_task``) and ended before it did, so nobody supervises it
            and its failure is nobody's; use ``self.task``. ``captured``: somebody keeps the task that ran the handler;
            cancelling it later cancels nothing, or what the burst goes on with.
        task: name and coroutine of the task.
        place: ``file:line`` where it was made; empty for a captured one.
    """

    message: str
    how: Literal["made", "captured"]
    task: str
    place: str = ""


class Debugger:
    """Watches the handlers of one system: their classes get handlers that look around when they end.

    Args:
        system: started, and not yet with children. The loop's task factory is wrapped until ``stop``.
    """

    def __init__(self, system: ActorSystem) -> None:
        self._system = system
        self._kinds: dict[type[Any], Kind] = {}
        self._made: dict[Cell, list[tuple[asyncio.Task[Any], str]]] = {}
        self._bursts: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        self._previous = system.loop.get_task_factory()
        system.loop.set_task_factory(cast("Any", self._factory))

    def stop(self) -> None:
        """Give the loop its task factory back, unless somebody has set another one since."""
        if self._system.loop.get_task_factory() == self._factory:
            self._system.loop.set_task_factory(self._previous)

    def kind_of(self, cls: type[Any]) -> Kind:
        """Return the watched record of an actor class, made once for the system."""
        kind = self._kinds.get(cls)
        if kind is None:
            carry = cls.restart_policy.carry
            wraps = (self._watched,) if carry is None else (committing(carry), self._watched)
            kind = self._kinds[cls] = Kind(cls, self._system.actor_class, wraps)
        return kind

    # --- what a handler does ---------------------------------------------------------------------------------------
    def _watched(self, handler: Handler[..., Any]) -> Handler[..., Any]:
        inner = handler.function

        def function(actor: Any, /, *args: Any, **kwargs: Any) -> Any:
            self._enter(actor._cell, handler.name)
            try:
                return inner(actor, *args, **kwargs)
            except BaseException:
                self._spare(actor._cell)
                raise
            finally:
                self._leave(actor._cell, handler.name)

        async def async_function(actor: Any, /, *args: Any, **kwargs: Any) -> Any:
            self._enter(actor._cell, handler.name)
            try:
                return await inner(actor, *args, **kwargs)
            except BaseException:
                self._spare(actor._cell)
                raise
            finally:
                self._leave(actor._cell, handler.name)

        return handler.around(async_function if handler.is_async else function)

    def _enter(self, cell: Cell, message: str) -> None:
        self._made[cell] = []
        task = cell.task
        if task is not None and task not in self._bursts:
            self._bursts.add(task)
            task.add_done_callback(lambda task: self._burst_ended(task, cell.path, message))

    def _leave(self, cell: Cell, message: str) -> None:
        linked = cell.rare.tasks if cell.rare is not None else {}
        for task, place in self._made.pop(cell, ()):
            if not task.done() and task not in linked:
                self._tell(cell.path, message, "made", _label(task), place)

    def _spare(self, cell: Cell) -> None:
        """A failed handler's traceback holds the burst's task: that is no capture."""
        self._bursts.discard(cell.task)

    # --- tasks that handlers make ------------------------------------------------------------------------------------
    def _factory(
        self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Future[Any]:
        task: Any
        if self._previous is None:
            task = asyncio.Task(coroutine, loop=loop, **options)
        else:
            factory: Callable[..., Any] = self._previous
            task = factory(loop, coroutine, **options)
        cell = current.get()
        if cell is not None and cell in self._made and asyncio.current_task() in (None, cell.task):
            self._made[cell].append((task, _place_outside_asyncio()))
        return task  # type: ignore[no-any-return]  # what the program's own factory made

    # --- tasks that handlers run in ----------------------------------------------------------------------------------
    def _burst_ended(self, task: asyncio.Task[Any], path: str, message: str) -> None:
        if task in self._bursts:
            # Looked at in a later turn, when the loop and the cell have let go of it.
            self._system.loop.call_soon(self._look, weakref.ref(task), path, message)

    def _look(self, reference: weakref.ref[asyncio.Task[Any]], path: str, message: str) -> None:
        if reference() is not None:
            gc.collect()  # it may be in a cycle of garbage only, a TaskGroup's for instance
        task = reference()
        if task is not None:
            self._tell(path, message, "captured", _label(task), "")

    def _tell(self, path: str, message: str, how: Literal["made", "captured"], task: str, place: str) -> None:
        system = self._system
        system.report("task.stray", actor=path, message=message, how=how, task=task, place=place)
        if system.events.active:
            event = StrayTask(path=path, at=system.now(), message=message, how=how, task=task, place=place)
            system.events.publish(event)


def _label(task: asyncio.Task[Any]) -> str:
    return f"{task.get_name()} ({getattr(task.get_coro(), '__qualname__', '')})"


def _place_outside_asyncio() -> str:
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(ASYNCIO):
        frame = frame.f_back
    return place_of(frame)
