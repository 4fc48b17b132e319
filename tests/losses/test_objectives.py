"""Objectives against their formulas in numpy, in 64 bits; their gradients against differences; padding against none."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from tinkex_actors import Datum, LossError, ModelInput, ShapeMismatchError
from tinkex_actors.engine.core.objectives import LOSSES, Signals, token_losses
from tinkex_actors.losses import (
    BatchLoss,
    cispo,
    cross_entropy,
    dpo,
    dro,
    entropy_bonus,
    evaluate,
    grpo_advantages,
    gspo,
    importance_sampling,
    kl_to_reference,
    ppo,
)
from tinkex_actors.losses.evaluation.evaluate import run_loss

pytestmark = pytest.mark.slow  # each objective is compiled, in 32 and in 64 bits

Rows = list[Any]

LENGTHS = (3, 1, 7, 12)


def a_datum(rng: np.random.Generator, length: int, prompt: int = 0) -> Datum:
    answer = (np.arange(length) >= prompt).astype(np.float32)
    return Datum(
        ModelInput.from_ints(rng.integers(0, 99, length).tolist()),
        {
            "target_tokens": rng.integers(0, 99, length),
            "weights": answer,
            "logprobs": -rng.uniform(0.1, 3.0, length).astype(np.float32),
            "reference_logprobs": -rng.uniform(0.1, 3.0, length).astype(np.float32),
            "advantages": rng.normal(size=length).astype(np.float32) * answer,
            "sequence_ratio_mask": answer,
        },
    )


def a_batch(seed: int = 0, lengths: tuple[int, ...] = LENGTHS) -> tuple[list[Datum], Rows]:
    rng = np.random.default_rng(seed)
    data = [a_datum(rng, length, prompt=length // 3) for length in lengths]
    return data, [-rng.uniform(0.05, 4.0, length) for length in lengths]


def read(datum: Datum, name: str) -> Any:
    return datum.loss_fn_inputs[name].to_numpy().astype(np.float64)


# --- the formulas, once more, in numpy -------------------------------------------------------------------------------
def clipped_gain(r: Any, a: Any, low: float, high: float) -> Any:
    return np.minimum(r * a, np.clip(r, low, high) * a)


def numpy_cross_entropy(datum: Datum, lp: Any) -> Any:
    return -lp * read(datum, "weights")


def numpy_importance_sampling(datum: Datum, lp: Any) -> Any:
    return -np.exp(lp - read(datum, "logprobs")) * read(datum, "advantages")


def numpy_ppo(datum: Datum, lp: Any) -> Any:
    return -clipped_gain(np.exp(lp - read(datum, "logprobs")), read(datum, "advantages"), 0.8, 1.2)


def numpy_cispo(datum: Datum, lp: Any) -> Any:
    return -np.clip(np.exp(lp - read(datum, "logprobs")), 0.0, 4.0) * lp * read(datum, "advantages")


def numpy_dro(datum: Datum, lp: Any) -> Any:
    return -(lp * read(datum, "advantages") - 0.5 * 0.05 * (lp - read(datum, "logprobs")) ** 2)


def numpy_gspo(datum: Datum, lp: Any) -> Any:
    mask = read(datum, "sequence_ratio_mask")
    ratio = np.exp(((lp - read(datum, "logprobs")) * mask).sum() / max(mask.sum(), 1e-20))
    return -clipped_gain(ratio, read(datum, "advantages"), 0.8, 1.2)


SERVERS: dict[str, tuple[Callable[..., BatchLoss], Callable[[Datum, Any], Any]]] = {
    "cross_entropy": (cross_entropy, numpy_cross_entropy),
    "importance_sampling": (importance_sampling, numpy_importance_sampling),
    "ppo": (ppo, numpy_ppo),
    "cispo": (cispo, numpy_cispo),
    "dro": (dro, numpy_dro),
    "gspo": (gspo, numpy_gspo),
}


def counts(name: str, datum: Datum) -> Any:
    if name == "dro":
        return np.ones(len(datum.loss_fn_inputs["advantages"]))
    return (read(datum, "weights") > 0) if name == "cross_entropy" else (read(datum, "advantages") != 0)


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("reduction", ["sum", "token_mean", "sequence_mean"])
def test_an_objective_equals_its_formula(name: str, reduction: str) -> None:
    make, formula = SERVERS[name]
    data, rows = a_batch()
    losses = [formula(datum, row) for datum, row in zip(data, rows, strict=True)]
    counted = [counts(name, datum) for datum in data]
    expected = {
        "sum": sum(loss.sum() for loss in losses),
        "token_mean": sum((loss * c).sum() for loss, c in zip(losses, counted, strict=True))
        / sum(map(np.sum, counted)),
        "sequence_mean": np.mean(
            [(loss * c).sum() / c.sum() for loss, c in zip(losses, counted, strict=True) if c.sum()]
        ),
    }[reduction]

    with jax.enable_x64(True):
        found = run_loss(make(reduction=reduction), data, rows)

    assert found.loss == pytest.approx(expected, rel=1e-6)
    if reduction == "sum":
        assert evaluate(make(), data, rows).loss == pytest.approx(expected, rel=1e-5)


def frozen(name: str, datum: Datum, lp: Any, at: Any) -> Any:
    """The formula with what passes no gradient held at ``at``: what the gradient there is that of."""
    if name == "cispo":
        return -np.clip(np.exp(at - read(datum, "logprobs")), 0.0, 4.0) * lp * read(datum, "advantages")
    if name == "gspo":
        mask = read(datum, "sequence_ratio_mask")
        ratio = np.exp(((at - read(datum, "logprobs")) * mask).sum() / max(mask.sum(), 1e-20)) * np.exp(lp - at)
        return -clipped_gain(ratio, read(datum, "advantages"), 0.8, 1.2)
    return SERVERS[name][1](datum, lp)


@pytest.mark.parametrize("name", SERVERS)
def test_an_objectives_gradient_is_that_of_differences_of_its_formula(name: str) -> None:
    data, rows = a_batch(1)
    with jax.enable_x64(True):
        found = run_loss(SERVERS[name][0](), data, rows)

    for datum, row, gradient in zip(data, rows, found.gradients, strict=True):
        step = 1e-6 * np.eye(len(row))
        up = np.array([frozen(name, datum, row + move, row).sum() for move in step])
        down = np.array([frozen(name, datum, row - move, row).sum() for move in step])
        np.testing.assert_allclose(gradient, (up - down) / 2e-6, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["cross_entropy", "importance_sampling", "ppo", "dro"])
def test_an_objectives_gradient_agrees_with_its_own_differences(name: str) -> None:
    """``check_grads`` of every objective that cuts nothing off."""
    data, rows = a_batch(1, (3, 5))
    loss = SERVERS[name][0](reduction="sequence_mean")
    with jax.enable_x64(True):
        check_grads(jax.jit(lambda at: loss(data, at)[0]), (rows,), order=1, modes=("rev",), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    "loss",
    [
        dpo(),
        dpo(beta=0.5, label_smoothing=0.1, length_normalised=True),
        kl_to_reference(estimator="k1"),
        kl_to_reference(estimator="k2"),
        kl_to_reference(estimator="k3"),
        entropy_bonus(),
        ppo() + 0.1 * kl_to_reference(reduction="sequence_mean"),
    ],
    ids=repr,
)
def test_a_terms_gradient_agrees_with_differences(loss: BatchLoss) -> None:
    data, rows = a_batch(2, (3, 5))

    with jax.enable_x64(True):
        check_grads(jax.jit(lambda at: loss(data, at)[0]), (rows,), order=1, modes=("rev",), atol=1e-6, rtol=1e-6)


def test_cispo_weighs_the_score_by_the_clipped_ratio() -> None:
    """Its gradient is not that of its value: the ratio is held fixed."""
    data, rows = a_batch(3)

    found = evaluate(cispo(clip_high_threshold=1.1), data, rows)

    for datum, row, gradient in zip(data, rows, found.gradients, strict=True):
        ratio = np.clip(np.exp(row - read(datum, "logprobs")), 0.0, 1.1)
        np.testing.assert_allclose(gradient, -ratio * read(datum, "advantages"), rtol=2e-5, atol=1e-6)


def test_gspo_has_the_sequences_ratio_and_the_tokens_own_gradient() -> None:
    data, rows = a_batch(4)

    found = evaluate(gspo(), data, rows)

    for datum, row, gradient in zip(data, rows, found.gradients, strict=True):
        mask, advantages = read(datum, "sequence_ratio_mask"), read(datum, "advantages")
        ratio = np.exp(((row - read(datum, "logprobs")) * mask).sum() / max(mask.sum(), 1e-20))
        clips = (advantages > 0) & (ratio > 1.2) | (advantages < 0) & (ratio < 0.8)
        np.testing.assert_allclose(gradient, np.where(clips, 0.0, -ratio * advantages), rtol=2e-5, atol=1e-6)


def test_dpo_equals_its_formula_pair_by_pair() -> None:
    data, rows = a_batch(5)

    def h(index: int) -> float:
        return float(((rows[index] - read(data[index], "reference_logprobs")) * read(data[index], "weights")).sum())

    margins = np.array([0.3 * (h(0) - h(1)), 0.3 * (h(2) - h(3))])
    with jax.enable_x64(True):
        found = run_loss(dpo(beta=0.3), data, rows)

    assert found.loss == pytest.approx(np.mean(np.log1p(np.exp(-margins))), rel=1e-6)
    assert found.metrics["margin:mean"] == pytest.approx(margins.mean(), rel=1e-6)
    assert found.metrics["accuracy:mean"] == pytest.approx((margins > 0).mean())


def test_dpo_wants_whole_pairs() -> None:
    data, rows = a_batch()

    with pytest.raises(ShapeMismatchError, match="3 data; expected a multiple of 2"):
        evaluate(dpo(), data[:3], rows[:3])


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_kl_to_reference_equals_its_formula(estimator: str) -> None:
    data, rows = a_batch(6)
    distances = [read(datum, "reference_logprobs") - row for datum, row in zip(data, rows, strict=True)]
    kept = np.concatenate([d[read(datum, "weights") > 0] for d, datum in zip(distances, data, strict=True)])
    expected = {"k1": -kept, "k2": kept**2 / 2, "k3": np.exp(kept) - 1 - kept}[estimator].mean()

    with jax.enable_x64(True):
        found = run_loss(kl_to_reference(estimator=estimator), data, rows)  # type: ignore[arg-type]

    assert found.loss == pytest.approx(expected, rel=1e-6)


def test_the_entropy_bonus_of_sampled_tokens_points_where_the_entropy_grows() -> None:
    """On average over samples its gradient is that of minus the entropy, of which the distribution is known here."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=5)
    logp = logits - np.log(np.exp(logits).sum())
    p = np.exp(logp)
    # d lp[k] / d logits = onehot(k) - p; the loss's gradient by lp, times that, in expectation:
    data = [Datum(ModelInput.from_ints([0]), {"target_tokens": np.zeros(1, np.int64)}) for _ in range(5)]
    by_lp = [
        float(evaluate(entropy_bonus(), [datum], [lp[None]]).gradients[0][0])
        for datum, lp in zip(data, logp, strict=True)
    ]
    expected = sum(p[k] * by_lp[k] * (np.eye(5)[k] - p) for k in range(5))

    entropy_gradient = -p * (logp + (-(p * logp).sum()))
    np.testing.assert_allclose(expected, -entropy_gradient, atol=1e-6)


