"""What evaluating a loss gives."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy.typing as npt

__all__ = ["Evaluation"]


class Evaluation(NamedTuple):
    """A loss at one batch.

    Args:
        loss: its value.
        gradients: d loss / d logprobs, one array for each datum, of its logprobs' shape and dtype.
        metrics: ``name:reduction`` to number.
    """

    loss: float
    gradients: list[npt.NDArray[Any]]
    metrics: dict[str, float]
