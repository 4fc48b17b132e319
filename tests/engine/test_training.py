"""forward_backward: losses and gradients, accumulation, batching, isolation, refusals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.plugins.numerics import (
    Floats,
    adapter,
    log_softmax,
    next_token_example,
    reference_logits,
    tiny,
    tokens,
)
from tinkex_actors.engine.core import (
    AdamHyper,
    Adapter,
    Example,
    LoraSpec,
    forward_backward,
    new_adapter,
    optim_step,
)
from tinkex_actors.engine.core.lora import leaves
from tinkex_actors.errors import ClosedError, InputError, NonFiniteLossError

# They compile, which takes seconds until the cache is warm.
pytestmark = pytest.mark.slow

LOSS_NAMES = ["cross_entropy", "importance_sampling", "ppo", "cispo", "dro", "gspo"]


def rl_example(length: int, seed: int) -> Example:
    """An example for every loss: sampler logprobs near the model's own, so that ratios straddle the clip thresholds."""
    rng = np.random.default_rng(seed)
    base = next_token_example(length, seed)
    own = logprobs_of(base, None)
    return Example(
        base.tokens,
        {
            **base.inputs,
            "logprobs": (own + rng.uniform(-0.5, 0.5, length)).astype(np.float32),
            "advantages": rng.standard_normal(length).astype(np.float32),
            "sequence_ratio_mask": (np.arange(length) >= 2).astype(np.float32),
        },
    )


def logprobs_of(example: Example, held: Adapter | None, params: Floats | None = None) -> Floats:
    logits = reference_logits(example.tokens, held, params)
    return log_softmax(logits)[np.arange(len(logits)), example.inputs["target_tokens"]]


def reference_loss(name: str, example: Example, held: Adapter, params: Floats | None = None) -> float:
    """Protocol 6.11, written down once more; what passes no gradient is taken at the adapter's own parameters."""
    lp = logprobs_of(example, held, params)
    inputs: Mapping[str, Any] = example.inputs
    if name == "cross_entropy":
        return float(-(lp * inputs["weights"]).sum())
    advantages = inputs["advantages"]
    distance = lp - inputs["logprobs"]
    if name == "dro":
        return float(-(lp * advantages - 0.5 * 0.05 * distance**2).sum())
    ratio = np.exp(distance)
    if name == "importance_sampling":
        return float(-(ratio * advantages).sum())
    if name == "cispo":
        fixed = np.exp(logprobs_of(example, held) - inputs["logprobs"])
        return float(-(np.clip(fixed, 0.0, 4.0) * lp * advantages).sum())
    if name == "gspo":
        own = logprobs_of(example, held)
        mean = np.average(own - inputs["logprobs"], weights=inputs["sequence_ratio_mask"])
        ratio = np.exp(mean) * np.exp(lp - own)
    clipped = np.clip(ratio, 0.8, 1.2)
    return float(-np.minimum(ratio * advantages, clipped * advantages).sum())


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_gradients_equal_finite_differences_of_the_reference_in_every_leaf(name: str) -> None:
    held = adapter(scale=0.02)
    examples = [rl_example(9, 1), rl_example(13, 2)]
    result = forward_backward(tiny(), held, examples, name)
    assert result.loss_sum == pytest.approx(
        sum(reference_loss(name, one, held) for one in examples), rel=1e-4, abs=1e-4
    )
    assert result.adapter.gradient is not None
    gradient = np.asarray(result.adapter.gradient, np.float64)
    params = np.asarray(held.params, np.float64)
    rng = np.random.default_rng(0)
    start, step = 0, 1e-5
    for leaf, shape in leaves(tiny().config, held.spec):
        direction = np.zeros_like(params)
        direction[start : start + int(np.prod(shape))] = rng.standard_normal(int(np.prod(shape)))
        start += int(np.prod(shape))
        up, down = (
            sum(reference_loss(name, one, held, params + sign * step * direction) for one in examples)
            for sign in (1, -1)
        )
        assert gradient @ direction == pytest.approx((up - down) / (2 * step), rel=2e-3, abs=2e-2), leaf
    assert start == params.size


