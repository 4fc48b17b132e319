"""AdamW against a float64 transcription of the paper's algorithm."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from tests.plugins.numerics import Floats, adapter
from tinkex_actors.engine.core import AdamHyper, Adapter, optim_step
from tinkex_actors.errors import InputError, NonFiniteLossError


def gradients(count: int, size: int) -> list[Floats]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(size) * 10.0 ** rng.uniform(-3, 2, size) for _ in range(count)]


def reference(params: Floats, steps: list[Floats], hyper: AdamHyper) -> Floats:
    m, v = np.zeros_like(params), np.zeros_like(params)
    for count, given in enumerate(steps, 1):
        norm = np.linalg.norm(given)
        gradient = given * min(1.0, hyper.grad_clip_norm / norm) if hyper.grad_clip_norm else given
        m = hyper.beta1 * m + (1 - hyper.beta1) * gradient
        v = hyper.beta2 * v + (1 - hyper.beta2) * gradient**2
        update = (m / (1 - hyper.beta1**count)) / (np.sqrt(v / (1 - hyper.beta2**count)) + hyper.eps)
        params = params - hyper.learning_rate * (update + hyper.weight_decay * params)
    return params


@pytest.mark.parametrize(
    "hyper",
    [
        AdamHyper(),
        AdamHyper(learning_rate=1e-2, weight_decay=0.1),
        AdamHyper(learning_rate=1e-2, grad_clip_norm=1.0, eps=1e-3),
        AdamHyper(learning_rate=1e-2, grad_clip_norm=1e9, beta1=0.0, beta2=0.0),
    ],
)
def test_steps_equal_the_reference(hyper: AdamHyper) -> None:
    held = adapter()
    start = np.asarray(held.params, np.float64)
    steps = gradients(5, start.size)
    for gradient in steps:
        held, metrics = optim_step(replace(held, gradient=jnp.asarray(gradient, jnp.float32)), hyper)
        assert metrics["grad_norm:mean"] == pytest.approx(np.linalg.norm(gradient), rel=1e-5)
    expected = reference(start, steps, hyper)
    np.testing.assert_allclose(held.params, expected, atol=1e-2 * hyper.learning_rate)
    assert held.steps == 5
    assert metrics["optim_steps:max"] == 5.0
    assert metrics["param_norm:mean"] == pytest.approx(np.linalg.norm(expected), rel=1e-5)


def test_without_a_gradient_only_the_moments_move_the_weights() -> None:
    fresh = adapter()
    still, metrics = optim_step(fresh, AdamHyper(learning_rate=1.0))
    assert metrics["update_norm:mean"] == 0.0
    np.testing.assert_array_equal(still.params, fresh.params)
    zero_eps, _ = optim_step(fresh, AdamHyper(learning_rate=1.0, eps=0.0))
    np.testing.assert_array_equal(zero_eps.params, fresh.params)
    moving, _ = optim_step(replace(fresh, gradient=jnp.ones_like(fresh.params)), AdamHyper())
    assert optim_step(moving, AdamHyper())[1]["update_norm:mean"] > 0


def test_an_infinite_gradient_takes_no_step() -> None:
    held = adapter()
    broken = replace(held, gradient=jnp.full_like(held.params, jnp.inf))
    with pytest.raises(NonFiniteLossError, match="optim_step 1: the gradient's norm is inf"):
        optim_step(broken, AdamHyper())


def test_every_metric_has_a_reduction() -> None:
    _, metrics = optim_step(adapter(), AdamHyper())
    assert {name.count(":") for name in metrics} == {1}


def test_a_snapshot_stays_as_it_was() -> None:
    held: Adapter = adapter()
    snapshot, before = held.weights_only(), np.array(held.params)
    optim_step(replace(held, gradient=jnp.ones_like(held.params)), AdamHyper(learning_rate=1.0))
    np.testing.assert_array_equal(snapshot.params, before)


@pytest.mark.parametrize(
    ("field", "value"),
    [("learning_rate", -1.0), ("beta1", 1.0), ("beta2", -0.1), ("eps", float("nan")), ("weight_decay", -1.0)],
)
def test_hyperparameters_out_of_range_are_named(field: str, value: float) -> None:
    with pytest.raises(InputError, match=f"adam_params.{field}: expected .* got {value}"):
        AdamHyper(**{field: value})
