"""One promise: when to ask for its result, and when to stop asking.

Rules (protocol part 4):

1. Two polls of one promise start at least the floor apart: 0.05 s, doubling to 1.0 s while answers come back within a
   second and without news. After a poll that the server held for 1 s or longer the next one may start at once, and
   the floor is 0.05 s again. (The official client re-polls at once, also after a 5xx.)
2. try_again and 408: poll again, as far as the floor allows, and no earlier than the answer asks for, up to 60 s.
3. 5xx: wait 0.5 s, doubling to 30 s. 429 and no usable answer: 1 s, doubling to 30 s. A server hint makes the
   wait longer, up to 60 s, and never shorter. The exponent starts again after any other answer.
4. 400: tolerated 3 times in a row; the fourth is final.
5. 402: as long as the server's billing pause lasts, which all its requests share (`retry.Billing`).
6. metadata only: reserve the bytes, then poll for the payload. A second one is a protocol error.
7. 410: the promise is gone. Every other status is final. There is no deadline of our own: promises may take hours.

===============  ==========================================
answer           next
===============  ==========================================
ready            Resolve
failed           Fail("failed")
try_again, 408   Poll(floor)
metadata         Poll(floor, reserve) or Fail("protocol")
400              Poll(floor) or Fail("status")
402              Poll(pause) or Fail("status")
410              Fail("gone")
429, no answer   Poll(exponential from 1 s)
5xx              Poll(exponential from 0.5 s)
other status     Fail("status")
===============  ==========================================
"""

from __future__ import annotations

from typing import Literal, TypeAlias, assert_never

from msgspec import Struct

__all__ = [
    "Fail",
    "FailedSeen",
    "MetadataSeen",
    "NoAnswer",
    "Poll",
    "Polling",
    "ReadySeen",
    "Resolve",
    "StatusSeen",
    "TryAgainSeen",
    "started",
    "step",
]

_FLOOR = 0.05
_LONGEST_FLOOR = 1.0
_LONG_POLL = 1.0
_FLOOR_DOUBLINGS = 5  # 0.05 * 2**5 exceeds the longest floor
_SERVER_ERROR_BASE = 0.5
_BACKOFF_BASE = 1.0
_BACKOFF_CAP = 30.0
_BACKOFF_DOUBLINGS = 6  # 0.5 * 2**6 exceeds the cap
_LONGEST_HINT = 60.0
_JITTER = 0.25
_BAD_REQUESTS = 3
_QUEUE_STATES = ("active", "paused_capacity", "paused_rate_limit")


class TryAgainSeen(Struct, frozen=True):
    """Event: not ready. ``queue_state`` is None where the answer named none; ``reason`` is the server's words.

    ``retry_after`` is the pause in seconds that the answer asks for (``retry_after_ms``), or None.
    """

    queue_state: str | None = None
    reason: str | None = None
    retry_after: float | None = None


class MetadataSeen(Struct, frozen=True):
    """Event: ready, and ``size_bytes`` long; the payload comes with the next poll."""

    size_bytes: int = 0


class ReadySeen(Struct, frozen=True):
    """Event: the result is here."""


class FailedSeen(Struct, frozen=True):
    """Event: the server ran the operation and it failed; ``category`` is ``user``, ``server`` or ``unknown``."""

    error: str
    category: str = "unknown"


class StatusSeen(Struct, frozen=True):
    """Event: the poll was answered by an HTTP status of 300 and above.

    Args:
        status: the status.
        retry_after: the server's hint, in seconds.
        billing_pause: for a 402, the seconds until the next attempt, or None where the pause is over.
    """

    status: int
    retry_after: float | None = None
    billing_pause: float | None = None


class NoAnswer(Struct, frozen=True):
    """Event: the connection failed, or no answer came in time."""


class Poll(Struct, frozen=True):
    """Decision: poll again.

    Args:
        delay: seconds from now until the poll may start.
        allow_metadata_only: goes into the request as it is.
        reserve_bytes: what to reserve for the payload before polling; 0 except after a metadata-only answer.
    """

    delay: float
    allow_metadata_only: bool = True
    reserve_bytes: int = 0


