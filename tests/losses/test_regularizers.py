"""The regularizers: golden values and gradients, references in float64, masks, extremes, refusals."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from tinkex_actors.errors import InputError, ShapeMismatchError
from tinkex_actors.losses import (
    L1,
    L2,
    Consistency,
    ElasticNet,
    Entropy,
    GradientPenalty,
    JensenShannon,
    KLDivergence,
    Orthogonality,
    OutputMagnitude,
    Regularizer,
)
from tinkex_actors.types import Datum, ModelInput

Floats = npt.NDArray[np.float32]

# Example 5 of the original.
X = -np.array([0.5, 1.2, 0.8, 2.1, 0.3, 1.5, 0.9, 1.8, 0.6, 1.1], np.float32)
REFERENCE = np.log(np.array([0.22, 0.18, 0.12, 0.1, 0.08, 0.07, 0.06, 0.06, 0.06, 0.05], np.float32))
PAIR = -np.array([0.45, 1.05, 0.75, 2.05, 0.25, 1.35, 0.85, 1.65, 0.55, 1.05], np.float32)
FIELD = "reference_logprobs"


def datum(**inputs: Any) -> Datum:
    return Datum(ModelInput.from_ints([1]), inputs)


DATA = [datum(reference_logprobs=REFERENCE, original_logprobs=PAIR)]


def named(one: object) -> str:
    """A test's name: the same in every process that collects it."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(one))[:80]


EVERY: list[Regularizer] = [
    L1(),
    L1(target="probs", reduction="mean", scale=2.0),
    L2(),
    L2(center="mean", reduction="mean"),
    L2(center=-1.0, clip=0.9),
    ElasticNet(l1_ratio=0.6),
    OutputMagnitude(),
    OutputMagnitude(reduction="sum", target_norm=0.5),
    Entropy(),
    Entropy(mode="maximize", reduction="sum", normalize=True),
    Entropy(temperature=0.5),
    KLDivergence(reference_field=FIELD),
    KLDivergence(reference_field=FIELD, direction="reverse", reduction="sum"),
    KLDivergence(reference_field=FIELD, symmetric=True),
    JensenShannon(reference_field=FIELD),
    Consistency(),
    Consistency(metric="l1"),
    Consistency(metric="cosine"),
    Consistency(metric="kl", reduction="sum"),
    Orthogonality(),
    Orthogonality(mode="hard"),
    Orthogonality(mode="spectral", normalize=False),
    GradientPenalty(loss_fn=lambda z: (z**3).sum()),
    GradientPenalty(loss_fn=lambda z: (z**3).sum(), mode="interpolated", key=3),
]


@functools.cache
def compiled(regularizer: Regularizer) -> Any:
    """One program for each shape, instead of one for each operation: most of a test's time is compiling."""

    def value(x: Any, mask: Any, fields: Any) -> Any:
        return regularizer([fields], x, mask)[0].sum()

    return jax.value_and_grad(value), jax.jit(jax.value_and_grad(value))


def value_and_gradient(regularizer: Regularizer, one: Datum, x: Any, mask: Any = None) -> tuple[Any, Any]:
    fields = {name: tensor.to_numpy() for name, tensor in one.loss_fn_inputs.items()}
    plain, program = compiled(regularizer)
    # A gradient penalty cuts out what is masked, so its mask cannot be traced.
    run = plain if mask is not None and isinstance(regularizer, GradientPenalty) else program
    return run(jnp.asarray(x), mask, fields)  # type: ignore[no-any-return]


def gradient(regularizer: Regularizer, one: Datum, x: Any) -> Any:
    return value_and_gradient(regularizer, one, x)[1]


@pytest.mark.parametrize(
    ("regularizer", "value", "norm"),
    [
        (L1(), 10.8, 3.1623),
        (L2(center="mean"), 3.036, 3.4848),
        (ElasticNet(l1_ratio=0.6), 12.36, 4.8349),
        (Entropy(mode="maximize"), -3.1972, 0.6867),
        (Entropy(mode="maximize", temperature=0.5), -1.9354, 0.4833),
        (KLDivergence(reference_field=FIELD), 6.087, 3.7822),
        (KLDivergence(reference_field=FIELD, direction="reverse"), -1.1569, 0.3603),
        (KLDivergence(reference_field=FIELD, symmetric=True), 2.465, 1.7687),
        (KLDivergence(reference_field=FIELD, parity=True), 6.087, 0.0),
        (Consistency(), 0.0085, 0.0583),
        (Consistency(parity=True), 0.0085, 0.0),
        (Orthogonality(), 0.0, 0.0),
        (GradientPenalty(loss_fn=jnp.sum), 4.6754, 0.0),
    ],
)
def test_the_golden_table(regularizer: Regularizer, value: float, norm: float) -> None:
    found, _ = regularizer(DATA, [X])
    assert float(found) == pytest.approx(value, abs=1e-4)
    assert float(jnp.linalg.norm(gradient(regularizer, DATA[0], X))) == pytest.approx(norm, abs=1e-4)


