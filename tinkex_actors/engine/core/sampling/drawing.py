"""One request for answers: how they are drawn, and what there is of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from tinkex_actors.engine.core.batching import check_tokens
from tinkex_actors.engine.core.lora import Adapter
from tinkex_actors.engine.core.model import BaseModel
from tinkex_actors.engine.core.training import never_stop
from tinkex_actors.errors import ClosedError, InputError

__all__ = ["Answer", "DecodeParams", "Drawing", "Sampled"]

_CAPACITIES = (128, 256, 512, 1024, 2048)


@dataclass(frozen=True, slots=True)
class DecodeParams:
    """How answers are drawn.

    Args:
        max_tokens: the most tokens of an answer; None for as many as the context has room for.
        temperature: divides the logits; 0 takes the likeliest token, and then ``top_k``, ``top_p`` and ``seed`` do not
            matter.
        top_k: draw from the k likeliest tokens only; -1 (or 0) for all.
        top_p: draw from the smallest set of likeliest tokens whose probability (among those that ``top_k`` leaves)
            reaches this; 1 for all.
        stop_token_ids: an answer ends with the first of these, which is its last token. The caller puts the model's
            end token here where the request does not name stops.
        seed: any integer; equal seeds give equal answers.

    Raises:
        InputError: a value out of its range.
    """

    max_tokens: int | None = None
    temperature: float = 1.0
    top_k: int = -1
    top_p: float = 1.0
    stop_token_ids: frozenset[int] = field(default_factory=frozenset)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise InputError(f"sampling_params.max_tokens: expected 1 or more, got {self.max_tokens}")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise InputError(
                f"sampling_params.temperature: expected a finite number of 0 or more, got {self.temperature}"
            )
        if self.top_k < -1:
            raise InputError(f"sampling_params.top_k: expected 1 or more, or -1 for no limit, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise InputError(f"sampling_params.top_p: expected a number in (0, 1], got {self.top_p}")


@dataclass(frozen=True, slots=True)
class Sampled:
    """One answer.

    Args:
        tokens: int32 ``[n]``, with the stop token where one ended it.
        logprobs: float32 ``[n]``: the model's own logprobs, at temperature 1 and over the whole vocabulary whatever the
            request's limits, so that they are the ``logprobs`` that training compares with (within 1e-4).
        stop_reason: ``stop`` where a stop token or ``stop_check`` ended it, ``length`` otherwise.
    """

    tokens: npt.NDArray[np.int32]
    logprobs: npt.NDArray[np.float32]
    stop_reason: Literal["stop", "length"]


class Answer:
    """One answer as its chunks arrive: cut at the first stop, or at the limit.

    Args:
        drawing: the request it belongs to.
        index: which of its answers.

    Attributes:
        tokens: what there is of it.
        logprobs: of each token.
        stop_reason: why it ended; None while it has not.
    """

    __slots__ = ("drawing", "index", "logprobs", "stop_reason", "tokens")

    def __init__(self, drawing: Drawing, index: int) -> None:
        self.drawing = drawing
        self.index = index
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self.stop_reason: Literal["stop", "length"] | None = None

    @property
    def over(self) -> bool:
        """Whether nothing will be added any more."""
        return self.stop_reason is not None or self.drawing.error is not None

    def extend(self, tokens: npt.NDArray[np.int32], logprobs: npt.NDArray[np.float32]) -> None:
        """Add what a chunk drew, as far as the answer goes."""
        drawing = self.drawing
        stops, check = drawing.params.stop_token_ids, drawing.stop_check
        for token, logprob in zip(tokens.tolist(), logprobs.tolist(), strict=True):
            self.tokens.append(token)
            self.logprobs.append(logprob)
            if token in stops or (check is not None and check(self.tokens)):
                self.stop_reason = "stop"
            elif len(self.tokens) == drawing.limit:
                self.stop_reason = "length"
            if self.stop_reason:
                drawing.open_answers -= 1
                return


class Drawing:
    """One request for answers to a prompt, from the time it is asked until it is over.

    Args:
        base: the model.
        adapter: the adapter to apply, or None for the model alone.
        prompt: int32 ``[P]``.
        count: number of answers, 1 or more.
        params: how they are drawn.
        exact: equal requests give equal bits, whatever else runs: it is decoded in a batch whose shape depends on this
            request only, beside others that ask for the same shape. Otherwise any batch will do, small or large.
        should_stop: asked before each chunk; true abandons the request.
        stop_check: called with an answer's tokens after each one; true ends the answer there (for stop strings).

    Attributes:
        answers: by sample index.
        limit: the most tokens that an answer may have here.
        capacity: slots of cache that a row needs: one of the compiled sizes.
        error: why it was given up; None otherwise.

    Raises:
        InputError: an unusable prompt or count, or a prompt that leaves no room for an answer.
    """

    def __init__(
        self,
        base: BaseModel,
        adapter: Adapter | None,
        prompt: npt.NDArray[np.int32],
        count: int,
        params: DecodeParams,
        *,
        exact: bool = True,
        should_stop: Callable[[], bool] = never_stop,
        stop_check: Callable[[list[int]], bool] | None = None,
    ) -> None:
        check_tokens(prompt, base.config, "prompt")
        if count < 1:
            raise InputError(f"num_samples: expected 1 or more, got {count}")
        room = base.config.context_length - prompt.size
        if room < 1:
            raise InputError(
                f"prompt: {prompt.size} tokens fill the model's context of {base.config.context_length}; shorten it "
                "to leave room for an answer"
            )
        self.base = base
        self.adapter = adapter
        self.prompt = prompt
        self.params = params
        self.exact = exact
        self.should_stop = should_stop
        self.stop_check = stop_check
        self.limit = room if params.max_tokens is None else min(params.max_tokens, room)
        self.capacity = next(size for size in _CAPACITIES if size >= prompt.size + self.limit)
        self.truncated = (0 < params.top_k < base.config.vocab or params.top_p < 1) and params.temperature > 0
        self.answers = [Answer(self, index) for index in range(count)]
        self.open_answers = count
        self.error: Exception | None = None

    @property
    def over(self) -> bool:
        """Whether every answer is whole, or the request was given up."""
        return self.open_answers == 0 or self.error is not None

    def result(self) -> list[Sampled]:
        """Return the answers of a request that is over.

        Raises:
            Exception: why it was given up.
        """
        if self.error is not None:
            raise self.error
        return [
            Sampled(
                np.array(answer.tokens, np.int32), np.array(answer.logprobs, np.float32), answer.stop_reason or "length"
            )
            for answer in self.answers
        ]

    def ask_to_go_on(self) -> None:
        """Give the request up if its owner wants that."""
        if self.should_stop():
            drawn = max(len(answer.tokens) for answer in self.answers)
            self.error = ClosedError(
                f"sample was abandoned after {drawn} tokens because nobody wants it any more, or the engine stops; "
                "sample again"
            )
