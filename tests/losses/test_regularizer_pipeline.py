"""Pipelines: what they add up to, norms from one pass, one program for all of it, schedules, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tinkex_actors.errors import InputError, LossError, ShapeMismatchError
from tinkex_actors.losses import (
    L1,
    L2,
    BatchLoss,
    Consistency,
    ElasticNet,
    Entropy,
    GradientPenalty,
    KLDivergence,
    Orthogonality,
    RegularizerPipeline,
    RegularizerSpec,
    constant,
    cosine,
    evaluate,
    gradient_norm,
    linear,
)
from tinkex_actors.types import CustomLossOutput, Datum, ModelInput

X = -np.array([0.5, 1.2, 0.8, 2.1, 0.3, 1.5, 0.9, 1.8, 0.6, 1.1], np.float32)
REFERENCE = np.log(np.array([0.22, 0.18, 0.12, 0.1, 0.08, 0.07, 0.06, 0.06, 0.06, 0.05], np.float32))
PAIR = -np.array([0.45, 1.05, 0.75, 2.05, 0.25, 1.35, 0.85, 1.65, 0.55, 1.05], np.float32)
DATA = [Datum(ModelInput.from_ints([1]), {"reference_logprobs": REFERENCE, "original_logprobs": PAIR})]


def example_5(parity: bool = False) -> list[RegularizerSpec]:
    def kl(**options: Any) -> KLDivergence:
        return KLDivergence(reference_field="reference_logprobs", parity=parity, **options)

    return [
        RegularizerSpec(L1(), 0.01, "l1_sparsity"),
        RegularizerSpec(Entropy(mode="maximize"), 0.001, "entropy"),
        RegularizerSpec(Entropy(mode="maximize", temperature=0.5), 0.001, "entropy_sharp"),
        RegularizerSpec(L2(center="mean"), 0.005, "l2_weight_decay"),
        RegularizerSpec(ElasticNet(l1_ratio=0.6), 0.002, "elastic_net"),
        RegularizerSpec(kl(), 0.01, "kl_forward"),
        RegularizerSpec(kl(direction="reverse"), 0.01, "kl_reverse"),
        RegularizerSpec(kl(symmetric=True), 0.01, "kl_symmetric"),
        RegularizerSpec(Consistency(parity=parity), 0.02, "consistency"),
        RegularizerSpec(Orthogonality(), 0.003, "orthogonality"),
        RegularizerSpec(GradientPenalty(loss_fn=jnp.sum), 0.001, "gradient_penalty"),
    ]


def base(_: Any, logprobs: Any) -> Any:
    return -jnp.concatenate([jnp.atleast_1d(row) for row in logprobs]).mean(), {"perplexity": math.e}


@pytest.mark.parametrize(("parity", "total_norm"), [(False, 0.3195), (True, 0.3575)])
def test_the_golden_pipeline(parity: bool, total_norm: float) -> None:
    output = RegularizerPipeline(example_5(parity), base, track_grad_norms=True).compute(DATA, [X])
    assert isinstance(output, CustomLossOutput)
    assert (output.loss_total, output.regularizer_total) == pytest.approx((1.3016, 0.2216), abs=1e-4)
    assert output.total_grad_norm == pytest.approx(total_norm, abs=1e-4)
    assert output.base_loss is not None
    assert output.base_loss["value"] == pytest.approx(1.08)
    assert output.base_loss["grad_norm"] == pytest.approx(0.3162, abs=1e-4)
    assert output.base_loss["custom"] == {"perplexity": math.e}
    kl = output.regularizers["kl_forward"]
    assert (kl.value, kl.contribution) == pytest.approx((6.087, 0.06087), abs=1e-4)
    assert kl.grad_norm == pytest.approx(0.0 if parity else 3.7822, abs=1e-4)
    assert kl.grad_norm_weighted == pytest.approx(0.01 * (kl.grad_norm or 0.0))
    assert kl.custom["kl_direction"] == "forward"
    assert list(output.regularizers) == [spec.name for spec in example_5()]


def test_without_terms_the_total_is_the_base() -> None:
    output = RegularizerPipeline([], base, track_grad_norms=True).compute([], [X])
    assert output.loss_total == pytest.approx(1.08)
    assert output.total_grad_norm == pytest.approx(0.3162, abs=1e-4)
    assert RegularizerPipeline([], base).compute([], [X]).total_grad_norm is None


def test_gradient_norms_alone() -> None:
    assert gradient_norm(jnp.sum, X) == pytest.approx(3.1623, abs=1e-4)
    assert gradient_norm(lambda x: x**2, X) == pytest.approx(7.6681, abs=1e-4)
    assert gradient_norm(lambda rows: L1()([], rows), [X, X]) == pytest.approx(math.sqrt(20), abs=1e-4)


def batch(lengths: list[int], seed: int = 0) -> tuple[list[Datum], list[Any]]:
    rng = np.random.default_rng(seed)
    data = [
        Datum(
            ModelInput.from_ints([1] * length),
            {
                "target_tokens": np.ones(length, np.int64),
                "weights": rng.uniform(0, 1, length).astype(np.float32),
                "reference_logprobs": rng.uniform(-3, 0, length).astype(np.float32),
                "original_logprobs": rng.uniform(-3, 0, length).astype(np.float32),
            },
        )
        for length in lengths
    ]
    return data, [rng.uniform(-3, -0.1, length).astype(np.float32) for length in lengths]


def nll(inputs: Any, logprobs: Any, mask: Any) -> Any:
    return -(logprobs * mask * inputs["weights"]).sum(), {"weight:sum": (inputs["weights"] * mask).sum()}


def test_one_program_equals_the_terms_one_by_one() -> None:
    data, logprobs = batch([3, 1, 4, 2])  # as many tokens as X: what is compiled for the golden pipeline serves here
    specs = [spec for spec in example_5() if spec.name != "gradient_penalty"]
    together = RegularizerPipeline(specs, BatchLoss(nll), track_grad_norms=True)
    # A plain function for a base: nothing can be padded then.
    apart = RegularizerPipeline(specs, lambda given, rows: BatchLoss(nll)(given, rows), track_grad_norms=True)
    one, other = evaluate(together, data, logprobs), evaluate(apart, data, logprobs)
    assert one.loss == pytest.approx(other.loss, rel=1e-5)
    assert one.metrics == pytest.approx(other.metrics, rel=1e-4, abs=1e-5)
    for row, wanted in zip(one.gradients, other.gradients, strict=True):
        np.testing.assert_allclose(row, wanted, atol=1e-5)
    wanted = jax.jit(jax.grad(lambda rows: together(data, rows)[0]))([jnp.asarray(row) for row in logprobs])
    for row, right in zip(one.gradients, wanted, strict=True):
        np.testing.assert_allclose(row, right, atol=1e-5)
    total = math.sqrt(sum(float((row**2).sum()) for row in one.gradients))
    assert one.metrics["total_grad_norm:mean"] == pytest.approx(total, rel=1e-5)


def test_a_schedule_compiles_nothing() -> None:
    data, logprobs = batch([4, 5])
    traced: list[int] = []

    def counted(inputs: Any, logprobs: Any, mask: Any) -> Any:
        traced.append(1)
        return nll(inputs, logprobs, mask)

    pipeline = RegularizerPipeline([RegularizerSpec(L1(), linear(0.0, 1.0, 10), "l1")], BatchLoss(counted))
    losses = [pipeline.at(0).value_and_grad(data, logprobs).loss]
    before = len(traced)
    losses += [pipeline.at(step).value_and_grad(data, logprobs).loss for step in (5, 10, 20)]
    size = float(sum(np.abs(row).sum() for row in logprobs))
    assert [loss - losses[0] for loss in losses] == pytest.approx([0, size / 2, size, size], rel=1e-4)
    assert len(traced) == before > 0


def test_weights_over_steps() -> None:
    assert [constant(0.3)(step) for step in (0, 99)] == [0.3, 0.3]
    assert [linear(1.0, 0.0, 4)(step) for step in (0, 1, 4, 9)] == [1.0, 0.75, 0.0, 0.0]
    assert [cosine(1.0, 0.0, 4)(step) for step in (0, 2, 4, 9)] == pytest.approx([1.0, 0.5, 0.0, 0.0])
    assert cosine(1.0, 0.0, 4)(1) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    with pytest.raises(InputError, match="'l1' at step 3: its weight is -1"):
        RegularizerPipeline([RegularizerSpec(L1(), lambda step: -1, "l1")], base).at(3).compute([], [X])
    with pytest.raises(InputError, match="steps is 0"):
        linear(0.0, 1.0, 0)


class Module:
    """A regularizer as an object."""

    def compute(self, data: Any, logprobs: Any, options: Any) -> Any:
        value = options["scale"] * jnp.abs(logprobs[0]).sum()
        return value, {"l1_value": value}


def test_functions_and_objects_are_terms() -> None:
    def two(data: Any, logprobs: Any) -> Any:
        return jnp.abs(logprobs[0]), {}

    def three(data: Any, logprobs: Any, options: Any) -> Any:
        return options["scale"] * jnp.abs(logprobs[0]).sum(), {}

    specs = [
        RegularizerSpec(two, 1.0, "two"),
        RegularizerSpec(three, 1.0, "three", options={"scale": 2.0}),
        RegularizerSpec(Module(), 1.0, "module", options={"scale": 1.0}),
    ]
    output = RegularizerPipeline(specs, base, track_grad_norms=True).compute([], [X])
    assert [part.value for part in output.regularizers.values()] == pytest.approx([10.8, 21.6, 10.8])
    assert output.regularizers["module"].custom == pytest.approx({"l1_value": 10.8})
    assert output.regularizers["three"].grad_norm == pytest.approx(2 * math.sqrt(10))


def test_a_term_without_a_gradient_has_no_norm_and_costs_no_other_its_own() -> None:
    def hidden(data: Any, logprobs: Any) -> Any:
        return float(np.abs(np.asarray(logprobs[0])).sum()), {}

    specs = [RegularizerSpec(hidden, 1.0, "hidden"), RegularizerSpec(L1(), 1.0, "l1")]
    output = RegularizerPipeline(specs, base, track_grad_norms=True).compute([], [X])
    assert output.loss_total == pytest.approx(1.08 + 21.6)
    assert output.regularizers["hidden"].grad_norm is None
    assert output.regularizers["l1"].grad_norm == pytest.approx(3.1623, abs=1e-4)
    assert output.total_grad_norm is None


async def late(data: Any, logprobs: Any) -> Any:
    return 0.0, {}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: RegularizerSpec(L1(), -0.1, "l1"), "'l1': its weight is -0.1; expected a finite number, 0 or more"),
        (lambda: RegularizerSpec(L1(), math.nan, "l1"), "its weight is nan"),
        (lambda: RegularizerSpec(L1(), 1.0, " "), "name is ' '; expected text without a colon"),
        (lambda: RegularizerSpec(L1(), 1.0, "a:b"), "name is 'a:b'"),
        (lambda: RegularizerSpec(3, 1.0, "three"), "fn is a int; expected a regularizer, a function"),
        (lambda: RegularizerSpec(late, 1.0, "late"), "is a coroutine function. Pass is_async=True"),
        (lambda: RegularizerPipeline(example_5() + example_5()[:2]), "names: entropy, l1_sparsity. Give each"),
        (lambda: RegularizerPipeline([L1()]), r"regularizers\[0\] is a L1; expected RegularizerSpec"),  # type: ignore[list-item]
        (lambda: RegularizerPipeline([], lambda data: (0, {})), "does not take two arguments"),  # type: ignore[arg-type, misc]
        (lambda: RegularizerPipeline([], 3), "base_loss is a int"),  # type: ignore[arg-type]
        (lambda: RegularizerPipeline([], base, timeout=0), "timeout is 0"),
        (lambda: RegularizerPipeline([]).compute([], [X]), "has no base loss"),
    ],
)
def test_wrong_use_is_told(make: Callable[[], object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        make()


def test_what_fails_is_named() -> None:
    def broken(data: Any, logprobs: Any) -> Any:
        raise KeyError("table")

    def alone(data: Any, logprobs: Any) -> Any:
        return 1.0

    for fn, says in (
        (broken, "regularizer 'x' failed: KeyError: 'table'"),
        (alone, r"regularizer 'x' returned a float; expected \(value, metrics\)"),
    ):
        with pytest.raises(LossError, match=says):
            RegularizerPipeline([RegularizerSpec(fn, 1.0, "x")], base).compute([], [X])
    with pytest.raises(LossError, match="the base loss failed: KeyError"):
        RegularizerPipeline([], broken).compute([], [X])
    data, logprobs = batch([3, 4])
    missing = KLDivergence(reference_field="other")
    with pytest.raises(InputError, match=r"datum 0 has no loss_fn_inputs\['other'\]"):
        RegularizerPipeline([RegularizerSpec(missing, 1.0, "kl")], BatchLoss(nll)).value_and_grad(data, logprobs)
    longer = [Datum(one.model_input, {**one.loss_fn_inputs, "other": np.zeros(9, np.float32)}) for one in data]
    with pytest.raises(ShapeMismatchError, match=r"datum 0: loss_fn_inputs\['other'\] has shape \(9,\)"):
        RegularizerPipeline([RegularizerSpec(missing, 1.0, "kl")], BatchLoss(nll)).value_and_grad(longer, logprobs)
