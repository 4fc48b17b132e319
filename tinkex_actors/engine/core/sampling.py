"""Sampling answers from a model, with or without an adapter."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from tinkex_actors.engine.core.batching import check_tokens, length_bucket
from tinkex_actors.engine.core.decoding import CHUNKS, Choice, decode_chunk, prefill, spread
from tinkex_actors.engine.core.forward import KeyValueCache
from tinkex_actors.engine.core.lora import Adapter
from tinkex_actors.engine.core.model import BaseModel
from tinkex_actors.engine.core.training import never_stop
from tinkex_actors.errors import ClosedError, InputError

__all__ = ["DecodeParams", "Sampled", "sample"]

_ROW_BUCKETS = (1, 2, 4, 8, 16)
_CAPACITIES = (128, 256, 512, 1024, 2048)
# Rows times positions of one cache: bounds it to about 360 MB for smollm2-135m.
_MAX_CACHE_CELLS = 8192


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

    Answer ``i`` of a seed has its own noise, so the first answers of a larger ``count`` are those of a smaller one
    (up to the last bits of the logprobs, which depend on the number of rows).

    Args:
        base: the model.
        adapter: the adapter to apply, or None for the model alone.
        prompt: int32 ``[P]``.
        count: number of answers, 1 or more.
        params: how they are drawn.
        should_stop: asked before each chunk of 16 tokens; true abandons the call.
        stop_check: called with an answer's tokens after each one; true ends the answer there (for stop strings).

    Raises:
        InputError: an unusable prompt or count, or a prompt that leaves no room for an answer.
        ClosedError: ``should_stop`` said so.
    """
    check_tokens(prompt, base.config, "prompt")
    if count < 1:
        raise InputError(f"num_samples: expected 1 or more, got {count}")
    room = base.config.context_length - prompt.size
    if room < 1:
        raise InputError(
            f"prompt: {prompt.size} tokens fill the model's context of {base.config.context_length}; shorten it "
            "to leave room for an answer"
        )
    limit = room if params.max_tokens is None else min(params.max_tokens, room)
    capacity = next(size for size in _CAPACITIES if size >= prompt.size + limit)
    most = min(_ROW_BUCKETS[-1], _MAX_CACHE_CELLS // capacity)
    run = _Run(base, adapter, params, limit, capacity, should_stop, stop_check)
    padded = np.zeros((1, length_bucket(prompt.size)), np.int32)
    padded[0, : prompt.size] = prompt
    length = np.int32(prompt.size)
    start = prefill(base.weights, run.flat, padded, length, base.config, run.spec)
    answers: list[Sampled] = []
    for first in range(0, count, most):
        answers += run.decode(start, length, range(first, min(first + most, count)))
    return answers


class _Run:
    """What the groups of rows of one call share."""

    def __init__(
        self,
        base: BaseModel,
        adapter: Adapter | None,
        params: DecodeParams,
        limit: int,
        capacity: int,
        should_stop: Callable[[], bool],
        stop_check: Callable[[list[int]], bool] | None,
    ) -> None:
        self.base = base
        self.flat = None if adapter is None else adapter.params
        self.spec = None if adapter is None else adapter.spec.shape
        self.params = params
        self.limit = limit
        self.capacity = capacity
        self.should_stop = should_stop
        self.stop_check = stop_check

    def decode(self, start: tuple[jax.Array, KeyValueCache], length: np.int32, samples: range) -> list[Sampled]:
        """Decode the answers of these sample indices, side by side."""
        rows = next(size for size in _ROW_BUCKETS if size >= len(samples))
        state = spread(*start, jnp.asarray(length), rows, self.capacity)
        choice = self._choice(samples.start)
        answers = [_Answer(self.params.stop_token_ids, self.limit, self.stop_check) for _ in samples]
        config, truncated = self.base.config, self._truncated()
        chunk = next((size for size in CHUNKS if size >= self.limit), CHUNKS[-1])
        for index in range(0, self.limit, chunk):
            if self.should_stop():
                raise ClosedError(f"sample was abandoned after {index} tokens because the engine stops; sample again")
            state, tokens, logprobs = decode_chunk(
                self.base.weights, self.flat, state, choice, np.int32(index), config, self.spec, truncated, chunk
            )
            drawn, scores = np.asarray(tokens), np.asarray(logprobs)
            for row, answer in enumerate(answers):
                answer.extend(drawn[row], scores[row])
            if all(answer.stop_reason for answer in answers):
                break
        return [answer.finish() for answer in answers]

    def _truncated(self) -> bool:
        limited = 0 < self.params.top_k < self.base.config.vocab or self.params.top_p < 1
        return limited and self.params.temperature > 0

    def _choice(self, first_row: int) -> Choice:
        params, vocab = self.params, self.base.config.vocab
        seed = params.seed % 2**64
        return Choice(
            jnp.array([seed >> 32, seed & 0xFFFFFFFF], jnp.uint32),
            jnp.int32(first_row),
            jnp.float32(params.temperature),
            jnp.int32(min(params.top_k, vocab) if params.top_k > 0 else vocab),
            # Past 1 nothing is cut, whatever the rounding of the running sum.
            jnp.float32(params.top_p if params.top_p < 1 else 2.0),
        )


class _Answer:
    """One row as its chunks arrive: cut at the first stop, or at the limit."""

    def __init__(self, stops: frozenset[int], limit: int, stop_check: Callable[[list[int]], bool] | None) -> None:
        self.stops = stops
        self.limit = limit
        self.stop_check = stop_check
        self.tokens: list[int] = []
        self.logprobs: list[np.float32] = []
        self.stop_reason: Literal["stop", "length"] | None = None

    def extend(self, tokens: npt.NDArray[np.int32], logprobs: npt.NDArray[np.float32]) -> None:
        for token, logprob in zip(tokens.tolist(), logprobs, strict=True):
            if self.stop_reason:
                return
            self.tokens.append(token)
            self.logprobs.append(logprob)
            if token in self.stops or (self.stop_check is not None and self.stop_check(self.tokens)):
                self.stop_reason = "stop"
            elif len(self.tokens) == self.limit:
                self.stop_reason = "length"

    def finish(self) -> Sampled:
        return Sampled(
            np.array(self.tokens, np.int32), np.array(self.logprobs, np.float32), self.stop_reason or "length"
        )
