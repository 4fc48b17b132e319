"""What others hold of an actor: its address, stable across restarts."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from tinkex_actors.errors import ActorStoppedError, ConfigError
from tinkex_actors.runtime._core.cell import DEAD, Cell, current
from tinkex_actors.runtime._core.lifecycle import end_of
from tinkex_actors.runtime.exits import ExitReason, Killed, NoActor, Shutdown
from tinkex_actors.runtime.statistics import ActorStatistics, statistics_of

if TYPE_CHECKING:
    from tinkex_actors.runtime.actor import Actor

__all__ = ["CALL_SECONDS", "ActorRef", "Bounded"]

CALL_SECONDS = 5.0  # OTP's gen_server:call default

A_co = TypeVar("A_co", bound="Actor", covariant=True)


class Bounded(Generic[A_co]):
    """A ref whose calls have another deadline; made by ``ref.within(seconds)``."""

    __slots__ = ("_cell", "_seconds")

    def __init__(self, cell: Cell, seconds: float) -> None:
        self._cell = cell
        self._seconds = seconds

    @property
    def call(self) -> A_co:
        """As ``ref.call``, within these seconds."""
        return cast("A_co", self._cell.kind.call(self._cell, self._seconds))


class ActorRef(Cell, Generic[A_co]):
    """The address of an actor.

    ``ref.cast.m(...)`` sends and forgets; ``await ref.call.m(...)`` waits for the reply, 5 seconds at most;
    ``await ref.send.m(...)`` sends when there is room. All three have the handler's parameters and check them at once.
    Refs are for the thread of the system's loop; from another thread use ``system.loop.call_soon_threadsafe``.
    """

    __slots__ = ("__weakref__",)

    @property
    def cast(self) -> A_co:
        """Messages without a reply.

        Raises ``MailboxFullError`` as the mailbox's policy says. To a stopped actor: a dead letter.
        """
        return cast("A_co", self.kind.cast(self))

    @property
    def call(self) -> A_co:
        """Messages with a reply.

        The message goes out when the result is awaited. Raises what the handler raised, ``CallTimeoutError`` after 5
        seconds, ``ActorStoppedError``, ``ActorCrashedError``, ``CallCycleError``, ``MailboxFullError``. Cancelling the
        caller drops the reply, never the handler.
        """
        return cast("A_co", self.kind.call(self, CALL_SECONDS))

    @property
    def send(self) -> A_co:
        """Messages without a reply that wait for room in the mailbox. Raises ``ActorStoppedError``."""
        return cast("A_co", self.kind.send(self))

    def within(self, seconds: float) -> Bounded[A_co]:
        """Return a view whose calls may take ``seconds`` (above 0, finite)."""
        if not 0.0 < seconds < math.inf:
            raise ConfigError(f"within(seconds) needs a finite number above 0, got {seconds!r}.")
        return Bounded(self, seconds)

    @property
    def alive(self) -> bool:
        """False once it has ended for good; true while it restarts."""
        return self.state != DEAD and self.fate is None

    @property
    def stopped(self) -> asyncio.Future[ExitReason]:
        """A future of the final reason, set after the actor and everything below it has stopped.

        Each access gives a future of its own: cancelling one, or a wait for it, cancels nobody else's. To look without
        waiting, use ``alive``.
        """
        return end_of(self)

    def statistics(self) -> ActorStatistics:
        """Return a frozen record of what it does now and has done."""
        return statistics_of(self)

    async def stop(self, reason: ExitReason | None = None, *, drain: bool = False) -> ExitReason:
        """Stop the actor for good, after its current message, and wait until it and its children have ended.

        Queued messages become dead letters, queued calls fail. Idempotent. Called by the actor itself, or by a
        descendant of it, it only asks: waiting would be waiting for oneself.

        Args:
            reason: default ``Shutdown("stopped")``.
            drain: first handle what is queued, within the actor's ``shutdown`` seconds; new messages are refused from
                now on. What is left then is treated as above. A crash meanwhile restarts it, and it goes on.
        """
        wanted = reason if reason is not None else Shutdown("stopped")
        self.request_stop(wanted, drain=drain)
        if self.state == DEAD:
            return self.fate if self.fate is not None else NoActor()
        cell: Cell | None = current.get()
        while cell is not None:
            if cell is self:
                return wanted
            cell = cell.parent
        return await end_of(self)

    def request_stop(self, reason: ExitReason, *, drain: bool = False) -> None:
        """Ask for the same without waiting."""
        parent = self.parent
        if parent is None:
            raise ConfigError("The root has no ref of its own to stop; use system.stop().")
        if parent.family is not None:
            parent.family.stop(self, reason, drain=drain)

    def kill(self, why: str = "killed") -> None:
        """End the current incarnation at once: its handler is cancelled, ``on_stop`` does not run.

        As in OTP a kill is an abnormal exit: the supervisor restarts a permanent or transient actor.
        """
        self.exit(Killed(why))

    def child(self, name: str) -> ActorRef[Any]:
        """Return the child of that name.

        Raises:
            ActorStoppedError: there is none now.
        """
        found = self.family.cells.get(name) if self.family is not None else None
        if found is None:
            known = ", ".join(self.family.cells) if self.family is not None else ""
            raise ActorStoppedError(f"{self.path} has no child {name!r}; it has: {known or 'none'}.", actor=self.path)
        return found

    @property
    def children(self) -> tuple[ActorRef[Any], ...]:
        """Its children now, in start order."""
        return tuple(self.family.cells.values()) if self.family is not None else ()

    def __repr__(self) -> str:
        return f"<{self.kind.cls.__name__} {self.path}>"

    def __reduce__(self) -> Any:
        return _find, (self.system.name, self.path)


def _find(system: str, path: str) -> ActorRef[Any]:
    """Unpickle a ref by name, inside an actor of the system it belongs to."""
    me = current.get()
    if me is None or me.system.name != system:
        raise ActorStoppedError(
            f"A ref to {path} of system {system!r} can be unpickled by an actor of that system only.", actor=path
        )
    found = me.system.whereis(path)
    if found is None:
        raise ActorStoppedError(f"{path} does not exist any more.", actor=path)
    return found
