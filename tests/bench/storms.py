"""Storms of 429s in simulated time: a server with a hidden bucket of tokens, and the admission machine before it.

The bucket fills at 2 to 30 tokens a second and holds what comes in within 0.5 to 5 seconds, and at least four. A post
takes 10 to 200 ms both ways together, in a different time each way; the server gives no hint, or ``Retry-After: 1``, or
the exact time to the next token. Four sessions have submitted everything at the beginning, more than the server takes.
"""

from __future__ import annotations

import heapq
import itertools
import random
from typing import Any

import msgspec

from tinkex_actors.machines.admission import Admission, Post
from tinkex_actors.machines.admission.backoff import Backoff, BackoffPolicy

SESSIONS = 4
GRACE = 5.0


class Storm(msgspec.Struct, frozen=True):
    """What came of one.

    Args:
        goodput: accepted after the warm-up (the first quarter), as a share of the tokens that came in.
        refused: 429s after the warm-up, as a share of the posts.
        unfair: the longest wait of a request, in units of its fair share: the time by which a server that deals its
            tokens to the sessions in turn would have taken it, beyond the five seconds that a window may take.
    """

    goodput: float
    refused: float
    unfair: float


class _Server:
    def __init__(self, rng: random.Random) -> None:
        self.rate = 2.0 * 15.0 ** rng.random()
        self.holds = self.tokens = max(4.0, self.rate * rng.uniform(0.5, 5.0))
        self.latency = rng.uniform(0.01, 0.2)
        self.hints = rng.choice(["none", "one", "exact"])
        self.at = 0.0

    def takes(self, now: float) -> bool:
        self.tokens = min(self.holds, self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True

    def hint(self) -> float | None:
        return {"none": None, "one": 1.0, "exact": (1.0 - self.tokens) / self.rate}[self.hints]


class World:
    """One of them, from its seed, under a policy."""

    def __init__(self, seed: int, policy: BackoffPolicy) -> None:
        self.rng = random.Random(seed)
        self.server = _Server(self.rng)
        self.admission = Admission(backoff=Backoff(policy))
        self.lasts = max(80.0, min(300.0, 1500.0 / self.server.rate))
        self.now = 0.0
        self.wake: float | None = None
        self.taken: list[tuple[float, int]] = []
        self.refused: list[float] = []
        self.posted: list[float] = []
        self._coming: list[tuple[float, int, str, int, float | None]] = []
        self._numbers = itertools.count()

    def perform(self, effects: list[Any]) -> None:
        for effect in effects:
            if isinstance(effect, Post):
                self.posted.append(self.now)
                self._later("arrives", effect.id)
            else:
                self.wake = effect.instant

    def run(self) -> None:
        submitted = int((self.server.rate * self.lasts + self.server.holds) * 1.3)
        for op_id in range(submitted):
            self.perform(self.admission.submit(op_id, 500, session=str(op_id % SESSIONS)))
        while self.now <= self.lasts:
            if self.wake is not None and (not self._coming or self.wake <= self._coming[0][0]):
                self.now, self.wake = max(self.now, self.wake), None
                self.perform(self.admission.tick(self.now))
            else:
                self.now, _, what, op_id, hint = heapq.heappop(self._coming)
                self._happens(what, op_id, hint)

    def _happens(self, what: str, op_id: int, hint: float | None) -> None:
        if what == "arrives" and self.server.takes(self.now):
            self.taken.append((self.now, op_id))
            self._later("accepted", op_id)
        elif what == "arrives":
            self.refused.append(self.now)
            self._later("limited", op_id, self.server.hint())
        elif what == "accepted":
            self.perform(self.admission.accepted(op_id))
            self.perform(self.admission.finished(op_id))
        else:
            self.perform(self.admission.limited(op_id, self.now, hint, self.rng.random()))

    def _later(self, what: str, op_id: int, hint: float | None = None) -> None:
        then = self.now + self.server.latency * self.rng.uniform(0.3, 0.7)
        heapq.heappush(self._coming, (then, next(self._numbers), what, op_id, hint))


def storm(seed: int, policy: BackoffPolicy) -> Storm:
    """Simulate one."""
    world = World(seed, policy)
    world.run()
    warm, server = world.lasts / 4.0, world.server
    unfair = 0.0
    places: dict[int, itertools.count[int]] = {session: itertools.count(1) for session in range(SESSIONS)}
    for instant, op_id in world.taken:
        fair = (next(places[op_id % SESSIONS]) * SESSIONS - server.holds) / server.rate
        if instant > GRACE:
            unfair = max(unfair, (instant - GRACE) / max(fair, 1e-9))
    return Storm(
        goodput=sum(instant >= warm for instant, _ in world.taken) / (server.rate * (world.lasts - warm)),
        refused=sum(instant >= warm for instant in world.refused) / max(1, sum(at >= warm for at in world.posted)),
        unfair=unfair,
    )
