"""The plan of microbatches: complete, within its budget, a pure function of the request."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinkex_actors.engine.core import Example
from tinkex_actors.engine.core.batching import LENGTH_BUCKETS, MICROBATCH_TOKENS, length_bucket, pack, plan
from tinkex_actors.errors import InputError


def example(length: int) -> Example:
    ids = np.arange(length, dtype=np.int32)
    return Example(ids, {"target_tokens": ids.astype(np.int64), "advantages": np.ones(length, np.float32)})


@given(st.lists(st.integers(1, LENGTH_BUCKETS[-1]), min_size=1, max_size=40))
@settings(max_examples=100, deadline=None)
def test_every_example_is_in_one_microbatch_within_the_budget(lengths: list[int]) -> None:
    batches = plan([example(length) for length in lengths])
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = length_bucket(max(lengths[index] for index in batch))
        assert len(batch) == 1 or len(batch) * longest <= MICROBATCH_TOKENS
    assert batches == plan([example(length) for length in lengths])


def test_buckets_are_the_next_length_up() -> None:
    assert [length_bucket(n) for n in (1, 32, 33, 64, 65, 2048)] == [32, 32, 48, 64, 96, 2048]
    with pytest.raises(InputError, match="2049 tokens are too many"):
        length_bucket(2049)


def test_packing_pads_with_silence() -> None:
    packed = pack([example(3), example(2), example(1)], {"clip_low_threshold": 0.8, "clip_high_threshold": 1.2})
    assert packed.tokens.shape == (4, 32)
    assert packed.targets.shape == (4, 32, 1)
    assert np.asarray(packed.tokens)[0, :4].tolist() == [0, 1, 2, 0]
    for signal, value in (("weights", 1.0), ("advantages", 1.0), ("clip_low", 0.8), ("logprobs", 0.0)):
        array = np.asarray(getattr(packed.signals, signal))[..., 0]
        assert array.sum() == pytest.approx(6 * value)
        np.testing.assert_allclose(array[1], [value] * 2 + [0.0] * 30)
