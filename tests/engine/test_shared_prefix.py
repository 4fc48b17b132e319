"""Rows that begin alike run their beginning once, and nobody can tell from the numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.plugins.numerics import adapter, tiny, tokens
from tinkex_actors.engine.core import Example, forward_backward
from tinkex_actors.engine.core.batching import pack, shared_prefix

pytestmark = pytest.mark.slow


def rows(own_lengths: list[int], common: int, *, policy: bool = False) -> list[Example]:
    """Return examples of the same ``common`` first tokens, with targets and signals of their own everywhere."""
    beginning = tokens(common, seed=99)
    found = []
    for seed, own in enumerate(own_lengths):
        ids = np.concatenate([beginning, tokens(own, seed=seed)]).astype(np.int32)
        rng = np.random.default_rng(1000 + seed)
        inputs: dict[str, np.ndarray] = {"target_tokens": rng.integers(0, 512, ids.size)}
        if policy:
            inputs["logprobs"] = rng.uniform(-6.5, -6.0, ids.size).astype(np.float32)
            inputs["advantages"] = rng.standard_normal(ids.size).astype(np.float32)
        else:
            inputs["weights"] = rng.uniform(0.0, 1.0, ids.size).astype(np.float32)
        found.append(Example(ids, inputs))
    return found


def alone(examples: list[Example], loss: str) -> tuple[float, list[np.ndarray], np.ndarray]:
    """Return loss, logprobs and gradient of the examples, one request each: nothing to share."""
    held = adapter()
    losses, scores, gradient = 0.0, [], np.zeros(np.shape(held.params), np.float64)
    for example in examples:
        result = forward_backward(tiny(), held, [example], loss)
        losses += result.loss_sum
        scores += result.logprobs
        gradient += np.asarray(result.adapter.gradient, np.float64)
    return losses, scores, gradient


@pytest.mark.parametrize(
    ("own_lengths", "common", "loss"),
    [
        ([20, 24, 17, 9], 30, "cross_entropy"),
        ([5, 5, 5, 5, 5, 5, 5, 5], 40, "ppo"),
        ([140, 20], 130, "cross_entropy"),
    ],
)
def test_loss_logprobs_and_gradient_are_those_of_rows_run_alone(own_lengths: list[int], common: int, loss: str) -> None:
    examples = rows(own_lengths, common, policy=loss != "cross_entropy")
    assert shared_prefix(sorted(examples, key=lambda example: -example.tokens.size)) > 0

    together = forward_backward(tiny(), adapter(), examples, loss)
    losses, scores, gradient = alone(examples, loss)

    assert together.loss_sum == pytest.approx(losses, rel=1e-5)
    for one, other in zip(together.logprobs, scores, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)
    found = np.asarray(together.adapter.gradient, np.float64)
    assert np.abs(found - gradient).max() < 1e-4 * np.abs(gradient).max()


def test_a_pass_without_gradient_shares_too() -> None:
    examples = rows([8, 12, 16], 48)
    passed = forward_backward(tiny(), adapter(), examples, "cross_entropy", backward=False)

    assert passed.loss_sum == pytest.approx(alone(examples, "cross_entropy")[0], rel=1e-5)


@pytest.mark.parametrize(
    ("own_lengths", "common", "expected"),
    [
        ([10], 100, 0),  # one row has nobody to share with
        ([10, 10], 12, 0),  # too short
        ([20, 20, 20, 20], 30, 24),
        ([20, 20, 20, 20], 16, 16),
        ([200, 200], 24, 0),  # too little gained for another compiled shape
        ([10, 10, 10, 10], 1000, 768),
    ],
)
def test_only_what_pays_is_shared(own_lengths: list[int], common: int, expected: int) -> None:
    assert shared_prefix(rows(own_lengths, common)) == expected


def test_a_row_that_is_a_prefix_of_another_keeps_a_token_of_its_own() -> None:
    whole = rows([16], 33)[0]
    short = Example(whole.tokens[:32], {name: values[:32] for name, values in whole.inputs.items()})

    assert shared_prefix([whole, short]) == 24
    assert pack([whole, short], {}, 24).tokens.shape == (2, 48 + 8)


def test_equal_requests_give_equal_bits() -> None:
    first, second = (
        forward_backward(tiny(), replace(adapter()), rows([9, 14, 11], 35), "cross_entropy") for _ in range(2)
    )

    assert first.loss_sum == second.loss_sum
    assert np.asarray(first.adapter.gradient).tobytes() == np.asarray(second.adapter.gradient).tobytes()
