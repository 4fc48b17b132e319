"""One retry layer for every request.

Rules:

1. 408, 409, 429, 500 and above, and no usable answer are worth another attempt (protocol 1.5); ``x-should-retry``
   overrides the list in both directions.
2. A server hint within ``(0, max_hint]`` seconds replaces our own delay; any other hint is ignored.
3. No delay reaches past the end of the window, so the last attempt starts at the window's end at the latest.
4. The request is re-sent unchanged, under the same idempotency key or seq_id; that is the shell's part.

The official client runs two such layers, one inside the other, and their attempts multiply: a *base* layer of 10
retries inside each attempt of a *holder* layer, which is the one that looks at the clock. Here there is one layer, with
the base's delays and the holder's window; `inner_retries` brings back the two, for comparison and for parity:

==========  ===========================  ===================  ==================  =======================
layer       retries                      delay                server's hint       ends
==========  ===========================  ===================  ==================  =======================
one         any number                   0.5 s doubling to    replaces the delay  300 s
                                         10 s, less jitter
base        ``inner_retries`` in a row   the same             replaces the delay  with its last retry
holder      any number                   1 s doubling to      not looked at       300 s; does not obey
                                         30 s, no jitter                          ``x-should-retry: true``
==========  ===========================  ===================  ==================  =======================
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

from msgspec import Struct

from tinkex_actors.errors import ConfigError

__all__ = [
    "NO_RETRY",
    "Billing",
    "Failure",
    "RetryPolicy",
    "Verdict",
    "decide",
    "is_doubtful",
    "is_retryable",
    "policy_for",
    "verdict",
]

# Doubling stops here: 2**60 attempts of any base exceed every cap, and larger powers overflow a float.
_MAX_DOUBLINGS = 60

# Protocol 4.6: between attempts during a pause, and how old the last refusal of one pause may be.
_BILLING_PAUSE = 5.0
_BILLING_INCIDENT = 300.0

# A server looks at these before it looks at the number: what it has taken once, it does not refuse so later.
_OF_THE_CONTENT = frozenset({400, 413, 415, 422})

# The official client's: 10 retries within, up to 30 s between (protocol 1.5). The Elixir client's mode has 2 in all.
_INNER_RETRIES = 10
_HOLDER_CAP = 30.0
_BEAM_RETRIES = 2


class RetryPolicy(Struct, frozen=True):
    """How long, how often and how fast to try again.

    Args:
        window: seconds since the first attempt started in which a further attempt may start.
        base: seconds before the first retry; doubles with each one.
        cap: longest own delay, in seconds.
        jitter: share of the delay, in [0, 1], that ``u`` may take away.
        max_hint: longest server hint that is honoured, in seconds.
        max_attempts: attempts in all, at least 1; None leaves only the window.
        inner_retries: retries of the official client's base layer within each attempt of its holder layer; None is
            one layer.

    Raises:
        ConfigError: a value is out of its range.
    """

    window: float = 300.0
    base: float = 0.5
    cap: float = 10.0
    jitter: float = 0.25
    max_hint: float = 60.0
    max_attempts: int | None = None
    inner_retries: int | None = None

    def __post_init__(self) -> None:
        for name in ("window", "base", "cap", "max_hint"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0.0):
                raise ConfigError(f"RetryPolicy.{name} must be a finite number of seconds >= 0, got {value!r}")
        if not 0.0 <= self.jitter <= 1.0:
            raise ConfigError(f"RetryPolicy.jitter must be a share in [0, 1], got {self.jitter!r}")
        if self.max_attempts is not None and self.max_attempts < 1:
            raise ConfigError(f"RetryPolicy.max_attempts must be at least 1 or None, got {self.max_attempts!r}")
        if self.inner_retries is not None and self.inner_retries < 0:
            raise ConfigError(f"RetryPolicy.inner_retries must be at least 0 or None, got {self.inner_retries!r}")


NO_RETRY = RetryPolicy(max_attempts=1)
"""One attempt: for requests that a timer repeats anyway, such as a heartbeat."""


def policy_for(parity: str, max_retries: int | None = None) -> RetryPolicy:
    """Return the policy of ordinary requests.

    Args:
        parity: ``python`` (one layer), ``official`` (two layers) or ``beam`` (one layer, at most 2 retries).
        max_retries: retries at most; under ``official``, those of the base layer.
    """
    if parity == "official":
        return RetryPolicy(inner_retries=_INNER_RETRIES if max_retries is None else max_retries)
    if max_retries is None and parity == "beam":
        max_retries = _BEAM_RETRIES
    return RetryPolicy(max_attempts=None if max_retries is None else max_retries + 1)


class Failure(Struct, frozen=True):
    """One attempt that did not succeed.

    Args:
        status: HTTP status, or None where no usable answer came (connection, timeout).
        retry_after: seconds asked for by ``retry-after-ms`` or ``retry-after``; None where absent.
        should_retry: the ``x-should-retry`` header; None where absent.
        sent: False where the request certainly never left this machine.
    """

    status: int | None
    retry_after: float | None = None
    should_retry: bool | None = None
    sent: bool = True


Verdict: TypeAlias = Literal["refused", "open", "unknown"]


class Billing(Struct):
    """A pause because of 402, shared by everything that is sent to one server (protocol 4.6): mutated in place.

    Args:
        window: seconds after the first refusal in which attempts go on.
        since: the instant of the pause's first refusal; None before any.
        last: the instant of its latest one.
    """

    window: float = 3600.0
    since: float | None = None
    last: float = 0.0

    def refused(self, now: float) -> float | None:
        """Return the seconds until the next attempt, or None where the window is over and the 402 is final."""
        if self.since is None or now - self.last > _BILLING_INCIDENT:
            self.since = now
        self.last = now
        return _BILLING_PAUSE if now - self.since < self.window else None


def is_retryable(failure: Failure) -> bool:
    """Return whether the same request may succeed later (rule 1)."""
    if failure.should_retry is not None:
        return failure.should_retry
    status = failure.status
    return status is None or status in (408, 409, 429) or status >= 500


def is_doubtful(failure: Failure) -> bool:
    """Return whether the request may have been taken although it failed: no answer, 408, or 500 and above."""
    status = failure.status
    return failure.sent if status is None else status == 408 or status >= 500


def verdict(failure: Failure, *, doubtful: bool) -> Verdict:
    """Say what became of a numbered request that is not sent again.

    Args:
        failure: what came back last.
        doubtful: an attempt before it may have been taken (`is_doubtful`).

    Returns:
        ``refused``: it did not and will not happen, and its number is complete. ``open``: it did not happen, and the
        server still expects its number (402, 429, never sent). ``unknown``: it may have happened; also a refusal that
        a doubtful attempt came before, as a conflict may be with that very attempt. Only what servers refuse by its
        content alone is refused all the same.
    """
    status = failure.status
    if is_doubtful(failure) or (doubtful and status not in _OF_THE_CONTENT):
        return "unknown"
    return "open" if status in (None, 402, 429) else "refused"


def decide(policy: RetryPolicy, attempt: int, elapsed: float, failure: Failure, u: float) -> float | None:
    """Decide how long to wait before the next attempt.

    Own delay: ``min(base * 2**attempt, cap) * (1 - jitter * u)`` (protocol 1.5).

    Args:
        policy: the limits.
        attempt: which attempt failed, counted from 0.
        elapsed: seconds since attempt 0 started.
        failure: what came back.
        u: jitter in [0, 1).

    Returns:
        Seconds to wait before attempt ``attempt + 1``, or None to give up.
    """
    if not is_retryable(failure):
        return None
    if policy.max_attempts is not None and attempt + 1 >= policy.max_attempts:
        return None
    if policy.inner_retries is not None:
        rounds, within = divmod(attempt, policy.inner_retries + 1)
        if within < policy.inner_retries:
            return _delay(policy, within, failure, u)  # the base layer has no clock
        if elapsed >= policy.window or not is_retryable(Failure(failure.status)):
            return None
        return min(2.0 ** min(rounds, _MAX_DOUBLINGS), _HOLDER_CAP, policy.window - elapsed)
    if elapsed >= policy.window:
        return None
    return min(_delay(policy, attempt, failure, u), policy.window - elapsed)


def _delay(policy: RetryPolicy, attempt: int, failure: Failure, u: float) -> float:
    hint = failure.retry_after
    if hint is not None and 0.0 < hint <= policy.max_hint:
        return hint
    return min(policy.base * 2.0 ** min(attempt, _MAX_DOUBLINGS), policy.cap) * (1.0 - policy.jitter * u)
