"""Cutting batches, and the sizes it goes by."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinkex_actors.errors import ConfigError
from tinkex_actors.machines.chunking import ChunkLimits, estimate_bytes, estimate_prompt_bytes, split
from tinkex_actors.types import Datum, EncodedTextChunk, ImageAssetPointerChunk, ImageChunk, ModelInput, TensorData


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], []),
        ([5], [range(1)]),
        ([5, 5], [range(2)]),
        ([5, 6], [range(1), range(1, 2)]),
        ([99], [range(1)]),
        ([99, 1], [range(1), range(1, 2)]),
        ([1, 99, 1], [range(1), range(1, 2), range(2, 3)]),
        ([1, 1, 1, 1], [range(3), range(3, 4)]),
        ([0, 0, 0, 0, 0, 0], [range(3), range(3, 6)]),
        ([4, 4, 4], [range(2), range(2, 3)]),
    ],
)
def test_cuts_before_a_limit_is_passed(sizes: list[int], expected: list[range]) -> None:
    assert split(sizes, ChunkLimits(max_items=3, max_bytes=10)) == expected


def test_the_defaults_are_the_hosted_limits() -> None:
    assert [len(chunk) for chunk in split([1] * 2049, ChunkLimits())] == [1024, 1024, 1]
    assert [len(chunk) for chunk in split([2_500_000] * 3, ChunkLimits())] == [2, 1]


def test_a_negative_size_is_refused_by_its_place() -> None:
    with pytest.raises(ValueError, match="item 2: expected a size of 0 bytes or more, got -1"):
        split([1, 2, -1], ChunkLimits())


@pytest.mark.parametrize("options", [{"max_items": 0}, {"max_bytes": 0}])
def test_limits_below_one_are_refused_by_name(options: dict[str, int]) -> None:
    (name,) = options
    with pytest.raises(ConfigError, match=f"ChunkLimits.{name}"):
        ChunkLimits(**options)


@settings(deadline=None, max_examples=150)
@given(
    sizes=st.lists(st.integers(0, 40), max_size=60),
    limits=st.builds(ChunkLimits, max_items=st.integers(1, 8), max_bytes=st.integers(1, 50)),
)
def test_chunks_are_the_items_in_order_within_the_limits_and_none_could_take_one_more(
    sizes: list[int], limits: ChunkLimits
) -> None:
    chunks = split(sizes, limits)
    assert [index for chunk in chunks for index in chunk] == list(range(len(sizes)))
    totals = [sum(sizes[index] for index in chunk) for chunk in chunks]
    for chunk, total in zip(chunks, totals, strict=True):
        assert 1 <= len(chunk) <= limits.max_items
        assert total <= limits.max_bytes or len(chunk) == 1
    for chunk, total, after in zip(chunks, totals, chunks[1:], strict=False):
        assert len(chunk) == limits.max_items or total + sizes[after.start] > limits.max_bytes


def test_a_datum_is_estimated_by_tokens_and_tensors() -> None:
    datum = Datum(
        model_input=ModelInput.from_ints([1, 2, 3]),
        loss_fn_inputs={
            "target_tokens": [2, 3, 4],
            "weights": np.ones(3, np.float32),
            "mask": TensorData([1.0], "float32", [2, 5], sparse_crow_indices=[0, 1, 1], sparse_col_indices=[4]),
        },
    )
    assert estimate_bytes(datum) == 3 * 4 + 3 * 8 + 3 * 4 + (4 + 3 * 8 + 1 * 8)


def test_images_are_estimated_by_what_is_sent() -> None:
    chunks = [
        EncodedTextChunk(tokens=[1, 2]),
        ImageChunk(data=b"x" * 100, format="png", expected_tokens=9),
        ImageAssetPointerChunk(location="asset://1", format="png"),
    ]
    assert estimate_prompt_bytes(ModelInput(chunks=chunks)) == 2 * 10 + 100 + 9
    assert estimate_bytes(Datum(model_input=ModelInput(chunks=chunks))) == 2 * 4 + 100 + 9
