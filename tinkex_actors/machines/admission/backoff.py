"""The back-off window of one server and credential, shared by every service that samples with them.

Rules (protocol 7.3, 7.4; architecture section 5):

1. A 429 opens the window: nothing is posted until the later of the old end and ``now + max(hint, size rule)``. An open
   window is only ever made longer. A paused queue opens it in the same way.
2. It closes with jitter, up to ``spread`` seconds after its end, so that many processes do not come back at once.
3. Then one request probes. Refused, it opens the window again, ``growth`` times as long each time, up to a minute;
   a probe without an answer for ``PATIENCE`` seconds lets another one go.
4. A probe that was accepted closes the window. Under the parity policy the posts allowed at once then grow from 1 to
   ``throttled`` over ``spread`` seconds, and stay there until back-pressure is no longer recent. Under the adaptive
   policy posts leave at the pace that the server was found to take (`tinkex_actors.machines.admission.pacing`).
5. "Recently" ends ``recent`` seconds after the window's end; then nothing is remembered.
6. A refusal of what was posted before the window opened is no news about it: only its hint counts.

::

    steady --refused--> backing_off --time--> probing --accepted--> recovering --time--> steady
                             ^--------------------refused--------------------'
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, TypeAlias

from msgspec import Struct

from tinkex_actors.errors import ConfigError
from tinkex_actors.machines.admission.pacing import Pace

if TYPE_CHECKING:
    from tinkex_actors.machines.admission.fair_queue import Ticket

__all__ = ["ADAPTIVE", "PARITY", "Backoff", "BackoffPolicy", "Phase"]

LONGEST = 60.0
PATIENCE = 10.0

Phase: TypeAlias = Literal["steady", "backing_off", "probing", "recovering"]


class BackoffPolicy(Struct, frozen=True, kw_only=True):
    """How one client reacts to back-pressure.

    Args:
        small_backoff: seconds of back-off after a 429 on a request of up to ``large_bytes``.
        large_backoff: seconds of back-off after a 429 on a larger one, and after a queue was found paused.
        large_bytes: where large begins.
        recent: seconds after the window's end in which back-pressure counts as recent.
        penalty: factor on a request's bytes while back-pressure was seen recently.
        throttled: posts at once while back-pressure was seen recently; None paces them instead.
        spread: seconds over which the window's end is spread.
        growth: factor on the back-off for each probe that was refused in a row.

    Raises:
        ConfigError: a value is out of its range.
    """

    small_backoff: float = 1.0
    large_backoff: float = 5.0
    large_bytes: int = 131_072
    recent: float = 10.0
    penalty: int = 20
    throttled: int | None = 10
    spread: float = 1.0
    growth: float = 1.0

    def __post_init__(self) -> None:
        for name, least in (
            ("small_backoff", 0.0),
            ("large_backoff", 0.0),
            ("large_bytes", 0),
            ("recent", 0.0),
            ("penalty", 1),
            ("throttled", 1),
            ("spread", 0.0),
            ("growth", 1.0),
        ):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= least):
                raise ConfigError(f"BackoffPolicy.{name} must be finite and >= {least:g}, got {value!r}")


PARITY = BackoffPolicy()
"""The official client's constants (protocol 7.3), with the jitter and the probe that it lacks."""

ADAPTIVE = BackoffPolicy(
    small_backoff=0.5, large_backoff=2.0, recent=300.0, penalty=1, throttled=None, spread=0.25, growth=2.0
)
"""Finds the pace that the server takes and stays just below it."""


