"""Rows that share a compiled call: who sits where, and one chunk of tokens for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from tinkex_actors.engine.core.model import BaseModel
from tinkex_actors.engine.core.sampling.decoding import Choice, Layered, Rows, draw, empty, regroup, seat
from tinkex_actors.engine.core.sampling.drawing import Answer, Drawing
from tinkex_actors.engine.core.sampling.library import Library

__all__ = ["Group", "most_rows", "row_bucket"]

_ROW_BUCKETS = (1, 2, 4, 8, 16)
# Exact requests of few answers take this shape too, so that they can share it; half empty it costs them little, since a
# token's time is mostly that of reading the weights.
_FEWEST_EXACT_ROWS = 8
# Rows times slots of one group's cache: bounds it to about 360 MB for smollm2-135m.
_MAX_GROUP_CELLS = 8192
# A group lets go of rows when this many times fewer would do: each number of rows is another compiled program.
_SHRINK = 4
# Between two chunks answers join and leave, are streamed and given up. That costs a fraction of a millisecond: nothing
# beside a token of a real model, and more than one of a toy. So many weights are read in one chunk, for one row.
_CHUNK_WEIGHTS = 8_000_000
_LONGEST_CHUNK = 16


def row_bucket(rows: int) -> int:
    """Return the compiled number of rows that has room for ``rows``, at most 16."""
    return next(size for size in _ROW_BUCKETS if size >= rows)


def most_rows(capacity: int) -> int:
    """Return the most rows of a group with this many slots."""
    return min(_ROW_BUCKETS[-1], _MAX_GROUP_CELLS // capacity)


def _exact_rows(drawing: Drawing) -> int:
    """Return the number of rows that an exact request is decoded in: a pure function of it."""
    wanted = row_bucket(min(len(drawing.answers), _ROW_BUCKETS[-1]))
    return min(max(wanted, _FEWEST_EXACT_ROWS), most_rows(drawing.capacity))


class Group:
    """Answers decoded side by side, of any requests on the same adapter: of exact ones of one shape, or of others.

    Args:
        first: the request it is opened for.
        library: has the models and prompts.
    """

    def __init__(self, first: Drawing, library: Library) -> None:
        self.base: BaseModel = first.base
        self.adapter = first.adapter
        self.truncated = first.truncated
        self.capacity = first.capacity
        self._fixed = _exact_rows(first) if first.exact else 0
        self._library = library
        self._places: list[Answer | None] = []
        self._joining: list[Answer] = []
        self._model: Layered | None = None
        self._rows: Rows | None = None

    @property
    def seated(self) -> list[Answer]:
        """The answers that are decoded here, those that join with the next chunk included."""
        return [answer for answer in self._places if answer is not None] + self._joining

    @property
    def cells(self) -> int:
        """Rows times slots that its cache takes, or will with the next chunk."""
        return self.rows_for(0) * self.capacity

    def rows_for(self, more: int) -> int:
        """Return how many rows it would have with ``more`` answers."""
        return self._fixed or max(len(self._places), row_bucket(max(len(self.seated) + more, 1)))

    def suits(self, drawing: Drawing) -> bool:
        """Whether answers of a request may sit here, if there is room."""
        kind = (drawing.base, drawing.adapter, drawing.truncated)
        if any(
            mine is not theirs for mine, theirs in zip((self.base, self.adapter, self.truncated), kind, strict=True)
        ):
            return False
        if drawing.exact:
            return self._fixed == _exact_rows(drawing) and self.capacity == drawing.capacity
        return not self._fixed and self.capacity >= drawing.capacity

    @property
    def full(self) -> bool:
        """Whether there is no room for one more."""
        return len(self.seated) >= (self._fixed or most_rows(self.capacity))

    def join(self, answer: Answer) -> None:
        """Seat an answer with the next chunk."""
        self._joining.append(answer)

    def decode(self) -> list[Drawing]:
        """Decode a chunk for every row; return the requests that got further. Rows that are over become free."""
        self._settle()
        live = [answer for answer in self._places if answer is not None]
        if self._rows is None or self._model is None or not live:
            return []
        choice = jax.device_put(_choice(self._places, self.base.config.vocab))
        drawn = []
        # Given away until there are new ones: after a failure there are none.
        rows, self._rows = self._rows, None
        for offset in range(self._chunk(live)):
            rows, *found = draw(self._model, rows, choice, offset, self.truncated)
            drawn.append(found)
        self._rows = rows
        tokens, logprobs = (np.stack([np.asarray(x) for x in part], axis=1) for part in zip(*drawn, strict=True))
        for place, answer in enumerate(self._places):
            if answer is not None:
                _extend(answer, tokens[place], logprobs[place])
        self.release()
        return list(dict.fromkeys(answer.drawing for answer in live))

    def release(self) -> None:
        """Free the rows whose answers are over."""
        self._places = [None if answer is None or answer.over else answer for answer in self._places]
        self._joining = [answer for answer in self._joining if not answer.over]

    def _chunk(self, live: Sequence[Answer]) -> int:
        chunk = min(max(_CHUNK_WEIGHTS // self.base.config.parameters, 1), _LONGEST_CHUNK)
        return min(chunk, max(answer.drawing.limit - len(answer.tokens) for answer in live))

    def _settle(self) -> None:
        """Bring the rows to the number that is needed, and seat those who join."""
        needed = self.rows_for(0)
        if not self._fixed and len(self._places) >= _SHRINK * row_bucket(max(len(self.seated), 1)):
            needed = row_bucket(max(len(self.seated), 1))
        if self._rows is None:
            self._rows = empty(needed, self.capacity, self.base.config)
            self._places = [None] * needed
        elif needed != len(self._places):
            kept = [index for index, answer in enumerate(self._places) if answer is not None]
            self._rows = regroup(self._rows, np.array((kept + [0] * needed)[:needed], np.int32))
            self._places = [self._places[index] for index in kept] + [None] * (needed - len(kept))
        joining, self._joining = self._joining, []
        for answer in joining:
            self._model = self._model or self._library.model(answer.drawing)
            place = self._places.index(None)
            self._rows = seat(self._rows, self._library.prompt(self._model, answer.drawing), place)
            self._places[place] = answer


def _extend(answer: Answer, tokens: npt.NDArray[np.int32], logprobs: npt.NDArray[np.float32]) -> None:
    try:
        answer.extend(tokens, logprobs)
    except Exception as error:
        # A stop check is the request's own; its failure is no reason to end those beside it.
        answer.drawing.error = error


def _choice(places: Sequence[Answer | None], vocab: int) -> Choice:
    count = len(places)
    columns: list[Any] = [
        np.zeros(count, np.int32),
        np.zeros((count, 2), np.uint32),
        np.zeros(count, np.int32),
        np.zeros(count, np.int32),
        np.zeros(count, np.float32),
        np.full(count, vocab, np.int32),
        np.full(count, 2.0, np.float32),
    ]
    for index, answer in enumerate(places):
        if answer is None:
            continue
        drawing, params = answer.drawing, answer.drawing.params
        seed = params.seed % 2**64
        values = (
            drawing.prompt.size + len(answer.tokens),
            (seed >> 32, seed & 0xFFFFFFFF),
            answer.index,
            len(answer.tokens),
            params.temperature,
            min(params.top_k, vocab) if params.top_k > 0 else vocab,
            # Past 1 nothing is cut, whatever the rounding of the running sum.
            params.top_p if params.top_p < 1 else 2.0,
        )
        for column, value in zip(columns, values, strict=True):
            column[index] = value
    return Choice(*columns)
