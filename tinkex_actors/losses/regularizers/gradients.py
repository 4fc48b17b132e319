"""Gradient norms of many terms from one backward pass.

Every term reads a copy of the logprobs of its own, all of them equal. One pull-back of ones then gives each copy the
gradient of its own term: the terms are walked once, whatever their number, and their gradients add up to the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from tinkex_actors.losses.evaluation.readable import reading

__all__ = ["gradient_norm", "norm", "pull_back", "weighted_sum"]

Term = Callable[[Any], tuple[Any, Any]]
"""From logprobs to ``(scalar, metrics)``."""


def pull_back(
    terms: Sequence[Term], logprobs: Any, *, readable: bool = False
) -> tuple[list[jax.Array], list[Any], list[Any]]:
    """Return the values, the metrics and the gradients of terms, from one pass forward and one back.

    Args:
        terms: JAX functions of the logprobs, each ``(scalar, metrics)``, the metrics being numbers.
        logprobs: an array, or a list of arrays.
        readable: let terms take numbers out of arrays; where this is not compiled.
    """

    def every(copies: list[Any]) -> tuple[list[jax.Array], list[Any]]:
        results = [term(copy) for term, copy in zip(terms, copies, strict=True)]
        return [jnp.sum(jnp.asarray(value, jnp.result_type(float))) for value, _ in results], [m for _, m in results]

    values, pull, metrics = jax.vjp(reading(every) if readable else every, [logprobs] * len(terms), has_aux=True)
    (gradients,) = pull([jnp.ones_like(value) for value in values])
    return values, metrics, gradients


def weighted_sum(gradients: Sequence[Any], weights: Any) -> Any:
    """Return the sum of ``weights[i] * gradients[i]``, shaped as one of them."""
    return jax.tree.map(lambda *parts: sum(w * part for w, part in zip(weights, parts, strict=True)), *gradients)


def norm(gradient: Any) -> jax.Array:
    """Return the L2 norm of an array or of a list of arrays."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(part)) for part in jax.tree.leaves(gradient)))


def gradient_norm(term: Callable[[Any], Any], logprobs: Any) -> float:
    """Return the L2 norm of a function's gradient, ``sqrt(sum(g^2))``.

    Args:
        term: a JAX function of the logprobs; what is no scalar is summed. Metrics beside the value are left out.
        logprobs: an array, or a list of arrays.
    """

    def scalar(at: Any) -> tuple[Any, dict[str, Any]]:
        result = term(at)
        return (result[0] if isinstance(result, tuple) else result), {}

    return float(norm(pull_back([scalar], jax.tree.map(jnp.asarray, logprobs))[2]))
