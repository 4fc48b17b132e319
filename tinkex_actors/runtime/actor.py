"""The class users write: state, handlers, hooks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, ParamSpec, TypeVar, cast, overload

from tinkex_actors.errors import ActorStoppedError, ConfigError
from tinkex_actors.runtime._core.cell import DEAD, Cell, Reject
from tinkex_actors.runtime._core.children import Children
from tinkex_actors.runtime._core.lifecycle import is_past_children
from tinkex_actors.runtime._core.messages import Handler, message_of
from tinkex_actors.runtime.child_spec import DEFAULT_MAILBOX, ChildSpec, Mailbox, Restart, RestartPolicy
from tinkex_actors.runtime.exits import Down, ExitReason, NoActor, Normal
from tinkex_actors.runtime.timers import Timer

if TYPE_CHECKING:
    from typing import Self

    from tinkex_actors.runtime.ref import ActorRef
    from tinkex_actors.runtime.system import ActorSystem

__all__ = ["Actor", "Reject", "handler"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
A = TypeVar("A", bound="Actor")


class HandlerOptions:
    """What ``handler(raises=...)`` returns: the decorator."""

    def __init__(self, raises: tuple[type[Exception], ...], retry_once: bool) -> None:
        self._raises = raises
        self._retry_once = retry_once

    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]) -> Handler[P, R]: ...

    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], R]) -> Handler[P, R]: ...

    def __call__(self, function: Callable[..., Any]) -> Handler[..., Any]:
        return Handler(function, self._raises, self._retry_once)


@overload
def handler(function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /) -> Handler[P, R]: ...


@overload
def handler(function: Callable[Concatenate[Any, P], R], /) -> Handler[P, R]: ...


@overload
def handler(
    *, raises: type[Exception] | tuple[type[Exception], ...] = (), retry_once: bool = False
) -> HandlerOptions: ...


def handler(
    function: Callable[..., Any] | None = None,
    /,
    *,
    raises: type[Exception] | tuple[type[Exception], ...] = (),
    retry_once: bool = False,
) -> Handler[..., Any] | HandlerOptions:
    """Make a method a message: ``@handler`` or ``@handler(raises=NotFound)``.

    Args:
        function: the method, ``def`` (cheapest: no task) or ``async def``.
        raises: exception types that are answers, not crashes: the caller gets them, the actor lives on.
        retry_once: for idempotent handlers: a message that crashes the actor is handled once more, first of all, by the
            next incarnation; its caller waits on, within its deadline. The second crash is final for the message.
    """
    declared = raises if isinstance(raises, tuple) else (raises,)
    return HandlerOptions(declared, retry_once) if function is None else Handler(function, declared, retry_once)


class Actor:
    """One unit of state that handles one message at a time.

    Write ``__init__`` (plain; run again with the same arguments at each restart), handlers, and where needed the hooks
    ``init``, ``on_stop``, ``on_down(self, down)``, ``on_restarted(self, restarted)`` and ``on_exit(self, down)``.
    Everything below is for the actor's own code, in handlers, hooks and linked tasks; others use the ref.

    Attributes:
        restart_policy: what a restart means for its queue, children and state; by default the queue is kept, children
            end, and ``init`` begins anew.
    """

    default_shutdown: ClassVar[float] = 5.0
    supervises: ClassVar[bool] = False
    restart_policy: ClassVar[RestartPolicy] = RestartPolicy()

    _cell: Cell

    async def init(self) -> None:
        """Run before the first message of an incarnation. An exception fails the spawn, or counts as a crash."""

    async def on_stop(self, reason: ExitReason) -> None:
        """Run after the last message of an incarnation and after its children have stopped; not after a kill."""

    @property
    def ref(self) -> ActorRef[Self]:
        """The actor's own address."""
        return cast("ActorRef[Self]", self._cell)

    @property
    def system(self) -> ActorSystem:
        """The system it lives in."""
        return self._cell.system

    # --- time ------------------------------------------------------------------------------------------------------
    def after(self, seconds: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Call ``callback(*args)``, a kept ``self.ref.cast.m``, once in ``seconds``. Ends with the incarnation."""
        return Timer(self._alive_cell(), seconds, None, callback, args)

    def every(self, seconds: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Call it every ``seconds``, first after ``seconds``. A beat that finds the mailbox full is skipped."""
        return Timer(self._alive_cell(), seconds, seconds, callback, args)

    async def sleep(self, seconds: float) -> None:
        """Suspend; for linked tasks. A handler that sleeps holds up its actor: prefer ``after``."""
        await asyncio.sleep(seconds)

    def continue_with(self, callback: Callable[..., object], *args: Any) -> None:
        """Queue ``callback(*args)``, a kept ``self.ref.cast.m``, before every other message."""
        cell = self._alive_cell()
        message = message_of(callback, args, cell)
        if message is None:
            raise ConfigError(f"continue_with takes self.ref.cast.<message> of {cell.path} itself, got {callback!r}.")
        cell.push(message)

    def idle_after(self, seconds: float, callback: Callable[..., object] | None = None) -> Timer:
        """Call ``callback``, or stop normally, once no message has come for ``seconds``. Returns the watching timer."""
        return _IdleTimer(self._alive_cell(), seconds, callback if callback is not None else self.stop)

    # --- work ------------------------------------------------------------------------------------------------------
    def task(self, coro: Coroutine[Any, Any, T], name: str | None = None) -> asyncio.Task[T]:
        """Run a coroutine beside the handlers, linked to this incarnation.

        Its exception is a crash of the actor; stop and restart cancel it and wait for it.
        """
        cell = self._cell
        if cell.state == DEAD or cell.context is None:
            coro.close()
            raise ActorStoppedError(f"{cell.path} has stopped and starts no more tasks.", actor=cell.path)
        label = name if name is not None else getattr(coro, "__name__", "task")
        task = cell.system.loop.create_task(coro, name=f"{cell.name}.{label}", context=cell.context.copy())
        cell.more().tasks[task] = None
        incarnation = cell.incarnation

        def done(task: asyncio.Task[T]) -> None:
            cell.more().tasks.pop(task, None)
            error = None if task.cancelled() else task.exception()
            if cell.incarnation == incarnation and isinstance(error, Exception):
                cell.crash(error, f"task {label}")

        task.add_done_callback(done)
        return task

    async def blocking(self, function: Callable[..., T], *args: Any, executor: str = "default", workers: int = 1) -> T:
        """Run a blocking function on a thread of the system's; see ``ActorSystem.blocking``."""
        return await self._cell.system.blocking(function, *args, executor=executor, workers=workers)

    # --- others ----------------------------------------------------------------------------------------------------
    async def spawn(
        self,
        cls: type[A],
        *args: Any,
        name: str | None = None,
        restart: Restart = "permanent",
        mailbox: Mailbox = DEFAULT_MAILBOX,
        shutdown: float | None = None,
        **kwargs: Any,
    ) -> ActorRef[A]:
        """Start a child of this actor, supervised one_for_one; arguments as for ``ActorSystem.spawn``."""
        spec = ChildSpec(cls, args, kwargs, name=name, restart=restart, mailbox=mailbox, shutdown=shutdown)
        return await self.start_child_of(spec)

    async def start_child_of(self, spec: ChildSpec) -> ActorRef[Any]:
        """Start a child from a spec."""
        cell = self._cell
        if cell.family is None:
            if is_past_children(cell):
                raise ActorStoppedError(f"{cell.path} has stopped and starts no more children.", actor=cell.path)
            cell.family = Children(cell)
        return await cell.family.start(spec)

    def monitor(self, ref: ActorRef[Any], *, restarts: bool = False) -> None:
        """Get a ``Down`` in ``on_down`` when ``ref`` ends for good; at once, with ``NoActor``, if it has ended.

        Args:
            ref: whom to watch.
            restarts: get a ``Restarted`` in ``on_restarted`` too, each time it has restarted.
        """
        cell = self._alive_cell()
        hook = cell.kind.hooks["on_down"]
        if hook is None:
            raise ConfigError(f"{type(self).__name__} monitors {ref.path} but has no on_down(self, down).")
        if restarts and cell.kind.hooks["on_restarted"] is None:
            name = type(self).__name__
            raise ConfigError(
                f"{name} monitors {ref.path} with restarts=True but has no on_restarted(self, restarted)."
            )
        if ref.state == DEAD:
            cell.post((hook, Down(ref=ref, reason=NoActor(), incarnation=ref.incarnation)))
            return
        ref.more().monitors[cell] = restarts
        cell.more().watching[ref] = None

    def demonitor(self, ref: ActorRef[Any]) -> None:
        """Take ``monitor`` back; a ``Down`` already queued still comes."""
        if ref.rare is not None:
            ref.rare.monitors.pop(self._cell, None)
        if self._cell.rare is not None:
            self._cell.rare.watching.pop(ref, None)

    def link(self, ref: ActorRef[Any]) -> None:
        """Tie two fates: when one ends for good and not normally, the other exits for the same reason.

        An actor with an ``on_exit(self, down)`` is told instead. Restarts do not fire links.
        """
        cell = self._alive_cell()
        if ref.state == DEAD:
            raise ActorStoppedError(f"{ref.path} has ended; {cell.path} cannot be linked to it.", actor=ref.path)
        ref.more().links[cell] = None
        cell.more().links[ref] = None

    def unlink(self, ref: ActorRef[Any]) -> None:
        """Take ``link`` back."""
        for one, other in ((self._cell, ref), (ref, self._cell)):
            if one.rare is not None:
                one.rare.links.pop(other, None)

    def stop(self, reason: ExitReason | None = None) -> None:
        """End this incarnation after the current message, by default normally.

        A ``permanent`` actor comes back (OTP); one that may finish is ``transient`` or ``temporary``.
        """
        self._cell.exit(reason if reason is not None else Normal())

    def _alive_cell(self) -> Cell:
        if self._cell.context is None:
            raise ActorStoppedError(
                f"{self._cell.path} has stopped; no code of its own can act for it any more.", actor=self._cell.path
            )
        return self._cell


class _IdleTimer(Timer):
    """Looks once per period whether any message was handled since the last look."""

    __slots__ = ("_idle_callback", "_seen")

    def __init__(self, cell: Cell, seconds: float, callback: Callable[..., object]) -> None:
        self._idle_callback = callback
        self._seen = cell.processed
        super().__init__(cell, seconds, seconds, self._look, ())

    def _look(self) -> None:
        cell = self._cell
        if cell.processed != self._seen or cell.state != 0:
            self._seen = cell.processed
            return
        self.cancel()
        self._idle_callback()
