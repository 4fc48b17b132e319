"""Bringing back training runs that the server has lost (tinkex 1.33).

Rules:

1. A watched run is looked at once per ``poll_interval``, the first time one interval after it is watched. It is lost
   when the server calls it corrupted, knows nothing of it (404), or says it is gone (410); whoever notices that
   elsewhere may report it. An answer that never comes, or any other refusal, says nothing of the run.
2. A lost run is restored from a checkpoint: the one that the policy names, or the newest one that is known. Without any
   there is nothing to restore, and the run is given up at once.
3. A run is restored by one attempt at a time, and ``max_concurrent`` runs are, in the order in which they were lost.
4. A failed attempt is followed by another after ``min(backoff * 2**(n - 1), max_backoff)`` seconds, ``max_attempts`` in
   all.
5. Whoever stops watching a run ends its waiting; an attempt under way is let go, and its end is ignored.

::

    watched --lost--> queued --room--> restoring --ok--> (leaves, under its new id)
                        ^                  |
                        '---- waiting <--failed--> (leaves, given up)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, TypeAlias, assert_never

from msgspec import Struct

from tinkex_actors.errors import ConfigError

__all__ = [
    "Due",
    "GaveUp",
    "Look",
    "Looked",
    "Lost",
    "NotRestored",
    "Recovery",
    "RecoveryPolicy",
    "Restore",
    "Restored",
    "WakeAt",
    "step",
]

Phase: TypeAlias = Literal["watched", "queued", "restoring", "waiting"]
_MAX_DOUBLINGS = 60


class RecoveryPolicy(Struct, frozen=True, kw_only=True):
    """How lost training runs are brought back.

    Args:
        max_attempts: attempts for one loss, 1 or more.
        backoff: seconds before the second attempt; doubles with each further one.
        max_backoff: longest wait between two attempts, in seconds.
        poll_interval: seconds between two looks at a run.
        max_concurrent: runs that are restored at the same time.
        checkpoint: ``latest``, or the path of the one to go back to.
        restore_optimizer: restore the optimizer's state too, so that training goes on where it was saved.
        adopt: let the program's own training client go on as the new run; else only the handle has the new client.
        watch_again: watch the restored run, too.

    Raises:
        ConfigError: a value out of its range.
    """

    max_attempts: int = 3
    backoff: float = 5.0
    max_backoff: float = 60.0
    poll_interval: float = 30.0
    max_concurrent: int = 1
    checkpoint: str = "latest"
    restore_optimizer: bool = True
    adopt: bool = False
    watch_again: bool = True

    def __post_init__(self) -> None:
        for name in ("max_attempts", "max_concurrent"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise ConfigError(f"RecoveryPolicy.{name} must be 1 or more, got {getattr(self, name)!r}.")
        for name in ("backoff", "max_backoff", "poll_interval"):
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) and 0.0 < value < math.inf):
                raise ConfigError(f"RecoveryPolicy.{name} must be finite seconds above 0, got {value!r}.")
        if self.checkpoint != "latest" and "://" not in self.checkpoint:
            raise ConfigError(
                f"RecoveryPolicy.checkpoint must be 'latest' or a checkpoint's path, got {self.checkpoint!r}. Which "
                "one is best only you know: name it."
            )


class Run(Struct):
    """One run: how it stands, its attempts for the present loss, and the newest checkpoint that is known."""

    phase: Phase
    instant: float
    checkpoint: str | None = None
    attempts: int = 0
    looking: bool = False


class Recovery(Struct):
    """Every run, in the order in which it was watched or lost."""

    policy: RecoveryPolicy = RecoveryPolicy()
    runs: dict[str, Run] = {}

    def watch(self, run_id: str, now: float, checkpoint: str | None = None) -> None:
        """Watch a run from now on; again is once."""
        if run_id not in self.runs:
            self.runs[run_id] = Run("watched", now + self.policy.poll_interval, checkpoint)

    def forget(self, run_id: str) -> None:
        """Watch a run no more (rule 5)."""
        self.runs.pop(run_id, None)


class Due(Struct, frozen=True):
    """Event: an instant may have come; the shell looks at the clock."""


class Looked(Struct, frozen=True):
    """Event: a look at a run has ended. ``status`` is that of a refusal, None for an answer or for none at all."""

    run_id: str
    corrupted: bool = False
    checkpoint: str | None = None
    status: int | None = None


class Lost(Struct, frozen=True):
    """Event: somebody else found a run to be lost."""

    run_id: str


class Restored(Struct, frozen=True):
    """Event: an attempt has succeeded."""

    run_id: str


class NotRestored(Struct, frozen=True):
    """Event: an attempt has failed."""

    run_id: str


Event: TypeAlias = Due | Looked | Lost | Restored | NotRestored


class Look(Struct, frozen=True):
    """Effect: ask the server how a run is."""

    run_id: str


class Restore(Struct, frozen=True):
    """Effect: make a new run of a checkpoint; ``attempt`` counts from 1."""

    run_id: str
    path: str
    attempt: int


class GaveUp(Struct, frozen=True):
    """Effect: a run stays lost; ``attempts`` is 0 where there was no checkpoint to begin with."""

    run_id: str
    attempts: int


class WakeAt(Struct, frozen=True):
    """Effect: bring `Due` at this instant."""

    instant: float


Effect: TypeAlias = Look | Restore | GaveUp | WakeAt


def step(state: Recovery, event: Event, now: float) -> list[Effect]:
    """Take one event; the state is changed in place.

    Returns:
        What to do, in this order; the last is a `WakeAt` if anything is to come by time.
    """
    effects: list[Effect] = []
    match event:
        case Due():
            effects += _due(state, now)
        case Looked():
            effects += _looked(state, event, now)
        case Lost(run_id=run_id):
            effects += _lost(state, run_id, now)
        case Restored(run_id=run_id):
            state.forget(run_id)
        case NotRestored(run_id=run_id):
            effects += _not_restored(state, run_id, now)
        case _:
            assert_never(event)
    effects += _started(state)
    instants = [run.instant for run in state.runs.values() if run.phase in ("watched", "waiting") and not run.looking]
    if instants:
        effects.append(WakeAt(min(instants)))
    return effects


def _due(state: Recovery, now: float) -> Iterator[Effect]:
    for run_id, run in state.runs.items():
        if run.instant > now or run.looking:
            continue
        if run.phase == "watched":
            run.looking = True
            yield Look(run_id)
        elif run.phase == "waiting":
            run.phase = "queued"


def _looked(state: Recovery, event: Looked, now: float) -> list[Effect]:
    run = state.runs.get(event.run_id)
    if run is None:
        return []
    run.looking = False
    run.checkpoint = event.checkpoint or run.checkpoint
    if run.phase != "watched":
        return []
    run.instant = now + state.policy.poll_interval
    return _lost(state, event.run_id, now) if event.corrupted or event.status in (404, 410) else []


def _lost(state: Recovery, run_id: str, now: float) -> list[Effect]:
    run = state.runs.get(run_id)
    if run is None or run.phase != "watched":
        return []
    if _path(state.policy, run) is None:
        state.forget(run_id)
        return [GaveUp(run_id, 0)]
    state.runs[run_id] = state.runs.pop(run_id)  # rule 3: behind those that were lost before
    run.phase = "queued"
    return []


def _not_restored(state: Recovery, run_id: str, now: float) -> list[Effect]:
    run = state.runs.get(run_id)
    if run is None or run.phase != "restoring":
        return []
    policy = state.policy
    if run.attempts >= policy.max_attempts:
        state.forget(run_id)
        return [GaveUp(run_id, run.attempts)]
    run.phase = "waiting"
    run.instant = now + min(policy.backoff * 2.0 ** min(run.attempts - 1, _MAX_DOUBLINGS), policy.max_backoff)
    return []


def _started(state: Recovery) -> Iterator[Effect]:
    room = state.policy.max_concurrent - sum(run.phase == "restoring" for run in state.runs.values())
    for run_id, run in state.runs.items():
        if room > 0 and run.phase == "queued":
            room -= 1
            run.phase = "restoring"
            run.attempts += 1
            path = _path(state.policy, run)
            assert path is not None  # looked at before it was queued, and never taken away
            yield Restore(run_id, path, run.attempts)


def _path(policy: RecoveryPolicy, run: Run) -> str | None:
    return run.checkpoint if policy.checkpoint == "latest" else policy.checkpoint
