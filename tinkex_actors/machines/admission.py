"""Which sampling requests may be posted now, and the back-off window of their server.

Rules (protocol 7.3, 7.4 and 4.8, architecture section 5):

1. Requests leave in the order of their submission. A refused one goes back to its old place, ahead of all later ones.
2. At most ``in_flight`` requests are being posted or polled; of those at most ``dispatch`` are being posted, and at
   most ``throttled`` while back-pressure was seen recently.
3. Posting costs prompt bytes, ``penalty`` times as many while back-pressure was seen recently, returned when the post
   is answered. A request waits while the balance is negative: so one oversize request passes, the balance overdraws by
   one request at most, and nobody overtakes a large one.
4. A 429 opens the window: nothing is posted until the later of the old end and ``now + max(hint, size rule)``, where
   the size rule is 5 s above 128 KiB and 1 s up to it. An open window is only ever made longer. Everything the refused
   request held is given back while it waits.
5. The window closes with jitter (up to ``spread`` seconds), and then the posts allowed at once grow from 1 to
   ``throttled`` over ``spread`` seconds: what has waited does not come back as one burst.
6. "Recently" ends ``recent`` seconds after the window's end.

::

    steady --limited--> backing_off --tick--> recovering --tick--> steady
                             ^------limited-------'
"""

from __future__ import annotations

import math
from bisect import insort
from collections import OrderedDict
from typing import Literal, TypeAlias

from msgspec import Struct

from tinkex_actors.errors import ConfigError

__all__ = ["Admission", "AdmissionLimits", "AdmissionStatistics", "Post", "WakeAt"]

_LONGEST_HINT = 60.0


class AdmissionLimits(Struct, frozen=True):
    """The budgets.

    Args:
        in_flight: requests posted or polled at once.
        dispatch: requests being posted at once.
        throttled: the same, while back-pressure was seen recently.
        prompt_bytes: estimated bytes being posted at once.
        penalty: factor on a request's bytes while back-pressure was seen recently.
        small_backoff: seconds of back-off after a 429 on a request of up to ``large_bytes``.
        large_backoff: seconds of back-off after a 429 on a larger one.
        large_bytes: where large begins.
        recent: seconds after the window's end in which back-pressure counts as recent.
        spread: seconds over which waiting requests come back after the window.

    Raises:
        ConfigError: a value is out of its range.
    """

    in_flight: int = 2000
    dispatch: int = 400
    throttled: int = 10
    prompt_bytes: int = 10_485_760
    penalty: int = 20
    small_backoff: float = 1.0
    large_backoff: float = 5.0
    large_bytes: int = 131_072
    recent: float = 10.0
    spread: float = 1.0

    def __post_init__(self) -> None:
        for name in ("in_flight", "dispatch", "throttled", "prompt_bytes", "penalty"):
            if getattr(self, name) < 1:
                raise ConfigError(f"AdmissionLimits.{name} must be at least 1, got {getattr(self, name)!r}")
        for name in ("small_backoff", "large_backoff", "large_bytes", "recent", "spread"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"AdmissionLimits.{name} must be finite and >= 0, got {value!r}")


class Post(Struct, frozen=True):
    """Effect: post request ``id`` now."""

    id: int


class WakeAt(Struct, frozen=True):
    """Effect: call `Admission.tick` at ``instant``; replaces every earlier one."""

    instant: float


Effect: TypeAlias = Post | WakeAt
Phase: TypeAlias = Literal["steady", "backing_off", "recovering"]
Stage: TypeAlias = Literal["waiting", "dispatching", "in_flight"]


class AdmissionStatistics(Struct, frozen=True):
    """What stands where, at one moment.

    Args:
        phase: ``steady``, ``backing_off`` (the window is open, nothing is posted) or ``recovering``.
        waiting: requests not yet posted, or refused and waiting again.
        dispatching: requests being posted.
        in_flight: requests accepted by the server, being polled.
        dispatching_bytes: charged for posts under way, penalty included.
        window_since: the instant back-pressure began; None in the steady phase.
        window_until: the instant before which nothing is posted; None in the steady phase.
        window_cause: why, in words; None in the steady phase.
        limited_total: 429s so far.
    """

    phase: Phase
    waiting: int
    dispatching: int
    in_flight: int
    dispatching_bytes: int
    window_since: float | None
    window_until: float | None
    window_cause: str | None
    limited_total: int


class _Held(Struct):
    order: int
    size_bytes: int
    charge_bytes: int = 0


