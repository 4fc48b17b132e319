"""Why an actor ended, and what is told to those who watch it (OTP's exit reasons)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from tinkex_actors.runtime.ref import ActorRef

__all__ = [
    "Abandoned",
    "Crashed",
    "Down",
    "ExitReason",
    "Killed",
    "NoActor",
    "Normal",
    "Restarted",
    "Shutdown",
    "StopReport",
]


class ExitReason(msgspec.Struct, frozen=True):
    """Base of the five reasons."""

    @property
    def abnormal(self) -> bool:
        """True for a crash or a kill: what restarts a ``transient`` actor."""
        return False


class Normal(ExitReason, frozen=True):
    """It had nothing more to do and said so with ``self.stop()``."""


class Shutdown(ExitReason, frozen=True):
    """It was asked to stop, or its supervisor gave up.

    Attributes:
        why: a text, or the error that made the supervisor give up (``RestartsExhaustedError``, with its cause chain).
    """

    why: Any = ""


class Killed(ExitReason, frozen=True):
    """It was killed, or did not stop in time. No ``on_stop`` ran."""

    why: str = ""

    @property
    def abnormal(self) -> bool:
        """Always true."""
        return True


class Crashed(ExitReason, frozen=True):
    """An exception left a handler, ``init`` or a linked task."""

    error: BaseException

    @property
    def abnormal(self) -> bool:
        """Always true."""
        return True


class NoActor(ExitReason, frozen=True):
    """It had ended before the question was asked."""


class Down(msgspec.Struct, frozen=True):
    """An actor that was monitored (or linked) has ended for good.

    Attributes:
        ref: who ended.
        reason: why.
        incarnation: how many restarts it had seen.
    """

    ref: ActorRef[Any]
    reason: ExitReason
    incarnation: int = 0


class Restarted(msgspec.Struct, frozen=True):
    """An actor that was monitored with ``restarts=True`` takes messages again.

    Attributes:
        ref: who restarted.
        reason: why its last incarnation ended.
        incarnation: how many restarts it has seen, this one included.
    """

    ref: ActorRef[Any]
    reason: ExitReason
    incarnation: int


class Abandoned(msgspec.Struct, frozen=True):
    """Something that did not stop when it was cancelled, or could not be cancelled.

    Attributes:
        path: the actor it belonged to, or the executor's name for a blocking call.
        what: the handler, hook, task or function.
        stack: where it was when it was given up, innermost last; empty for a thread.
    """

    path: str
    what: str
    stack: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


class StopReport(msgspec.Struct, frozen=True):
    """How stopping a system went.

    Attributes:
        seconds: how long it took.
        stopped: number of actors that ended.
        abandoned: what did not stop within its deadline.
        failure: the escalated error that ended the system, or None.
    """

    seconds: float
    stopped: int
    abandoned: tuple[Abandoned, ...] = ()
    failure: BaseException | None = None

    @property
    def clean(self) -> bool:
        """True if everything stopped."""
        return not self.abandoned
