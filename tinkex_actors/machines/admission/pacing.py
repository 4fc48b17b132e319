"""How many posts a second a server takes, learnt from its refusals.

Rules:

1. A server that refuses has, as far as we can tell, a bucket of tokens that fills at an unknown rate and holds an
   unknown number. A refusal says that it is empty. So what was accepted between two refusals, divided by the time
   between them, is the rate, as long as the bucket did not overflow while we kept still; divided by the time without
   the pause it is at most too high. Of a long stretch the mean of both is taken.
2. After the first refusal the pace begins at ``FIRST`` posts a second and doubles every second until the next one.
3. After every further refusal the pace is ``1 - CUT`` of the peak found by rule 1, and returns to it along a cubic
   whose flat part lies at the peak (CUBIC, Ha, Rhee, Xu 2008; RFC 9438): over ``STRETCH`` seconds, or forty posts where
   that is longer, so that refusals stay rare among the posts of slow servers too. Beyond the peak it grows ever faster.
4. Only time in which something waited counts: an idle client learns nothing.
5. What was not posted in time is not caught up with: at most ``SLACK`` seconds' worth of posts leave at once.
"""

from __future__ import annotations

import math

from msgspec import Struct

__all__ = ["Pace"]

FIRST = 10.0
CUT = 0.05
STRETCH = 12.0
SLACK = 0.1
_POSTS = 40.0
_SLOWEST = 0.05
_BEYOND = 0.5
_STEEPEST = 4.0


class Pace(Struct):
    """State: posts a second, and what has been learnt.

    Args:
        peak: the highest pace that was found to be taken.
        rate: posts a second now.
        credit: posts that may leave now.
        at: the instant up to which `advance` has counted.
        since: the instant of the last refusal.
        still: seconds of pauses since then.
        accepted: posts accepted since then.
        grown: seconds of demand since the last pause.
        climbing: between the first and the second refusal.
        demanded: whether something was left waiting at ``at``.
        unbroken: whether something has waited ever since ``since``.
    """

    peak: float = FIRST
    rate: float = FIRST
    credit: float = 0.0
    at: float = 0.0
    since: float = 0.0
    still: float = 0.0
    accepted: int = 0
    grown: float = 0.0
    climbing: bool = True
    demanded: bool = True
    unbroken: bool = True

    def begin(self, now: float) -> None:
        """Start the pace again after a pause; what was learnt stays."""
        self.still += max(0.0, now - max(self.at, self.since))
        self.at = now
        self.grown = 0.0
        self.credit = 0.0
        self.rate = self._rate()

    def refused(self, now: float) -> None:
        """Take note of a refusal that ends a stretch of posts at our pace (rules 1 and 3)."""
        whole = max(now - self.since, 1e-9)
        moving = max(whole - self.still, 1e-9)
        found = self.accepted / whole
        if moving > 4.0 * self.still:
            found = (found + self.accepted / moving) / 2.0
        floor = self.rate * (0.5 if self.climbing else 0.7)
        self.peak = max(_SLOWEST, min(self.rate, max(found, floor) if self.unbroken else max(floor, 0.85 * self.rate)))
        self.climbing = False
        self.restart(now)

    def restart(self, now: float) -> None:
        """Begin to measure anew, from a bucket that is empty now."""
        self.since = self.at = now
        self.still = 0.0
        self.accepted = 0
        self.demanded = self.unbroken = True

    def advance(self, now: float) -> None:
        """Let time pass."""
        passed = max(0.0, now - self.at)
        self.at = max(self.at, now)
        if self.demanded:
            self.grown += passed
            self.rate = self._rate()
        self.credit = min(self.credit + passed * self.rate, max(1.0, SLACK * self.rate))

    def left_waiting(self, waiting: bool) -> None:
        """Take note, after posting, of whether something is left to post (rule 4)."""
        self.demanded = waiting
        self.unbroken = self.unbroken and waiting

    def next_at(self) -> float:
        """Return the instant at which the next post may leave; posts of fast paces leave a few at a time."""
        wanted = max(1.0, 0.01 * self.rate)
        # A little more than exact: a wake must never come a rounding error too early, and for nothing.
        return self.at + max((wanted - self.credit) / self.rate, 0.0) * (1.0 + 1e-9) + 1e-9

    def _rate(self) -> float:
        if self.climbing:
            return FIRST * math.exp2(min(self.grown, 30.0))
        stretch = max(STRETCH, _POSTS / self.peak)
        along = self.grown / stretch - 1.0
        along = min(along, _STEEPEST)
        return self.peak * (1.0 + (CUT if along < 0.0 else _BEYOND) * along * along * along)