def test_gradients_add_up_over_calls_and_are_cleared_by_the_step() -> None:
    held = adapter()
    one, two = next_token_example(10, 1), next_token_example(10, 2)
    first = forward_backward(tiny(), held, [one], "cross_entropy").adapter
    both = forward_backward(tiny(), first, [two], "cross_entropy").adapter
    alone = forward_backward(tiny(), held, [two], "cross_entropy").adapter
    np.testing.assert_array_equal(both.gradient, np.asarray(first.gradient) + np.asarray(alone.gradient))
    assert held.gradient is None
    assert optim_step(both, AdamHyper())[0].gradient is None


def test_forward_alone_leaves_the_adapter_as_it_is() -> None:
    held = adapter()
    result = forward_backward(tiny(), held, [next_token_example(10)], "cross_entropy", backward=False)
    trained = forward_backward(tiny(), held, [next_token_example(10)], "cross_entropy")
    assert result.adapter is held
    np.testing.assert_allclose(result.logprobs[0], trained.logprobs[0], atol=1e-5)


def test_a_batch_equals_its_examples_one_by_one() -> None:
    held = adapter()
    examples = [next_token_example(length, length) for length in (3, 40, 31, 5, 20, 32, 9, 12, 30, 1)]
    together = forward_backward(tiny(), held, examples, "cross_entropy")
    gradient: npt.NDArray[np.float64] = np.zeros(held.params.shape)
    total = 0.0
    for example, logprobs in zip(examples, together.logprobs, strict=True):
        alone = forward_backward(tiny(), held, [example], "cross_entropy")
        assert logprobs.shape == (example.tokens.size,)
        np.testing.assert_allclose(logprobs, alone.logprobs[0], atol=5e-5)
        gradient += np.asarray(alone.adapter.gradient, np.float64)
        total += alone.loss_sum
    assert together.loss_sum == pytest.approx(total, rel=1e-6)
    assert together.metrics == {"loss:sum": together.loss_sum, "tokens:sum": 183.0}
    np.testing.assert_allclose(together.adapter.gradient, gradient, atol=1e-4 * np.abs(gradient).max())


def test_padding_gives_exactly_zero_gradient() -> None:
    held = adapter()
    example = next_token_example(10)
    silent = Example(example.tokens, {**example.inputs, "weights": np.zeros(10, np.float32)})
    result = forward_backward(tiny(), held, [silent], "cross_entropy")
    assert result.loss_sum == 0.0
    assert not np.asarray(result.adapter.gradient).any()


def test_several_targets_a_token() -> None:
    held, ids = adapter(), tokens(6)
    # Three choices are padded to four: the padded column must count for nothing.
    targets = np.random.default_rng(3).integers(0, 512, (6, 3))
    weights = np.random.default_rng(4).uniform(size=(6, 3)).astype(np.float32)
    result = forward_backward(
        tiny(), held, [Example(ids, {"target_tokens": targets, "weights": weights})], "cross_entropy"
    )
    expected = np.take_along_axis(log_softmax(reference_logits(ids, held)), targets, 1)
    assert result.logprobs[0].shape == (6, 3)
    np.testing.assert_allclose(result.logprobs[0], expected, atol=2e-4)
    assert result.loss_sum == pytest.approx(-(expected * weights).sum(), rel=1e-5)


def test_without_weights_every_target_counts_once() -> None:
    example = next_token_example(8)
    plain = Example(example.tokens, {"target_tokens": example.inputs["target_tokens"]})
    result = forward_backward(tiny(), adapter(), [plain], "cross_entropy", backward=False)
    assert result.loss_sum == pytest.approx(-float(result.logprobs[0].sum()), rel=1e-6)


