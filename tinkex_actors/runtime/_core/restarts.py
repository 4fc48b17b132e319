"""The decisions of supervision, as functions over plain data: who restarts, when, and when it is enough.

Sources: OTP ``supervisor`` (restart types, strategies, intensity); full jitter after Brooker, "Exponential Backoff and
Jitter" (AWS Architecture Blog, 2015).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Literal, get_args

import msgspec

from tinkex_actors.errors import ConfigError
from tinkex_actors.runtime.child_spec import Restart

__all__ = ["AutoShutdown", "Backoff", "Policy", "RestartLog", "Strategy", "affected", "backoff_ceiling", "restarts"]

Strategy = Literal["one_for_one", "one_for_all", "rest_for_one"]
AutoShutdown = Literal["never", "any_significant", "all_significant"]


class Backoff(msgspec.Struct, frozen=True):
    """Waiting before a restart: full jitter below ``min(cap, base * 2**k)`` for the k-th restart in a row.

    Args:
        base: seconds, ceiling of the first wait.
        cap: seconds, ceiling of every wait.
        reset_after: seconds of health after which k falls back to 0.
    """

    base: float = 0.1
    cap: float = 30.0
    reset_after: float = 60.0

    def __post_init__(self) -> None:
        if not (0.0 < self.base <= self.cap and self.reset_after >= 0.0):
            raise ConfigError(f"Backoff needs 0 < base <= cap and reset_after >= 0, got {self!r}.")


class Policy(msgspec.Struct, frozen=True):
    """How a parent treats its children.

    Attributes:
        strategy: who restarts with the one that failed.
        max_restarts: restarts allowed within ``max_seconds``; the next one is too many.
        max_seconds: length of the window.
        backoff: None restarts at once.
        auto_shutdown: whether the end of significant children ends the supervisor.
        per_child: the window is counted for each child alone (dynamic supervisors).
        remove_exhausted: a child over its limit is dropped and the supervisor lives on.
    """

    strategy: Strategy = "one_for_one"
    max_restarts: int = 3
    max_seconds: float = 5.0
    backoff: Backoff | None = None
    auto_shutdown: AutoShutdown = "never"
    per_child: bool = False
    remove_exhausted: bool = False

    def __post_init__(self) -> None:
        if self.strategy not in get_args(Strategy):
            raise ConfigError(f"strategy= must be one of {get_args(Strategy)}, got {self.strategy!r}.")
        if self.auto_shutdown not in get_args(AutoShutdown):
            raise ConfigError(f"auto_shutdown= must be one of {get_args(AutoShutdown)}, got {self.auto_shutdown!r}.")
        if self.max_restarts < 0 or not self.max_seconds > 0.0:
            raise ConfigError(
                "max_restarts= must be 0 or more and max_seconds= above 0, "
                f"got {self.max_restarts!r} and {self.max_seconds!r}."
            )


def restarts(restart: Restart, abnormal: bool) -> bool:
    """Return whether an actor that ended by itself comes back."""
    return restart == "permanent" or (restart == "transient" and abnormal)


def affected(strategy: Strategy, order: Sequence[str], failed: Sequence[str]) -> tuple[str, ...]:
    """Return who has to be stopped (right to left) and started (left to right) when ``failed`` crash, in start order.

    Args:
        strategy: the supervisor's.
        order: all children, in start order.
        failed: those that crashed, in any order; names not in ``order`` are ignored.
    """
    hit = [index for index, name in enumerate(order) if name in failed]
    if not hit:
        return ()
    if strategy == "one_for_one":
        return tuple(order[index] for index in hit)
    if strategy == "one_for_all":
        return tuple(order)
    return tuple(order[hit[0] :])


def backoff_ceiling(backoff: Backoff, streak: int) -> float:
    """Return the longest wait before restart number ``streak`` (from 0) in a row, in seconds."""
    doublings = min(streak, 64)  # 2**64 seconds is beyond every cap; the bound keeps the float finite
    return min(backoff.cap, backoff.base * 2.0**doublings)


class RestartLog:
    """The restarts of one window. Instants come in from outside."""

    __slots__ = ("_instants", "_latest", "_streak")

    def __init__(self) -> None:
        self._instants: deque[float] = deque()
        self._streak = 0
        self._latest = 0.0

    def allow(self, policy: Policy, now: float) -> bool:
        """Count one restart at ``now`` and return whether it is still within the policy's intensity."""
        instants = self._instants
        instants.append(now)
        while instants[0] < now - policy.max_seconds:
            instants.popleft()
        return len(instants) <= policy.max_restarts

    def delay(self, backoff: Backoff | None, now: float, u: float) -> float:
        """Return how many seconds to wait before this restart.

        Args:
            backoff: the policy's; None waits 0.0.
            now: instant of the crash.
            u: uniform in [0, 1), drawn by the caller.
        """
        if backoff is None:
            return 0.0
        if self._streak and now - self._latest >= backoff.reset_after:
            self._streak = 0
        wait = u * backoff_ceiling(backoff, self._streak)
        self._streak += 1
        self._latest = now + wait
        return wait