class Admission:
    """The dispatcher's admission state; every event returns the effects to perform.

    Events about a request that is finished with, as they come late after a cancellation or a restart, change nothing.

    Args:
        limits: the budgets; the defaults are the hosted service's.
    """

    __slots__ = (
        "_by_order",
        "_cause",
        "_dispatching",
        "_fresh",
        "_grow_at",
        "_in_flight",
        "_limited_total",
        "_next_order",
        "_open_at",
        "_phase",
        "_posts_allowed",
        "_returned",
        "_since",
        "_until",
        "_used_bytes",
        "limits",
    )

    def __init__(self, limits: AdmissionLimits | None = None) -> None:
        self.limits = limits or AdmissionLimits()
        self._phase: Phase = "steady"
        self._fresh: OrderedDict[int, _Held] = OrderedDict()  # never posted, in order
        self._returned: dict[int, _Held] = {}  # refused; each was submitted before every fresh one
        self._by_order: list[tuple[int, int]] = []  # (order, id) of the refused, sorted
        self._dispatching: dict[int, _Held] = {}
        self._in_flight: set[int] = set()
        self._next_order = 0
        self._used_bytes = 0
        self._limited_total = 0
        self._posts_allowed = self.limits.dispatch
        self._since: float | None = None
        self._until: float | None = None
        self._cause: str | None = None
        self._open_at = 0.0
        self._grow_at = 0.0

    # --- events ---------------------------------------------------------------------------------------------------
    def submit(self, op_id: int, size_bytes: int) -> list[Effect]:
        """Queue a request of an estimated size.

        Raises:
            ValueError: the size is negative, or the id is in use.
        """
        if size_bytes < 0:
            raise ValueError(f"request {op_id}: expected a size of 0 bytes or more, got {size_bytes}")
        if self.stage(op_id) is not None:
            raise ValueError(f"request {op_id} is {self.stage(op_id)} already; every submission needs its own id")
        self._fresh[op_id] = _Held(self._next_order, size_bytes)
        self._next_order += 1
        return self._release()

    def accepted(self, op_id: int) -> list[Effect]:
        """Take note of the promise: what posting held is returned, the request stays in flight.

        Raises:
            ValueError: the request is waiting, not being posted.
        """
        self._refuse_waiting(op_id, "accepted")
        if op_id not in self._dispatching:
            return []
        self._give_back(op_id)
        self._in_flight.add(op_id)
        return self._release()

    def limited(
        self,
        op_id: int,
        now: float,
        retry_after: float | None,
        u: float,
        cause: str = "rate limited (429)",
    ) -> list[Effect]:
        """Take note of a 429 on the post: the window opens, the request goes back to its place (rules 1 and 4).

        Args:
            op_id: the request.
            now: the instant of the answer.
            retry_after: the server's hint in seconds; above 60 it counts as 60.
            u: jitter in [0, 1) of the window's end.
            cause: why, in words.

        Raises:
            ValueError: the request is waiting, or was accepted already.
        """
        self._refuse_waiting(op_id, "limited")
        if op_id in self._in_flight:
            raise ValueError(f"request {op_id} was accepted already, and can no longer be refused")
        held = self._dispatching.get(op_id)
        large = held is not None and held.size_bytes > self.limits.large_bytes
        seconds = self.limits.large_backoff if large else self.limits.small_backoff
        if retry_after is not None and retry_after > 0.0:
            seconds = max(seconds, min(retry_after, _LONGEST_HINT))
        if held is not None:
            self._give_back(op_id)
            self._returned[op_id] = held
            insort(self._by_order, (held.order, op_id))
        self._limited_total += 1
        self._open_window(now, seconds, u, cause)
        return [WakeAt(self._open_at)]

    def paused(self, now: float, seconds: float, u: float, cause: str) -> list[Effect]:
        """Open the window for another reason than a 429 of ours: a paused queue, or another client's 429.

        Raises:
            ValueError: ``seconds`` is negative or not finite.
        """
        if not (math.isfinite(seconds) and seconds >= 0.0):
            raise ValueError(f"expected a pause of 0 seconds or more, got {seconds!r}")
        self._open_window(now, seconds, u, cause)
        return [WakeAt(self._open_at)]

    def finished(self, op_id: int) -> list[Effect]:
        """Take note that the request has its result; everything it held is returned.

        Raises:
            ValueError: the request is waiting.
        """
        self._refuse_waiting(op_id, "finished")
        return self._forget(op_id)

    def failed(self, op_id: int) -> list[Effect]:
        """Take note that the request has failed for good, wherever it was; everything it held is returned."""
        return self._forget(op_id)

    def cancelled(self, op_id: int) -> list[Effect]:
        """Take note that nobody wants the request any more, wherever it was; everything it held is returned."""
        return self._forget(op_id)

    def tick(self, now: float) -> list[Effect]:
        """Let time pass: close the window, raise the number of posts, return to steady. Too early is harmless."""
        if self._until is None:
            return []
        if now < self._open_at:
            return [WakeAt(self._open_at)]
        recent_until = max(self._until + self.limits.recent, self._open_at)
        if now >= recent_until:
            self._phase = "steady"
            self._since = self._until = self._cause = None
            self._posts_allowed = self.limits.dispatch
            return self._release()
        self._phase = "recovering"
        throttled = min(self.limits.throttled, self.limits.dispatch)
        # Compared with the very instants handed out as wakes, so that no rounding can ask for the same wake twice.
        while self._posts_allowed < throttled and now >= self._grow_at:
            self._posts_allowed += 1
            self._grow_at += self.limits.spread / throttled
        wake = recent_until if self._posts_allowed == throttled else min(recent_until, self._grow_at)
        return [*self._release(), WakeAt(wake)]

    # --- views ----------------------------------------------------------------------------------------------------
    def stage(self, op_id: int) -> Stage | None:
        """Return where the request stands, or None where it is unknown or finished with."""
        if op_id in self._in_flight:
            return "in_flight"
        if op_id in self._dispatching:
            return "dispatching"
        return "waiting" if self._is_waiting(op_id) else None

    def outstanding(self) -> list[Effect]:
        """Return what a restarted shell has to perform again: the posts without an answer, and the pending wake."""
        effects: list[Effect] = [Post(op_id) for op_id in self._dispatching]
        if self._until is not None:
            effects.append(WakeAt(self._open_at))
        return effects

    def statistics(self) -> AdmissionStatistics:
        """Return what stands where."""
        return AdmissionStatistics(
            phase=self._phase,
            waiting=len(self._fresh) + len(self._returned),
            dispatching=len(self._dispatching),
            in_flight=len(self._in_flight),
            dispatching_bytes=self._used_bytes,
            window_since=self._since,
            window_until=self._until,
            window_cause=self._cause,
            limited_total=self._limited_total,
        )

    # --- decisions ------------------------------------------------------------------------------------------------
    def _release(self) -> list[Effect]:
        posts: list[Effect] = []
        factor = 1 if self._phase == "steady" else self.limits.penalty
        while (self._returned or self._fresh) and self._may_post():
            if self._returned:
                _, op_id = self._by_order.pop(0)
                held = self._returned.pop(op_id)
            else:
                op_id, held = self._fresh.popitem(last=False)
            held.charge_bytes = held.size_bytes * factor
            self._used_bytes += held.charge_bytes
            self._dispatching[op_id] = held
            posts.append(Post(op_id))
        return posts

    def _may_post(self) -> bool:
        return (
            len(self._dispatching) < self._posts_allowed
            and len(self._dispatching) + len(self._in_flight) < self.limits.in_flight
            and self._used_bytes <= self.limits.prompt_bytes
        )

    def _open_window(self, now: float, seconds: float, u: float, cause: str) -> None:
        until = now + seconds
        if self._since is None:
            self._since = now
        if self._until is None or until > self._until:
            self._until = until
            self._open_at = max(self._open_at, until + self.limits.spread * u)
            self._cause = cause
        self._phase = "backing_off"
        self._posts_allowed = 0
        self._grow_at = self._open_at

    def _forget(self, op_id: int) -> list[Effect]:
        if op_id in self._dispatching:
            self._give_back(op_id)
        elif op_id in self._in_flight:
            self._in_flight.remove(op_id)
        elif op_id in self._returned:
            self._by_order.remove((self._returned.pop(op_id).order, op_id))
        else:
            self._fresh.pop(op_id, None)
        return self._release()

    def _give_back(self, op_id: int) -> None:
        self._used_bytes -= self._dispatching.pop(op_id).charge_bytes

    def _is_waiting(self, op_id: int) -> bool:
        return op_id in self._fresh or op_id in self._returned

    def _refuse_waiting(self, op_id: int, event: str) -> None:
        if self._is_waiting(op_id):
            raise ValueError(f"request {op_id} is waiting to be posted, so it cannot be {event}")
