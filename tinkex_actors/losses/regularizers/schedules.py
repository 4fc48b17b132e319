"""Weights that change with the step: plain functions from a step to a weight."""

from __future__ import annotations

import math
from collections.abc import Callable

from tinkex_actors.errors import InputError

__all__ = ["Schedule", "constant", "cosine", "linear"]

Schedule = Callable[[int], float]
"""A function of the step, 0 or more, that returns the weight there, 0 or more."""


def constant(weight: float) -> Schedule:
    """Return the schedule that is ``weight`` at every step."""
    return lambda step: weight


def linear(start: float, end: float, steps: int) -> Schedule:
    """Return the schedule that goes evenly from ``start`` at step 0 to ``end`` at step ``steps``, and stays there.

    Raises:
        InputError: ``steps`` is below 1.
    """
    last = _steps("linear", steps)
    return lambda step: start + (end - start) * min(max(step, 0) / last, 1.0)


def cosine(start: float, end: float, steps: int) -> Schedule:
    """Return the schedule that goes from ``start`` to ``end`` along half a cosine, and stays there.

    Slow at both ends: Loshchilov and Hutter 2016 (arXiv:1608.03983), equation 5, without restarts.

    Raises:
        InputError: ``steps`` is below 1.
    """
    last = _steps("cosine", steps)
    return lambda step: end + (start - end) * (1 + math.cos(math.pi * min(max(step, 0) / last, 1.0))) / 2


def _steps(name: str, steps: int) -> int:
    if steps < 1:
        raise InputError(f"{name}: steps is {steps!r}; expected 1 or more.")
    return steps
