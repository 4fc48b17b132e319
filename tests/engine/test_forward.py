"""The compiled decoder against an independent float64 implementation of the same formulas."""

from __future__ import annotations

import numpy as np
import pytest

from tests.plugins.numerics import adapter, log_softmax, next_token_example, reference_logits, tiny, tokens
from tinkex_actors.engine.core import forward_backward, prompt_logprobs, topk_prompt

# They compile, which takes seconds until the cache is warm.
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("length", [1, 2, 31, 64, 200])
def test_logprobs_equal_the_reference_with_an_adapter(length: int) -> None:
    held, example = adapter(), next_token_example(length)
    result = forward_backward(tiny(), held, [example], "cross_entropy", backward=False)
    targets = example.inputs["target_tokens"]
    expected = log_softmax(reference_logits(example.tokens, held))[np.arange(length), targets]
    np.testing.assert_allclose(result.logprobs[0], expected, atol=2e-4)
    assert result.loss_sum == pytest.approx(-(expected * example.inputs["weights"]).sum(), rel=1e-5)


def test_prompt_logprobs_equal_the_reference_without_an_adapter() -> None:
    ids = tokens(40)
    found = prompt_logprobs(tiny(), None, ids)
    expected = log_softmax(reference_logits(ids))[np.arange(39), ids[1:]]
    assert np.isnan(found[0])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[1:], expected, atol=2e-4)


def test_one_token_has_only_the_unknown_logprob() -> None:
    assert np.isnan(prompt_logprobs(tiny(), None, tokens(1))).tolist() == [True]


@pytest.mark.parametrize("k", [1, 5])
def test_topk_prompt_ranks_as_the_reference(k: int) -> None:
    ids, held = tokens(12), adapter()
    found = topk_prompt(tiny(), held, ids, k)
    expected = log_softmax(reference_logits(ids, held))[:-1]
    best = np.argsort(-expected, axis=1)[:, :k]
    assert found.token_ids.shape == found.logprobs.shape == (12, k)
    assert found.token_ids[0].tolist() == [0] * k
    assert found.logprobs[0].tolist() == [-99999.0] * k
    np.testing.assert_array_equal(found.token_ids[1:], best)
    np.testing.assert_allclose(found.logprobs[1:], np.take_along_axis(expected, best, 1), atol=2e-4)


def test_a_fresh_adapter_changes_nothing() -> None:
    from tinkex_actors.engine.core import LoraSpec, new_adapter

    ids = tokens(20)
    fresh = new_adapter(tiny(), LoraSpec(rank=4, seed=5))
    np.testing.assert_allclose(
        prompt_logprobs(tiny(), fresh, ids)[1:], prompt_logprobs(tiny(), None, ids)[1:], atol=1e-6
    )
    assert np.abs(np.asarray(fresh.params)).max() > 0


@pytest.mark.parametrize(
    "flags",
    [{"train_attn": False}, {"train_mlp": False}, {"train_unembed": False}, {"train_attn": False, "train_mlp": False}],
)
def test_each_part_can_be_left_out(flags: dict[str, bool]) -> None:
    held, ids = adapter(rank=4, **flags), tokens(16)
    expected = log_softmax(reference_logits(ids, held))[np.arange(15), ids[1:]]
    np.testing.assert_allclose(prompt_logprobs(tiny(), held, ids)[1:], expected, atol=2e-4)
