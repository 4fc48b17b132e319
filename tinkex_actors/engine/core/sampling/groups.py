"""Rows that share a compiled call: who sits where, and one chunk of tokens for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from tinkex_actors.engine.core.batching import length_bucket
from tinkex_actors.engine.core.forward import KeyValueCache
from tinkex_actors.engine.core.model import BaseModel
from tinkex_actors.engine.core.sampling.decoding import (
    CHUNKS,
    Choice,
    DecodeState,
    decode_chunk,
    empty,
    prefill,
    regroup,
    seat,
)
from tinkex_actors.engine.core.sampling.drawing import Answer, Drawing

__all__ = ["Group", "Prompt", "most_rows", "row_bucket"]

_ROW_BUCKETS = (1, 2, 4, 8, 16)
# Rows times slots of one group's cache: bounds it to about 360 MB for smollm2-135m.
_MAX_GROUP_CELLS = 8192
# A group lets go of rows when this many times fewer would do: each number of rows is another compiled program.
_SHRINK = 4
# A reader wants a token when it is there; larger chunks save calls, which only small models notice.
_WATCHED_CHUNK = 4


def row_bucket(rows: int) -> int:
    """Return the compiled number of rows that has room for ``rows``, at most 16."""
    return next(size for size in _ROW_BUCKETS if size >= rows)


def most_rows(capacity: int) -> int:
    """Return the most rows of a group with this many slots."""
    return min(_ROW_BUCKETS[-1], _MAX_GROUP_CELLS // capacity)


class Prompt:
    """A prompt, read when the first of its answers is seated and kept until the last one is.

    Args:
        drawing: whose prompt it is.
    """

    def __init__(self, drawing: Drawing) -> None:
        self._drawing = drawing
        self._read: tuple[jax.Array, KeyValueCache] | None = None

    def read(self) -> tuple[jax.Array, KeyValueCache]:
        """Return what ``prefill`` returns for it."""
        if self._read is None:
            drawing = self._drawing
            base, tokens = drawing.base, drawing.prompt
            padded = np.zeros((1, length_bucket(tokens.size)), np.int32)
            padded[0, : tokens.size] = tokens
            flat, spec = (None, None) if drawing.adapter is None else (drawing.adapter.params, drawing.adapter.spec)
            shape = None if spec is None else spec.shape
            self._read = prefill(base.weights, flat, padded, np.int32(tokens.size), base.config, shape)
        return self._read


class Group:
    """Answers decoded side by side: of one request alone, or of any requests on the same adapter.

    Args:
        first: the request it is opened for.
        rows: how many rows it has for good, when the request is ``alone``; else 0.
    """

    def __init__(self, first: Drawing, rows: int = 0) -> None:
        self.base: BaseModel = first.base
        self.adapter = first.adapter
        self.truncated = first.truncated
        self.capacity = first.capacity
        self.alone = first.alone
        self._fixed = rows
        self._slot = first.prompt.size % first.capacity
        self._rows: list[Answer | None] = []
        self._joining: list[tuple[Answer, Prompt]] = []
        self._state: DecodeState | None = None

    @property
    def seated(self) -> list[Answer]:
        """The answers that are decoded here, those that join with the next chunk included."""
        return [row for row in self._rows if row is not None] + [answer for answer, _ in self._joining]

    @property
    def cells(self) -> int:
        """Rows times slots that its cache takes, or will with the next chunk."""
        return self.rows_for(0) * self.capacity

    def rows_for(self, more: int) -> int:
        """Return how many rows it would have with ``more`` answers."""
        return max(self._fixed, len(self._rows), row_bucket(max(len(self.seated) + more, 1)))

    def takes(self, drawing: Drawing) -> bool:
        """Whether answers of a request may sit here, when there is room."""
        return (
            not (self.alone or drawing.alone)
            and self.adapter is drawing.adapter
            and self.truncated == drawing.truncated
            and self.capacity >= drawing.capacity
            and len(self.seated) < most_rows(self.capacity)
        )

    def join(self, answer: Answer, prompt: Prompt) -> None:
        """Seat an answer with the next chunk."""
        self._joining.append((answer, prompt))

    def decode(self) -> list[Drawing]:
        """Decode a chunk for every row; return the requests that got further. Rows that are over become free."""
        self._settle()
        state = self._state
        live = [row for row in self._rows if row is not None]
        if state is None or not live:
            return []
        longest = max(row.drawing.limit for row in live)
        chunk = next((size for size in CHUNKS if size >= longest), CHUNKS[-1])
        if any(row.drawing.watched for row in live):
            chunk = min(chunk, _WATCHED_CHUNK)
        flat, shape = (None, None) if self.adapter is None else (self.adapter.params, self.adapter.spec.shape)
        # Given away until there is a new one: after a failure there is none.
        self._state = None
        self._state, tokens, logprobs = decode_chunk(
            self.base.weights,
            flat,
            state,
            _choice(self._rows, self.base.config.vocab),
            np.int32(self._slot),
            self.base.config,
            shape,
            self.truncated,
            chunk,
        )
        self._slot = (self._slot + chunk) % self.capacity
        drawn, scores = np.asarray(tokens), np.asarray(logprobs)
        for index, row in enumerate(self._rows):
            if row is not None:
                _extend(row, drawn[index], scores[index])
        self.release()
        return list(dict.fromkeys(row.drawing for row in live))

    def release(self) -> None:
        """Free the rows whose answers are over."""
        self._rows = [None if row is None or row.over else row for row in self._rows]
        self._joining = [(answer, prompt) for answer, prompt in self._joining if not answer.over]

    def _settle(self) -> None:
        """Bring the rows to the number that is needed, and seat those who join."""
        needed = self.rows_for(0)
        if not self._fixed and len(self._rows) >= _SHRINK * row_bucket(max(len(self.seated), 1)):
            needed = row_bucket(max(len(self.seated), 1))
        if self._state is None:
            self._state = empty(needed, self.capacity, self.base.config)
            self._rows = [None] * needed
        elif needed != len(self._rows):
            kept = [index for index, row in enumerate(self._rows) if row is not None]
            source = np.array((kept + [0] * needed)[:needed], np.int32)
            self._state = regroup(self._state, source)
            self._rows = [self._rows[index] for index in kept] + [None] * (needed - len(kept))
        joining, self._joining = self._joining, []
        for answer, prompt in joining:
            row = self._rows.index(None)
            length = np.int32(answer.drawing.prompt.size)
            self._state = seat(self._state, *prompt.read(), length, np.int32(self._slot), np.int32(row))
            self._rows[row] = answer


def _extend(row: Answer, tokens: npt.NDArray[np.int32], logprobs: npt.NDArray[np.float32]) -> None:
    try:
        row.extend(tokens, logprobs)
    except Exception as error:
        # A stop check is the request's own; its failure is no reason to end those beside it.
        row.drawing.error = error


def _choice(rows: Sequence[Answer | None], vocab: int) -> Choice:
    count = len(rows)
    columns: list[Any] = [
        np.zeros(count, np.int32),
        np.zeros((count, 2), np.uint32),
        np.zeros(count, np.int32),
        np.zeros(count, np.int32),
        np.zeros(count, np.float32),
        np.full(count, vocab, np.int32),
        np.full(count, 2.0, np.float32),
    ]
    for index, row in enumerate(rows):
        if row is None:
            continue
        drawing, params = row.drawing, row.drawing.params
        seed = params.seed % 2**64
        values = (
            drawing.prompt.size + len(row.tokens),
            (seed >> 32, seed & 0xFFFFFFFF),
            row.index,
            len(row.tokens),
            params.temperature,
            min(params.top_k, vocab) if params.top_k > 0 else vocab,
            # Past 1 nothing is cut, whatever the rounding of the running sum.
            params.top_p if params.top_p < 1 else 2.0,
        )
        for column, value in zip(columns, values, strict=True):
            column[index] = value
    return Choice(*columns)
