"""Which sampling requests of one service may be posted now.

Rules (protocol 7.3, 7.4 and 4.8, architecture section 5):

1. Requests of one session, priority and size class leave in the order of their submission; between sessions, and
   between the classes of a session, shares are fair (`fair_queue`). A refused request goes back to its old place,
   ahead of everything that was never posted.
2. At most ``in_flight`` requests are being posted or polled; of those at most ``dispatch`` are being posted.
3. Posting costs prompt bytes, a factor more while back-pressure was seen recently, returned when the post is answered.
   A request waits while the balance is negative: so one oversize request passes, the balance overdraws by one request
   at most, and nobody overtakes a large one whose turn it is.
4. Nothing is posted that the server's back-off window holds back (`backoff`), which several services may share.
   Everything a refused request held is given back while it waits.

While the server is steady an event releases what may leave. Otherwise only `Admission.tick` does, which knows the
time; the events then ask for one.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

from msgspec import Struct

from tinkex_actors.errors import ConfigError
from tinkex_actors.machines.admission.backoff import Backoff, Phase
from tinkex_actors.machines.admission.fair_queue import FairQueue, Ticket

__all__ = ["Admission", "AdmissionLimits", "AdmissionStatistics", "Effect", "Post", "WakeAt"]


class AdmissionLimits(Struct, frozen=True):
    """The budgets of one service.

    Args:
        in_flight: requests posted or polled at once.
        dispatch: requests being posted at once.
        prompt_bytes: estimated bytes being posted at once.

    Raises:
        ConfigError: a value is below 1.
    """

    in_flight: int = 2000
    dispatch: int = 400
    prompt_bytes: int = 10_485_760

    def __post_init__(self) -> None:
        for name in ("in_flight", "dispatch", "prompt_bytes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"AdmissionLimits.{name} must be at least 1, got {getattr(self, name)!r}")


class Post(Struct, frozen=True):
    """Effect: post request ``id`` now."""

    id: int


class WakeAt(Struct, frozen=True):
    """Effect: call `Admission.tick` at ``instant``; replaces every earlier one."""

    instant: float


Effect: TypeAlias = Post | WakeAt
Stage: TypeAlias = Literal["waiting", "dispatching", "in_flight"]


class AdmissionStatistics(Struct, frozen=True):
    """What stands where, at one moment.

    Args:
        phase: ``steady``, ``backing_off`` (the window is open, nothing is posted), ``probing`` (one request finds out
            whether it may close) or ``recovering``.
        waiting: requests not yet posted, or refused and waiting again.
        dispatching: requests being posted.
        in_flight: requests accepted by the server, being polled.
        dispatching_bytes: charged for posts under way, penalty included.
        window_since: the instant the window opened; None while it is closed.
        window_until: the instant before which nothing is posted; None while it is closed.
        window_cause: why, in words; None while it is closed.
        limited_total: 429s so far, of all services that share the window.
        rate: posts a second that the server was found to take; None where nothing limits them.
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
    rate: float | None = None


