"""The task of an actor with ``async def`` handlers: asyncio's task protocol without the loop callback at its start.

``asyncio.Task`` costs a loop callback, a registration and a name before its coroutine runs at all. Most handlers never
suspend, so an actor's task is a third-party task in the sense of asyncio's "Extending" page: its first step runs at
once, in the pump or in the caller of a call, entered with ``_enter_task`` and under the actor's own context; it is
registered with ``all_tasks()`` when the handler suspends, and from then on steps itself. The rules of ``cancel``,
``uncancel`` and of what may be awaited are ``asyncio.Task``'s, and ``isinstance(current_task(), asyncio.Task)`` holds.

A task whose coroutine ended in its first step serves the next burst, of any actor, unless anything could tell: see
``Tasks``.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from contextvars import Context
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

from tinkex_actors.runtime._core.messages import Reply

if TYPE_CHECKING:
    from tinkex_actors.runtime._core.cell import Cell

__all__ = ["HandlerTask", "Tasks", "current_task", "enter_task", "leave_task"]

# The functions that asyncio documents for third-party tasks; its stubs know of its own task only.
enter_task: Callable[[asyncio.AbstractEventLoop, Any], None] = asyncio._enter_task
leave_task: Callable[[asyncio.AbstractEventLoop, Any], None] = asyncio._leave_task
register_task: Callable[[Any], None] = asyncio._register_task
unregister_task: Callable[[Any], None] = asyncio._unregister_task
# ``asyncio.current_task(loop)``, which Python 3.11 has in Python only: this is its last line.
current_task: Callable[[asyncio.AbstractEventLoop], Any] = (
    asyncio.current_task if sys.version_info >= (3, 12) else asyncio.tasks._current_tasks.get  # type: ignore[attr-defined]
)

UNCANCEL_TAKES_BACK = sys.version_info >= (3, 13)  # from there on, a cancel taken back in time is not delivered
MAX_SPARES = 64  # as many as calls nest, and some
COUNTS_REFERENCES = hasattr(sys, "getrefcount") and getattr(sys, "_is_gil_enabled", lambda: True)()


class HandlerTask(asyncio.Future):  # type: ignore[type-arg]
    """Runs one burst of an actor's messages, or one call inside its caller.

    Attributes:
        cell: the actor it runs for, or ran for last.
        item: the one message, or the ``Reply`` with it, that it runs and whose end it tells its cell; None for a burst.
    """

    __slots__ = ("_context", "_coro", "_fut_waiter", "_message", "_must_cancel", "_requests", "cell", "item")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self.cell: Cell | None = None
        self.item: Any = None
        self._coro: Coroutine[Any, Any, Any] | None = None
        self._context: Context | None = None
        self._requests = 0
        self._must_cancel = False
        self._message: Any = None
        # These names are asyncio's: structured-concurrency libraries read them of whatever task runs.
        self._fut_waiter: asyncio.Future[Any] | None = None

    @property  # type: ignore[misc]  # read only: nothing assigns it
    def __class__(self) -> type[Any]:
        return asyncio.Task

    # --- asyncio.Task's methods ------------------------------------------------------------------------------------
    def cancel(self, msg: Any | None = None) -> bool:
        """As ``asyncio.Task.cancel``."""
        if self.done():
            return False
        self._requests += 1
        assert self.cell is not None  # nobody has hold of a task before it has begun
        self.cell.system.scheduler.interrupted(self)
        if self._fut_waiter is not None and self._fut_waiter.cancel(msg=msg):
            return True
        self._must_cancel = True
        self._message = msg
        return True

    def cancelling(self) -> int:
        """As ``asyncio.Task.cancelling``."""
        return self._requests

    def uncancel(self) -> int:
        """As ``asyncio.Task.uncancel``."""
        if self._requests > 0:
            self._requests -= 1
            if self._requests == 0 and UNCANCEL_TAKES_BACK:
                self._must_cancel = False
        return self._requests

    def get_coro(self) -> Coroutine[Any, Any, Any] | None:
        """Return the coroutine it steps."""
        return self._coro

    def get_context(self) -> Context | None:
        """Return the actor's context."""
        return self._context

    def get_name(self) -> str:
        """Return the actor's name."""
        return "" if self.cell is None else self.cell.name

    def set_name(self, value: object) -> None:
        """Do nothing: the name is the actor's."""

    def set_result(self, result: object) -> None:
        """Refuse, as ``asyncio.Task`` does."""
        raise RuntimeError("Task does not support set_result operation")

    def set_exception(self, exception: object) -> None:
        """Refuse, as ``asyncio.Task`` does."""
        raise RuntimeError("Task does not support set_exception operation")

    def get_stack(self, *, limit: int | None = None) -> list[FrameType]:
        """Return the frame the task is suspended in, as ``asyncio.Task`` does for a suspended coroutine."""
        frame = getattr(self._coro, "cr_frame", None)
        return [] if frame is None else [frame]

    def print_stack(self, *, limit: int | None = None, file: TextIO | None = None) -> None:
        """Print that frame's place."""
        for frame in self.get_stack():
            code = frame.f_code
            text = f'  File "{code.co_filename}", line {frame.f_lineno}, in {code.co_name}'
            print(text, file=file if file is not None else sys.stderr)  # what print_stack is for

    def __repr__(self) -> str:
        state = "finished" if self.done() else "pending"
        return f"<HandlerTask {state} name={self.get_name()!r} coro={self._coro!r}>"

    # --- running ---------------------------------------------------------------------------------------------------
    def begin(self, cell: Cell, coroutine: Coroutine[Any, Any, Any], context: Context) -> None:
        """Take on a coroutine, whose first step its caller runs."""
        self.cell = cell
        self._coro = coroutine
        self._context = context

    def carry_on(self, awaited: Any) -> None:
        """The first step suspended: be a task like any other from here on."""
        register_task(self)
        self._suspend(awaited)

    def close(self) -> None:
        """End without having suspended: for whoever holds it, it is a task that is done."""
        if not self.done():
            asyncio.Future.set_result(self, None)
        self._coro = None

    def _suspend(self, awaited: Any) -> None:
        """Wait for what the coroutine yielded."""
        blocking = getattr(awaited, "_asyncio_future_blocking", None)
        if awaited is None:
            self._loop.call_soon(self._step, context=self._context)
        elif blocking and awaited is not self and awaited.get_loop() is self._loop:
            awaited._asyncio_future_blocking = False
            awaited.add_done_callback(self._wake, context=self._context)
            self._fut_waiter = awaited
            if self._must_cancel and awaited.cancel(msg=self._message):
                self._must_cancel = False
        else:
            self._loop.call_soon(self._step, self._misuse(awaited, blocking), context=self._context)

    def _misuse(self, awaited: Any, blocking: bool | None) -> RuntimeError:
        if blocking is None:
            return RuntimeError(f"Task got bad yield: {awaited!r}")
        if awaited is self:
            return RuntimeError(f"Task cannot await on itself: {self!r}")
        if not blocking:
            return RuntimeError(f"yield was used instead of yield from in task {self!r} with {awaited!r}")
        return RuntimeError(f"Task {self!r} got Future {awaited!r} attached to a different loop")

    def _wake(self, future: asyncio.Future[Any]) -> None:
        if future.cancelled() or future.exception() is not None:
            try:
                future.result()
            except BaseException as error:
                self._step(error)
                return
        self._step()

    def _step(self, error: BaseException | None = None) -> None:
        if self._must_cancel:
            if not isinstance(error, asyncio.CancelledError):
                error = asyncio.CancelledError() if self._message is None else asyncio.CancelledError(self._message)
            self._must_cancel = False
        self._fut_waiter = None
        coroutine, loop = self._coro, self._loop
        assert coroutine is not None
        enter_task(loop, self)
        try:
            awaited = coroutine.send(None) if error is None else coroutine.throw(error)
        except StopIteration as stop:
            self._end(stop.value, None)
        except BaseException as failure:
            self._end(None, failure)
        else:
            self._suspend(awaited)
        finally:
            leave_task(loop, self)
            error = None

    def _end(self, value: Any, error: BaseException | None) -> None:
        cell, item = self.cell, self.item
        assert cell is not None
        self.item = None
        if not self.done():
            if self._must_cancel or (self._requests and isinstance(error, asyncio.CancelledError)):
                asyncio.Future.cancel(self, msg=self._message)
            else:
                asyncio.Future.set_result(self, None)
        unregister_task(self)
        if item is not None:
            self._answer(cell, item, value, error)
        self._coro = None
        if error is not None and not isinstance(error, (Exception, asyncio.CancelledError)):
            raise error

    def _answer(self, cell: Cell, item: Any, value: Any, error: BaseException | None) -> None:
        """The one message this task ran, and in which it suspended, is over."""
        if isinstance(error, GeneratorExit):  # the loop is gone
            return
        reply = item if type(item) is Reply else None
        if error is not None and cell.task is not self:
            cell.outlived(reply, error)
        elif error is not None:
            cell.fail(item if reply is None else reply.message, reply, error)
        elif reply is not None:
            reply.answer(value)
        cell.over(self)


class Tasks:
    """The spare tasks of one system.

    A task comes back only if nothing of its last burst can reach the next: no cancellation asked for, no done callback,
    and no reference by which a handler could cancel it later. References are counted, and compared with the count of a
    task that is known to be free; where CPython's count cannot be had, every burst gets a new task.
    """

    __slots__ = ("_clean", "_loop", "_seen", "_spares")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._spares: list[HandlerTask] = []
        self._clean = self._seen = -1
        if COUNTS_REFERENCES:
            free = HandlerTask(loop)
            self.give(free)
            self._clean, self._seen = self._seen, -1

    def take(self) -> HandlerTask:
        """Return a task for one burst."""
        return self._spares.pop() if self._spares else HandlerTask(self._loop)

    def give(self, task: HandlerTask) -> None:
        """Take back a task whose coroutine ended in its first step. The caller holds one reference: its variable."""
        references = sys.getrefcount(task)
        if references != self._clean or task._requests or task._must_cancel or task._callbacks or task.done():
            self._seen = references
            task.close()
            return
        task._coro = None
        if len(self._spares) < MAX_SPARES:
            self._spares.append(task)