def test_metrics_have_the_names_of_the_original() -> None:
    assert L1(scale=3.0)([], [X])[1] == pytest.approx({"l1_raw": 10.8, "l1_mean": 1.08})
    assert L2(center="mean")([], X)[1] == pytest.approx({"l2_raw": 3.036, "l2_mean": 1.47, "center": -1.08})
    assert L2()([], X)[1]["center"] == "none"
    assert ElasticNet(l1_ratio=0.6)([], X)[1] == pytest.approx({"elastic_net": 12.36, "l1_ratio": 0.6})
    entropy = Entropy(mode="maximize", temperature=0.5)([], X)[1]
    assert (entropy["mode"], entropy["temperature"]) == ("maximize", 0.5)
    assert entropy["entropy"] == pytest.approx(1.9354, abs=1e-4)
    two = np.stack([REFERENCE, X])
    kl = KLDivergence(reference_logprobs=np.stack([REFERENCE, REFERENCE]))([], two)[1]
    assert (kl["kl_direction"], kl["kl_symmetric"], kl["kl_min"]) == ("forward", 0.0, 0.0)
    assert (kl["kl_max"], kl["kl_divergence"]) == pytest.approx((6.087, 6.087 / 2), abs=1e-3)
    assert Consistency(metric="cosine")(DATA, [X])[1] == {"consistency_metric": "cosine"}
    assert Orthogonality()([], X)[1] == {"orthogonality": 0.0}
    assert GradientPenalty(loss_fn=jnp.sum)([], X)[1] == {}


