"""How a loss is run: compiled, uncompiled, on padded arrays; what is refused, and in which words."""

from __future__ import annotations

import functools
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinkex_actors import ClosedError, ConfigError, Datum, LossError, ModelInput, NonFiniteLossError, ShapeMismatchError
from tinkex_actors.losses import BatchLoss, evaluate
from tinkex_actors.losses.evaluation.buckets import COARSE_CELLS, bucket_shape
from tinkex_actors.losses.evaluation.fingerprints import fingerprint

Rows = list[Any]


def a_datum(length: int, seed: int = 0) -> Datum:
    weights = np.random.default_rng(seed).random(length).astype(np.float32)
    return Datum(ModelInput.from_ints([1] * length), {"target_tokens": np.arange(length), "weights": weights})


def a_batch(*lengths: int) -> tuple[list[Datum], Rows]:
    rng = np.random.default_rng(len(lengths))
    data = [a_datum(length, seed) for seed, length in enumerate(lengths)]
    return data, [-rng.random(length).astype(np.float32) - 0.1 for length in lengths]


def weighted(data: Any, logprobs: Any) -> tuple[Any, dict[str, Any]]:
    total = 0.0
    for datum, row in zip(data, logprobs, strict=True):
        total = total - (jnp.asarray(datum.loss_fn_inputs["weights"].to_numpy()) * row**2).sum()
    return total, {"longest:max": max(len(row) for row in logprobs)}


def weighted_padded(inputs: Any, logprobs: Any, mask: Any) -> tuple[Any, dict[str, Any]]:
    return -(inputs["weights"] * logprobs**2 * mask).sum(), {"tokens:sum": mask.sum()}


def expect_weighted(found: Any, data: list[Datum], rows: Rows) -> None:
    weights = [datum.loss_fn_inputs["weights"].to_numpy() for datum in data]
    assert found.loss == pytest.approx(-sum((w * r**2).sum() for w, r in zip(weights, rows, strict=True)), rel=1e-5)
    for gradient, weight, row in zip(found.gradients, weights, rows, strict=True):
        assert gradient.shape == row.shape
        np.testing.assert_allclose(gradient, -2 * weight * row, rtol=1e-5)


def test_a_loss_on_lists_and_one_on_padded_arrays_give_the_same() -> None:
    data, rows = a_batch(3, 9, 1)

    listed, padded = evaluate(weighted, data, rows), evaluate(BatchLoss(weighted_padded), data, rows)

    expect_weighted(listed, data, rows)
    expect_weighted(padded, data, rows)
    assert (listed.metrics, padded.metrics) == ({"longest:max": 9.0}, {"tokens:sum": 13.0})


@given(st.lists(st.integers(1, 70), min_size=1, max_size=12))
@settings(max_examples=25, deadline=None)
def test_padding_changes_nothing(lengths: list[int]) -> None:
    data, rows = a_batch(*lengths)

    expect_weighted(evaluate(BatchLoss(weighted_padded), data, rows), data, rows)


def test_only_what_a_loss_reads_is_laid_out() -> None:
    seen: list[set[str]] = []

    def looks(inputs: Any, logprobs: Any, mask: Any) -> tuple[Any, dict[str, Any]]:
        seen.append(set(dict.keys(inputs)))
        extra = inputs.get("bonus", 0.0)
        return (inputs["weights"] * logprobs * mask).sum() + 0 * extra, {}

    data, rows = a_batch(3, 4)
    evaluate(BatchLoss(looks), data, rows)

    assert seen[-1] == {"weights"}
    assert seen[0] == {"target_tokens", "weights"}


def test_two_hundred_ragged_batches_compile_a_handful_of_programs() -> None:
    rng = np.random.default_rng(0)

    def shifted(inputs: Any, logprobs: Any, mask: Any) -> tuple[Any, dict[str, Any]]:
        return ((logprobs + 1) * mask).sum(), {}

    for _ in range(200):
        data, rows = a_batch(*(1 + rng.exponential(100, rng.integers(1, 33)).astype(int)))
        loss = BatchLoss(shifted)  # made anew for each batch, as in a training loop
        evaluate(loss, data, rows)

    assert 1 < loss.compiled <= 8


@pytest.mark.parametrize("shape", [(1, 1), (8, 64), (9, 65), (512, 4000), (512, 9000), (3000, 40_000)])
def test_a_padded_shape_holds_the_batch_and_wastes_a_bounded_factor(shape: tuple[int, int]) -> None:
    rows, length = bucket_shape(*shape)

    assert rows >= shape[0]
    assert length >= shape[1]
    factor = 4 if rows * length <= COARSE_CELLS else 2
    assert rows < max(9, factor * shape[0])
    assert length < max(65, factor * shape[1])