class Resolve(Struct, frozen=True):
    """Decision: done; give back what was reserved and hand the result over."""


class Fail(Struct, frozen=True):
    """Decision: done without a result; give back what was reserved.

    Args:
        kind: ``failed`` (the operation ran and failed), ``gone`` (410), ``status`` (a final HTTP status), ``protocol``.
        detail: what came, in words.
        status: the HTTP status, for ``gone`` and ``status``.
        category: whose fault the server says it is, for ``failed``.
    """

    kind: Literal["failed", "gone", "status", "protocol"]
    detail: str
    status: int | None = None
    category: str = "unknown"


Event: TypeAlias = TryAgainSeen | MetadataSeen | ReadySeen | FailedSeen | StatusSeen | NoAnswer
Decision: TypeAlias = Poll | Resolve | Fail


class Polling(Struct):
    """One promise being polled: mutated in place by `started` and `step`.

    Args:
        request_id: the promise.
        started_at: the instant the promise was received.
        iteration: number of the poll that is under way or next, from 0 (``X-Tinker-Request-Iteration``).
        backoff: consecutive answers of rule 3.
        bad_requests: 400s in a row.
        quick: consecutive answers that came back within a second and without news.
        allow_metadata_only: goes into the next poll's request.
        queue_state: the last one the server told.
        queue_reason: the server's words for it.
        queue_since: the instant ``queue_state`` was first seen, None before any was told.
        last_poll_at: the instant the last poll started or was told to start; None before the first.
        polls: polls started.
        reserved_bytes: held for the payload.
        silent_since: the instant of the first of ``backoff`` answers.
    """

    request_id: str
    started_at: float = 0.0
    iteration: int = 0
    backoff: int = 0
    bad_requests: int = 0
    quick: int = 0
    allow_metadata_only: bool = True
    queue_state: str = "active"
    queue_reason: str | None = None
    queue_since: float | None = None
    last_poll_at: float | None = None
    polls: int = 0
    reserved_bytes: int = 0
    silent_since: float | None = None

    def announced(self, size_bytes: int | None) -> None:
        """Take note that the promise is done, and of how large its result is, before its first poll (protocol 4.7)."""
        if size_bytes:
            self.allow_metadata_only = False
            self.reserved_bytes = size_bytes

    def resume(self, now: float) -> Poll:
        """Return the poll with which a restarted shell goes on: what was planned, no earlier than it was planned."""
        # The last poll either has not started, and keeps its instant, or was cut off, and keeps the floor.
        last, interrupted = self.last_poll_at, self.polls > self.iteration
        due = now if last is None else last + (_FLOOR if interrupted else 0.0)
        return Poll(max(0.0, due - now), self.allow_metadata_only, self.reserved_bytes)


def started(state: Polling, now: float) -> None:
    """Take note that the poll numbered ``state.iteration`` starts now; once more if a restarted shell repeats it."""
    state.last_poll_at = now
    state.polls = state.iteration + 1


def step(state: Polling, event: Event, now: float, u: float) -> Decision:
    """Take the answer of one poll and decide what comes next.

    Args:
        state: changed in place.
        event: the answer.
        now: the instant it came.
        u: jitter in [0, 1): takes up to a quarter off the exponential delays.

    Returns:
        `Poll`, `Resolve` or `Fail`; after the last two the promise is done.
    """
    decision: Decision
    match event:
        case ReadySeen():
            decision = Resolve()
        case FailedSeen(error=error, category=category):
            decision = Fail("failed", error, category=category)
        case TryAgainSeen():
            decision = _not_yet(state, event.retry_after, now)
            _note_queue(state, event, now)
        case MetadataSeen(size_bytes=size_bytes):
            decision = _metadata(state, size_bytes, now)
        case NoAnswer():
            decision = _back_off(state, _BACKOFF_BASE, None, now, u)
        case StatusSeen():
            decision = _status(state, event, now, u)
        case _:
            assert_never(event)
    if isinstance(decision, Poll):
        state.iteration += 1
        state.polls = max(state.polls, state.iteration)
        state.last_poll_at = now + decision.delay
    else:
        # A pause is only ever reported by answers that say "not yet", so its end is ours to notice.
        state.queue_state, state.queue_reason = "active", None
    return decision


