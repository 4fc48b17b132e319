"""One result from many, against the table of protocol 6.5 and a naive reference."""

import math
from fractions import Fraction
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinkex_actors.errors import InputError, RemoteWireError
from tinkex_actors.machines.combining import combine
from tinkex_actors.types import ForwardBackwardOutput, TensorData


def output(rows: int, metrics: dict[str, float], kind: str = "array_record", first: int = 0) -> ForwardBackwardOutput:
    tensors = [{"logprobs": TensorData([float(first + row)], "float32")} for row in range(rows)]
    return ForwardBackwardOutput(kind, tensors, metrics)


def combined(key: str, *weighted: tuple[int, float]) -> dict[str, float]:
    return dict(combine([output(rows, {key: value}) for rows, value in weighted]).metrics)


@pytest.mark.parametrize(
    ("key", "weighted", "expected"),
    [
        ("loss:mean", [(1, 1.0), (3, 5.0)], {"loss:mean": 4.0}),
        ("loss:sum", [(1, 1.0), (3, 5.0)], {"loss:sum": 6.0}),
        ("loss:min", [(1, 2.0), (3, 1.0)], {"loss:min": 1.0}),
        ("loss:max", [(1, 2.0), (3, 1.0)], {"loss:max": 2.0}),
        ("time:slack", [(1, 1.0), (3, 5.0)], {"time:slack": 1.0}),
        ("h:hash2", [(1, 2.0**63), (1, 2.0**63), (1, 7.9)], {"h:hash2": 7}),
        ("h:hash2", [(1, -1.0), (1, 2.0)], {"h:hash2": 1}),
        (
            "clock:unique",
            [(1, 3.0), (1, 1.0), (1, 2.0)],
            {"clock:unique": 3.0, "clock:unique_1": 1.0, "clock:unique_2": 2.0},
        ),
        ("x:median", [(1, 1.0), (1, 2.0)], {}),
        (":sum", [(1, 1.0), (1, 2.0)], {":sum": 3.0}),
        ("loss:mean", [(0, 1.0), (0, 5.0)], {"loss:mean": 3.0}),
        ("time:slack", [(0, 1.0), (0, 5.0)], {"time:slack": 2.0}),
        ("loss:mean", [(4, 1.5)], {"loss:mean": 1.5}),
        ("time:slack", [(4, 1.5)], {"time:slack": 0.0}),
        ("x:median", [(4, 1.5)], {}),
    ],
)
def test_each_reduction(key: str, weighted: list[tuple[int, float]], expected: dict[str, float]) -> None:
    assert combined(key, *weighted) == expected


@pytest.mark.parametrize("reduction", ["mean", "sum", "min", "max", "slack", "hash2"])
@pytest.mark.parametrize("values", [(math.nan, 1.0), (1.0, math.nan)])
def test_a_nan_is_not_hidden_by_the_order_of_the_chunks(reduction: str, values: tuple[float, float]) -> None:
    (value,) = combined(f"loss:{reduction}", *((1, value) for value in values)).values()
    assert math.isnan(value)


def test_an_infinite_hash_is_no_number() -> None:
    assert math.isnan(combined("h:hash2", (1, math.inf))["h:hash2"])


def test_outputs_are_concatenated_and_the_type_is_the_first() -> None:
    whole = combine([output(2, {}, "a"), output(0, {}, "b", first=2), output(1, {}, "c", first=2)])
    assert [row["logprobs"].tolist() for row in whole.loss_fn_outputs] == [[0.0], [1.0], [2.0]]
    assert whole.loss_fn_output_type == "a"


def test_only_metrics_of_the_first_that_all_have() -> None:
    whole = combine([output(1, {"a:sum": 1.0, "b:sum": 1.0}), output(1, {"b:sum": 2.0, "c:sum": 2.0})])
    assert whole.metrics == {"b:sum": 3.0}


@pytest.mark.parametrize("key", ["loss", "loss:sum:mean", ""])
def test_a_malformed_name_passes_one_chunk_and_fails_several(key: str) -> None:
    assert combined(key, (1, 0.25)) == {key: 0.25}
    with pytest.raises(RemoteWireError, match=r"expected a name of the form name:reduction"):
        combined(key, (1, 0.25), (1, 0.25))


def test_nothing_cannot_be_combined() -> None:
    with pytest.raises(InputError, match="at least one chunk"):
        combine([])


