"""What is added to a policy's objective: a pull towards a reference model, and a reward for staying undecided."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from tinkex_actors.errors import LossError
from tinkex_actors.losses.batch_loss import BatchLoss
from tinkex_actors.losses.objectives.policy import LOG_RATIO_LIMIT
from tinkex_actors.losses.objectives.reductions import Reduction, check_reduction, reduce_tokens

__all__ = ["entropy_bonus", "kl_to_reference"]

Estimator = Literal["k1", "k2", "k3"]


@functools.lru_cache(maxsize=64)
def kl_to_reference(*, estimator: Estimator = "k3", reduction: Reduction = "token_mean") -> BatchLoss:
    """Divergence of the learner from a reference model, estimated on the sampled tokens (Schulman 2020).

    With ``d = reference_logprobs - lp``, for each token::

        k1   -d                  unbiased in value; its gradient is zero on average: a number to watch, not to train on
        k2   d^2 / 2             biased in value; its gradient is that of the divergence, on average
        k3   exp(d) - 1 - d      unbiased and never negative; as in GRPO (arXiv:2402.03300, equation 4)

    "On average" holds for tokens that the learner itself sampled.

    Args:
        estimator: which of them.
        reduction: over the tokens of weight above 0.

    Reads ``reference_logprobs`` and ``weights`` (all tokens count where data have none), float32 ``[T]``. Use it as a
    term: ``ppo() + 0.1 * kl_to_reference()``. Metrics: ``reference_kl:mean``, by k3.

    Raises:
        LossError: an unknown estimator or reduction.
    """
    check_reduction(reduction)
    if estimator not in ("k1", "k2", "k3"):
        raise LossError(f"kl_to_reference: expected an estimator k1, k2 or k3, got {estimator!r}.")

    def loss(
        inputs: Mapping[str, jax.Array], logprobs: jax.Array, mask: jax.Array
    ) -> tuple[jax.Array, Mapping[str, Any]]:
        counted = _counted(inputs, logprobs, mask)
        distance = (inputs["reference_logprobs"] - logprobs) * counted
        unbiased = jnp.expm1(jnp.clip(distance, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)) - distance
        terms = {"k1": -distance, "k2": 0.5 * distance**2, "k3": unbiased}
        watched = reduce_tokens(unbiased, counted, "token_mean")
        return reduce_tokens(terms[estimator], counted, reduction), {"reference_kl:mean": watched}

    return BatchLoss(loss, name="kl_to_reference")


@functools.lru_cache(maxsize=64)
def entropy_bonus(*, reduction: Reduction = "token_mean") -> BatchLoss:
    """Minus the entropy of the policy, as a term to add: ``ppo() + 0.01 * entropy_bonus()`` keeps it undecided.

    Of the sampled tokens only their own logprob is known, from which the entropy is estimated by ``-lp``. The gradient
    of the entropy is, on average over tokens that the learner sampled, that of ``-lp^2 / 2`` (the gradient of ``-lp``
    itself is zero on average), so the term is ``lp^2 / 2`` for each token. Where ``target_tokens`` are ``[T, K]``, the
    K logprobs of a position are taken as its distribution, and the term is its exact ``sum(exp(lp) lp)``.

    Args:
        reduction: over the tokens of weight above 0.

    Reads ``weights`` (all tokens count where data have none). Metrics: ``entropy:mean``, the estimate.

    Raises:
        LossError: an unknown reduction.
    """
    check_reduction(reduction)

    def loss(
        inputs: Mapping[str, jax.Array], logprobs: jax.Array, mask: jax.Array
    ) -> tuple[jax.Array, Mapping[str, Any]]:
        if logprobs.ndim == 3:
            counted = mask.any(axis=2).astype(logprobs.dtype)
            terms = (jnp.exp(logprobs) * logprobs * mask).sum(axis=2)
            return reduce_tokens(terms, counted, reduction), {
                "entropy:mean": reduce_tokens(-terms, counted, "token_mean")
            }
        counted = _counted(inputs, logprobs, mask)
        estimate = reduce_tokens(-logprobs, counted, "token_mean")
        return reduce_tokens(0.5 * logprobs**2 * counted, counted, reduction), {"entropy:mean": estimate}

    return BatchLoss(loss, name="entropy_bonus")


def _counted(inputs: Mapping[str, jax.Array], logprobs: jax.Array, mask: jax.Array) -> jax.Array:
    counted = mask & (inputs["weights"] > 0) if "weights" in inputs else mask
    return counted.astype(logprobs.dtype)
