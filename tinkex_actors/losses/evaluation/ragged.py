"""Ragged rows on their way through a program: end to end outside of it, padded inside.

Padded arrays are many times as large as their rows where lengths differ much. So the rows go in and come out end to
end, and the program pads them itself: it moves less memory than if padded arrays were made here, and what it needs
only there, such as a mask or a padded gradient, is often never written down at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import lax

from tinkex_actors.losses.evaluation.buckets import bucket_shape, bucket_tokens, bucket_width

__all__ = ["Layout", "Place", "mask_of", "padded", "rows_of", "tokens_of"]


_ALIGNMENT = 64


class Place(NamedTuple):
    """Where rows lie in flat and in padded arrays; an argument of programs.

    Args:
        offsets: int32 ``[B]``, where each row begins in a flat array.
        lengths: int32 ``[B]``, its tokens; 0 for rows of padding.
        cells: int32 ``[N]``, where each token lies in a padded array ``[B * T]``; 0 behind the last.
        widths: int32 ``[B]``, the K of rows ``[T, K]``; None for rows ``[T]``.
    """

    offsets: Any
    lengths: Any
    cells: Any
    widths: Any


class Layout:
    """The flat and the padded shape of a batch, each one of a few, and the place of every row in them.

    Args:
        shapes: of each row, ``[T_i]`` or ``[T_i, K_i]``, all of one rank.
        group: a padded batch has a multiple of this many rows.

    Attributes:
        rows: B of padded arrays.
        length: T of padded arrays.
        tokens: of all rows together.
        place: for programs.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], group: int = 1) -> None:
        count = len(shapes)
        rows, self.length = bucket_shape(count, max(shape[0] for shape in shapes))
        self.rows = rows + -rows % group
        lengths, offsets = np.zeros(self.rows, np.int32), np.zeros(self.rows, np.int32)
        lengths[:count] = [shape[0] for shape in shapes]
        np.cumsum(lengths[: count - 1], out=offsets[1:count])
        self.tokens = int(lengths.sum())
        # As long again as a row, so that a slice of T tokens can begin at any of them.
        self._room = bucket_tokens(self.rows * self.length, self.tokens) + self.length
        cells = _aligned(self._room, np.dtype(np.int32))
        cells[self.tokens :] = 0
        moved = np.arange(self.rows, dtype=np.int32) * self.length - offsets
        np.add(np.arange(self.tokens, dtype=np.int32), np.repeat(moved, lengths), out=cells[: self.tokens])
        widths = None
        if len(shapes[0]) == 2:
            widths = np.zeros(self.rows, np.int32)
            widths[:count] = [shape[1] for shape in shapes]
        self.place = Place(offsets, lengths, cells, widths)
        self._shapes = shapes

    def flat(self, rows: Sequence[npt.NDArray[Any]], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Return rows end to end, ``[N]`` or ``[N, K]``, 0 behind the last token.

        Args:
            rows: an array for each row, of its length; those of two dimensions need not have one width.
            dtype: of the result.
        """
        if rows[0].ndim == 1:
            flat = _aligned(self._room, np.dtype(dtype))
            np.concatenate(rows, out=flat[: self.tokens], casting="unsafe")
            flat[self.tokens :] = 0
            return flat
        flat = np.zeros((self._room, bucket_width(max(row.shape[1] for row in rows))), dtype)
        at = 0
        for row in rows:
            flat[at : at + len(row), : row.shape[1]] = row
            at += len(row)
        return flat

    def join(self, rows: Sequence[jax.Array]) -> jax.Array:
        """Return the same of JAX arrays, 0 behind the last token; traceable."""
        width = None if rows[0].ndim == 1 else bucket_width(max(row.shape[1] for row in rows))
        if width is not None:
            rows = [jnp.pad(row, [(0, 0), (0, width - row.shape[1])]) for row in rows]
        rest = jnp.zeros((self._room - self.tokens, *rows[0].shape[1:]), rows[0].dtype)
        return jnp.concatenate([*rows, rest])

    def split(self, flat: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """Return the rows of a flat array, in their own shapes: parts of one copy of its tokens."""
        copy, found, at = flat[: self.tokens].copy(), [], 0
        for shape in self._shapes:
            row = copy[at : at + shape[0]]
            found.append(row if len(shape) == 1 else row[:, : shape[1]])
            at += shape[0]
        return found


def _aligned(size: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return an array, its numbers not set, that begins where JAX can use it on the CPU without a copy."""
    raw = np.empty(size * dtype.itemsize + _ALIGNMENT, np.uint8)
    begin = -raw.ctypes.data % _ALIGNMENT
    return raw[begin : begin + size * dtype.itemsize].view(dtype)


def padded(flat: jax.Array, place: Place, length: int) -> jax.Array:
    """Return flat rows as ``[B, T]`` or ``[B, T, K]``, 0 where there is nothing; traceable."""
    slices = jax.vmap(lambda begin: lax.dynamic_slice_in_dim(flat, begin, length))(place.offsets)
    there = _there(place, length)
    return jnp.where(there.reshape(there.shape + (1,) * (flat.ndim - 1)), slices, 0)


def mask_of(place: Place, length: int, width: int | None = None) -> jax.Array:
    """Return where padded rows are no padding: boolean ``[B, T]``, or ``[B, T, K]`` for K = ``width``; traceable."""
    there = _there(place, length)
    if width is None:
        return there
    chosen: jax.Array = jnp.arange(width, dtype=jnp.int32) < place.widths[:, None, None]
    return there[:, :, None] & chosen


def tokens_of(flat: jax.Array, place: Place, length: int) -> jax.Array:
    """Return where a flat array holds something: boolean, of its shape; traceable."""
    there: jax.Array = jnp.arange(len(flat), dtype=jnp.int32) < place.lengths.sum()
    if place.widths is None:
        return there
    chosen: jax.Array = jnp.arange(flat.shape[1], dtype=jnp.int32) < place.widths[place.cells // length][:, None]
    return there[:, None] & chosen


def rows_of(array: jax.Array, place: Place) -> jax.Array:
    """Return the rows of a padded array end to end, ``[N]`` or ``[N, K]``, anything behind the last; traceable."""
    flat = array.reshape(-1, *array.shape[2:])
    taken: jax.Array = flat.at[place.cells].get(mode="promise_in_bounds")
    return taken


def _there(place: Place, length: int) -> jax.Array:
    there: jax.Array = jnp.arange(length, dtype=jnp.int32) < place.lengths[:, None]
    return there