def test_ppo_thresholds_come_from_the_config_or_from_the_datum() -> None:
    example, held = rl_example(12, 7), adapter(scale=0.0)
    by_config = {"clip_low_threshold": 0.95, "clip_high_threshold": 1.05}
    by_datum = Example(
        example.tokens, {**example.inputs, **{k: np.full(12, v, np.float32) for k, v in by_config.items()}}
    )
    plain = forward_backward(tiny(), held, [example], "ppo", backward=False).loss_sum
    narrow = forward_backward(tiny(), held, [example], "ppo", by_config, backward=False).loss_sum
    assert narrow == forward_backward(tiny(), held, [by_datum], "ppo", backward=False).loss_sum
    assert narrow != pytest.approx(plain, rel=1e-3)


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_padding_changes_no_loss(name: str) -> None:
    examples = [rl_example(9, 1), rl_example(30, 2)]
    together = forward_backward(tiny(), adapter(), examples, name)
    alone = [forward_backward(tiny(), adapter(), [one], name) for one in examples]
    assert together.loss_sum == pytest.approx(sum(one.loss_sum for one in alone), rel=1e-4)
    gradient = np.asarray(alone[0].adapter.gradient) + np.asarray(alone[1].adapter.gradient)
    np.testing.assert_allclose(together.adapter.gradient, gradient, atol=2e-4 * np.abs(gradient).max())


def test_dro_pulls_as_hard_as_beta_says() -> None:
    example, held = rl_example(12, 7), adapter(scale=0.0)
    free, plain, hard = (
        forward_backward(tiny(), held, [example], "dro", {"beta": beta}, backward=False).loss_sum
        for beta in (0.0, 0.05, 0.5)
    )
    assert plain - free > 0
    assert hard - free == pytest.approx(10 * (plain - free), rel=1e-3)


def test_gspo_without_a_counted_token_has_ratio_one() -> None:
    example = rl_example(8, 3)
    unmasked = {**example.inputs, "sequence_ratio_mask": np.zeros(8, np.float32)}
    result = forward_backward(tiny(), adapter(), [Example(example.tokens, unmasked)], "gspo")
    assert result.loss_sum == pytest.approx(-float(example.inputs["advantages"].sum()), rel=1e-5)
    assert np.isfinite(np.asarray(result.adapter.gradient)).all()


def test_a_zero_advantage_hides_an_overflowing_ratio() -> None:
    example = rl_example(6, 1)
    advantages = np.array([0, 0, 1, 1, 1, 1], np.float32)
    placeholders = np.array([-99999, -99999, -6, -6, -6, -6], np.float32)
    mask = (advantages != 0).astype(np.float32)
    hidden = Example(
        example.tokens,
        {**example.inputs, "advantages": advantages, "logprobs": placeholders, "sequence_ratio_mask": mask},
    )
    for name in ("importance_sampling", "ppo", "cispo", "gspo"):
        result = forward_backward(tiny(), adapter(), [hidden], name)
        assert np.isfinite(result.loss_sum)
        assert np.isfinite(np.asarray(result.adapter.gradient)).all()


def test_an_infinite_loss_names_the_datum() -> None:
    good, bad = rl_example(6, 1), rl_example(6, 2)
    bad = Example(bad.tokens, {**bad.inputs, "logprobs": np.full(6, -1000, np.float32)})
    with pytest.raises(NonFiniteLossError, match="datum 1: its importance_sampling loss is"):
        forward_backward(tiny(), adapter(), [good, bad], "importance_sampling")


def test_two_runs_are_equal_in_every_bit_and_the_loss_falls_at_the_default_rate() -> None:
    examples = [next_token_example(30, seed) for seed in range(4)]

    def run() -> tuple[list[float], npt.NDArray[np.float32]]:
        held, losses = new_adapter(tiny(), LoraSpec()), []
        for _ in range(6):
            result = forward_backward(tiny(), held, examples, "cross_entropy")
            losses.append(result.loss_sum)
            held, _ = optim_step(result.adapter, AdamHyper())
        return losses, np.asarray(held.params)

    (losses, params), (again, same) = run(), run()
    assert losses == again
    assert params.tobytes() == same.tobytes()
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.97 * losses[0]


