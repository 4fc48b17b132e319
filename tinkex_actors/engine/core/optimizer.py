"""AdamW over an adapter's flat vector."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from tinkex_actors.engine.core.lora import Adapter
from tinkex_actors.errors import InputError, NonFiniteLossError

__all__ = ["AdamHyper", "optim_step"]


@dataclass(frozen=True, slots=True)
class AdamHyper:
    """Hyperparameters of one step; the defaults are the API's (protocol 2.5).

    Args:
        learning_rate: step size, 0 or more.
        beta1: decay of the first moment, in [0, 1).
        beta2: decay of the second moment, in [0, 1).
        eps: added to the root of the second moment, 0 or more.
        weight_decay: decoupled decay (Loshchilov and Hutter 2019): the weights lose ``learning_rate * weight_decay``
            of themselves.
        grad_clip_norm: the largest Euclidean norm of the whole gradient; 0 for no limit.

    Raises:
        InputError: a value out of its range.
    """

    learning_rate: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-12
    weight_decay: float = 0.0
    grad_clip_norm: float = 0.0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "eps", "weight_decay", "grad_clip_norm"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"adam_params.{name}: expected a finite number of 0 or more, got {value}")
        for name in ("beta1", "beta2"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise InputError(f"adam_params.{name}: expected a number in [0, 1), got {value}")


def optim_step(adapter: Adapter, hyper: AdamHyper) -> tuple[Adapter, dict[str, float]]:
    """Take one AdamW step with the accumulated gradient, and clear it.

    Without a gradient the step is taken with gradient zero: moments decay, and the weights still move by what the
    moments hold.

    Args:
        adapter: the adapter; never changed.
        hyper: the step's hyperparameters.

    Returns:
        The new adapter, and metrics: ``grad_norm:mean`` (before clipping), ``update_norm:mean`` (how far the weights
        moved), ``param_norm:mean`` (after the step), all Euclidean over the whole adapter, and ``optim_steps:max``.

    Raises:
        NonFiniteLossError: the gradient is not finite; nothing is changed.
    """
    zeros = jnp.zeros_like(adapter.params)
    gradient, first, second = (
        zeros if held is None else held for held in (adapter.gradient, adapter.first_moment, adapter.second_moment)
    )
    steps = adapter.steps + 1
    # Bias corrections are computed in double precision here: 1 - beta**n loses digits in float32 for small n.
    scalars = np.array(
        [
            hyper.learning_rate,
            hyper.beta1,
            hyper.beta2,
            hyper.eps,
            hyper.weight_decay,
            hyper.grad_clip_norm if hyper.grad_clip_norm > 0 else np.inf,
            1.0 / (1.0 - hyper.beta1**steps),
            1.0 / (1.0 - hyper.beta2**steps),
        ],
        np.float32,
    )
    params, first, second, norms = _adamw(adapter.params, gradient, first, second, scalars)
    grad_norm, update_norm, param_norm = (float(norm) for norm in np.asarray(norms))
    if not (math.isfinite(grad_norm) and math.isfinite(param_norm)):
        raise NonFiniteLossError(
            f"optim_step {steps}: the gradient's norm is {grad_norm} and the weights' norm would be {param_norm}, so "
            "no step was taken; load the last checkpoint and lower learning_rate or set grad_clip_norm"
        )
    metrics = {
        "grad_norm:mean": grad_norm,
        "update_norm:mean": update_norm,
        "param_norm:mean": param_norm,
        "optim_steps:max": float(steps),
    }
    return Adapter(adapter.spec, params, None, first, second, steps), metrics


@jax.jit
def _adamw(
    params: jax.Array, gradient: jax.Array, first: jax.Array, second: jax.Array, scalars: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    rate, beta1, beta2, eps, decay, limit, correction1, correction2 = scalars
    grad_norm = jnp.linalg.norm(gradient)
    gradient = gradient * jnp.where(grad_norm > limit, limit / grad_norm, 1.0)
    first = beta1 * first + (1 - beta1) * gradient
    second = beta2 * second + (1 - beta2) * gradient * gradient
    # eps may be 0, and a weight that never had a gradient then divides 0 by 0: it does not move.
    root = jnp.sqrt(second * correction2) + eps
    update = rate * (jnp.where(root > 0, first * correction1 / jnp.where(root > 0, root, 1.0), 0.0) + decay * params)
    stepped = params - update
    return stepped, first, second, jnp.stack([grad_norm, jnp.linalg.norm(update), jnp.linalg.norm(stepped)])