def test_a_loss_that_branches_on_numbers_runs_uncompiled_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    data, rows = a_batch(4, 2)

    def branching(data: Any, logprobs: Any) -> tuple[Any, dict[str, Any]]:
        return (jnp.sum(logprobs[0]) if logprobs[0].sum() < 0 else logprobs[1].sum()), {}

    found = [evaluate(branching, data, rows) for _ in range(2)]

    assert [gradient.tolist() for gradient in found[1].gradients] == [[1] * 4, [0] * 2]
    assert caplog.text.count("loss.uncompiled") == 1
    assert "jax.numpy.where" in caplog.text


def test_a_loss_in_numpy_is_differentiated_all_the_same() -> None:
    data, rows = a_batch(4, 2)

    def in_numpy(data: Any, logprobs: Any) -> tuple[Any, dict[str, Any]]:
        flat = np.concatenate(logprobs)
        scale = np.asarray(data[0].loss_fn_inputs["weights"])[0]
        return np.mean(np.exp(flat)) * scale, {"spread:max": float(np.max(flat) - np.min(flat))}

    found = evaluate(in_numpy, data, rows)

    scale = data[0].loss_fn_inputs["weights"].to_numpy()[0]
    np.testing.assert_allclose(np.concatenate(found.gradients), scale * np.exp(np.concatenate(rows)) / 6, rtol=1e-5)
    assert found.metrics["spread:max"] == pytest.approx(np.ptp(np.concatenate(rows)), rel=1e-5)


def test_what_a_loss_reads_of_the_prompt_is_never_yesterdays() -> None:
    """The tokens of model_input are no arguments of the compiled program, so a loss that reads them is not compiled."""

    def counts_tokens(data: Any, logprobs: Any) -> tuple[Any, dict[str, Any]]:
        return sum(d.model_input.to_ints()[0] * r.sum() for d, r in zip(data, logprobs, strict=True)), {}

    rows = [np.full(2, -1.0, np.float32)]
    for token in (3, 5):
        datum = Datum(ModelInput.from_ints([token, 0]), {"target_tokens": [1, 2]})
        assert evaluate(counts_tokens, [datum], rows).loss == -2.0 * token


def test_what_a_loss_captured_is_never_yesterdays() -> None:
    data, rows = a_batch(3)
    beta = 1.0

    def scaled(data: Any, logprobs: Any) -> tuple[Any, dict[str, Any]]:
        return beta * logprobs[0].sum(), {}

    first = evaluate(scaled, data, rows).loss
    beta = 2.0

    assert evaluate(scaled, data, rows).loss == pytest.approx(2 * first)


def test_functions_are_the_same_where_code_and_captured_values_are() -> None:
    def make(scale: float, table: Any) -> Any:
        return lambda x: x * scale + table[0] + helper(x)

    def helper(x: float) -> float:
        return helper(x - 1) if x > 0 else 0.0

    class Method:
        def __init__(self, scale: float) -> None:
            self.scale = scale

        def __call__(self, x: float) -> float:
            return x * self.scale

    def same(left: Any, right: Any) -> bool:
        return bool(fingerprint(left)[0] == fingerprint(right)[0])

    table = np.arange(3.0)
    assert same(make(1.0, table), make(1.0, table.copy()))
    assert not same(make(1.0, table), make(2.0, table))
    assert not same(make(1.0, table), make(1.0, table + 1))
    assert same(functools.partial(make(1.0, table), 3), functools.partial(make(1.0, table), 3))
    assert not same(functools.partial(make(1.0, table), 3), functools.partial(make(1.0, table), 4))
    method = Method(1.0)
    before = fingerprint(method)[0]
    method.scale = 2.0
    assert fingerprint(method)[0] != before


def test_a_batch_gives_the_same_bits_every_time() -> None:
    data, rows = a_batch(5, 50, 17)

    for loss in (weighted, BatchLoss(weighted_padded)):
        first, second = evaluate(loss, data, rows), evaluate(loss, data, rows)
        assert first.loss == second.loss
        for left, right in zip(first.gradients, second.gradients, strict=True):
            np.testing.assert_array_equal(left, right)


