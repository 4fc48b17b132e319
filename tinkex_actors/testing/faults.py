"""Fault points: crash an actor at a message, drop or delay a reply, at places drawn from the run's own seed."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any, Literal

import msgspec

from tinkex_actors.errors import ActorError, CallTimeoutError, ConfigError
from tinkex_actors.runtime import ActorRef, ActorStarted, ActorSystem
from tinkex_actors.runtime._core.messages import Handler, Kind, Message
from tinkex_actors.testing.schedule import Schedule
from tinkex_actors.testing.virtual_loop import VirtualLoop

__all__ = ["Faults", "InjectedFault", "Injection"]


class InjectedFault(RuntimeError):  # what a test planted, not an error of the package
    """Raised in place of a handler by ``Faults.crash``."""


class Injection(msgspec.Struct, frozen=True):
    """A fault that happened.

    Attributes:
        what: ``crash``, ``drop_reply`` or ``delay_reply``.
        path: the actor.
        message: which message.
        number: which one of the messages the fault point counts, from 1.
        at: the loop's time, in seconds.
    """

    what: str
    path: str
    message: str
    number: int
    at: float


class _Point(msgspec.Struct, eq=False):
    what: Literal["crash", "drop_reply", "delay_reply"]
    path: str
    message: str | None
    at: int | None
    chance: float
    seconds: float = 0.0
    error: Exception | None = None
    counts: Counter[str] = msgspec.field(default_factory=Counter)


class Faults:
    """Plants faults in a running system; costs the actors nothing where none is planted.

    A fault point names actors by path (``/pool/*`` takes all of a pool; ``fnmatch`` rules) and counts, for each actor
    alone and across its restarts, the messages that fit. It acts at message number ``at``, or at a number drawn from 1
    to ``within``, or each time with probability ``chance``. What is drawn comes from the loop's seed, so a failing seed
    brings its faults along when it is replayed, and shrinking leaves out those the failure does not need.

    Messages sent through a kept ``ref.cast.name`` from before the point was planted are not counted.

    Args:
        system: a started system. On a ``VirtualLoop`` without a seed nothing happens by chance; on a real loop
            ``system.rng`` draws.

    Attributes:
        injected: the faults that happened, in order.
    """

    def __init__(self, system: ActorSystem) -> None:
        self._system = system
        self._rng: random.Random = system.rng
        if isinstance(system.loop, VirtualLoop):
            self._rng = system.loop.permutation or Schedule(0, only=())
        self._points: list[_Point] = []
        self._kinds: dict[Kind, Kind] = {}
        self.injected: list[Injection] = []
        system.events.subscribe(self._started, ActorStarted)

    def crash(
        self,
        path: str,
        message: str | None = None,
        *,
        at: int | None = None,
        within: int | None = None,
        chance: float | None = None,
        error: Exception | None = None,
    ) -> None:
        """Raise ``error`` (an ``InjectedFault`` by default) in place of a handler, which crashes the actor.

        Args:
            path: the actors.
            message: which messages count; None for all.
            at: number of the message, from 1.
            within: instead, draw the number from 1 to this one.
            chance: instead, act each time with this probability.
            error: what to raise; a declared one is an answer, as always.

        Raises:
            ConfigError: not exactly one of ``at``, ``within`` and ``chance``, or one out of range.
        """
        self._plant("crash", path, message, at, within, chance, error=error)

    def drop_reply(
        self,
        path: str,
        message: str | None = None,
        *,
        at: int | None = None,
        within: int | None = None,
        chance: float | None = None,
    ) -> None:
        """Let the handler run, and lose its reply: the caller gets ``CallTimeoutError`` at its deadline.

        Args: as ``crash``; calls are counted, not casts.
        """
        self._plant("drop_reply", path, message, at, within, chance)

    def delay_reply(
        self,
        path: str,
        seconds: float,
        message: str | None = None,
        *,
        at: int | None = None,
        within: int | None = None,
        chance: float | None = None,
    ) -> None:
        """Deliver a reply ``seconds`` late, or not at all if the caller's deadline comes first.

        Args: as ``crash``; calls are counted, not casts.
        """
        if not seconds > 0.0:
            raise ConfigError(f"delay_reply(seconds=...) must be above 0, got {seconds!r}.")
        self._plant("delay_reply", path, message, at, within, chance, seconds=seconds)

    # --- planting ----------------------------------------------------------------------------------------------------
    def _plant(
        self,
        what: Literal["crash", "drop_reply", "delay_reply"],
        path: str,
        message: str | None,
        at: int | None,
        within: int | None,
        chance: float | None,
        **options: Any,
    ) -> None:
        if sum(option is not None for option in (at, within, chance)) != 1:
            raise ConfigError(f"{what} needs exactly one of at=, within= and chance=.")
        if (at is not None and at < 1) or (within is not None and within < 1):
            raise ConfigError(f"{what} counts messages from 1, got at={at!r}, within={within!r}.")
        if chance is not None and not 0.0 <= chance <= 1.0:
            raise ConfigError(f"{what}(chance=...) is a probability, got {chance!r}.")
        if within is not None:
            at = self._rng.randint(1, within)
        self._points.append(_Point(what, path, message, at, chance or 0.0, **options))
        pending = list(self._system.root.children)
        while pending:
            ref = pending.pop()
            pending += ref.children
            self._install(ref)

    def _started(self, event: ActorStarted) -> None:
        ref = self._system.whereis(event.path)
        if ref is not None:
            self._install(ref)

    def _install(self, ref: ActorRef[Any]) -> None:
        if ref.kind not in self._kinds.values() and any(fnmatchcase(ref.path, point.path) for point in self._points):
            kind = self._kinds.get(ref.kind)
            if kind is None:
                kind = self._kinds[ref.kind] = ref.kind.wrapped(self._crashing)
                kind.call = _calls(self, kind.call)
            ref.kind = kind

    # --- acting ------------------------------------------------------------------------------------------------------
    def _crashing(self, handler: Handler[..., Any]) -> Handler[..., Any]:
        inner = handler.function

        def function(actor: Any, /, *args: Any, **kwargs: Any) -> Any:
            self._maybe_crash(actor.ref, handler.name)
            return inner(actor, *args, **kwargs)

        async def async_function(actor: Any, /, *args: Any, **kwargs: Any) -> Any:
            self._maybe_crash(actor.ref, handler.name)
            return await inner(actor, *args, **kwargs)

        return handler.around(async_function if handler.is_async else function)

    def _maybe_crash(self, ref: ActorRef[Any], message: str) -> None:
        point = self._due(("crash",), ref.path, message)
        if point is not None:
            raise point.error or InjectedFault(f"planted in {ref.path} at its message {message}")

    def _due(self, what: tuple[str, ...], path: str, message: str) -> _Point | None:
        """Count a message; return the first fault point that acts on it."""
        acting = None
        for point in self._points:
            if point.what not in what or point.message not in (None, message) or not fnmatchcase(path, point.path):
                continue
            point.counts[path] += 1
            number = point.counts[path]
            if acting is None and (number == point.at if point.at is not None else self._happens(point.chance)):
                acting = point
                self.injected.append(Injection(point.what, path, message, number, self._system.now()))
        return acting

    def _happens(self, chance: float) -> bool:
        rng = self._rng
        return rng.chance(chance) if isinstance(rng, Schedule) else rng.random() < chance

    async def ask(self, ref: ActorRef[Any], ask: Callable[..., Any], message: Message, timeout: float) -> Any:
        """Make a call whose reply may be dropped or late; the proxies of affected actors come here."""
        name = message[0].name
        point = self._due(("drop_reply", "delay_reply"), ref.path, name)
        if point is None:
            return await ask(message, timeout)
        deadline = self._system.now() + timeout
        try:
            result = await ask(message, timeout)
        except ActorError:  # not a reply, but the runtime's own word: it is neither late nor lost
            raise
        except Exception:
            await self._hold_back(point, ref, name, deadline, timeout)
            raise
        await self._hold_back(point, ref, name, deadline, timeout)
        return result

    async def _hold_back(
        self, point: _Point, ref: ActorRef[Any], message: str, deadline: float, timeout: float
    ) -> None:
        now = self._system.now()
        arrives = now + point.seconds if point.what == "delay_reply" else deadline
        await asyncio.sleep(min(arrives, deadline) - now)
        if arrives >= deadline:
            raise CallTimeoutError(
                f"{ref.path} did not answer {message} within {timeout:g} s: a planted fault ({point.what}).",
                actor=ref.path,
                timeout=timeout,
            )


def _calls(faults: Faults, proxy: Callable[..., Any]) -> Callable[..., Any]:
    def make(ref: ActorRef[Any], timeout: float) -> Any:
        return proxy(_Line(faults, ref), timeout)

    return make


class _Line:
    """Stands in for the actor inside a call proxy."""

    __slots__ = ("_faults", "_ref")

    def __init__(self, faults: Faults, ref: ActorRef[Any]) -> None:
        self._faults = faults
        self._ref = ref

    def ask(self, message: Message, timeout: float) -> Any:
        return self._faults.ask(self._ref, self._ref.ask, message, timeout)

    def ask_queued(self, message: Message, timeout: float) -> Any:
        return self._faults.ask(self._ref, self._ref.ask_queued, message, timeout)
