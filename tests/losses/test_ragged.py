"""Rows end to end and padded: the same numbers, each in its place, whatever the shapes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tinkex_actors.losses.evaluation.buckets import SPARSE_CELLS, bucket_tokens, pad_rows
from tinkex_actors.losses.evaluation.ragged import Layout, mask_of, padded, rows_of, tokens_of

BATCHES = {
    "one token": [(1,)],
    "ragged": [(3,), (0,), (65,), (2,)],
    "many rows, few long": [(2,)] * 300 + [(1000,), (1,)],
    "choices": [(3, 2), (5, 2)],
    "choices of several widths": [(3, 2), (1, 5), (0, 1), (9, 3)],
}


def rows_like(shapes: list[tuple[int, ...]]) -> list[Any]:
    rng = np.random.default_rng(0)
    return [-rng.random(shape).astype(np.float32) - 0.1 for shape in shapes]


@pytest.mark.parametrize("name", BATCHES)
def test_rows_are_padded_and_taken_out_again(name: str) -> None:
    shapes = BATCHES[name]
    rows, layout = rows_like(shapes), Layout(shapes, group=2)
    flat = layout.flat(rows, np.float32)

    wide = jax.jit(padded, static_argnums=2)(flat, layout.place, layout.length)
    back = rows_of(wide, layout.place)

    np.testing.assert_array_equal(wide, pad_rows(rows, (layout.rows, layout.length)))
    for row, found in zip(rows, layout.split(np.asarray(back)), strict=True):
        np.testing.assert_array_equal(found, row)
    np.testing.assert_array_equal(np.asarray(layout.join([jnp.asarray(row) for row in rows])), flat)


@pytest.mark.parametrize("name", BATCHES)
def test_masks_cover_what_is_not_there(name: str) -> None:
    shapes = BATCHES[name]
    layout = Layout(shapes)
    ones = layout.flat([np.ones(shape, np.float32) for shape in shapes], np.float32)
    width = None if ones.ndim == 1 else ones.shape[1]

    np.testing.assert_array_equal(tokens_of(jnp.asarray(ones), layout.place, layout.length), ones == 1)
    np.testing.assert_array_equal(
        mask_of(layout.place, layout.length, width), np.asarray(padded(ones, layout.place, layout.length)) == 1
    )


def test_a_flat_arrays_room_is_one_of_a_few_and_wastes_little() -> None:
    assert bucket_tokens(SPARSE_CELLS // 2, 1) == SPARSE_CELLS // 2
    rooms = {bucket_tokens(SPARSE_CELLS, tokens) for tokens in range(1, SPARSE_CELLS + 1, 97)}

    assert len(rooms) == 3
    for tokens in range(1, SPARSE_CELLS + 1, 97):
        assert tokens <= bucket_tokens(SPARSE_CELLS, tokens) <= max(4 * tokens, 5 * SPARSE_CELLS // 32)


def test_a_flat_array_is_used_where_it_lies() -> None:
    """On the CPU JAX copies what does not begin at a multiple of 64 bytes."""
    layout = Layout([(100,)])

    assert all(layout.flat([np.ones(100)], dtype).ctypes.data % 64 == 0 for dtype in (np.float32, np.int32, np.bool_))
