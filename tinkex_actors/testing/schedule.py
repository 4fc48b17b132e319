"""The choices of a seeded run, numbered, so that a run can be repeated with some of them only."""

from __future__ import annotations

import random
from collections.abc import Container, MutableSequence, Sequence
from typing import Any, TypeVar

__all__ = ["Schedule"]

T = TypeVar("T")

HIGHEST = 1.0 - 2.0**-53  # below 1.0


class Schedule(random.Random):
    """Answers each choice of a run by its seed, or, for choices that are left out, as a plain run would.

    It is a ``random.Random`` with the methods that the loop, the actor runtime and the fault points use, each call one
    choice, counted from 0. The plain answer is the one that permutes nothing: no shuffle, the first, the whole.

    Args:
        seed: of the choices.
        only: numbers of the choices the seed may answer; None for all.

    Attributes:
        drawn: how many choices there were so far.
        deviations: numbers of those whose answer was not the plain one.
    """

    def __init__(self, seed: int, only: Container[int] | None = None) -> None:
        super().__init__(seed)
        self._seeded = random.Random(seed)
        self._only = only
        self.drawn = 0
        self.deviations: list[int] = []

    def _choose(self, seeded: T, plain: T) -> T:
        number = self.drawn
        self.drawn += 1
        if self._only is not None and number not in self._only:
            return plain
        if seeded != plain:
            self.deviations.append(number)
        return seeded

    def random(self) -> float:
        """Return a number in [0, 1); plain: the highest, so that what happens with a probability does not."""
        return self._choose(self._seeded.random(), HIGHEST)

    def chance(self, probability: float) -> bool:
        """Return whether something happens that has this probability; plain: it does not."""
        return self._choose(self._seeded.random() < probability, False)

    def randrange(self, start: int, stop: int | None = None, step: int = 1) -> int:
        """As ``random.Random``; plain: the first."""
        first = 0 if stop is None else start
        return self._choose(self._seeded.randrange(start, stop, step), first)

    def randint(self, a: int, b: int) -> int:
        """As ``random.Random``; plain: the highest."""
        return self._choose(self._seeded.randint(a, b), b)

    def choice(self, seq: Sequence[T]) -> T:  # type: ignore[override]  # any sequence, as everywhere
        """As ``random.Random``; plain: the last."""
        return self._choose(self._seeded.choice(seq), seq[-1])

    def shuffle(self, x: MutableSequence[Any]) -> None:
        """As ``random.Random``; plain: no change."""
        shuffled = list(x)
        self._seeded.shuffle(shuffled)
        x[:] = self._choose(shuffled, list(x))