def test_losses_run_beside_each_other() -> None:
    data, rows = a_batch(6, 3)
    meeting = threading.Barrier(2, timeout=30)

    def meets(data: Any, logprobs: Any) -> tuple[Any, dict[str, Any]]:
        if isinstance(data[0], Datum):  # not while it is traced
            meeting.wait()
        return (jnp.sum(logprobs[0]) if logprobs[0].sum() < 0 else logprobs[1].sum()), {}

    found: list[float] = []
    threads = [threading.Thread(target=lambda: found.append(evaluate(meets, data, rows).loss)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == [pytest.approx(rows[0].sum(), rel=1e-5)] * 2


# --- what is refused -------------------------------------------------------------------------------------------------
def test_the_datum_and_the_token_of_a_nan_are_named() -> None:
    data, rows = a_batch(3, 4)
    rows[1][2] = -1.0

    def logs(data: Any, logprobs: Any) -> tuple[Any, dict[str, Any]]:
        return sum(jnp.log(row + 1.0).sum() for row in logprobs), {}

    def padded(inputs: Any, logprobs: Any, mask: Any) -> tuple[Any, dict[str, Any]]:
        return jnp.where(mask, jnp.log(logprobs + 1.0), 0.0).sum(), {}

    for loss in (logs, BatchLoss(padded)):
        with pytest.raises(
            NonFiniteLossError, match=r"datum 1, token 2: the gradient is inf where its logprob is -1\.0"
        ):
            evaluate(loss, data, rows)


def test_a_logprob_that_is_not_finite_is_the_servers_fault() -> None:
    data, rows = a_batch(3, 4)
    rows[0][1] = np.nan

    with pytest.raises(NonFiniteLossError, match="datum 0, token 1: its logprob is nan, before the loss"):
        evaluate(weighted, data, rows)


def test_shapes_that_do_not_fit_are_named() -> None:
    data, rows = a_batch(3, 4)

    with pytest.raises(ShapeMismatchError, match=r"0 data without a single logprob.*at least one token"):
        evaluate(weighted, [], [])
    with pytest.raises(ShapeMismatchError, match="1 arrays of logprobs for 2 data"):
        evaluate(weighted, data, rows[:1])
    with pytest.raises(ShapeMismatchError, match=r"datum 1: logprobs have shape \[3\], expected \[4\]"):
        evaluate(weighted, data, [rows[0], rows[0]])
    with pytest.raises(ShapeMismatchError, match=r"datum 0: loss_fn_inputs\['target_tokens'\] is missing"):
        evaluate(weighted, [Datum(ModelInput.from_ints([1]))], [np.zeros(1)])
    with pytest.raises(ShapeMismatchError, match=r"loss of shape \[3\]; expected a scalar"):
        evaluate(lambda data, logprobs: (logprobs[0], {}), data, rows)


@pytest.mark.parametrize(
    "loss",
    [
        lambda data, logprobs: (jax.lax.stop_gradient(logprobs[0]).sum(), {}),
        lambda data, logprobs: (1.0, {}),
        lambda data, logprobs: (jnp.asarray(logprobs[0].sum().item()), {}),
        lambda data, logprobs: (jnp.asarray(data[0].loss_fn_inputs["weights"].to_numpy()).sum(), {}),
    ],
)
def test_a_loss_without_a_gradient_is_refused(loss: Any) -> None:
    data, rows = a_batch(3)

    with pytest.raises(LossError, match="does not depend on logprobs"):
        evaluate(loss, data, rows)


def test_a_gradient_that_is_zero_by_chance_is_not_refused() -> None:
    data, rows = a_batch(3)

    found = evaluate(lambda data, logprobs: (jnp.maximum(logprobs[0], 0.0).sum(), {}), data, rows)

    assert found.gradients[0].tolist() == [0.0] * 3


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ({"margin": 1.0}, "metric 'margin' is not named name:reduction"),
        ({"margin:median": 1.0}, "Call it 'margin:mean'"),
        ({"a:b:mean": 1.0}, "not named name:reduction"),
        ({"margin:mean": np.zeros(2)}, r"metric 'margin:mean' is an array of shape \[2\]; expected a number"),
        ({"margin:mean": "high"}, "metric 'margin:mean' is a str"),
        ([1.0], "list as its metrics; expected a dict"),
    ],
)
def test_metrics_keep_their_rule(metrics: Any, words: str) -> None:
    data, rows = a_batch(3)

    with pytest.raises(LossError, match=words):
        evaluate(lambda data, logprobs: (logprobs[0].sum(), metrics), data, rows)


def test_a_loss_must_return_a_pair() -> None:
    data, rows = a_batch(3)

    with pytest.raises(LossError, match=r"expected \(loss, metrics\)"):
        evaluate(lambda data, logprobs: logprobs[0].sum(), data, rows)
    with pytest.raises(LossError, match="a function of"):
        evaluate("cross_entropy", data, rows)  # type: ignore[arg-type]


def test_the_devices_there_are_are_named() -> None:
    data, rows = a_batch(3)

    expect_weighted(evaluate(weighted, data, rows, device="cpu"), data, rows)
    for device in ("tpu", "cpu:99", "cpu:first"):
        with pytest.raises(ConfigError, match="JAX sees cpu:0"):
            evaluate(weighted, data, rows, device=device)


def test_more_bits_tell_where_these_are_too_few(caplog: pytest.LogCaptureFixture) -> None:
    data, rows = a_batch(3)

    evaluate(weighted, data, rows, float64=True)
    assert "loss.imprecise" not in caplog.text
    evaluate(lambda data, logprobs: ((logprobs[0] + 1e7).sum() - 3e7, {}), data, rows, float64=True)

    assert "loss.imprecise" in caplog.text


def test_a_loss_that_nobody_waits_for_is_abandoned() -> None:
    data, rows = a_batch(3)

    with pytest.raises(ClosedError, match="weighted was abandoned"):
        evaluate(weighted, data, rows, should_stop=lambda: True)
