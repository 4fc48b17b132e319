"""What evaluating a loss gives."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Evaluation"]


class Evaluation(NamedTuple):
    """A loss at one batch.

    Args:
        loss: its value.
        gradients: d loss / d logprobs, one float32 array for each datum, shaped as its logprobs.
        metrics: ``name:reduction`` to number.
    """

    loss: float
    gradients: list[npt.NDArray[np.float32]]
    metrics: dict[str, float]
