"""Continuous batching: answers take a row when one is free and leave it when they end, whoever else is decoded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tinkex_actors.engine.core.lora import Adapter
from tinkex_actors.engine.core.model import BaseModel
from tinkex_actors.engine.core.sampling.drawing import Answer, DecodeParams, Drawing, Sampled
from tinkex_actors.engine.core.sampling.groups import Group
from tinkex_actors.engine.core.sampling.library import Library
from tinkex_actors.engine.core.training import never_stop

__all__ = ["Decoder", "sample"]

# Rows times slots of all groups together: two of the largest, so that a long request leaves room for others.
_MAX_CELLS = 16384


class _Waiting:
    """A request, and those of its answers that have no row yet."""

    __slots__ = ("drawing", "seated", "unseated")

    def __init__(self, drawing: Drawing) -> None:
        self.drawing = drawing
        self.unseated: deque[Answer] = deque(drawing.answers)
        self.seated = 0


class Decoder:
    """Decodes many requests together, a chunk at a time. It runs on the thread that calls it.

    Requests sit together in groups: exact ones with those of the same adapter that ask for the same shape, the others
    with any of the same adapter. Groups take turns. Nobody who waits for memory is overtaken.
    """

    def __init__(self) -> None:
        self._library = Library()
        self._waiting: list[_Waiting] = []
        self._groups: deque[Group] = deque()
        self._open: dict[Drawing, None] = {}

    @property
    def busy(self) -> bool:
        """Whether there is something to decode."""
        return bool(self._open)

    @property
    def prompts_read(self) -> int:
        """How many prompts it has read. One that many requests ask, or that came again soon, is read once."""
        return self._library.prompts_read

    def add(self, drawing: Drawing) -> None:
        """Take a request in. Its prompt is read when there is a row for it."""
        self._open[drawing] = None
        self._waiting.append(_Waiting(drawing))

    def step(self) -> list[Drawing]:
        """Decode a chunk of the group whose turn it is; return the requests that got further or are over.

        Those that are over are forgotten. Memory that could not be had, or a failing model, ends the requests of the
        group that it happened to; they hold the error.
        """
        touched = dict.fromkeys(self._given_up())
        self._seat()
        if self._groups:
            group = self._groups[0]
            self._groups.rotate(-1)
            members = dict.fromkeys(answer.drawing for answer in group.seated)
            try:
                touched.update(dict.fromkeys(group.decode()))
            except Exception as error:
                for drawing in members:
                    drawing.error = drawing.error or error
                touched.update(members)
                self._groups.remove(group)
        return self._forget(list(touched))

    def drop(self) -> list[Drawing]:
        """Give up everything that is under way and return it; each has an error where it had none."""
        dropped = list(self._open)
        self._waiting.clear()
        self._groups.clear()
        self._open.clear()
        return dropped

    def _given_up(self) -> list[Drawing]:
        asked = [*self._groups[0].seated] if self._groups else []
        drawings = dict.fromkeys(answer.drawing for answer in asked)
        drawings.update(dict.fromkeys(entry.drawing for entry in self._waiting))
        for drawing in drawings:
            drawing.ask_to_go_on()
        return [drawing for drawing in drawings if drawing.over]

    def _forget(self, touched: list[Drawing]) -> list[Drawing]:
        if any(drawing.over for drawing in touched):
            for drawing in touched:
                if drawing.over:
                    self._open.pop(drawing, None)
            self._waiting = [entry for entry in self._waiting if not entry.drawing.over]
            for group in self._groups:
                group.release()
        self._groups = deque(group for group in self._groups if group.seated)
        return touched

    # --- who sits where --------------------------------------------------------------------------------------------
    def _seat(self) -> None:
        """Give rows to those who wait: one each in turn, first those who have none, then in the order they came."""
        queue = sorted(self._waiting, key=lambda entry: entry.seated > 0)
        short = False
        while queue:
            again = []
            for entry in queue:
                seated = self._seat_one(entry, grow=not short)
                if seated and entry.unseated:
                    again.append(entry)
                elif not seated and entry.seated == 0 and not self._full(entry.drawing):
                    # It waits for memory, which nobody behind it may take; those before it may fill the rows they have.
                    short = True
                    break
            queue = again
        self._waiting = [entry for entry in self._waiting if entry.unseated]

    def _seat_one(self, entry: _Waiting, *, grow: bool) -> bool:
        """Give one of its answers a row, if there is one or, with ``grow``, memory for one; return whether it has."""
        drawing = entry.drawing
        group = min(
            (group for group in self._groups if group.suits(drawing) and not group.full),
            key=lambda group: group.capacity,
            default=None,
        )
        if group is None:
            group = Group(drawing, self._library)
            if not grow or self._full(drawing) or not self._fits(group.rows_for(1) * group.capacity):
                return False
            self._groups.append(group)
        elif (more := group.rows_for(1) * group.capacity - group.cells) and not (grow and self._fits(more)):
            return False
        group.join(entry.unseated.popleft())
        entry.seated += 1
        return True

    def _full(self, drawing: Drawing) -> bool:
        """Whether a group for the request is there and has no row left: waiting beats opening another."""
        return any(group.suits(drawing) and group.full for group in self._groups)

    def _fits(self, cells: int) -> bool:
        return not self._groups or sum(group.cells for group in self._groups) + cells <= _MAX_CELLS


def sample(
    base: BaseModel,
    adapter: Adapter | None,
    prompt: npt.NDArray[np.int32],
    count: int,
    params: DecodeParams,
    *,
    should_stop: Callable[[], bool] = never_stop,
    stop_check: Callable[[list[int]], bool] | None = None,
) -> list[Sampled]:
    """Draw answers to one prompt. Equal arguments give equal bits.

    Answer ``i`` of a seed has random numbers of its own, so the first answers of a larger ``count`` are those of a
    smaller one (up to the last bits of the logprobs, which depend on the number of rows).

    Args:
        base: the model.
        adapter: the adapter to apply, or None for the model alone.
        prompt: int32 ``[P]``.
        count: number of answers, 1 or more.
        params: how they are drawn.
        should_stop: asked before each chunk of tokens; true abandons the call.
        stop_check: called with an answer's tokens after each one; true ends the answer there (for stop strings).

    Raises:
        InputError: an unusable prompt or count, or a prompt that leaves no room for an answer.
        ClosedError: ``should_stop`` said so.
    """
    drawing = Drawing(base, adapter, prompt, count, params, should_stop=should_stop, stop_check=stop_check)
    decoder = Decoder()
    decoder.add(drawing)
    while not drawing.over:
        decoder.step()
    return drawing.result()
