"""What was cut and read lately, kept: many answers have the same adapter, and many have the same prompt."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import jax

from tinkex_actors.engine.core.model import BaseModel
from tinkex_actors.engine.core.sampling.decoding import Layered, Rows, cut, read
from tinkex_actors.engine.core.sampling.drawing import Drawing

__all__ = ["Library"]

# A cut adapter is a copy of it: 20 to 45 MB for smollm2-135m.
_MOST_MODELS = 2
# About 95 MB for smollm2-135m. One prompt of any length fits.
_MOST_TOKENS = 2048


class _Cut(NamedTuple):
    """A model, with what it was made of: while this is here, nothing else has their ids."""

    base: BaseModel
    params: jax.Array | None
    model: Layered


class _Read(NamedTuple):
    """A prompt, with the model it was read by: while this is here, no other has its id."""

    model: Layered
    rows: Rows
    tokens: int


class Library:
    """The latest models and prompts of a decoder.

    What is no longer kept is made once more, with the same bits.

    Attributes:
        prompts_read: how many times a prompt was read.
    """

    def __init__(self) -> None:
        self.prompts_read = 0
        self._models: OrderedDict[tuple[int, int], _Cut] = OrderedDict()
        self._prompts: OrderedDict[tuple[int, bytes], _Read] = OrderedDict()

    def model(self, drawing: Drawing) -> Layered:
        """Return the model that a request is answered by."""
        params = None if drawing.adapter is None else drawing.adapter.params
        key = (id(drawing.base), id(params))
        if key not in self._models:
            self._models[key] = _Cut(drawing.base, params, cut(drawing.base, drawing.adapter))
            if len(self._models) > _MOST_MODELS:
                self._models.popitem(last=False)
        self._models.move_to_end(key)
        return self._models[key].model

    def prompt(self, model: Layered, drawing: Drawing) -> Rows:
        """Return a request's prompt as ``model`` reads it."""
        key = (id(model), drawing.prompt.tobytes())
        if key not in self._prompts:
            self.prompts_read += 1
            self._prompts[key] = _Read(model, read(model, drawing.prompt), drawing.prompt.size)
            while sum(kept.tokens for kept in self._prompts.values()) > _MOST_TOKENS:
                self._prompts.popitem(last=False)
        self._prompts.move_to_end(key)
        return self._prompts[key].rows