def test_adapters_do_not_touch_each_other() -> None:
    examples = [next_token_example(20, 3)]

    def trained(neighbour: bool) -> npt.NDArray[np.float32]:
        held, other = new_adapter(tiny(), LoraSpec(rank=8, seed=1)), new_adapter(tiny(), LoraSpec(rank=8, seed=2))
        for _ in range(3):
            held = optim_step(forward_backward(tiny(), held, examples, "cross_entropy").adapter, AdamHyper())[0]
            if neighbour:
                other = forward_backward(tiny(), other, [next_token_example(25, 9)], "cross_entropy").adapter
                other = optim_step(other, AdamHyper(learning_rate=0.1))[0]
        return np.asarray(held.params)

    assert trained(neighbour=True).tobytes() == trained(neighbour=False).tobytes()


def test_stopping_leaves_no_trace() -> None:
    answers = iter([False, True])
    examples = [next_token_example(10, seed) for seed in range(9)]
    held = adapter()
    with pytest.raises(ClosedError, match="abandoned between microbatches"):
        forward_backward(tiny(), held, examples, "cross_entropy", should_stop=lambda: next(answers))
    assert held.gradient is None


GOOD = next_token_example(4)
TARGETS = GOOD.inputs["target_tokens"]


@pytest.mark.parametrize(
    ("examples", "loss", "config", "says"),
    [
        ([], "cross_entropy", {}, "no data"),
        (
            [GOOD],
            "mse",
            {},
            "loss_fn 'mse' is not supported.*cispo, cross_entropy, dro, gspo, importance_sampling, ppo",
        ),
        ([GOOD], "cross_entropy", {"beta": 1.0}, "unknown key 'beta'"),
        ([GOOD], "ppo", {"clip_low_threshold": "low"}, "expected a finite number, got 'low'"),
        ([GOOD], "ppo", {"clip_low_threshold": 2.0}, "2.0 is above clip_high_threshold 1.2"),
        ([GOOD], "dro", {"beta": -1.0}, "expected 0 or more, got -1.0"),
        ([GOOD], "ppo", {}, r"datum 0: loss_fn_inputs\['logprobs'\] is missing"),
        ([GOOD, Example(GOOD.tokens)], "cross_entropy", {}, r"datum 1: loss_fn_inputs\['target_tokens'\] is missing"),
        (
            [Example(GOOD.tokens[:0], {"target_tokens": TARGETS})],
            "cross_entropy",
            {},
            "datum 0: expected a non-empty row",
        ),
        (
            [Example(GOOD.tokens + 600, GOOD.inputs)],
            "cross_entropy",
            {},
            r"datum 0: token at \[0\] is \d+; .* 0 to 511",
        ),
        ([Example(GOOD.tokens, {"target_tokens": TARGETS - 600})], "cross_entropy", {}, r"target_tokens at \[0\] is -"),
        ([Example(GOOD.tokens, {"target_tokens": TARGETS[:3]})], "cross_entropy", {}, r"shape \[3\], but with 4 input"),
        ([Example(GOOD.tokens, {"target_tokens": TARGETS.astype(float)})], "cross_entropy", {}, "dtype float64"),
        (
            [Example(GOOD.tokens, {**GOOD.inputs, "weights": np.ones(3)})],
            "cross_entropy",
            {},
            r"'weights'\] has shape \[3\]",
        ),
        (
            [Example(GOOD.tokens, {**GOOD.inputs, "weights": np.full(4, np.nan)})],
            "cross_entropy",
            {},
            r"is nan at \[0\]",
        ),
        ([Example(GOOD.tokens, {**GOOD.inputs, "wieghts": np.ones(4)})], "cross_entropy", {}, "unknown loss_fn_inputs"),
        ([next_token_example(2049)], "cross_entropy", {}, "datum 0: 2049 tokens, but the model takes at most 2048"),
    ],
)
def test_unusable_requests_name_the_datum_and_the_value(
    examples: list[Example], loss: str, config: dict[str, float | str], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        forward_backward(tiny(), adapter(), examples, loss, config)