def test_the_entropy_of_a_known_distribution_is_exact() -> None:
    logp = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
    datum = Datum(ModelInput.from_ints([1, 2]), {"target_tokens": np.zeros((2, 3), np.int64)})

    found = evaluate(entropy_bonus(), [datum], [logp])

    assert found.metrics["entropy:mean"] == pytest.approx(-(np.exp(logp) * logp).sum() / 2, rel=1e-6)
    np.testing.assert_allclose(found.gradients[0], np.exp(logp) * (1 + logp) / 2, rtol=1e-5)


@pytest.mark.parametrize("name", SERVERS)
def test_what_an_objective_gives_a_row_does_not_depend_on_the_rows_beside_it(name: str) -> None:
    data, rows = a_batch(7)
    together = evaluate(SERVERS[name][0](), data, rows)

    alone = [evaluate(SERVERS[name][0](), [datum], [row]) for datum, row in zip(data, rows, strict=True)]

    assert together.loss == pytest.approx(sum(one.loss for one in alone), rel=1e-5)
    for gradient, one in zip(together.gradients, alone, strict=True):
        np.testing.assert_allclose(gradient, one.gradients[0], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", SERVERS)
def test_extreme_logprobs_stay_finite(name: str) -> None:
    data, _ = a_batch(8)
    for size in (-1e4, -700.0, 0.0):
        found = evaluate(SERVERS[name][0](), data, [np.full(length, size) for length in LENGTHS])
        assert np.isfinite(found.loss)


@pytest.mark.parametrize("loss", [dpo(), kl_to_reference(), entropy_bonus()], ids=repr)
def test_terms_stay_finite(loss: BatchLoss) -> None:
    data, _ = a_batch(8)
    for size in (-1e4, -700.0, 0.0):
        assert np.isfinite(evaluate(loss, data, [np.full(length, size) for length in LENGTHS]).loss)


@pytest.mark.parametrize("name", ["ppo", "gspo"])
def test_compiled_equals_not_compiled(name: str) -> None:
    data, rows = a_batch(9)
    loss = SERVERS[name][0]()

    value, _ = loss(data, rows)
    gradients = jax.grad(lambda at: loss(data, at)[0])([np.float32(row) for row in rows])

    found = evaluate(loss, data, rows)
    assert found.loss == pytest.approx(float(value), rel=1e-6)
    for compiled, plain in zip(found.gradients, gradients, strict=True):
        np.testing.assert_allclose(compiled, plain, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", SERVERS)
def test_a_default_is_the_engines(name: str) -> None:
    served = LOSSES[name]
    own = {
        key: parameter.default
        for key, parameter in inspect.signature(SERVERS[name][0]).parameters.items()
        if key != "reduction"
    }

    assert own == served.defaults
    assert set(LOSSES) == set(SERVERS)


@jax.jit
def served(index: Any, logprobs: Any, signals: Signals) -> Any:
    """The engine's own losses, and their gradients; one program for all."""
    return jax.value_and_grad(lambda at: token_losses(index, at, signals).sum())(logprobs)


@pytest.mark.parametrize("name", SERVERS)
def test_a_formula_is_the_engines(name: str) -> None:
    """The same numbers into the engine's own code, where no model stands between: value and gradient are equal."""
    data, rows = a_batch(11, (6, 6, 6))

    def stacked(arrays: Any) -> Any:
        return np.stack(arrays).astype(np.float32)[:, :, None]

    def setting(key: str, otherwise: float) -> Any:
        return np.full((3, 6, 1), LOSSES[name].defaults.get(key, otherwise), np.float32)

    weights, q, advantages, ratio_mask = (
        stacked([read(datum, key) for datum in data])
        for key in ("weights", "logprobs", "advantages", "sequence_ratio_mask")
    )
    low, high = setting("clip_low_threshold", 0.0), setting("clip_high_threshold", np.inf)
    signals = Signals(weights, q, advantages, low, high, setting("beta", 0.0), ratio_mask)
    wanted, gradients = served(np.int32(LOSSES[name].index), stacked(rows), signals)
    found = evaluate(SERVERS[name][0](), data, rows)

    assert found.loss == pytest.approx(float(wanted), rel=1e-5)
    for row, gradient in zip(found.gradients, gradients, strict=True):
        np.testing.assert_allclose(row, gradient[:, 0], rtol=1e-5, atol=1e-6)


EVERY = [
    *(make(reduction=how) for make, _ in SERVERS.values() for how in ("sum", "sequence_mean")),
    dpo(),
    dpo(length_normalised=True),
    kl_to_reference(),
    entropy_bonus(),
]


@pytest.mark.parametrize("loss", EVERY, ids=repr)
def test_batches_that_are_hardly_any(loss: BatchLoss) -> None:
    """One token each, nothing that counts, some data without tokens: finite; no tokens at all, no data: refused."""
    rng = np.random.default_rng(0)
    few = [a_datum(rng, length) for length in (1, 1, 0, 2)]
    rows = [np.full(length, -0.5) for length in (1, 1, 0, 2)]
    silent = [
        Datum(d.model_input, {**d.loss_fn_inputs, **{key: np.zeros(len(row), np.float32) for key in SILENCED}})
        for d, row in zip(few, rows, strict=True)
    ]

    for data in (few, silent):
        found = evaluate(loss, data, rows)
        assert [gradient.shape for gradient in found.gradients] == [(1,), (1,), (0,), (2,)]
        assert all(np.isfinite(value) for value in (found.loss, *found.metrics.values()))
    with pytest.raises(ShapeMismatchError, match="2 data without a single logprob"):
        evaluate(loss, [few[2]] * 2, [np.zeros(0)] * 2)
    with pytest.raises(ShapeMismatchError, match="0 data without a single logprob"):
        evaluate(loss, [], [])


SILENCED = ("weights", "advantages", "sequence_ratio_mask")


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=9),
    seed=st.integers(0, 2**20),
    silent=st.booleans(),
)
@settings(max_examples=15, deadline=None)
def test_any_shape_and_any_mask_gives_the_formulas_value(lengths: list[int], seed: int, silent: bool) -> None:
    rng = np.random.default_rng(seed)
    data, rows = a_batch(seed, tuple(lengths))
    masks = [np.zeros(n, np.float32) if silent else rng.integers(0, 2, n).astype(np.float32) for n in lengths]
    data = [
        Datum(datum.model_input, {**datum.loss_fn_inputs, "weights": mask, "advantages": mask})
        for datum, mask in zip(data, masks, strict=True)
    ]

    for name in ("cross_entropy", "ppo"):
        make, formula = SERVERS[name]
        expected = sum(formula(datum, row).sum() for datum, row in zip(data, rows, strict=True))
        found = evaluate(make(), data, rows)
        assert found.loss == pytest.approx(expected, rel=1e-4, abs=1e-4)
        assert all(not gradient[mask == 0].any() for gradient, mask in zip(found.gradients, masks, strict=True))
    for loss in (ppo(reduction="sequence_mean"), kl_to_reference(), entropy_bonus(reduction="sequence_mean")):
        assert np.isfinite(evaluate(loss, data, rows).loss)


