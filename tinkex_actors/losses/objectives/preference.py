"""Learning from pairs of a better and a worse answer."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from tinkex_actors.errors import LossError
from tinkex_actors.losses.batch_loss import BatchLoss

__all__ = ["dpo"]


@functools.lru_cache(maxsize=64)
def dpo(*, beta: float = 0.1, label_smoothing: float = 0.0, length_normalised: bool = False) -> BatchLoss:
    """Direct preference optimization (Rafailov et al. 2023, arXiv:2305.18290, equation 7).

    Data come in pairs, the chosen answer first: 0 and 1, 2 and 3, ... With the logratio of an answer,
    ``h = sum over t of weights (lp - reference_logprobs)``, and the margin ``m = beta (h_chosen - h_rejected)``::

        mean over pairs of  -(1 - e) log sigmoid(m) - e log sigmoid(-m)

    Args:
        beta: how fast a preference counts as learnt; above 0.
        label_smoothing: e, the share of pairs whose labels are wrong (conservative DPO, Mitchell 2023), below 0.5.
        length_normalised: divide h by the answer's sum of weights (Meng et al. 2024, arXiv:2405.14734).

    Reads ``reference_logprobs`` and ``weights``, float32 ``[T]``: what the reference model gives the targets, and 1
    for each token of the answer, 0 for each of the prompt (all count where data have no weights).
    Metrics: ``accuracy:mean``, the share of pairs with a positive margin; ``margin:mean``; ``chosen_reward:mean`` and
    ``rejected_reward:mean``, which are ``beta h``.

    Raises:
        LossError: beta or label_smoothing out of range.
    """
    if not beta > 0 or not 0 <= label_smoothing < 0.5:
        raise LossError(
            f"dpo: expected a beta above 0 and a label_smoothing from 0 to 0.5, got {beta} and {label_smoothing}."
        )

    def loss(
        inputs: Mapping[str, jax.Array], logprobs: jax.Array, mask: jax.Array
    ) -> tuple[jax.Array, Mapping[str, Any]]:
        weights = inputs["weights"] * mask if "weights" in inputs else mask.astype(logprobs.dtype)
        ratios = ((logprobs - inputs["reference_logprobs"]) * weights).sum(axis=1)
        if length_normalised:
            ratios = ratios / jnp.maximum(weights.sum(axis=1), 1e-20)
        rewards = beta * ratios.reshape(-1, 2)
        margins = rewards[:, 0] - rewards[:, 1]
        real = mask.any(axis=1).reshape(-1, 2).any(axis=1).astype(logprobs.dtype)
        pairs = real.sum()
        # softplus(-m) is -log sigmoid(m), and finite for any margin.
        losses = (1 - label_smoothing) * jax.nn.softplus(-margins) + label_smoothing * jax.nn.softplus(margins)
        metrics = {
            "accuracy:mean": ((margins > 0) * real).sum() / pairs,
            "margin:mean": (margins * real).sum() / pairs,
            "chosen_reward:mean": (rewards[:, 0] * real).sum() / pairs,
            "rejected_reward:mean": (rewards[:, 1] * real).sum() / pairs,
        }
        return (losses * real).sum() / pairs, metrics

    return BatchLoss(loss, name="dpo", rows_per_group=2)