REDUCTIONS = {
    "mean": lambda values, weights: np.average(values, weights=weights if weights.any() else None),
    "sum": lambda values, weights: np.sum(values),
    "min": lambda values, weights: np.min(values),
    "max": lambda values, weights: np.max(values),
    "slack": lambda values, weights: np.max(values) - np.average(values, weights=weights if weights.any() else None),
}


def bare(rows: int, metrics: dict[str, float]) -> ForwardBackwardOutput:
    return ForwardBackwardOutput("array_record", [{}] * rows, metrics)


names = st.sampled_from(["a", "b", "loss"]).flatmap(lambda name: st.sampled_from([f"{name}:{r}" for r in REDUCTIONS]))


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.builds(bare, st.integers(0, 4), st.dictionaries(names, st.floats(-1e6, 1e6), max_size=6)),
        min_size=1,
        max_size=6,
    )
)
def test_agrees_with_a_naive_reference(outputs: list[ForwardBackwardOutput]) -> None:
    whole = combine(outputs)
    weights = np.array([len(one.loss_fn_outputs) for one in outputs])
    common = set.intersection(*(set(one.metrics) for one in outputs))
    expected = {
        key: float(REDUCTIONS[key.split(":")[1]](np.array([one.metrics[key] for one in outputs]), weights))
        for key in common
    }
    assert dict(whole.metrics) == pytest.approx(expected, rel=1e-9, abs=1e-6)
    assert len(whole.loss_fn_outputs) == weights.sum()


def of_bare(key: str, *weighted: tuple[int, float]) -> dict[str, float]:
    return dict(combine([bare(rows, {key: value}) for rows, value in weighted]).metrics)


# Whole numbers, in which floats make no error: what is left is the formula.
weighted_wholes = st.lists(
    st.tuples(st.integers(0, 32), st.integers(-(2**20), 2**20).map(float)), min_size=1, max_size=8
)


@settings(deadline=None, max_examples=100)
@given(weighted_wholes)
def test_means_sums_and_slack_are_the_formulas_exactly(chunks: list[tuple[int, float]]) -> None:
    rows = [weight for weight, _ in chunks]
    values = [Fraction(value) for _, value in chunks]
    rows = rows if any(rows) else [1] * len(rows)
    mean = sum(w * v for w, v in zip(rows, values, strict=True)) / sum(rows)

    assert of_bare("m:mean", *chunks)["m:mean"] == float(mean)
    assert of_bare("m:sum", *chunks)["m:sum"] == sum(values)
    assert of_bare("m:slack", *chunks)["m:slack"] == float(max(values)) - float(mean)
    assert of_bare("m:min", *chunks)["m:min"] == min(values)
    assert of_bare("m:max", *chunks)["m:max"] == max(values)


finite = st.floats(allow_nan=False, allow_infinity=False)


@settings(deadline=None, max_examples=100)
@given(st.lists(finite, min_size=1, max_size=8), st.randoms())
def test_a_hash_is_a_sum_of_whole_numbers_modulo_two_to_the_64(values: list[float], rng: Random) -> None:
    mask = 2**64 - 1
    expected = 0
    for value in values:
        expected = (expected + (math.trunc(value) & mask)) & mask

    found = of_bare("h:hash2", *((1, value) for value in values))["h:hash2"]

    assert type(found) is int
    assert found == expected
    rng.shuffle(values)
    assert of_bare("h:hash2", *((1, value) for value in values)) == {"h:hash2": expected}


@settings(deadline=None, max_examples=100)
@given(st.lists(finite, min_size=1, max_size=6), st.lists(finite, min_size=1, max_size=6))
def test_hashes_of_parts_add_up_to_that_of_the_whole(some: list[float], others: list[float]) -> None:
    parts = [of_bare("h:hash2", *((1, value) for value in part))["h:hash2"] for part in (some, others)]

    assert of_bare("h:hash2", *((1, value) for value in (*some, *others)))["h:hash2"] == sum(parts) % 2**64


@settings(deadline=None, max_examples=100)
@given(st.lists(st.floats(), min_size=1, max_size=12))
def test_unique_keeps_every_value_under_a_name_of_its_own_in_the_order_of_the_chunks(values: list[float]) -> None:
    whole = of_bare("clock:unique", *((1, value) for value in values))

    names = ["clock:unique", *(f"clock:unique_{number}" for number in range(1, len(values)))]
    assert list(whole) == names
    assert repr([whole[name] for name in names]) == repr(values)