class Admission:
    """The dispatcher's admission state; every event returns the effects to perform.

    Events about a request that is finished with, as they come late after a cancellation or a restart, change nothing.

    Args:
        limits: the budgets; the defaults are the hosted service's.
        backoff: the server's window, which several services may share; None makes one of our own.
    """

    __slots__ = ("_dispatching", "_in_flight", "_next_order", "_queue", "_used_bytes", "_waiting", "backoff", "limits")

    def __init__(self, limits: AdmissionLimits | None = None, backoff: Backoff | None = None) -> None:
        self.limits = limits or AdmissionLimits()
        self.backoff = backoff or Backoff()
        self._queue = FairQueue()
        self._waiting: dict[int, Ticket] = {}
        self._dispatching: dict[int, Ticket] = {}
        self._in_flight: set[int] = set()
        self._next_order = 0
        self._used_bytes = 0

    # --- events ---------------------------------------------------------------------------------------------------
    def submit(
        self, op_id: int, size_bytes: int, *, session: str = "", weight: float = 1.0, priority: str = "normal"
    ) -> list[Effect]:
        """Queue a request of an estimated size.

        Args:
            op_id: the request.
            size_bytes: its estimated size (protocol 6.4).
            session: whose share it takes from.
            weight: of the session against other sessions.
            priority: ``low``, ``normal`` or ``high``, within the session.

        Raises:
            ValueError: the size is negative, the id is in use, or priority or weight are none.
        """
        if size_bytes < 0:
            raise ValueError(f"request {op_id}: expected a size of 0 bytes or more, got {size_bytes}")
        if op_id in self._waiting or op_id in self._dispatching or op_id in self._in_flight:
            raise ValueError(f"request {op_id} is {self.stage(op_id)} already; every submission needs its own id")
        large_bytes = self.backoff.policy.large_bytes
        cost = 1.0 + size_bytes / max(large_bytes, 1)
        ticket = Ticket(op_id, self._next_order, size_bytes, cost)
        self._queue.push(ticket, session=session, weight=weight, priority=priority, large=size_bytes > large_bytes)
        self._waiting[op_id] = ticket
        self._next_order += 1
        return self._go_on()

    def accepted(self, op_id: int) -> list[Effect]:
        """Take note of the promise: what posting held is returned, the request stays in flight.

        Raises:
            ValueError: the request is waiting, not being posted.
        """
        self._refuse_waiting(op_id, "accepted")
        ticket = self._dispatching.pop(op_id, None)
        if ticket is None:
            return []
        self._used_bytes -= ticket.charge_bytes
        self.backoff.accepted(ticket)
        self._in_flight.add(op_id)
        return self._go_on()

    def limited(
        self,
        op_id: int,
        now: float,
        retry_after: float | None,
        u: float,
        cause: str = "rate limited (429)",
    ) -> list[Effect]:
        """Take note of a 429 on the post: the window opens, the request goes back to its place.

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
        ticket = self._dispatching.get(op_id)
        self.backoff.refused(ticket, now, retry_after, u, cause)
        if ticket is not None:
            self._give_back(ticket)
            self._waiting[op_id] = ticket
            self._queue.push_back(ticket)
        return self._go_on()

    def paused(self, now: float, seconds: float, u: float, cause: str) -> list[Effect]:
        """Open the window for another reason than a 429 of ours, such as a paused queue.

        Raises:
            ValueError: ``seconds`` is negative or not finite.
        """
        if not (math.isfinite(seconds) and seconds >= 0.0):
            raise ValueError(f"expected a pause of 0 seconds or more, got {seconds!r}")
        self.backoff.paused(now, seconds, u, cause)
        return self._go_on()

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
        """Let time pass, and release what may leave now. Too early is harmless."""
        self.backoff.advance(now)
        effects = self._release()
        waiting = bool(self._waiting)
        self.backoff.left_waiting(waiting)
        # What our own budgets hold back is released by the answer that makes room, and no timer is needed for it.
        wake = None if waiting and self.backoff.may_post() else self.backoff.next_at(waiting)
        return effects if wake is None else [*effects, WakeAt(wake)]

    # --- views ----------------------------------------------------------------------------------------------------
    def stage(self, op_id: int) -> Stage | None:
        """Return where the request stands, or None where it is unknown or finished with."""
        if op_id in self._in_flight:
            return "in_flight"
        if op_id in self._dispatching:
            return "dispatching"
        return "waiting" if op_id in self._waiting else None

    def outstanding(self) -> list[Effect]:
        """Return what a restarted shell has to perform again: the posts without an answer, and the pending wake."""
        effects: list[Effect] = [Post(op_id) for op_id in self._dispatching]
        if (wake := self.backoff.next_at(bool(self._waiting))) is not None:
            effects.append(WakeAt(wake))
        return effects

    def statistics(self) -> AdmissionStatistics:
        """Return what stands where."""
        window = self.backoff
        return AdmissionStatistics(
            phase=window.phase,
            waiting=len(self._waiting),
            dispatching=len(self._dispatching),
            in_flight=len(self._in_flight),
            dispatching_bytes=self._used_bytes,
            window_since=window.since,
            window_until=window.until,
            window_cause=window.cause,
            limited_total=window.limited_total,
            rate=window.rate,
        )

    # --- decisions ------------------------------------------------------------------------------------------------
    def _go_on(self) -> list[Effect]:
        if self.backoff.phase == "steady":
            return self._release()
        wake = self.backoff.next_at(bool(self._waiting))
        return [] if wake is None else [WakeAt(wake)]

    def _release(self) -> list[Effect]:
        posts: list[Effect] = []
        limits = self.limits
        factor = self.backoff.factor
        while (
            self._waiting
            and len(self._dispatching) < limits.dispatch
            and len(self._dispatching) + len(self._in_flight) < limits.in_flight
            and self._used_bytes <= limits.prompt_bytes
            and self.backoff.may_post()
        ):
            ticket = self._queue.pop()
            del self._waiting[ticket.id]
            ticket.charge_bytes = ticket.size_bytes * factor
            self._used_bytes += ticket.charge_bytes
            self._dispatching[ticket.id] = ticket
            self.backoff.posted(ticket)
            posts.append(Post(ticket.id))
        return posts

    def _forget(self, op_id: int) -> list[Effect]:
        if (ticket := self._dispatching.get(op_id)) is not None:
            self._give_back(ticket)
        elif op_id in self._in_flight:
            self._in_flight.remove(op_id)
        elif (ticket := self._waiting.pop(op_id, None)) is not None:
            self._queue.withdraw(ticket)
        return self._go_on()

    def _give_back(self, ticket: Ticket) -> None:
        del self._dispatching[ticket.id]
        self._used_bytes -= ticket.charge_bytes
        self.backoff.over(ticket)

    def _refuse_waiting(self, op_id: int, event: str) -> None:
        if op_id in self._waiting:
            raise ValueError(f"request {op_id} is waiting to be posted, so it cannot be {event}")