def test_thresholds_of_the_data_win_over_those_of_the_loss() -> None:
    data, rows = a_batch(10)
    own = [
        Datum(
            datum.model_input,
            {
                **datum.loss_fn_inputs,
                "clip_low_threshold": np.full(len(row), 0.95, np.float32),
                "clip_high_threshold": np.full(len(row), 1.05, np.float32),
            },
        )
        for datum, row in zip(data, rows, strict=True)
    ]

    found = evaluate(ppo(), own, rows)

    assert found.loss == pytest.approx(
        evaluate(ppo(clip_low_threshold=0.95, clip_high_threshold=1.05), data, rows).loss, rel=1e-6
    )
    assert found.loss != evaluate(ppo(), data, rows).loss


def test_grpo_advantages_are_standard_scores_within_a_group() -> None:
    rewards = np.array([[1.0, 0.0, 0.0, 1.0], [0.1, 0.1, 0.1, 0.1]])

    found = grpo_advantages(rewards)

    np.testing.assert_allclose(found, [[1, -1, -1, 1], [0, 0, 0, 0]], atol=1e-5)
    assert not found[1].any()
    np.testing.assert_array_equal(grpo_advantages(rewards.ravel(), 4), found.ravel())
    np.testing.assert_allclose(grpo_advantages(rewards, scale="none")[0], [0.5, -0.5, -0.5, 0.5])


