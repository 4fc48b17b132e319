"""Keeping a session alive (protocol 5.4).

Rules:

1. A beat every 10 s, the first after 10 s, whatever the answers. A tick that comes early sends nothing.
2. 120 s without a successful beat: warn, and again each time the silence has doubled. (The official client warns with
   every beat.) The next success starts over.
3. 410: the session has ended on the server; no more beats.
4. A server without heartbeats gets none, and its silence means nothing.
5. A beat that goes out more than a period late says so: something held the event loop.

::

    alive --BeatFailed--> degraded --120 s of silence--> lost
      ^---------BeatOk-------'---------BeatOk-------------'
    any --BeatFailed(410)--> ended
    any --BeatFailed(unsupported)--> unwatched

Each arrow is a `Changed`.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, assert_never

from msgspec import Struct

__all__ = [
    "PERIOD",
    "Beat",
    "BeatDue",
    "BeatFailed",
    "BeatOk",
    "Changed",
    "Heartbeat",
    "Late",
    "Started",
    "WakeAt",
    "Warn",
    "step",
]

PERIOD = 10.0
"""Seconds between beats, and the time limit of one."""

_WARN_AFTER = 120.0
"""Seconds of silence before the first warning."""


Status: TypeAlias = Literal["alive", "degraded", "lost", "ended", "unwatched"]


class Started(Struct, frozen=True):
    """Event: the session exists, or the shell was restarted."""


class BeatDue(Struct, frozen=True):
    """Event: the instant of the last `WakeAt` has come."""


class BeatOk(Struct, frozen=True):
    """Event: a beat was answered with success."""


class BeatFailed(Struct, frozen=True):
    """Event: a beat was answered with this status, or, None, not at all; ``unsupported``: by a server without beats."""

    status: int | None = None
    unsupported: bool = False


class Beat(Struct, frozen=True):
    """Effect: send a heartbeat, once, with a timeout of the period."""


class WakeAt(Struct, frozen=True):
    """Effect: feed `BeatDue` at ``instant``; replaces every earlier one."""

    instant: float


class Warn(Struct, frozen=True):
    """Effect: warn that no beat has succeeded for ``elapsed`` seconds."""

    elapsed: float


class Late(Struct, frozen=True):
    """Effect: tell that a beat went out ``seconds`` after its time."""

    seconds: float


class Changed(Struct, frozen=True):
    """Effect: tell that the status has changed, after ``silence`` seconds without a success."""

    before: Status
    after: Status
    silence: float


Event: TypeAlias = Started | BeatDue | BeatOk | BeatFailed
Effect: TypeAlias = Beat | WakeAt | Warn | Late | Changed


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

    status: Status = "alive"
    last_ok_at: float | None = None
    next_beat_at: float | None = None
    warn_after: float = _WARN_AFTER
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
    if state.status in ("ended", "unwatched"):
        return []
    if isinstance(event, Started):
        return _start(state, now)
    if state.last_ok_at is None or state.next_beat_at is None:
        raise ValueError(f"{type(event).__name__} before Started: the heartbeat of this session has not begun")
    before, silence = state.status, now - state.last_ok_at
    match event:
        case BeatDue():
            effects = _due(state, state.next_beat_at, silence, now)
        case BeatOk():
            state.status = "alive"
            state.last_ok_at = now
            state.warn_after = _WARN_AFTER
            state.failures = 0
            state.last_failure = None
            effects = []
        case BeatFailed(status=410) | BeatFailed(unsupported=True):
            state.status = "unwatched" if event.unsupported else "ended"
            state.next_beat_at = None
            effects = []
        case BeatFailed(status=status):
            state.failures += 1
            state.last_failure = status
            if state.status == "alive":
                state.status = "degraded"
            effects = _warn(state, silence)
        case _:
            assert_never(event)
    if state.status != before:
        effects.append(Changed(before, state.status, silence))
    return effects


def _start(state: Heartbeat, now: float) -> list[Effect]:
    if state.last_ok_at is None:
        state.last_ok_at = now
    if state.next_beat_at is None:
        state.next_beat_at = now + PERIOD
    return [WakeAt(state.next_beat_at)]


def _due(state: Heartbeat, due_at: float, silence: float, now: float) -> list[Effect]:
    if now < due_at:
        return [WakeAt(due_at)]
    state.next_beat_at = now + PERIOD
    late: list[Effect] = [Late(now - due_at)] if now - due_at >= PERIOD else []
    return [Beat(), WakeAt(state.next_beat_at), *late, *_warn(state, silence)]


def _warn(state: Heartbeat, silence: float) -> list[Effect]:
    if silence < state.warn_after:
        return []
    state.status = "lost"
    while silence >= state.warn_after:
        state.warn_after *= 2.0
    return [Warn(silence)]
