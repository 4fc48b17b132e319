"""The losses: functions of the target tokens' logprobs alone.

With ``lp`` the trainer's logprob of a target token, ``q`` the sampler's, ``A`` the advantage, ``r = exp(lp - q)`` and
``sg`` the identity that passes no gradient (protocol 6.11)::

    cross_entropy         sum(-lp * weights)
    importance_sampling   -sum(r * A)
    ppo                   -sum(min(r * A, clip(r, low, high) * A))
    cispo                 -sum(sg(clip(r, low, high)) * lp * A)
    dro                   -sum(lp * A - beta / 2 * (lp - q)^2)
    gspo                  ppo with r replaced by s = sg(exp(mean(lp - q))) * exp(lp - sg(lp)),
                          the mean over the sequence's tokens of sequence_ratio_mask

``importance_sampling`` to ``gspo`` read arrays of a policy's samples: ppo is Schulman et al. 2017
(arXiv:1707.06347), cispo MiniMax 2025 (arXiv:2506.13585), dro Richemond et al. 2024 (arXiv:2405.19107), gspo Zheng et
al. 2025 (arXiv:2507.18071, its token form). ``custom`` losses are not here: they are data (``custom_losses``).

All of them are branches of one traced switch, so a batch shape is compiled once, whatever its loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from tinkex_actors.errors import InputError

__all__ = ["LOSSES", "Loss", "Signals", "find_loss", "token_losses"]


class Signals(NamedTuple):
    """What a loss reads beside logprobs: float32 arrays of the targets' shape ``[B, T, K]``, zero on padding."""

    weights: jax.Array
    logprobs: jax.Array
    advantages: jax.Array
    clip_low: jax.Array
    clip_high: jax.Array
    beta: jax.Array
    ratio_mask: jax.Array


@dataclass(frozen=True, slots=True)
class Loss:
    """One supported loss.

    Args:
        name: the API's name.
        index: its branch in ``token_losses``.
        required: the ``loss_fn_inputs`` it cannot do without, beside ``target_tokens``.
        defaults: its configuration and the defaults; empty where it takes none.
    """

    name: str
    index: int
    required: tuple[str, ...]
    defaults: Mapping[str, float]

    def settings(self, config: Mapping[str, float | str]) -> dict[str, float]:
        """Return the configuration with defaults filled in.

        Raises:
            InputError: an unknown key, a value that is not a finite number, or thresholds in the wrong order.
        """
        settings = dict(self.defaults)
        for key, value in config.items():
            if key not in settings:
                known = ", ".join(sorted(settings)) or "no keys at all"
                raise InputError(f"loss_fn_config of {self.name}: unknown key {key!r}; it takes {known}")
            if isinstance(value, str) or not math.isfinite(value):
                raise InputError(f"loss_fn_config[{key!r}] of {self.name}: expected a finite number, got {value!r}")
            settings[key] = float(value)
        if settings.get("beta", 0.0) < 0:
            raise InputError(
                f"loss_fn_config['beta'] of {self.name}: expected 0 or more, got {settings['beta']}, the strength of "
                "the pull towards the sampler's logprobs, such as 0.05"
            )
        low, high = settings.get("clip_low_threshold", 0.0), settings.get("clip_high_threshold", math.inf)
        if low > high:
            raise InputError(
                f"loss_fn_config of {self.name}: clip_low_threshold {low} is above clip_high_threshold {high}; "
                "both are absolute ratios, such as 0.8 and 1.2"
            )
        return settings


_SAMPLED = ("logprobs", "advantages")

LOSSES: dict[str, Loss] = {
    loss.name: loss
    for loss in (
        Loss("cross_entropy", 0, (), {}),
        Loss("importance_sampling", 1, _SAMPLED, {}),
        Loss("ppo", 2, _SAMPLED, {"clip_low_threshold": 0.8, "clip_high_threshold": 1.2}),
        Loss("cispo", 3, _SAMPLED, {"clip_low_threshold": 0.0, "clip_high_threshold": 4.0}),
        Loss("dro", 4, _SAMPLED, {"beta": 0.05}),
        Loss("gspo", 5, (*_SAMPLED, "sequence_ratio_mask"), {"clip_low_threshold": 0.8, "clip_high_threshold": 1.2}),
    )
}
"""Every supported loss, by name. Where 6.11 leaves a default open, it is the documentation's example: beta 0.05, and
ppo's thresholds for gspo."""


def find_loss(name: str) -> Loss:
    """Return the loss of that name.

    Raises:
        InputError: there is none; the message lists those there are.
    """
    if name not in LOSSES:
        why = ", since its formula is not published" if name == "stable_reinforce" else ""
        known = ", ".join(sorted(LOSSES))
        raise InputError(f"loss_fn {name!r} is not supported by this engine{why}; use one of {known}")
    return LOSSES[name]


def token_losses(index: jax.Array, logprobs: jax.Array, signals: Signals) -> jax.Array:
    """Return every target's contribution to the loss, shaped like ``logprobs``. Traceable and differentiable.

    Args:
        index: int32 scalar, ``Loss.index``.
        logprobs: float32 ``[B, T, K]``.
        signals: what the losses read beside them.
    """
    branches = (_cross_entropy, _importance_sampling, _ppo, _cispo, _dro, _gspo)
    losses: jax.Array = lax.switch(index, branches, logprobs, signals)
    return losses


def _cross_entropy(logprobs: jax.Array, signals: Signals) -> jax.Array:
    return -logprobs * signals.weights


def _importance_sampling(logprobs: jax.Array, signals: Signals) -> jax.Array:
    return -_ratio(logprobs, signals) * signals.advantages


def _ppo(logprobs: jax.Array, signals: Signals) -> jax.Array:
    return _clipped(_ratio(logprobs, signals), signals)


def _clipped(ratio: jax.Array, signals: Signals) -> jax.Array:
    clipped = jnp.clip(ratio, signals.clip_low, signals.clip_high)
    return -jnp.minimum(ratio * signals.advantages, clipped * signals.advantages)


def _cispo(logprobs: jax.Array, signals: Signals) -> jax.Array:
    ratio = jnp.clip(_ratio(logprobs, signals), signals.clip_low, signals.clip_high)
    return -lax.stop_gradient(ratio) * logprobs * signals.advantages


def _dro(logprobs: jax.Array, signals: Signals) -> jax.Array:
    # beta is zero on padding, whose logprobs are not.
    distance = logprobs - signals.logprobs
    return -(logprobs * signals.advantages - 0.5 * signals.beta * distance * distance)


def _gspo(logprobs: jax.Array, signals: Signals) -> jax.Array:
    counted = signals.ratio_mask
    total = ((logprobs - signals.logprobs) * counted).sum(axis=1, keepdims=True)
    # A row of padding, or one that masks every token, has ratio 1.
    mean = lax.stop_gradient(total / jnp.maximum(counted.sum(axis=1, keepdims=True), 1e-20))
    # As in _ratio: no advantage, no ratio.
    exponent = jnp.where(signals.advantages != 0, mean + logprobs - lax.stop_gradient(logprobs), 0.0)
    return _clipped(jnp.exp(exponent), signals)


def _ratio(logprobs: jax.Array, signals: Signals) -> jax.Array:
    # Where the advantage is 0 the ratio cannot matter, but exp may overflow there (a prompt's logprobs are often
    # placeholders) and inf * 0 would be NaN; the inner `where` keeps the NaN out of the gradient as well.
    matters = signals.advantages != 0
    return jnp.exp(jnp.where(matters, logprobs - signals.logprobs, 0.0))
