"""What happens in a system, for whoever subscribes. With no subscriber, no event is even made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from tinkex_actors.runtime.exits import ExitReason

__all__ = [
    "ActorCrashed",
    "ActorRestarted",
    "ActorStarted",
    "ActorStopped",
    "DeadLetter",
    "DidNotStop",
    "Event",
    "EventHub",
    "HandlerBlocked",
    "Poisoned",
    "Rejected",
    "SupervisorGaveUp",
]


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the runtime's events.

    Attributes:
        path: the actor it is about.
        at: the loop's time, in seconds.
    """

    path: str
    at: float


class ActorStarted(Event, frozen=True, kw_only=True):
    """An incarnation finished ``init`` and takes messages."""

    incarnation: int


class ActorRestarted(Event, frozen=True, kw_only=True):
    """The same, after a crash or a kill; follows ``ActorStarted``."""

    incarnation: int


class ActorCrashed(Event, frozen=True, kw_only=True):
    """An exception left a handler, ``init``, ``on_stop`` or a linked task, named by ``where``."""

    incarnation: int
    where: str
    error: BaseException


class ActorStopped(Event, frozen=True, kw_only=True):
    """An actor ended for good."""

    incarnation: int
    reason: ExitReason


class DeadLetter(Event, frozen=True, kw_only=True):
    """A message that no handler will see."""

    message: str
    why: str


class Poisoned(Event, frozen=True, kw_only=True):
    """A message is lost because handling it crashed the actor (twice, if its handler has ``retry_once``)."""

    message: str
    error: BaseException


class Rejected(Event, frozen=True, kw_only=True):
    """A handler said no with ``Reject`` or a declared error; the actor lives on."""

    message: str
    error: BaseException


class SupervisorGaveUp(Event, frozen=True, kw_only=True):
    """A child ended more often than allowed."""

    child: str
    error: str


class DidNotStop(Event, frozen=True, kw_only=True):
    """Something ignored its cancellation and was abandoned."""

    what: str
    stack: tuple[str, ...]


class HandlerBlocked(Event, frozen=True, kw_only=True):
    """The event loop was held for ``seconds``; path and message are empty if no handler was on the stack."""

    message: str
    seconds: float
    stack: tuple[str, ...] = ()


class EventHub:
    """Calls subscribers, in the order they came, in the turn in which an event happens.

    A subscriber that raises is isolated: the error is counted in ``failures`` and kept in ``last_failure``.
    Subscribers must not block. Other layers publish their own event types here.
    """

    def __init__(self) -> None:
        self._subscribers: dict[int, tuple[Callable[[Any], object], tuple[type[Any], ...]]] = {}
        self._next = 0
        self.active = False
        self.failures = 0
        self.last_failure: Exception | None = None

    def subscribe(self, callback: Callable[[Any], object], *types: type[Any]) -> Callable[[], None]:
        """Call ``callback(event)`` for events of ``types`` (all, if none are named); return what ends it."""
        self._next += 1
        key = self._next
        self._subscribers[key] = (callback, types)
        self.active = True

        def unsubscribe() -> None:
            self._subscribers.pop(key, None)
            self.active = bool(self._subscribers)

        return unsubscribe

    def publish(self, event: object) -> None:
        """Give an event to its subscribers."""
        for callback, types in list(self._subscribers.values()):
            if types and not isinstance(event, types):
                continue
            try:
                callback(event)
            except Exception as error:
                self.failures += 1
                self.last_failure = error
