"""JAX losses as graphs of torch's operations: the engine, and torch itself where it is installed, get JAX's numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.plugins.torch_graph import run_in_torch
from tinkex_actors.engine.core import GraphLoss
from tinkex_actors.losses.graphs.tracing import check_signature, trace_loss
from tinkex_actors.types import CustomLossGraph, CustomLossInput

pytestmark = pytest.mark.slow  # every function is compiled, by JAX and as a graph

X = np.array([-0.3, -1.2, -2.5, -0.9, -1.7], np.float32)
LADDER = jnp.array([3.0, 1.0, 2.0])
PICKED = np.array([2, 0, -1], np.int32)

ONE: dict[str, Callable[[Any], Any]] = {
    "first": lambda lp: lp[0],
    "last": lambda lp: lp[-1],
    "shifted": lambda lp: (lp[1:] * lp[:-1]).sum(),
    "every-second": lambda lp: (lp[::2] ** 2).sum(),
    "backwards": lambda lp: (lp[::-1] * jnp.arange(lp.shape[0])).sum(),
    "head": lambda lp: (lp[:3] ** 2).sum(),
    "tail": lambda lp: (lp[-3:] ** 2).sum(),
    "discounted": lambda lp: (lp * 0.9 ** jnp.arange(lp.shape[0])).sum(),
    "picked": lambda lp: (lp[PICKED] * LADDER).sum(),
    "lowest": lambda lp: jnp.sort(lp)[0] + 2 * jnp.sort(lp)[1],
    "highest": lambda lp: jnp.sort(lp, descending=True)[:2].sum(),
    "by-order": lambda lp: (lp[jnp.argsort(lp)] * jnp.arange(lp.shape[0])).sum(),
    "largest": lambda lp: lp[jnp.argmax(lp)] + 2 * lp[jnp.argmin(lp)],
    "median": jnp.median,
    "quantile": lambda lp: jnp.quantile(lp, 0.3),
    "differences": lambda lp: jnp.abs(jnp.diff(lp)).sum(),
    "rolled": lambda lp: (lp * jnp.roll(lp, 1)).sum(),
    "padded": lambda lp: (jnp.pad(lp, (1, 2)) ** 2).max() + (jnp.append(lp, 0.0) ** 2).sum(),
    "stacked": lambda lp: jnp.stack([lp, 2 * lp]).max(axis=0).sum(),
    "returns": lambda lp: (jax.lax.cumsum(lp, reverse=True) * lp).sum(),
    "products": lambda lp: jnp.cumprod(lp).sum() + jnp.prod(lp),
    "running-extremes": lambda lp: (jax.lax.cummax(lp) * jax.lax.cummin(lp)).sum(),
    "running-logsumexp": lambda lp: jax.lax.cumlogsumexp(lp, reverse=True).sum(),
    "pairs": lambda lp: jax.nn.relu(lp[:, None] - lp[None, :]).mean(),
    "outer": lambda lp: jnp.einsum("i,j->ij", lp, lp).sum() + lp @ lp,
    "triangle": lambda lp: jnp.tril(lp[:, None] * lp[None]).sum(),
    "spread": lambda lp: jnp.var(lp) + jnp.std(lp, ddof=1),
    "any-all": lambda lp: jnp.any(lp < -1) * lp[0] + jnp.all(lp < 0) * lp[1],
    "counted": lambda lp: jnp.where(lp < -1, lp, 0.0).sum() / jnp.maximum((lp < -1).sum(), 1),
    "rounded": lambda lp: (jnp.round(lp) * lp).sum() + (lp % 0.7).sum(),
    "activations": lambda lp: (jax.nn.gelu(lp) + jax.nn.silu(lp) + jax.nn.elu(lp) + jax.nn.softplus(lp)).sum(),
    "distributions": lambda lp: jax.nn.log_softmax(lp)[0] + (jax.nn.softmax(lp) * lp).sum(),
}


def loss_of(formula: Callable[[Any], Any]) -> Callable[..., Any]:
    def loss(logprobs: Any) -> Any:
        return formula(logprobs), {"custom/tokens:sum": jnp.ones_like(logprobs).sum()}

    return loss


def expect(
    graph: CustomLossGraph, inputs: list[CustomLossInput], logprobs: Any, others: dict[str, Any], loss: Any
) -> None:
    (wanted, _), slope = jax.jit(jax.value_and_grad(loss, has_aux=True))(jnp.asarray(logprobs), **others)

    value, found, _ = GraphLoss("loss", inputs, graph).evaluate(logprobs, others, "datum 0")
    assert value == pytest.approx(float(wanted), rel=1e-5, abs=1e-6)
    np.testing.assert_allclose(found, slope, rtol=1e-4, atol=1e-5)

    try:
        import torch
    except ModuleNotFoundError:
        return
    leaf = torch.tensor(logprobs, requires_grad=True)
    served, _ = run_in_torch(graph, {"logprobs": leaf, **{name: torch.tensor(one) for name, one in others.items()}})
    served.backward()
    assert served.item() == pytest.approx(float(wanted), rel=1e-5, abs=1e-6)
    np.testing.assert_allclose(leaf.grad.numpy(), slope, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ONE)
def test_a_graph_computes_what_the_function_does(name: str) -> None:
    loss = loss_of(ONE[name])
    inputs = check_signature(loss, {"logprobs": 1})

    expect(trace_loss(loss, inputs), inputs, X, {}, loss)


def test_one_graph_serves_data_of_every_length() -> None:
    loss = loss_of(lambda lp: lp[-1] + lp[1:].mean() + jnp.median(lp) + (lp * jnp.arange(lp.shape[0])).sum())
    inputs = check_signature(loss, {"logprobs": 1})
    graph = trace_loss(loss, inputs)

    for length in (2, 3, 5):
        expect(graph, inputs, X[:length], {}, loss)


TWO: dict[str, Callable[[Any, Any], Any]] = {
    "rows": lambda lp, at: (lp[:, 0] * 2 + lp[:, -1]).sum(),
    "columns": lambda lp, at: (lp[:, 1:] * lp[:, :-1]).sum(),
    "along": lambda lp, at: jnp.take_along_axis(lp, at.astype(int)[:, None], axis=1).sum(),
    "points": lambda lp, at: (lp[jnp.arange(lp.shape[0]), at.astype(int)] ** 2).sum(),
    "taken": lambda lp, at: (lp[at.astype(int)] * lp).sum() + lp[:, np.array([1, 0], np.int32)].sum(),
    "sorted": lambda lp, at: (jnp.sort(lp, axis=1)[:, 0] * jnp.sort(lp, axis=0)[0].sum()).sum(),
    "wide": lambda lp, at: (lp * jnp.arange(lp.shape[1])).sum() + jnp.pad(lp, ((1, 0), (0, 1))).sum(),
    "best": lambda lp, at: lp.max(axis=1).sum() + (jnp.argmax(lp, axis=1) * lp[:, 0]).sum(),
}


@pytest.mark.parametrize("name", TWO)
def test_a_graph_of_two_dimensions_does_too(name: str) -> None:
    def loss(logprobs: Any, at: Any) -> Any:
        return TWO[name](logprobs, at), {}

    inputs = check_signature(loss, {"logprobs": 2, "at": 1})
    logprobs = -np.random.default_rng(0).uniform(0.1, 3.0, (3, 4)).astype(np.float32)

    expect(trace_loss(loss, inputs), inputs, logprobs, {"at": np.array([2.0, 1.0, 0.0], np.float32)}, loss)


def test_a_graph_has_nothing_that_its_output_does_not_need() -> None:
    def loss(logprobs: Any) -> Any:
        jnp.exp(logprobs)  # never used
        return logprobs[0] * 2, {}

    graph = trace_loss(loss, check_signature(loss, {"logprobs": 1}))

    assert [node.target for node in graph.nodes] == [
        "logprobs",
        "operator.getitem",
        "torch.squeeze",
        "operator.mul",
        "output",
    ]