class Backoff:
    """The window's state.

    Args:
        policy: how to react.

    Attributes:
        phase: where in the diagram it stands.
        since: the instant at which the window opened; None while it is closed.
        until: the instant before which nothing is posted; None while the window is closed.
        cause: why it is open, in words; None while it is closed.
        limited_total: 429s so far.
        openings: how often it has opened, without what made it longer.
    """

    __slots__ = (
        "__weakref__",
        "_allowed",
        "_epoch",
        "_grow_at",
        "_open_at",
        "_pace",
        "_posting",
        "_probe",
        "_probed_at",
        "_recent_until",
        "_refusals",
        "cause",
        "limited_total",
        "openings",
        "phase",
        "policy",
        "since",
        "until",
    )

    def __init__(self, policy: BackoffPolicy = ADAPTIVE) -> None:
        self.policy = policy
        self.phase: Phase = "steady"
        self.since: float | None = None
        self.until: float | None = None
        self.cause: str | None = None
        self.limited_total = 0
        self.openings = 0
        self._epoch = 0
        self._open_at = 0.0
        self._recent_until = 0.0
        self._refusals = 0
        self._posting = 0
        self._probe: Ticket | None = None
        self._probed_at = 0.0
        self._allowed = 0
        self._grow_at: float | None = None
        self._pace: Pace | None = None

    # --- posts --------------------------------------------------------------------------------------------------------
    @property
    def factor(self) -> int:
        """What a request's bytes count."""
        return 1 if self.phase == "steady" else self.policy.penalty

    @property
    def rate(self) -> float | None:
        """Posts a second that are allowed now; None where nothing limits them."""
        return None if self._pace is None or self.phase == "steady" else self._pace.rate

    def may_post(self) -> bool:
        """Whether one more post may leave now, as far as the server is concerned."""
        match self.phase:
            case "steady":
                return True
            case "backing_off":
                return False
            case "probing":
                return self._probe is None
            case _ if self._pace is not None:
                return self._pace.credit >= 1.0
            case _:
                return self._posting < self._allowed

    def posted(self, ticket: Ticket) -> None:
        """A post leaves."""
        self._posting += 1
        ticket.epoch = self._epoch
        if self.phase == "probing":
            self._probe = ticket
        elif self.phase == "recovering" and self._pace is not None:
            self._pace.credit -= 1.0

    def accepted(self, ticket: Ticket) -> None:
        """A post was accepted."""
        if self._pace is not None:
            self._pace.accepted += 1
        if self.phase == "probing" and self._probe is ticket:
            self._close()
        self.over(ticket)

    def over(self, ticket: Ticket) -> None:
        """A post has ended, however; a probe that says nothing makes room for another one."""
        self._posting -= 1
        if self._probe is ticket:
            self._probe = None

    # --- back-pressure ------------------------------------------------------------------------------------------------
    def refused(self, ticket: Ticket | None, now: float, hint: float | None, u: float, cause: str) -> None:
        """Take note of a 429 (rules 1, 3 and 6).

        Args:
            ticket: what was refused; None where nobody wants it any more.
            now: the instant of the answer.
            hint: the server's hint in seconds; above 60 it counts as 60.
            u: jitter in [0, 1) of the window's end.
            cause: why, in words.
        """
        self.limited_total += 1
        policy = self.policy
        large = ticket is not None and ticket.size_bytes > policy.large_bytes
        seconds = policy.large_backoff if large else policy.small_backoff
        news = ticket is not None and ticket.epoch == self._epoch
        if news and self.phase == "probing":
            self._refusals += 1
        elif self.phase == "steady" or (news and self.phase == "recovering"):
            self._refusals = 0
            self._learn(now)
        elif self.phase != "backing_off":
            seconds = 0.0  # rule 6
        seconds = min(seconds * policy.growth ** min(self._refusals, 60), LONGEST)
        if hint is not None and hint > 0.0:
            seconds = max(seconds, min(hint, LONGEST))
        if seconds > 0.0:
            self._open(now, seconds, u, cause)

    def paused(self, now: float, seconds: float, u: float, cause: str) -> None:
        """Open the window for another reason than a 429."""
        if self._pace is not None:
            self._pace.unbroken = False  # nothing says that the bucket is empty
        self._open(now, seconds, u, cause)

    # --- time ---------------------------------------------------------------------------------------------------------
    def advance(self, now: float) -> None:
        """Let time pass. Too early is harmless."""
        if self.phase == "backing_off" and now >= self._open_at:
            self.phase, self._probe = "probing", None
        if self.phase == "probing":
            if self._probe is not None and now >= self._probed_at + PATIENCE:
                self._probe = None
            if self._probe is None:
                self._probed_at = now
                if now >= self._recent_until:  # so long ago that nothing is remembered
                    self._close()
        if self.phase == "recovering":
            if now >= self._recent_until:
                self.phase, self._pace = "steady", None
            elif self._pace is not None:
                self._go_at_pace(self._pace, now)
            else:
                self._let_more_go(now)

    def left_waiting(self, waiting: bool) -> None:
        """Take note, after posting, of whether something is left to post."""
        if self.phase == "recovering" and self._pace is not None:
            self._pace.left_waiting(waiting)

    def next_at(self, waiting: bool) -> float | None:
        """Return the instant of the next `advance`; None while steady.

        Args:
            waiting: whether something waits for a post.
        """
        match self.phase:
            case "steady":
                return None
            case "backing_off":
                return self._open_at
            case "probing" if self._probe is not None:
                return self._probed_at + PATIENCE
            case "probing":
                return self._open_at if waiting else self._recent_until
            case _ if self._grow_at is None:
                return self._open_at  # just closed: at once
            case _ if not waiting:
                return self._recent_until
            case _ if self._pace is not None:
                return min(self._pace.next_at(), self._recent_until)
            case _ if self._allowed < (self.policy.throttled or 1):
                return min(self._grow_at, self._recent_until)
            case _:
                return self._recent_until

    # --- decisions ----------------------------------------------------------------------------------------------------
    def _open(self, now: float, seconds: float, u: float, cause: str) -> None:
        until = now + seconds
        if self.phase in ("steady", "recovering"):
            self.since = now
            self.until = None
            self.openings += 1
        if self.phase != "backing_off":
            self._epoch += 1
            self._probe = None
        if self.until is None or until > self.until:
            self.until = until
            self._open_at = max(self._open_at, until + self.policy.spread * u)
            self._recent_until = max(until + self.policy.recent, self._open_at)
            self.cause = cause
        self.phase = "backing_off"

    def _close(self) -> None:
        self.phase = "recovering"
        self.since = self.until = self.cause = None
        self._allowed = 0
        self._grow_at = None

    def _learn(self, now: float) -> None:
        if self.policy.throttled is not None:
            return
        if self._pace is None:
            self._pace = Pace()
            self._pace.restart(now)
        else:
            self._pace.refused(now)

    def _go_at_pace(self, pace: Pace, now: float) -> None:
        if self._grow_at is None:
            self._grow_at = now
            pace.begin(now)
        pace.advance(now)

    def _let_more_go(self, now: float) -> None:
        # Without a pace, under either policy: a pause may have opened the window before anything was learnt.
        throttled = self.policy.throttled or 10
        if self._grow_at is None:
            self._grow_at = now
        # Compared with the very instants handed out as wakes, so that no rounding can ask for the same wake twice.
        while self._allowed < throttled and now >= self._grow_at:
            self._allowed += 1
            self._grow_at += self.policy.spread / throttled
