"""The server's losses of protocol 6.11, computed here: equal in value and gradient, and open to be added to.

With ``lp`` the learner's logprob of a target token, ``q`` the sampler's (``loss_fn_inputs["logprobs"]``), ``A`` the
token's advantage (``"advantages"``), ``r = exp(lp - q)``, and ``sg`` the identity that passes no gradient. All inputs
are float32 ``[T]`` for each datum. Each function returns a :class:`~tinkex_actors.losses.BatchLoss`, and the same one
for the same settings, so calling it in every step compiles nothing anew.

Clip thresholds are ratios, not distances from 1; where data have ``clip_low_threshold`` or ``clip_high_threshold`` as
inputs of their own, those win, token by token.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, cast

import jax
import jax.numpy as jnp
from jax import lax

from tinkex_actors.errors import LossError
from tinkex_actors.losses.batch_loss import BatchLoss
from tinkex_actors.losses.objectives.reductions import Reduction, check_reduction, reduce_tokens

__all__ = ["LOG_RATIO_LIMIT", "cispo", "cross_entropy", "dro", "gspo", "importance_sampling", "ppo"]

P = ParamSpec("P")
Inputs = Mapping[str, jax.Array]
TokenLoss = Callable[[Inputs, jax.Array, jax.Array], jax.Array]

LOG_RATIO_LIMIT = 60.0
"""Largest ``abs(lp - q)`` whose ratio is computed: ``exp(60)``, 1e26, is finite in float32, also times an advantage."""


def _once(factory: Callable[P, BatchLoss]) -> Callable[P, BatchLoss]:
    """Give the same loss for the same settings, so that its compiled programs are kept."""
    return cast("Callable[P, BatchLoss]", functools.lru_cache(maxsize=64)(factory))


@_once
def cross_entropy(*, reduction: Reduction = "sum") -> BatchLoss:
    """Negative log-likelihood: ``sum(-lp * weights)``.

    Args:
        reduction: ``sum`` as the server; ``token_mean`` and ``sequence_mean`` divide by the sum of the weights.

    Reads ``weights`` (1 everywhere where data have none); ``target_tokens`` may be ``[T, K]``, weights then too.
    Metrics: ``tokens:sum``, the tokens of weight above 0.
    """
    check_reduction(reduction)

    def loss(inputs: Inputs, logprobs: jax.Array, mask: jax.Array) -> tuple[jax.Array, Mapping[str, Any]]:
        weights = inputs["weights"] * mask if "weights" in inputs else mask.astype(logprobs.dtype)
        value = -(logprobs * weights).sum() if reduction == "sum" else reduce_tokens(-logprobs, weights, reduction)
        return value, {"tokens:sum": (weights > 0).sum()}

    return BatchLoss(loss, name="cross_entropy")


@_once
def importance_sampling(*, reduction: Reduction = "sum") -> BatchLoss:
    """Policy gradient, corrected for the sampler's age: ``-sum(r * A)``.

    Args:
        reduction: over tokens; tokens whose advantage is 0 are not counted in the means.

    Reads ``logprobs`` and ``advantages``. Metrics as :func:`ppo`, without ``clipped:mean``.
    """
    return _policy("importance_sampling", lambda inputs, logprobs, mask: _ratio(inputs, logprobs), reduction)


@_once
def ppo(
    *, clip_low_threshold: float = 0.8, clip_high_threshold: float = 1.2, reduction: Reduction = "sum"
) -> BatchLoss:
    """Proximal policy optimization (Schulman et al. 2017, arXiv:1707.06347): ``-sum(min(r A, clip(r, low, high) A))``.

    Args:
        clip_low_threshold: the lowest ratio that still has a gradient where A is negative.
        clip_high_threshold: the highest that has where A is positive.
        reduction: over tokens; ``sequence_mean`` is the length-normalised form of GRPO (arXiv:2402.03300).

    Reads ``logprobs`` and ``advantages``. Metrics: ``ratio:mean`` and ``kl:mean`` (``q - lp``) over the tokens with an
    advantage, and ``clipped:mean``, the share of them whose ratio lies outside the thresholds.
    """
    bounds = _bounds(clip_low_threshold, clip_high_threshold)
    return _policy("ppo", lambda inputs, logprobs, mask: _ratio(inputs, logprobs), reduction, bounds)


@_once
def cispo(
    *, clip_low_threshold: float = 0.0, clip_high_threshold: float = 4.0, reduction: Reduction = "sum"
) -> BatchLoss:
    """Clipped importance weights (MiniMax 2025, arXiv:2506.13585): ``-sum(sg(clip(r, low, high)) * lp * A)``.

    Every token keeps its gradient; only its weight is clipped. Arguments, inputs and metrics as :func:`ppo`.
    """
    bounds = _bounds(clip_low_threshold, clip_high_threshold)
    check_reduction(reduction)

    def loss(inputs: Inputs, logprobs: jax.Array, mask: jax.Array) -> tuple[jax.Array, Mapping[str, Any]]:
        ratio = _ratio(inputs, logprobs)
        weight = lax.stop_gradient(_clip(ratio, inputs, bounds))
        losses = -weight * logprobs * inputs["advantages"]
        counted = _counted(inputs, mask)
        metrics = _ratio_metrics(ratio, inputs, logprobs, counted, bounds)
        return reduce_tokens(losses * mask, counted, reduction), metrics

    return BatchLoss(loss, name="cispo")


@_once
def dro(*, beta: float = 0.05, reduction: Reduction = "sum") -> BatchLoss:
    """Direct reward optimization (Richemond et al. 2024, arXiv:2405.19107): ``-sum(lp A - beta / 2 (lp - q)^2)``.

    Args:
        beta: the pull towards the sampler; the documentation's example, as no default is told (protocol 6.11).
        reduction: over tokens; the means count all tokens.

    Reads ``logprobs`` and ``advantages``. Metrics: ``kl:mean``.
    """
    check_reduction(reduction)
    if beta < 0:
        raise LossError(f"dro: expected a beta of 0 or more, got {beta}.")

    def loss(inputs: Inputs, logprobs: jax.Array, mask: jax.Array) -> tuple[jax.Array, Mapping[str, Any]]:
        distance = (logprobs - inputs["logprobs"]) * mask
        losses = -(logprobs * inputs["advantages"] - 0.5 * beta * distance * distance) * mask
        counted = mask.astype(logprobs.dtype)
        return reduce_tokens(losses, counted, reduction), {"kl:mean": _mean(-distance, counted)}

    return BatchLoss(loss, name="dro")


@_once
def gspo(
    *, clip_low_threshold: float = 0.8, clip_high_threshold: float = 1.2, reduction: Reduction = "sum"
) -> BatchLoss:
    """Group sequence policy optimization, token form (Zheng et al. 2025, arXiv:2507.18071, equation 15).

    PPO with the token's ratio replaced by its sequence's, ``s = sg(exp(mean(lp - q))) * exp(lp - sg(lp))``: the mean
    over the tokens of ``sequence_ratio_mask``, the gradient through the token's own logprob.

    Reads ``logprobs``, ``advantages`` and ``sequence_ratio_mask``. Arguments and metrics as :func:`ppo`.
    """

    def sequence_ratio(inputs: Inputs, logprobs: jax.Array, mask: jax.Array) -> jax.Array:
        counted = inputs["sequence_ratio_mask"] * mask
        total = ((logprobs - inputs["logprobs"]) * counted).sum(axis=1, keepdims=True)
        mean = lax.stop_gradient(total / jnp.maximum(counted.sum(axis=1, keepdims=True), 1e-20))
        return jnp.exp(_limited(mean) + logprobs - lax.stop_gradient(logprobs))

    return _policy("gspo", sequence_ratio, reduction, _bounds(clip_low_threshold, clip_high_threshold))


def _policy(
    name: str, ratio_of: TokenLoss, reduction: Reduction, bounds: tuple[float, float] | None = None
) -> BatchLoss:
    check_reduction(reduction)

    def loss(inputs: Inputs, logprobs: jax.Array, mask: jax.Array) -> tuple[jax.Array, Mapping[str, Any]]:
        ratio = ratio_of(inputs, logprobs, mask)
        gains = ratio * inputs["advantages"]
        if bounds is not None:
            gains = jnp.minimum(gains, _clip(ratio, inputs, bounds) * inputs["advantages"])
        counted = _counted(inputs, mask)
        metrics = _ratio_metrics(ratio, inputs, logprobs, counted, bounds)
        return reduce_tokens(-gains * mask, counted, reduction), metrics

    return BatchLoss(loss, name=name)


def _ratio(inputs: Inputs, logprobs: jax.Array) -> jax.Array:
    # Where the advantage is 0 the ratio cannot matter, and what stands for q there, as on a prompt, may be anything.
    return jnp.exp(_limited(jnp.where(inputs["advantages"] != 0, logprobs - inputs["logprobs"], 0.0)))


def _limited(exponent: jax.Array) -> jax.Array:
    return jnp.clip(exponent, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


def _bounds(low: float, high: float) -> tuple[float, float]:
    if not 0.0 <= low <= high:
        raise LossError(
            f"expected 0 <= clip_low_threshold <= clip_high_threshold, got {low} and {high}. Both are ratios, such as "
            "0.8 and 1.2, not distances from 1."
        )
    return low, high


def _clip(ratio: jax.Array, inputs: Inputs, bounds: tuple[float, float]) -> jax.Array:
    low = inputs["clip_low_threshold"] if "clip_low_threshold" in inputs else bounds[0]
    high = inputs["clip_high_threshold"] if "clip_high_threshold" in inputs else bounds[1]
    return jnp.clip(ratio, low, high)


def _counted(inputs: Inputs, mask: jax.Array) -> jax.Array:
    return ((inputs["advantages"] != 0) & mask).astype(inputs["advantages"].dtype)


def _ratio_metrics(
    ratio: jax.Array, inputs: Inputs, logprobs: jax.Array, counted: jax.Array, bounds: tuple[float, float] | None
) -> dict[str, jax.Array]:
    metrics = {
        "ratio:mean": _mean(ratio, counted),
        "kl:mean": _mean(inputs["logprobs"] - logprobs, counted),
    }
    if bounds is not None:
        metrics["clipped:mean"] = _mean((_clip(ratio, inputs, bounds) != ratio).astype(ratio.dtype), counted)
    return metrics


def _mean(values: jax.Array, counted: jax.Array) -> jax.Array:
    return (values * counted).sum() / jnp.maximum(counted.sum(), 1.0)
