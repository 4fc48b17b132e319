"""What people do in a loss that JAX cannot compile: it works all the same, with the right gradient, and a hint."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tinkex_actors import Datum, LossError, ModelInput
from tinkex_actors.losses import BatchLoss, RegularizerPipeline, RegularizerSpec, evaluate

ROWS = [np.array([-0.3, -0.9, -0.6, -1.4], np.float32), np.array([-0.2, -0.7], np.float32)]
WEIGHTS = [np.array([0.5, 0.0, 1.0, 0.25], np.float32), np.array([1.0, 2.0], np.float32)]
ONES = [[1.0] * 4, [1.0] * 2]
FIRST = [[1.0] * 4, [0.0] * 2]


def data() -> list[Datum]:
    return [
        Datum(ModelInput.from_ints([7] * len(row)), {"target_tokens": np.arange(len(row)), "weights": weights})
        for row, weights in zip(ROWS, WEIGHTS, strict=True)
    ]


# --- numbers for the metrics -----------------------------------------------------------------------------------------
def float_of_a_sum(data: Any, logprobs: Any) -> Any:
    loss = jnp.sum(logprobs[0])
    return loss, {"x:mean": float(loss)}


def item_of_a_sum(data: Any, logprobs: Any) -> Any:
    loss = logprobs[0].sum()
    return loss, {"x:mean": loss.item()}


def numpy_of_an_array(data: Any, logprobs: Any) -> Any:
    return logprobs[0].sum(), {"x:mean": np.asarray(logprobs[0]).sum()}


def a_list_of_an_array(data: Any, logprobs: Any) -> Any:
    return logprobs[0].sum(), {"x:mean": math.fsum(logprobs[0].tolist())}


def a_formatted_number(data: Any, logprobs: Any) -> Any:
    loss = jnp.sum(logprobs[0])
    return loss, {"x:mean": float(f"{loss:.6f}")}


def a_number_from_math(data: Any, logprobs: Any) -> Any:
    loss = jnp.sum(logprobs[0])
    return loss, {"x:mean": math.log(math.exp(loss))}


def a_count(data: Any, logprobs: Any) -> Any:
    return logprobs[0].sum(), {"x:mean": int((logprobs[0] < -0.5).sum()) - 6.2}


def a_dict_that_grows(data: Any, logprobs: Any) -> Any:
    metrics = {}
    for place, row in enumerate(logprobs):
        metrics["x:mean" if place == 0 else "y:mean"] = float(row.sum())
    return logprobs[0].sum(), metrics


FOR_METRICS: list[Callable[..., Any]] = [
    float_of_a_sum,
    item_of_a_sum,
    numpy_of_an_array,
    a_list_of_an_array,
    a_formatted_number,
    a_number_from_math,
    a_count,
    a_dict_that_grows,
]


@pytest.mark.parametrize("loss", FOR_METRICS)
def test_numbers_for_metrics_may_be_taken_out(loss: Any, caplog: pytest.LogCaptureFixture) -> None:
    found = [evaluate(loss, data(), ROWS) for _ in range(2)][1]

    assert found.loss == pytest.approx(-3.2)
    assert found.metrics["x:mean"] == pytest.approx(-3.2)
    assert [row.tolist() for row in found.gradients] == FIRST
    assert caplog.text.count("loss.uncompiled") == 1


# --- branches, loops, numpy ------------------------------------------------------------------------------------------
def a_branch(data: Any, logprobs: Any) -> Any:
    loss = jnp.sum(logprobs[0])
    return (2 * loss if loss > -100 else loss), {}


def a_while_loop(data: Any, logprobs: Any) -> Any:
    loss = jnp.sum(logprobs[0])
    while loss > -6:
        loss = loss * 2
    return loss, {}


def a_loop_over_tokens(data: Any, logprobs: Any) -> Any:
    total = 0.0
    for datum, row in zip(data, logprobs, strict=True):
        for lp, weight in zip(row, datum.loss_fn_inputs["weights"].tolist(), strict=True):
            if float(lp) < -0.25:
                total = total - lp * weight
    return total, {}


def the_smallest_two(data: Any, logprobs: Any) -> Any:
    return sum(sorted(logprobs[0])[:2]), {}


def the_largest_of_each(data: Any, logprobs: Any) -> Any:
    return sum(max(row) for row in logprobs), {}


def those_above_a_bound(data: Any, logprobs: Any) -> Any:
    return logprobs[0][logprobs[0] > -0.7].sum(), {}


def those_with_a_weight(data: Any, logprobs: Any) -> Any:
    return sum(r[d.loss_fn_inputs["weights"].to_numpy() > 0].sum() for d, r in zip(data, logprobs, strict=True)), {}


def in_numpy(data: Any, logprobs: Any) -> Any:
    flat = np.concatenate(logprobs)
    return np.exp(np.where(flat < -0.5, flat, 0.0)).sum(), {"spread:max": float(np.max(flat) - np.min(flat))}


def weighted_in_numpy(data: Any, logprobs: Any) -> Any:
    return np.dot(data[0].loss_fn_inputs["weights"].to_numpy(), logprobs[0]) + np.float64(2) * np.mean(logprobs[1]), {}


def a_ufunc_of_scipys(data: Any, logprobs: Any) -> Any:
    special = pytest.importorskip("scipy.special")
    return special.expit(logprobs[0]).sum() + np.add.reduce(logprobs[1]), {}


def the_prompts_length(data: Any, logprobs: Any) -> Any:
    return sum(d.model_input.length * r.sum() for d, r in zip(data, logprobs, strict=True)), {}


def transformed(data: Any, logprobs: Any) -> Any:
    """Under the surface of what can be read, everything of JAX's works: custom rules, loops, gradients."""
    at = logprobs[0]
    total = jax.nn.relu(at + 0.5).sum() + jax.nn.logsumexp(at) + jnp.sort(at)[0]
    total += jax.lax.scan(lambda carry, x: (carry + x * at[0], None), 0.0, at)[0]
    total += jax.grad(lambda z: (z**3 * at).sum())(at).sum() + jax.vmap(lambda z: z * at[1])(at).sum()
    return (total if float(total) < 1e9 else 0.0), {}


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


