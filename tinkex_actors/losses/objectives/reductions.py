"""From a loss for each token to one number."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from tinkex_actors.errors import LossError

__all__ = ["Reduction", "check_reduction", "reduce_tokens"]

Reduction = Literal["sum", "token_mean", "sequence_mean"]

_REDUCTIONS = ("sum", "token_mean", "sequence_mean")


def check_reduction(reduction: str) -> None:
    """Refuse what is no reduction.

    Raises:
        LossError: it is none of them.
    """
    if reduction not in _REDUCTIONS:
        raise LossError(f"reduction: expected one of {', '.join(_REDUCTIONS)}, got {reduction!r}.")


def reduce_tokens(losses: jax.Array, counted: jax.Array, reduction: Reduction) -> jax.Array:
    """Return one loss of the losses of all tokens.

    ::

        sum             sum over b, t of l[b, t]                          what servers do
        token_mean      sum over b, t of c l  /  sum over b, t of c       each token of the batch counts the same
        sequence_mean   mean over b of (sum over t of c l / sum over t of c)    each sequence counts the same (GRPO)

    Args:
        losses: ``[B, T]`` or ``[B, T, K]``, 0 on padding.
        counted: of the same shape, 1 for each token that counts; only for the means. A sequence of which no token
            counts is left out of them.
        reduction: which of them.
    """
    if reduction == "sum":
        return losses.sum()
    losses = losses * counted
    if reduction == "token_mean":
        return losses.sum() / jnp.maximum(counted.sum(), 1.0)
    inner = tuple(range(1, losses.ndim))
    tokens = counted.sum(axis=inner)
    means = losses.sum(axis=inner) / jnp.maximum(tokens, 1.0)
    return means.sum() / jnp.maximum((tokens > 0).sum(), 1)