def _status(state: Polling, event: StatusSeen, now: float, u: float) -> Decision:
    status = event.status
    if status == 408:
        return _ordinary(state, now)
    if status == 410:
        return Fail("gone", "the server no longer has this promise", status=status)
    if status == 400:
        return _bad_request(state, now)
    if status == 402:
        return _billing(state, event.billing_pause)
    if status == 429:
        return _back_off(state, _BACKOFF_BASE, event.retry_after, now, u)
    if status >= 500:
        return _back_off(state, _SERVER_ERROR_BASE, event.retry_after, now, u)
    return Fail("status", f"polling was refused with status {status}", status=status)


def _ordinary(state: Polling, now: float) -> Poll:
    state.backoff = 0
    state.bad_requests = 0
    return Poll(_floor_delay(state, now), state.allow_metadata_only)


def _not_yet(state: Polling, hint: float | None, now: float) -> Poll:
    floor = _ordinary(state, now)
    return floor if hint is None else Poll(max(floor.delay, min(hint, _LONGEST_HINT)), floor.allow_metadata_only)


def _metadata(state: Polling, size_bytes: int, now: float) -> Decision:
    if not state.allow_metadata_only:
        return Fail("protocol", "the server answered with metadata only, although the payload was asked for")
    if size_bytes < 0:
        return Fail("protocol", f"the server announced a payload of {size_bytes} bytes")
    state.allow_metadata_only = False
    state.reserved_bytes = size_bytes
    # News: what was learnt about the server's pace in the queue says nothing about reading a finished result.
    state.quick = 0
    return Poll(_ordinary(state, now).delay, allow_metadata_only=False, reserve_bytes=size_bytes)


def _bad_request(state: Polling, now: float) -> Decision:
    if state.bad_requests >= _BAD_REQUESTS:
        return Fail(
            "status", f"polling was refused with status 400 {state.bad_requests + 1} times in a row", status=400
        )
    state.bad_requests += 1
    state.backoff = 0
    return Poll(_floor_delay(state, now), state.allow_metadata_only)


def _billing(state: Polling, pause: float | None) -> Decision:
    if pause is None:
        return Fail("status", "billing has been refused (402) for as long as a pause may last", status=402)
    state.backoff = 0
    return Poll(pause, state.allow_metadata_only)


def _back_off(state: Polling, base: float, hint: float | None, now: float, u: float) -> Poll:
    delay = min(base * 2.0 ** min(state.backoff, _BACKOFF_DOUBLINGS), _BACKOFF_CAP) * (1.0 - _JITTER * u)
    if hint is not None and hint > 0.0:
        delay = max(delay, min(hint, _LONGEST_HINT))
    if not state.backoff:
        state.silent_since = now
    state.backoff += 1
    return Poll(delay, state.allow_metadata_only)


def _floor_delay(state: Polling, now: float) -> float:
    """Return the seconds until the next poll may start (rule 1), and learn from how long this one was held."""
    if state.last_poll_at is None:
        return 0.0
    held = now - state.last_poll_at
    if held >= _LONG_POLL:
        state.quick = 0
        return 0.0
    floor = min(_FLOOR * 2.0**state.quick, _LONGEST_FLOOR)
    state.quick = min(state.quick + 1, _FLOOR_DOUBLINGS)
    return max(0.0, floor - held)


def _note_queue(state: Polling, event: TryAgainSeen, now: float) -> None:
    if event.queue_state in _QUEUE_STATES and (event.queue_state != state.queue_state or state.queue_since is None):
        # News, so the floor starts small again.
        state.queue_state = event.queue_state
        state.queue_since = now
        state.quick = 0
    if event.queue_state is not None or event.reason is not None:
        state.queue_reason = event.reason
