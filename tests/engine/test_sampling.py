"""Sampling: its distribution, its limits, its stops, its seeds, and its cache against the full forward pass."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.plugins.numerics import Floats, adapter, log_softmax, reference_logits, tiny, tokens
from tinkex_actors.engine.core import BaseModel, DecodeParams, Example, forward_backward, prompt_logprobs, sample
from tinkex_actors.engine.core.sampling import decoding
from tinkex_actors.errors import ClosedError, InputError

# They compile, which takes seconds until the cache is warm.
pytestmark = pytest.mark.slow

PROMPT = tokens(20, seed=4)
HELD = adapter()
DRAWS = 2048


def first_tokens(params: DecodeParams) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """How often each id came as the first token of many answers."""
    answers = sample(tiny(), HELD, PROMPT, DRAWS, replace(params, max_tokens=1))
    return np.bincount([int(answer.tokens[0]) for answer in answers], minlength=512)


def exact(temperature: float, top_k: int = 512, top_p: float = 1.0) -> Floats:
    """The probabilities of the first token, from the reference: temperature, then top-k, then the nucleus."""
    p = np.exp(log_softmax(reference_logits(PROMPT, HELD)[-1] / temperature))
    order = np.argsort(-p)
    p[order[top_k:]] = 0
    p /= p.sum()
    before = np.cumsum(p[order]) - p[order]
    p[order[before >= top_p]] = 0
    return np.asarray(p / p.sum(), np.float64)


def chi_squared(counts: np.ndarray[tuple[int], np.dtype[np.int64]], probabilities: Floats, bins: int) -> float:
    """Pearson's statistic over groups of ids of about equal probability."""
    order = np.argsort(-probabilities)
    groups = np.minimum((np.cumsum(probabilities[order]) * bins).astype(int), bins - 1)
    seen = np.bincount(groups, counts[order], bins)
    expected = np.bincount(groups, probabilities[order], bins) * DRAWS
    full = expected > 0
    return float((((seen - expected) ** 2)[full] / expected[full]).sum())


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_draws_follow_the_exact_distribution(temperature: float) -> None:
    statistic = chi_squared(first_tokens(DecodeParams(temperature=temperature, seed=11)), exact(temperature), 20)
    # 43.8 is the 99.9 % quantile with 19 degrees of freedom.
    assert statistic < 43.8
    wrong = chi_squared(first_tokens(DecodeParams(temperature=temperature, seed=11)), exact(temperature * 1.5), 20)
    assert wrong > 200


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, 5, 1.0), (0.25, -1, 0.4), (0.5, 8, 0.5), (0.25, 1, 1.0), (0.25, -1, 1e-6)],
)
def test_truncation_keeps_exactly_the_documented_set(temperature: float, top_k: int, top_p: float) -> None:
    counts = first_tokens(DecodeParams(temperature=temperature, top_k=top_k, top_p=top_p, seed=3))
    expected = exact(temperature, top_k if top_k > 0 else 512, top_p)
    # Otherwise an allowed token might not have come by chance.
    assert expected[expected > 0].min() * DRAWS > 12
    assert set(np.flatnonzero(counts)) == set(np.flatnonzero(expected))
    kept = expected > 0
    # Six standard deviations of a share, at most.
    np.testing.assert_allclose(counts[kept] / DRAWS, expected[kept], atol=6 * 0.5 / np.sqrt(DRAWS))


def test_the_cache_equals_the_full_forward_pass_and_the_trainer() -> None:
    for answer in sample(tiny(), HELD, PROMPT, 3, DecodeParams(max_tokens=40, seed=1)):
        whole = np.concatenate([PROMPT, answer.tokens])
        np.testing.assert_allclose(prompt_logprobs(tiny(), HELD, whole)[20:], answer.logprobs, atol=1e-4)
        targets = {"target_tokens": whole[1:].astype(np.int64)}
        trained = forward_backward(tiny(), HELD, [Example(whole[:-1], targets)], "cross_entropy", backward=False)
        np.testing.assert_allclose(trained.logprobs[0][19:], answer.logprobs, atol=1e-4)


