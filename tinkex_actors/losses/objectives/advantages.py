"""From rewards to advantages."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tinkex_actors.errors import ShapeMismatchError

__all__ = ["grpo_advantages"]


def grpo_advantages(
    rewards: Any, group_size: int | None = None, *, scale: Literal["std", "none"] = "std", epsilon: float = 1e-6
) -> npt.NDArray[np.float32]:
    """Return each answer's advantage over the other answers to its prompt (GRPO, Shao et al. 2024, arXiv:2402.03300).

    ``(reward - mean of its group) / (standard deviation of its group + epsilon)``. A group of equal rewards teaches
    nothing: its advantages are exactly 0.

    Args:
        rewards: finite numbers, ``[groups, answers]``, or flat with the answers to a prompt side by side.
        group_size: answers to a prompt, for flat rewards.
        scale: ``none`` leaves the division out, which favours prompts of middle difficulty less (Dr. GRPO, Liu et al.
            2025, arXiv:2503.20783).
        epsilon: keeps the division finite.

    Returns:
        float32 in the shape of ``rewards``; give each token of an answer its answer's.

    Raises:
        ShapeMismatchError: rewards that are no such array, not finite, or not whole groups.
    """
    given = np.asarray(rewards, np.float64)
    if not np.isfinite(given).all():
        at = tuple(int(place) for place in np.argwhere(~np.isfinite(given))[0])
        raise ShapeMismatchError(f"grpo_advantages: the reward at {list(at)} is {given[at]}; rewards must be finite.")
    if given.ndim == 1 and group_size and given.size % group_size == 0:
        groups = given.reshape(-1, group_size)
    elif given.ndim == 2 and group_size in (None, given.shape[1]):
        groups = given
    else:
        raise ShapeMismatchError(
            f"grpo_advantages: rewards of shape {list(given.shape)} with group_size {group_size}; expected "
            "[groups, answers], or a flat array of whole groups and their group_size."
        )
    centred = groups - groups.mean(axis=1, keepdims=True)
    # The mean of equal numbers may miss them by a rounding, which the division would make a one.
    centred[(groups == groups[:, :1]).all(axis=1)] = 0.0
    if scale == "std":
        centred /= groups.std(axis=1, keepdims=True) + epsilon
    advantages: npt.NDArray[np.float32] = centred.reshape(given.shape).astype(np.float32)
    return advantages
