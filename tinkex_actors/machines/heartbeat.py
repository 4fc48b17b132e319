"""Keeping a session alive (protocol 5.4).

Rules:

1. A beat every 10 s, the first after 10 s, whatever the answers. A tick that comes early sends nothing.
2. 120 s without a successful beat: warn, and again each time the silence has doubled. (The official client warns with
   every beat.) The next success starts over.
3. 410: the session has ended on the server; no more beats.

::

    alive --BeatFailed--> degraded --120 s of silence--> lost
      ^---------BeatOk-------'---------BeatOk-------------'
    any --BeatFailed(410)--> ended
"""

from __future__ import annotations

from typing import Literal, TypeAlias, assert_never

from msgspec import Struct

__all__ = [
    "PERIOD",
    "WARN_AFTER",
    "Beat",
    "BeatDue",
    "BeatFailed",
    "BeatOk",
    "Ended",
    "Heartbeat",
    "Started",
    "WakeAt",
    "Warn",
    "step",
]

PERIOD = 10.0
"""Seconds between beats, and the time limit of one."""

WARN_AFTER = 120.0
"""Seconds of silence before the first warning."""


class Started(Struct, frozen=True):
    """Event: the session exists, or the shell was restarted."""


class BeatDue(Struct, frozen=True):
    """Event: the instant of the last `WakeAt` has come."""


class BeatOk(Struct, frozen=True):
    """Event: a beat was answered with success."""


class BeatFailed(Struct, frozen=True):
    """Event: a beat was answered with this status, or, None, not at all."""

    status: int | None = None


class Beat(Struct, frozen=True):
    """Effect: send a heartbeat, once, with a timeout of the period."""


class WakeAt(Struct, frozen=True):
    """Effect: feed `BeatDue` at ``instant``; replaces every earlier one."""

    instant: float


class Warn(Struct, frozen=True):
    """Effect: warn that no beat has succeeded for ``elapsed`` seconds."""

    elapsed: float


class Ended(Struct, frozen=True):
    """Effect: the session is over; stop the timer."""


Event: TypeAlias = Started | BeatDue | BeatOk | BeatFailed
Effect: TypeAlias = Beat | WakeAt | Warn | Ended


class Heartbeat(Struct):
    """The state of one session's heartbeat, changed in place by `step`.

    Args:
        status: see the drawing above.
        last_ok_at: the instant of the last success, at first that of the start; None before it.
        next_beat_at: the instant of the next beat; None before the start.
        warn_after: seconds of silence after which to warn next.
        failures: failed beats since the last success.
        last_failure: status of the last failed beat, None for no answer.
    """

    status: Literal["alive", "degraded", "lost", "ended"] = "alive"
    last_ok_at: float | None = None
    next_beat_at: float | None = None
    warn_after: float = WARN_AFTER
    failures: int = 0
    last_failure: int | None = None


def step(state: Heartbeat, event: Event, now: float) -> list[Effect]:
    """Take one event and return the effects, in order.

    Args:
        state: changed in place.
        event: what happened.
        now: when.

    Raises:
        ValueError: a beat was due or answered before the start.
    """
    if state.status == "ended":
        return []
    if isinstance(event, Started):
        return _start(state, now)
    if state.last_ok_at is None or state.next_beat_at is None:
        raise ValueError(f"{type(event).__name__} before Started: the heartbeat of this session has not begun")
    match event:
        case BeatDue():
            if now < state.next_beat_at:
                return [WakeAt(state.next_beat_at)]
            state.next_beat_at = now + PERIOD
            return [Beat(), WakeAt(state.next_beat_at), *_warn(state, now - state.last_ok_at)]
        case BeatOk():
            state.status = "alive"
            state.last_ok_at = now
            state.warn_after = WARN_AFTER
            state.failures = 0
            state.last_failure = None
            return []
        case BeatFailed(status=410):
            state.status = "ended"
            state.next_beat_at = None
            return [Ended()]
        case BeatFailed(status=status):
            state.failures += 1
            state.last_failure = status
            if state.status == "alive":
                state.status = "degraded"
            return _warn(state, now - state.last_ok_at)
        case _:
            assert_never(event)


def _start(state: Heartbeat, now: float) -> list[Effect]:
    if state.last_ok_at is None:
        state.last_ok_at = now
    if state.next_beat_at is None:
        state.next_beat_at = now + PERIOD
    return [WakeAt(state.next_beat_at)]


def _warn(state: Heartbeat, silence: float) -> list[Effect]:
    if silence < state.warn_after:
        return []
    state.status = "lost"
    while silence >= state.warn_after:
        state.warn_after *= 2.0
    return [Warn(silence)]
