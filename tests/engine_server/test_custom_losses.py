"""Uploaded losses on the engine: what they train, what is refused, over the wire and from the client."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.plugins.wire_client import batch, local_engine, pass_request
from tinkex_actors import types
from tinkex_actors.engine.core import GraphLoss
from tinkex_actors.errors import InputError, RequestFailedError
from tinkex_actors.losses.graphs.tracing import Untraceable, check_signature, trace_loss

pytestmark = pytest.mark.slow

LOGPROBS = types.CustomLossInput(name="logprobs", rank=1)
RANKS = {"logprobs": 1, "q": 1, "advantages": 1, "beta": 0}


TABLE = jnp.arange(5000.0)


def node(op: str, name: str, target: str, *args: Any, **kwargs: Any) -> types.CustomLossNode:
    return types.CustomLossNode(op=op, name=name, target=target, args=list(args), kwargs=kwargs)  # type: ignore[arg-type]


def graph(*nodes: types.CustomLossNode, loss: Any, **metrics: Any) -> types.CustomLossGraph:
    """A graph as torch.fx writes it: placeholders, calls, and an output of (loss, metrics)."""
    named = {"dict": {f"custom/{name.replace('_of', ':')}": value for name, value in metrics.items()}}
    head = node("placeholder", "logprobs", "logprobs")
    return types.CustomLossGraph(nodes=[head, *nodes, node("output", "output", "output", {"tuple": [loss, named]})])


LP = {"ref": "logprobs"}
MEAN_NLL = graph(
    node("call_method", "mean", "mean", LP),
    node("call_function", "neg", "operator.neg", {"ref": "mean"}),
    node("call_method", "size", "size", LP, 0),
    loss={"ref": "neg"},
    nll_ofmean={"ref": "neg"},
    tokens_ofsum={"ref": "size"},
)


def ppo(logprobs: Any, q: Any, advantages: Any, beta: Any) -> Any:
    ratio = jnp.exp(logprobs - q)
    clipped = jnp.minimum(ratio * advantages, jnp.clip(ratio, 0.8, 1.2) * advantages)
    loss = -clipped.mean() + beta * (ratio**2).sum() + jax.nn.log_sigmoid(logprobs).std() - jax.nn.logsumexp(logprobs)
    loss = loss + jnp.where(ratio > 1, logprobs, 0.0).sum() + jax.lax.stop_gradient(ratio).max() * logprobs[None].sum()
    return loss + jax.nn.softmax(logprobs) @ q, {"custom/high:sum": (ratio > 1).sum()}


def test_a_traced_loss_is_the_function_at_every_length() -> None:
    inputs = check_signature(ppo, RANKS)
    uploaded = GraphLoss("ppo", inputs, trace_loss(ppo, inputs))
    rng = np.random.default_rng(0)
    for length in (2, 5, 9):
        logprobs, q, advantages = rng.uniform(-3, 0, (3, length)).astype(np.float32)
        given = {"q": q, "advantages": advantages, "beta": np.float32(0.1)}
        value, slope, metrics = uploaded.evaluate(logprobs, given, "datum 0")
        (wanted, wanted_metrics), wanted_slope = jax.value_and_grad(ppo, has_aux=True)(logprobs, **given)
        assert value == pytest.approx(float(wanted), rel=1e-5)
        np.testing.assert_allclose(slope, wanted_slope, atol=1e-5)
        assert metrics == {"custom/high:sum": float(wanted_metrics["custom/high:sum"])}


def test_two_dimensions_are_traced_too() -> None:
    def distill(logprobs: Any, weights: Any) -> Any:
        return -(logprobs * weights).sum(axis=-1).mean() + logprobs.max(axis=0).sum(), {}

    inputs = check_signature(distill, {"logprobs": 2, "weights": 2})
    uploaded = GraphLoss("distill", inputs, trace_loss(distill, inputs))
    logprobs, weights = np.random.default_rng(1).uniform(-3, 0, (2, 4, 3)).astype(np.float32)
    value, slope, _ = uploaded.evaluate(logprobs, {"weights": weights}, "datum 0")
    assert value == pytest.approx(float(distill(jnp.asarray(logprobs), weights)[0]), rel=1e-6)
    np.testing.assert_allclose(slope, jax.grad(lambda at: distill(at, weights)[0])(logprobs), atol=1e-6)


TORCH: list[tuple[types.CustomLossGraph, Callable[[Any], Any]]] = [
    (
        graph(
            node("call_function", "a", "torch.clamp", LP, min=-2.0, max={"float": "inf"}),
            node("call_method", "b", "sum", {"ref": "a"}, dim=[0], keepdim=True),
            node("call_function", "c", "operator.getitem", {"ref": "b"}, 0),
            node("call_function", "d", "torch.std", LP),
            node("call_function", "e", "torch.add", {"ref": "c"}, {"ref": "d"}, alpha=2),
            loss={"ref": "e"},
        ),
        lambda x: np.maximum(x, -2).sum() + 2 * x.std(ddof=1),
    ),
    (
        graph(
            node("call_function", "a", "operator.getitem", LP, {"slice": [None, -1, None]}),
            node("call_function", "b", "getattr", LP, "shape"),
            node("call_function", "c", "operator.getitem", {"ref": "b"}, 0),
            node("call_function", "d", "math.sqrt", {"ref": "c"}),
            node("call_method", "e", "unsqueeze", {"ref": "a"}, 0),
            node("call_function", "f", "torch.cat", [{"ref": "e"}, {"ref": "e"}], dim=0),
            node("call_function", "g", "torch.mean", {"ref": "f"}),
            node("call_function", "h", "operator.truediv", {"ref": "g"}, {"ref": "d"}),
            loss={"ref": "h"},
        ),
        lambda x: x[:-1].mean() / np.sqrt(len(x)),
    ),
    (
        graph(
            node("call_method", "a", "to", LP, {"dtype": "float64"}),
            node("call_function", "b", "torch.max", {"ref": "a"}),
            node("call_function", "c", "torch.logsumexp", {"ref": "a"}, 0),
            node("call_function", "d", "operator.sub", {"ref": "b"}, {"ref": "c"}),
            loss={"ref": "d"},
        ),
        lambda x: x.max() - np.log(np.exp(x).sum()),
    ),
    (
        graph(
            node("call_method", "a", "topk", LP, 2, largest=False),
            node("call_function", "b", "operator.getitem", {"ref": "a"}, 0),
            node("call_function", "c", "torch.sum", {"ref": "b"}),
            node("call_function", "d", "torch.argsort", LP, descending=True),
            node("call_function", "e", "torch.gather", LP, 0, {"ref": "d"}),
            node("call_function", "f", "operator.getitem", {"ref": "e"}, 1),
            node("call_function", "g", "operator.add", {"ref": "c"}, {"ref": "f"}),
            loss={"ref": "g"},
        ),
        lambda x: np.sort(x)[:2].sum() + np.sort(x)[-2],
    ),
    (
        graph(
            node("call_function", "a", "torch.cummax", LP, 0),
            node("call_function", "b", "operator.getitem", {"ref": "a"}, 1),
            node("call_function", "c", "torch.diff", LP),
            node("call_method", "d", "median", {"ref": "c"}),
            node("call_function", "e", "torch.fmod", LP, 0.5),
            node("call_function", "f", "operator.mul", {"ref": "e"}, {"ref": "b"}),
            node("call_method", "g", "sum", {"ref": "f"}),
            node("call_function", "h", "operator.add", {"ref": "d"}, {"ref": "g"}),
            loss={"ref": "h"},
        ),
        lambda x: (
            np.sort(np.diff(x))[2]
            + (np.fmod(x, 0.5) * [max(range(n + 1), key=x.__getitem__) for n in range(len(x))]).sum()
        ),
    ),
]


@pytest.mark.parametrize(("uploaded", "reference"), TORCH)
def test_graphs_of_torch_mean_what_torch_means(
    uploaded: types.CustomLossGraph, reference: Callable[[Any], float]
) -> None:
    logprobs = np.random.default_rng(2).uniform(-3, 0, 6).astype(np.float32)
    value, slope, _ = GraphLoss("l", [LOGPROBS], uploaded).evaluate(logprobs, {}, "datum 0")
    assert value == pytest.approx(reference(logprobs), rel=1e-5)
    moved = [logprobs + 1e-2 * np.eye(6)[at] * sign for at in range(6) for sign in (1, -1)]
    differences = [(reference(up) - reference(down)) / 2e-2 for up, down in zip(moved[::2], moved[1::2], strict=True)]
    np.testing.assert_allclose(slope, differences, atol=1e-2)


@pytest.mark.parametrize(
    ("inputs", "uploaded", "says"),
    [
        ([LOGPROBS], graph(node("call_function", "a", "torch.fft.fft", LP), loss=LP), "calls 'torch.fft.fft'"),
        ([LOGPROBS], graph(node("call_function", "a", "os.system", "ls"), loss=LP), "calls 'os.system'"),
        ([LOGPROBS], graph(node("call_method", "a", "backward", LP), loss=LP), "calls 'backward'"),
        ([LOGPROBS], graph(node("call_module", "a", "linear", LP), loss=LP), "is a call_module"),
        ([LOGPROBS], graph(node("call_function", "a", "torch.exp", {"ref": "b"}), loss=LP), "reads 'b', which no node"),
        ([LOGPROBS], graph(node("placeholder", "x", "x"), loss=LP), "reads the input 'x'; declared are logprobs"),
        ([LOGPROBS], types.CustomLossGraph(nodes=[]), "its last node is no output"),
        ([], MEAN_NLL, r"its inputs are \[\]; expected different names, with logprobs"),
    ],
)
def test_a_graph_that_cannot_be_evaluated_is_refused_by_node(
    inputs: list[types.CustomLossInput], uploaded: types.CustomLossGraph, says: str
) -> None:
    with pytest.raises(InputError, match=says):
        GraphLoss("l", inputs, uploaded)


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (lambda logprobs: (jnp.linalg.svd(logprobs[None])[1].sum(), {}), "svd"),
        (lambda logprobs: (jax.lax.scan(lambda c, x: (c + x, None), 0.0, logprobs)[0], {}), "'scan'"),
        (lambda logprobs: ((logprobs * jnp.arange(3)).sum(), {}), "JAX cannot trace it"),
        (lambda logprobs: (logprobs.sum() * jnp.ones(5000).at[0].set(2.0).sum(), {}), "scatter"),
        (lambda logprobs: (logprobs.sum() * TABLE.sum(), {}), "captures an array of 5000 numbers, more than the 4096"),
        (lambda logprobs: (logprobs[(logprobs.sum() > 0).astype(int) :].sum(), {}), "JAX cannot trace it"),
        (lambda logprobs: (float(logprobs.sum()), {}), "JAX cannot trace it"),
    ],
)
def test_what_has_no_counterpart_is_named(loss: Callable[..., Any], says: str) -> None:
    with pytest.raises(Untraceable, match=says):
        trace_loss(loss, [LOGPROBS])


@pytest.mark.parametrize(
    ("loss", "ranks", "says"),
    [
        (lambda lp: (lp.sum(), {}), {"lp": 1}, "expected logprobs first"),
        (lambda logprobs, q: (0, {}), {"logprobs": 1}, "expected the same names"),
        (lambda logprobs, q=1: (0, {}), {"logprobs": 1, "q": 0}, "without a default"),
        (lambda logprobs: (0, {}), {"logprobs": 0}, "the rank of 'logprobs' is 0"),
        (lambda logprobs: (logprobs.sum(), {"nll": 1}), {"logprobs": 1}, "metric 'nll'"),
        (lambda logprobs: logprobs.sum(), {"logprobs": 1}, r"expected \(loss, metrics\)"),
        (lambda logprobs: (logprobs, {}), {"logprobs": 1}, "not a scalar"),
    ],
)
def test_a_function_that_is_no_custom_loss_is_refused(
    loss: Callable[..., Any], ranks: dict[str, int], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        trace_loss(loss, check_signature(loss, ranks))


def custom_request(model_id: str, seq_id: int, data: list[types.Datum], loss_id: str) -> types.ForwardBackwardRequest:
    config = {"loss_id": loss_id}
    given = types.ForwardBackwardInput(data=data, loss_fn="custom", loss_fn_config=config)
    return types.ForwardBackwardRequest(forward_backward_input=given, model_id=model_id, seq_id=seq_id)


async def test_an_uploaded_loss_trains_as_the_same_loss_of_the_server_does(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        session_id = await client.session()
        request = types.CreateCustomLossRequest(
            session_id=session_id, custom_loss_seq_id=0, name="nll", inputs=[LOGPROBS], graph=MEAN_NLL
        )
        loss_id = (await client.do("create_custom_loss", request)).loss_id
        model_id = await client.model(session_id=session_id)
        data = batch()
        tokens = [len(datum.loss_fn_inputs["target_tokens"]) for datum in data]
        found = await client.do("forward_backward", custom_request(model_id, 1, data, loss_id))
        own = [
            types.Datum(
                datum.model_input,
                {
                    "target_tokens": datum.loss_fn_inputs["target_tokens"],
                    "weights": np.full(count, 1 / count, np.float32),
                },
            )
            for datum, count in zip(data, tokens, strict=True)
        ]
        wanted = await client.do("forward_backward", pass_request(model_id, 2, own))
        assert found.metrics["loss:sum"] == pytest.approx(wanted.metrics["loss:sum"], rel=1e-5)
        assert found.metrics["custom/nll:mean"] == pytest.approx(wanted.metrics["loss:sum"] / len(data), rel=1e-5)
        assert found.metrics["custom/tokens:sum"] == sum(tokens)
        for one, other in zip(found.loss_fn_outputs, wanted.loss_fn_outputs, strict=True):
            np.testing.assert_allclose(one["logprobs"].to_numpy(), other["logprobs"].to_numpy(), atol=1e-5)
        with pytest.raises(RequestFailedError, match=r"no loss 'nope' in this session; it has .*:loss:0"):
            await client.do("forward_backward", custom_request(model_id, 3, data, "nope"))