EXPECTED: list[tuple[Callable[..., Any], list[Any]]] = [
    (a_branch, [[2.0] * 4, [0.0] * 2]),
    (a_while_loop, [[2.0] * 4, [0.0] * 2]),
    (a_loop_over_tokens, [-WEIGHTS[0], [0.0, -2.0]]),
    (the_smallest_two, [[0.0, 1.0, 0.0, 1.0], [0.0] * 2]),
    (the_largest_of_each, [[1.0, 0.0, 0.0, 0.0], [1.0, 0.0]]),
    (those_above_a_bound, [[1.0, 0.0, 1.0, 0.0], [0.0] * 2]),
    (those_with_a_weight, [[1.0, 0.0, 1.0, 1.0], [1.0] * 2]),
    (in_numpy, [np.exp(ROWS[0]) * (ROWS[0] < -0.5), np.exp(ROWS[1]) * (ROWS[1] < -0.5)]),
    (weighted_in_numpy, [WEIGHTS[0], [1.0, 1.0]]),
    (a_ufunc_of_scipys, [sigmoid(ROWS[0]) * sigmoid(-ROWS[0]), [1.0] * 2]),
    (the_prompts_length, [[4.0] * 4, [2.0] * 2]),
]


@pytest.mark.parametrize(("loss", "gradients"), EXPECTED)
def test_what_is_done_with_numbers_has_the_right_gradient(
    loss: Any, gradients: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    found = evaluate(loss, data(), ROWS)

    for row, wanted in zip(found.gradients, gradients, strict=True):
        np.testing.assert_allclose(row, wanted, rtol=1e-5, atol=1e-7)
    assert caplog.text.count("loss.uncompiled") == 1
    assert "jax.numpy.where" in caplog.text


def test_jaxs_own_transformations_work_where_numbers_are_read() -> None:
    def compiled(data: Any, logprobs: Any) -> Any:
        at = logprobs[0]
        total = jax.nn.relu(at + 0.5).sum() + jax.nn.logsumexp(at) + jnp.sort(at)[0] + at[0] * at.sum()
        return total + 4 * (at**3).sum() - (at**3).sum() + at[1] * at.sum() - 0 * logprobs[1].sum(), {}

    one = evaluate(transformed, data(), ROWS)
    # d/dz of (z^3 a) at z = a, summed, is 3 a^3; its gradient by both roles of a is 9 a^2, as of 3 a^3.
    other = evaluate(compiled, data(), ROWS)

    assert one.loss == pytest.approx(other.loss, rel=1e-5)
    np.testing.assert_allclose(one.gradients[0], other.gradients[0], rtol=1e-5)


def test_the_hint_has_the_line_and_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    def branching(data: Any, logprobs: Any) -> Any:
        return (logprobs[0].sum() if logprobs[0].sum() < 0 else logprobs[1].sum()), {}

    evaluate(branching, data(), ROWS)

    assert f"line {branching.__code__.co_firstlineno + 1}: TracerBoolConversionError" in caplog.text


# --- losses on padded arrays, and pipelines --------------------------------------------------------------------------
def padded_float(inputs: Any, logprobs: Any, mask: Any) -> Any:
    loss = (logprobs * inputs["weights"] * mask).sum()
    return loss, {"x:mean": float(loss)}


def padded_branch(inputs: Any, logprobs: Any, mask: Any) -> Any:
    loss = (logprobs * inputs["weights"] * mask).sum()
    return (loss if loss < 0 else -loss), {}


def padded_numpy(inputs: Any, logprobs: Any, mask: Any) -> Any:
    return np.sum(np.where(mask, logprobs * inputs["weights"], 0.0)), {}


def padded_selection(inputs: Any, logprobs: Any, mask: Any) -> Any:
    return (logprobs * inputs["weights"])[mask].sum(), {}


@pytest.mark.parametrize("fn", [padded_float, padded_branch, padded_numpy, padded_selection])
def test_a_batch_loss_that_cannot_be_compiled_works_too(fn: Any, caplog: pytest.LogCaptureFixture) -> None:
    found = [evaluate(BatchLoss(fn), data(), ROWS) for _ in range(2)][1]

    assert found.loss == pytest.approx(sum(float((w * r).sum()) for w, r in zip(WEIGHTS, ROWS, strict=True)), rel=1e-6)
    for row, weights in zip(found.gradients, WEIGHTS, strict=True):
        np.testing.assert_allclose(row, weights)
    assert caplog.text.count("loss.uncompiled") == 1
    assert f"line {fn.__code__.co_firstlineno + (1 if fn in (padded_numpy, padded_selection) else 2)}: " in caplog.text


def test_what_a_batch_loss_raises_comes_through() -> None:
    def divided(inputs: Any, logprobs: Any, mask: Any) -> Any:
        raise ZeroDivisionError("no pairs")

    with pytest.raises(ZeroDivisionError, match="no pairs"):
        evaluate(BatchLoss(divided), data(), ROWS)


def test_a_pipelines_parts_may_take_numbers_out_and_keep_their_norms() -> None:
    def base(data: Any, logprobs: Any) -> Any:
        loss = sum(jnp.sum(row) for row in logprobs)
        return loss, {"x:mean": float(loss)}

    def squares(data: Any, logprobs: Any) -> Any:
        value = sum((row**2).sum() for row in logprobs if float(row.min()) < -1)
        return value, {"value": float(value)}

    pipeline = RegularizerPipeline([RegularizerSpec(squares, 0.5, "squares")], base, track_grad_norms=True)
    found = evaluate(pipeline, data(), ROWS)

    np.testing.assert_allclose(found.gradients[0], 1 + ROWS[0], rtol=1e-6)
    assert found.gradients[1].tolist() == ONES[1]
    assert found.metrics["squares/grad_norm:mean"] == pytest.approx(2 * np.linalg.norm(ROWS[0]), rel=1e-5)


# --- what a loss changes beside computing ----------------------------------------------------------------------------
SEEN: dict[str, Any] = {"calls": 0}


def counts_its_calls(data: Any, logprobs: Any) -> Any:
    SEEN["calls"] += 1
    return logprobs[0].sum(), {"calls:max": SEEN["calls"]}


def test_a_counter_outside_the_loss_counts_every_call_once(caplog: pytest.LogCaptureFixture) -> None:
    SEEN["calls"] = 0

    assert [evaluate(counts_its_calls, data(), ROWS).metrics["calls:max"] for _ in range(4)] == [1, 2, 3, 4]
    assert "changes something that it captured" in caplog.text


@pytest.mark.parametrize("history", [[], deque(maxlen=9)], ids=["list", "deque"])
def test_what_a_loss_appends_are_numbers(history: Any) -> None:
    best = -math.inf

    def remembers(data: Any, logprobs: Any) -> Any:
        nonlocal best
        loss = logprobs[0].sum()
        history.append(loss)
        best = max(best, float(loss))
        return loss, {}

    for step in range(3):
        evaluate(remembers, data(), [ROWS[0] * (step + 1), ROWS[1]])

    assert [float(value) for value in history] == pytest.approx([-3.2, -6.4, -9.6])
    assert best == pytest.approx(-3.2)


def test_an_array_that_a_loss_writes_to_is_written_once() -> None:
    totals = np.zeros(2)

    def adds(data: Any, logprobs: Any) -> Any:
        totals[0] += 1
        return logprobs[0].sum(), {"totals:max": totals[0]}

    evaluate(adds, data(), ROWS)
    evaluate(adds, data(), ROWS)

    assert totals.tolist() == [2.0, 0.0]


# --- what is still refused -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "loss",
    [
        lambda data, logprobs: (float(logprobs[0].sum()), {}),
        lambda data, logprobs: (sum(math.exp(lp) for lp in logprobs[0]), {}),
        lambda data, logprobs: (jnp.asarray(np.asarray(logprobs[0])).sum(), {}),
    ],
    ids=["float", "math", "numpy.asarray"],
)
def test_a_loss_made_of_numbers_alone_has_no_gradient_and_says_so(loss: Any) -> None:
    with pytest.raises(LossError, match=r"does not depend on logprobs.*float\(\).*math\.exp\(\).*cut the gradient"):
        evaluate(loss, data(), ROWS)