def test_a_share_of_the_total_finds_its_token_and_never_one_without_weight() -> None:
    rng = np.random.default_rng(5)
    for size in (7, 256, 513, 49152):
        weights = rng.exponential(size=(16, size)).astype(np.float32)
        weights[:, rng.random(size) < 0.7] = 0
        weights[:, size // 3] = 1e-3
        weights[0] = np.eye(1, size, size - 1)
        weights[1] = np.eye(1, size, 0)
        shares = rng.random(16).astype(np.float32)
        shares[2:4] = 0, np.nextafter(np.float32(1), np.float32(0))
        found = np.asarray(decoding._at_share(weights, shares))
        rows = np.arange(16)
        assert (weights[rows, found] > 0).all()
        # In exact sums the share lies within the token, up to the rounding of float32.
        sums = np.cumsum(weights.astype(np.float64), axis=1)
        after = sums[rows, found] / sums[:, -1]
        before = after - weights[rows, found] / sums[:, -1]
        assert (before - 1e-5 <= shares).all()
        assert (shares <= after + 1e-5).all()


def test_logprobs_ignore_temperature_and_truncation() -> None:
    params = DecodeParams(max_tokens=5, temperature=0.3, top_k=4, top_p=0.9, seed=2)
    (answer,) = sample(tiny(), HELD, PROMPT, 1, params)
    whole = np.concatenate([PROMPT, answer.tokens])
    np.testing.assert_allclose(prompt_logprobs(tiny(), HELD, whole)[20:], answer.logprobs, atol=1e-4)


def test_temperature_zero_takes_the_likeliest_token_every_time() -> None:
    (answer,) = sample(tiny(), None, PROMPT, 1, DecodeParams(max_tokens=6, temperature=0.0, top_k=3, seed=9))
    whole = PROMPT
    for token in answer.tokens:
        assert token == reference_logits(whole)[-1].argmax()
        whole = np.append(whole, token)
    assert answer.stop_reason == "length"
    assert answer.tokens.dtype == np.int32
    assert answer.logprobs.dtype == np.float32


def test_seeds_decide_everything() -> None:
    def drawn(seed: int, count: int) -> list[list[int]]:
        return [a.tokens.tolist() for a in sample(tiny(), HELD, PROMPT, count, DecodeParams(max_tokens=20, seed=seed))]

    three = drawn(5, 3)
    assert three == drawn(5, 3)
    assert three == drawn(5, 4)[:3]
    assert len({tuple(one) for one in three}) == 3
    others = [drawn(seed, 1)[0] for seed in (5, 6, 5 + 2**32, 2**64 - 1)]
    assert len({tuple(one) for one in others}) == 4


def test_many_answers_are_all_different_rows() -> None:
    answers = sample(tiny(), HELD, PROMPT, 19, DecodeParams(max_tokens=12, seed=8))
    assert len({tuple(answer.tokens.tolist()) for answer in answers}) == 19


def test_a_stop_token_ends_the_answer_and_stays_in_it() -> None:
    free = DecodeParams(max_tokens=20, temperature=0.0)
    (whole,) = sample(tiny(), HELD, PROMPT, 1, free)
    stop = int(whole.tokens[7])
    first = whole.tokens.tolist().index(stop)
    (answer,) = sample(tiny(), HELD, PROMPT, 1, replace(free, stop_token_ids=frozenset({stop, 511})))
    assert answer.tokens.tolist() == whole.tokens[: first + 1].tolist()
    assert answer.stop_reason == "stop"
    assert answer.logprobs.tolist() == whole.logprobs[: first + 1].tolist()


def test_stop_check_sees_every_prefix_and_ends_the_answer() -> None:
    seen: list[int] = []

    def check(prefix: list[int]) -> bool:
        seen.append(len(prefix))
        return len(prefix) == 18

    (answer,) = sample(tiny(), HELD, PROMPT, 1, DecodeParams(max_tokens=30, seed=1), stop_check=check)
    assert (answer.tokens.size, answer.stop_reason, seen) == (18, "stop", list(range(1, 19)))


def test_rows_stop_one_by_one() -> None:
    params = DecodeParams(max_tokens=40, seed=2, stop_token_ids=frozenset(range(0, 512, 16)))
    answers = sample(tiny(), HELD, PROMPT, 4, params)
    for answer in answers:
        inside = [token % 16 == 0 for token in answer.tokens.tolist()]
        assert not any(inside[:-1])
        assert inside[-1] == (answer.stop_reason == "stop")
    assert len({answer.tokens.size for answer in answers}) > 1


def test_answers_end_where_the_context_does() -> None:
    base = tiny()
    short = BaseModel(base.name, replace(base.config, context_length=30), base.tokenizer, base.weights)
    (answer,) = sample(short, None, PROMPT, 1, DecodeParams())
    assert (answer.tokens.size, answer.stop_reason) == (10, "length")
    with pytest.raises(InputError, match="20 tokens fill the model's context of 20"):
        sample(replace(short, config=replace(base.config, context_length=20)), None, PROMPT, 1, DecodeParams())


def test_stopping_is_asked_between_chunks() -> None:
    answers = iter([False, True])
    with pytest.raises(ClosedError, match="abandoned after 16 tokens"):
        sample(tiny(), HELD, PROMPT, 1, DecodeParams(max_tokens=40), should_stop=lambda: next(answers))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_k", -2),
        ("top_p", 0.0),
        ("top_p", 1.1),
    ],
)
def test_parameters_out_of_range_are_named(field: str, value: float) -> None:
    with pytest.raises(InputError, match=f"sampling_params.{field}: expected .* got {value}"):
        DecodeParams(**{field: value})  # type: ignore[arg-type]


def test_unusable_prompts_are_refused() -> None:
    with pytest.raises(InputError, match="prompt: expected a non-empty row"):
        sample(tiny(), None, PROMPT[:0], 1, DecodeParams())
    with pytest.raises(InputError, match=r"prompt: token at \[1\] is -4"):
        sample(tiny(), None, np.array([1, -4], np.int32), 1, DecodeParams())
    with pytest.raises(InputError, match="num_samples: expected 1 or more, got 0"):
        sample(tiny(), None, PROMPT, 0, DecodeParams())
