"""A circuit breaker: a server that keeps failing is left alone for a while.

Rules:

1. Closed: everything passes. `failure_threshold` failures in a row open it; any success starts the count again.
2. Open: nothing passes for `reset_timeout` seconds.
3. Half open: at most `half_open_max_calls` probes at a time. The first one that succeeds closes it, the first one that
   fails opens it again.
4. A probe's place is taken at admission and given back by its outcome, whatever that is; a cancelled call says nothing
   about the server. A call that was admitted before the breaker last opened says nothing new either.
5. A failure is the server's or the way's: no answer, 5xx, 408. A refusal (other 4xx) is an answer, so a success. 429 is
   neither: the server works, and the back-off window looks after it.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

__all__ = ["Breaker", "Outcome", "admit", "judge", "record", "reset"]

State = Literal["closed", "open", "half_open"]
Outcome = Literal["success", "failure", "neither"]


class Breaker(Struct):
    """A breaker, changed in place by the functions below.

    Args:
        failure_threshold: failures in a row that open it.
        reset_timeout: seconds it stays open.
        half_open_max_calls: probes at a time.
        state: ``closed``, ``open`` or ``half_open``.
        failures: in a row, while closed.
        probes: under way, while half open.
        opened_at: the instant it last opened.
        openings: how often it has opened; a call remembers the number it was admitted under.
    """

    failure_threshold: int = 5
    reset_timeout: float = 30.0
    half_open_max_calls: int = 1
    state: State = "closed"
    failures: int = 0
    probes: int = 0
    opened_at: float = 0.0
    openings: int = 0


def admit(breaker: Breaker, now: float) -> float | None:
    """Let a call through, taking a probe's place where there are places; `record` must follow.

    Returns:
        None where the call may go; else the seconds after which another try may, 0 while a probe is still out.
    """
    if breaker.state == "open":
        left = breaker.opened_at + breaker.reset_timeout - now
        if left > 0.0:
            return left
        breaker.state, breaker.probes = "half_open", 0
    if breaker.state == "half_open":
        if breaker.probes >= breaker.half_open_max_calls:
            return 0.0
        breaker.probes += 1
    return None


def record(breaker: Breaker, admitted_under: int, outcome: Outcome, now: float) -> None:
    """Take note of how a call ended.

    Args:
        breaker: changed in place.
        admitted_under: ``breaker.openings`` as it was at the admission.
        outcome: as `judge` says; ``neither`` for a call that was cancelled.
        now: the instant.
    """
    if admitted_under != breaker.openings or breaker.state == "open":
        return
    if breaker.state == "half_open":
        breaker.probes = max(0, breaker.probes - 1)
    if outcome == "success":
        breaker.state, breaker.failures, breaker.probes = "closed", 0, 0
    elif outcome == "failure":
        breaker.failures += 1
        if breaker.state == "half_open" or breaker.failures >= breaker.failure_threshold:
            breaker.state, breaker.opened_at, breaker.probes = "open", now, 0
            breaker.openings += 1


def reset(breaker: Breaker) -> None:
    """Close it by hand."""
    breaker.state, breaker.failures, breaker.probes = "closed", 0, 0
    breaker.openings += 1  # what is still out belongs to the past


def judge(status: int | None) -> Outcome:
    """Return what an answer says about the server (rule 5); None is no answer."""
    if status is None or status >= 500 or status == 408:
        return "failure"
    return "neither" if status == 429 else "success"