@pytest.mark.parametrize(("rewards", "size"), [([1.0, 2.0, 3.0], 2), ([1.0, 2.0], None), ([[1.0, np.nan]], None)])
def test_grpo_advantages_refuse_what_is_no_groups(rewards: Any, size: int | None) -> None:
    with pytest.raises(ShapeMismatchError, match="grpo_advantages"):
        grpo_advantages(rewards, size)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (ppo, {"clip_low_threshold": 1.3}),
        (ppo, {"reduction": "mean"}),
        (cispo, {"clip_low_threshold": -0.2}),
        (dro, {"beta": -1.0}),
        (dpo, {"beta": 0.0}),
        (dpo, {"label_smoothing": 0.5}),
        (kl_to_reference, {"estimator": "k4"}),
    ],
)
def test_settings_out_of_range_are_refused(make: Any, options: dict[str, Any]) -> None:
    with pytest.raises(LossError, match="expected"):
        make(**options)


def test_an_input_that_is_missing_is_named() -> None:
    datum = Datum(ModelInput.from_ints([1, 2]), {"target_tokens": [1, 2], "advantages": [1.0, 1.0]})

    with pytest.raises(LossError, match=r"ppo reads loss_fn_inputs\['logprobs'\].*all have advantages, target_tokens"):
        evaluate(ppo(), [datum], [np.array([-1.0, -2.0])])