def test_a_torch_loss_that_does_not_look_like_one_is_told_what_to_do() -> None:
    with pytest.raises(LossError, match=r"calls detach\(\), which torch's tensors have.*losses\.TorchLoss\("):
        evaluate(lambda data, logprobs: ((logprobs[0].detach() * logprobs[0]).sum(), {}), data(), ROWS)


def test_what_the_loss_itself_raises_comes_through_and_is_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    """A batch that a loss refuses does not make it an uncompiled one."""

    def reads(data: Any, logprobs: Any) -> Any:
        return (data[0].loss_fn_inputs["bonus"].to_numpy() * logprobs[0]).sum(), {}

    with pytest.raises(KeyError, match="bonus"):
        evaluate(reads, data(), ROWS)
    whole = [Datum(d.model_input, {**d.loss_fn_inputs, "bonus": d.loss_fn_inputs["weights"]}) for d in data()]
    found = evaluate(reads, whole, ROWS)

    np.testing.assert_allclose(found.gradients[0], WEIGHTS[0])
    assert "loss.uncompiled" not in caplog.text


def test_a_gradient_cannot_be_written_into_a_numpy_array() -> None:
    def written(data: Any, logprobs: Any) -> Any:
        table = np.zeros(4, np.float32)
        np.add(table, logprobs[0], out=table)
        return table.sum(), {}

    with pytest.raises(TypeError, match="cannot write what a gradient goes through into a numpy array"):
        evaluate(written, data(), ROWS)