@pytest.mark.parametrize("regularizer", EVERY, ids=named)
def test_gradients_are_those_of_finite_differences(regularizer: Regularizer) -> None:
    with jax.enable_x64(True):
        x = X.astype(np.float64)
        check_grads(jax.jit(lambda at: regularizer(DATA, [at])[0]), (x,), order=1, modes=("rev",), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("regularizer", EVERY, ids=named)
def test_compiled_equals_eager_and_64_bits_agree(regularizer: Regularizer) -> None:
    eager, _ = regularizer(DATA, [X])
    compiled = jax.jit(lambda at: regularizer(DATA, [at])[0])(X)
    np.testing.assert_allclose(compiled, eager, rtol=1e-6, atol=1e-6)
    if regularizer == GradientPenalty or getattr(regularizer, "key", None) is not None:
        return  # its draw has as many bits as the logprobs
    with jax.enable_x64(True):
        exact, _ = regularizer(DATA, [X.astype(np.float64)])
    np.testing.assert_allclose(eager, exact, rtol=1e-5, atol=1e-6)


def entropy64(x: Any) -> Any:
    return -(np.exp(x) * x).sum(-1)


def kl64(p: Any, q: Any) -> Any:
    return (np.exp(p) * np.clip(p - q, -100, 100) * (np.exp(p) > 1e-10)).sum(-1)


REFERENCES: list[tuple[Regularizer, Callable[[Any, Any], Any]]] = [
    (L1(reduction="mean", scale=0.3), lambda x, q: 0.3 * np.abs(x).mean()),
    (L2(clip=1.0, center=-2.0), lambda x, q: (np.clip(x + 2, -1, 1) ** 2).sum()),
    (L2(target="probs"), lambda x, q: (np.exp(x) ** 2).sum()),
    (ElasticNet(reduction="mean", l1_ratio=0.2), lambda x, q: 0.2 * np.abs(x).mean() + 0.8 * (x * x).mean()),
    (OutputMagnitude(), lambda x, q: (np.sqrt((x * x).mean()) - 1) ** 2),
    (Entropy(), lambda x, q: entropy64(x).mean()),
    (Entropy(normalize=True, reduction="none"), lambda x, q: entropy64(x) / np.log(x.shape[-1])),
    (
        Entropy(temperature=2.0, reduction="sum"),
        lambda x, q: entropy64(x / 2 - np.log(np.exp(x / 2).sum(-1, keepdims=True))).sum(),
    ),
    (KLDivergence(reference_field=FIELD, reduction="none"), kl64),
    (KLDivergence(reference_field=FIELD, direction="reverse"), lambda x, q: kl64(q, x).mean()),
    (
        JensenShannon(reference_field=FIELD, reduction="sum"),
        lambda x, q: 0.5 * sum(kl64(one, np.log((np.exp(x) + np.exp(q)) / 2)).sum() for one in (x, q)),
    ),
    (Consistency(pair_field=FIELD, metric="l1", reduction="none"), lambda x, q: np.abs(x - q)),
    (
        Consistency(pair_field=FIELD, metric="cosine"),
        lambda x, q: 1 - (x * q).sum() / np.linalg.norm(x) / np.linalg.norm(q),
    ),
    (Consistency(pair_field=FIELD, metric="kl"), lambda x, q: 0.5 * ((np.exp(x) - np.exp(q)) * (x - q)).sum(-1).mean()),
    (Orthogonality(normalize=False), lambda x, q: ((x @ x.T) ** 2).sum() - (np.diag(x @ x.T) ** 2).sum()),
    (Orthogonality(normalize=False, mode="hard"), lambda x, q: ((x @ x.T - np.eye(len(x))) ** 2).sum()),
    (
        Orthogonality(normalize=False, mode="spectral", axis="vocabulary"),
        lambda x, q: (np.trace(x.T @ x) - x.shape[1]) ** 2 + ((x.T @ x * (1 - np.eye(x.shape[1]))) ** 2).sum(),
    ),
    (GradientPenalty(loss_fn=lambda z: z**2), lambda x, q: (2 * np.linalg.norm(x) - 1) ** 2),
]


@pytest.mark.parametrize(("regularizer", "reference"), REFERENCES, ids=named)
@pytest.mark.parametrize("shape", [(1, 2), (3, 4), (5, 1)])
def test_values_equal_a_float64_reference(
    regularizer: Regularizer, reference: Callable[[Any, Any], Any], shape: tuple[int, int]
) -> None:
    if shape[1] == 1 and getattr(regularizer, "normalize", False):
        return  # a single outcome has no maximal entropy to divide by; its own test is below
    rng = np.random.default_rng(shape)
    x, q = rng.uniform(-4, -0.01, (2, *shape))
    with jax.enable_x64(True):
        found = jax.jit(lambda x, q: regularizer([{FIELD: q}], x)[0])(x, q)
    np.testing.assert_allclose(found, reference(x, q), rtol=1e-9, atol=1e-12)


def test_orthogonality_of_three_dimensions_says_what_a_row_is() -> None:
    x = np.random.default_rng(0).uniform(-3, 0, (2, 3, 4)).astype(np.float32)
    for axis, rows in (
        ("rows", x.reshape(6, 4)),
        ("sequence", x.transpose(1, 0, 2).reshape(3, 8)),
        ("vocabulary", x.reshape(6, 4).T),
    ):
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        overlap = ((unit @ unit.T) ** 2).sum() - len(rows)
        assert float(Orthogonality(axis=axis)([], x)[0]) == pytest.approx(overlap, rel=1e-4)  # type: ignore[arg-type]


def test_a_single_outcome_is_not_normalised() -> None:
    value, _ = Entropy(normalize=True)([], np.full((4, 1), -0.5, np.float32))
    assert float(value) == pytest.approx(0.5 * np.exp(-0.5))


def test_a_ragged_list_is_concatenated() -> None:
    parts = [X[:3], X[3:4], X[4:]]
    data = [
        datum(reference_logprobs=REFERENCE[at], original_logprobs=PAIR[at])
        for at in (slice(0, 3), slice(3, 4), slice(4, 10))
    ]
    for regularizer in EVERY:
        whole, pieces = regularizer(DATA, [X])[0], regularizer(data, parts)[0]
        np.testing.assert_allclose(pieces, whole, rtol=1e-6)
    tokens = [np.log(np.full((n, 4), 0.25, np.float32)) for n in (2, 5)]
    assert float(Entropy()([], tokens)[0]) == pytest.approx(np.log(4))


def test_a_field_of_the_first_datum_can_be_penalised() -> None:
    data = [datum(hidden=np.array([3.0, -4.0], np.float32)), datum()]
    regularizer = L1(target=("field", "hidden"))
    assert float(regularizer(data, [X, X])[0]) == 7.0
    assert not gradient(regularizer, data[0], X).any()


@settings(deadline=None, max_examples=20, derandomize=True)
@given(
    mask=st.sampled_from([4, 7]).flatmap(lambda size: st.lists(st.booleans(), min_size=size, max_size=size)),
    which=st.integers(0, len(EVERY) - 1),
    seed=st.integers(0, 2**31),
)
def test_masked_equals_sliced(mask: list[bool], which: int, seed: int) -> None:
    assume(any(mask))
    regularizer, present = EVERY[which], np.array(mask)
    x, q = np.random.default_rng(seed).uniform(-4, 0, (2, len(mask))).astype(np.float32)
    x[~present] = -1e30  # whatever stands there
    full = datum(reference_logprobs=q, original_logprobs=q)
    cut = datum(reference_logprobs=q[present], original_logprobs=q[present])
    value, slope = map(np.asarray, value_and_gradient(regularizer, full, x, present))
    wanted, right = value_and_gradient(regularizer, cut, x[present])
    np.testing.assert_allclose(value, wanted, rtol=2e-5, atol=1e-5)
    assert not slope[~present].any()
    np.testing.assert_allclose(slope[present], right, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("regularizer", EVERY, ids=named)
def test_rows_that_are_padded_count_as_if_they_were_not(regularizer: Regularizer) -> None:
    rng = np.random.default_rng(1)
    x, q = rng.uniform(-4, 0, (2, 3, 4)).astype(np.float32)
    mask = np.array([True, False, True])
    full = datum(reference_logprobs=q, original_logprobs=q)
    cut = datum(reference_logprobs=q[mask], original_logprobs=q[mask])
    # The mask of a gradient penalty cannot be traced.
    run = (lambda f: f) if isinstance(regularizer, GradientPenalty) else jax.jit
    value = run(lambda x: regularizer([full], x, mask)[0])(x)
    wanted = run(lambda x: regularizer([cut], x)[0])(x[mask])
    np.testing.assert_allclose(value, wanted, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("regularizer", EVERY, ids=named)
@pytest.mark.parametrize("extreme", [-1e4, 0.0])
def test_extreme_logprobs_stay_finite(regularizer: Regularizer, extreme: float) -> None:
    x = np.array([extreme, -1.0, extreme, -0.1], np.float32)
    other = x[::-1].copy()
    value, slope = value_and_gradient(regularizer, datum(reference_logprobs=other, original_logprobs=other), x)
    assert np.isfinite(value)
    assert np.isfinite(slope).all()


def test_a_draw_depends_on_its_key_alone() -> None:
    drawn = GradientPenalty(loss_fn=lambda z: (z**2).sum(), mode="interpolated", key=1)
    first, again = drawn(DATA, [X])[0], drawn(DATA, [X])[0]
    other = drawn(DATA, [X], key=jax.random.key(2))[0]
    assert float(first) == float(again) != float(other)
    with pytest.raises(InputError, match=r"no key. Pass key="):
        GradientPenalty(loss_fn=jnp.sum, mode="interpolated")(DATA, [X])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: L1(target="logits"), "L1: target is 'logits'; expected 'logprobs', 'probs' or"),  # type: ignore[arg-type]
        (lambda: L2(reduction="none"), "L2: reduction is 'none'; expected one of 'sum', 'mean'"),  # type: ignore[arg-type]
        (lambda: L2(clip=0.0), "clip is 0.0; expected a number above 0"),
        (lambda: L2(center="median"), "center is 'median'"),  # type: ignore[arg-type]
        (lambda: ElasticNet(l1_ratio=1.5), "l1_ratio is 1.5; expected 0 to 1"),
        (lambda: Entropy(mode="bonus"), "mode is 'bonus'; expected one of 'minimize', 'maximize'"),  # type: ignore[arg-type]
        (lambda: Entropy(temperature=0.0), "temperature is 0.0"),
        (lambda: KLDivergence(), "KLDivergence: no reference; expected exactly one of"),
        (lambda: JensenShannon(reference_logprobs=X, reference_field="x"), "JensenShannon: 2 references"),
        (lambda: KLDivergence(reference_field="x", direction="back"), "direction is 'back'"),  # type: ignore[arg-type]
        (lambda: Consistency(metric="l2"), "metric is 'l2'"),  # type: ignore[arg-type]
        (lambda: Orthogonality(axis="columns"), "axis is 'columns'"),  # type: ignore[arg-type]
        (lambda: GradientPenalty(loss_fn=3), "loss_fn is a int"),  # type: ignore[arg-type]
        (lambda: L1()([], []), "an empty list; expected an array for each datum"),
        (lambda: L1()([], np.zeros(0, np.float32)), "no logprobs"),
        (lambda: L1()([], X, np.zeros(10, bool)), "the mask leaves no logprob at all"),
        (lambda: KLDivergence(reference_field="ref")([], [X]), "data is empty"),
        (lambda: Consistency(pair_field="other")(DATA, [X]), r"datum 0 has no loss_fn_inputs\['other'\]; it has orig"),
    ],
)
def test_wrong_use_is_told(make: Callable[[], object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        make()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: L1()([], X, np.ones(3, bool)), r"the mask has shape \[3\], logprobs have \[10\]"),
        (lambda: L1()([], [X, np.stack([X])]), r"arrays of shapes \[\(1, 10\), \(10,\)\]"),
        (lambda: Consistency()(DATA, [X, X]), "2 arrays of logprobs for 1 data"),
        (
            lambda: KLDivergence(reference_logprobs=X[:4])([], [X]),
            r"KLDivergence: the reference has shape \(4,\), logprobs have \(10,\)",
        ),
    ],
)
def test_shapes_that_do_not_fit_are_named(make: Callable[[], object], says: str) -> None:
    with pytest.raises(ShapeMismatchError, match=says):
        make()
