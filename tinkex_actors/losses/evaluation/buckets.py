"""Ragged rows as padded arrays of a few shapes, so that the batches of a whole run share a few compiled programs.

The padded shape is a pure function of the batch: the same rows give the same shape, and so the same bits, whatever was
computed before. Lengths are padded to 64, 256, 1024, 4096, ... and rows to 8, 32, 128, 512, ...: a loss reads a number
or two for each token, so that compiling once more costs more than the padding ever does. Where it would not, beyond
``COARSE_CELLS`` cells, both are padded to powers of two instead. Flat arrays, which hold the rows end to end, have room
for all cells, or, where these are many, for 5/8 or 5/32 of them: lengths that are spread evenly fill half of the cells,
exponential ones an eighth, and a room just above that fits them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["COARSE_CELLS", "SPARSE_CELLS", "bucket_shape", "bucket_tokens", "bucket_width", "pad_rows"]

COARSE_CELLS = 1 << 22
"""Cells of a padded array up to which coarse buckets are taken: 16 MiB of float32."""

SPARSE_CELLS = 1 << 18
"""Cells of a padded array from which it matters how many of them are filled."""

_FIRST_ROWS, _FIRST_LENGTH = 8, 64


def bucket_shape(rows: int, length: int) -> tuple[int, int]:
    """Return the padded ``(rows, length)`` of a batch.

    Args:
        rows: rows of the batch.
        length: tokens of its longest row.
    """
    coarse = _bucket(rows, _FIRST_ROWS, 4), _bucket(length, _FIRST_LENGTH, 4)
    if coarse[0] * coarse[1] <= COARSE_CELLS:
        return coarse
    return _bucket(rows, _FIRST_ROWS, 2), _bucket(length, _FIRST_LENGTH, 2)


def bucket_tokens(cells: int, tokens: int) -> int:
    """Return how many tokens there is room for in a flat array.

    Args:
        cells: of the padded array that belongs to it.
        tokens: of all rows together.
    """
    room = cells // 8 * 5
    if cells < SPARSE_CELLS or tokens > room:
        return cells
    return room // 4 if tokens <= room // 4 else room


def bucket_width(choices: int) -> int:
    """Return the padded K of rows ``[T, K]``: the power of two that holds every K."""
    return _bucket(choices, 1, 2)


def pad_rows(rows: Sequence[npt.NDArray[Any]], shape: tuple[int, int]) -> npt.NDArray[Any]:
    """Return rows as one array, zero where there is nothing.

    Args:
        rows: arrays ``[T_i]`` or ``[T_i, K_i]``, all of one rank and dtype.
        shape: ``(B, T)``, at least as large as the rows.

    Returns:
        ``[B, T]``, or ``[B, T, K]`` with K the power of two that holds every ``K_i``.
    """
    widths = () if rows[0].ndim == 1 else (bucket_width(max(row.shape[1] for row in rows)),)
    padded = np.zeros((*shape, *widths), rows[0].dtype)
    if not widths:
        for place, row in enumerate(rows):
            padded[place, : len(row)] = row
        return padded
    for place, row in enumerate(rows):
        cell: tuple[Any, ...] = (place, *map(slice, row.shape))
        padded[cell] = row
    return padded


def _bucket(size: int, first: int, factor: int) -> int:
    bucket = first
    while bucket < size:
        bucket *= factor
    return bucket
