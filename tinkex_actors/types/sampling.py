"""Asking for samples, and what comes back (protocol 2.4, 1.7.21)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from tinkex_actors.errors import InputError
from tinkex_actors.types._record import Record, short
from tinkex_actors.types.model_input import ModelInput
from tinkex_actors.types.tensor import TensorData, as_array, same_array

__all__ = [
    "PromptAltTokens",
    "SampleRequest",
    "SampleResponse",
    "SampleStreamChunk",
    "SampledSequence",
    "SamplingParams",
    "StopReason",
    "TopkLogprobs",
]

StopReason = Literal["length", "stop"]

# The log probability of an empty top-k cell (protocol 2.4).
_EMPTY_CELL: Final = -99999.0


class SamplingParams(Record, frozen=True, kw_only=True):
    """How to sample.

    Args:
        max_tokens: at most so many tokens, >= 1; None leaves the limit to the server.
        seed: 0 .. 2**64 - 1; None means a fresh one for each request.
        stop: a string, strings, or token ids that end a sequence. None: the model's end token. An empty list: nothing
            stops it, not even the end token.
        temperature: >= 0; 0 takes the most probable token. Default 1.
        top_k: sample among so many most probable tokens; -1 (the default) means all.
        top_p: sample among the most probable tokens that hold this much probability, in (0, 1]; default 1.

    Raises:
        InputError: for values outside these ranges.
    """

    max_tokens: int | None = None
    seed: int | None = None
    stop: str | Sequence[str | int] | None = None
    temperature: float = 1.0
    top_k: int = -1
    top_p: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_tokens is not None and self.max_tokens < 1:
            raise InputError(f"SamplingParams: max_tokens must be >= 1 or None, got {self.max_tokens!r}.")
        if self.seed is not None and not 0 <= self.seed < 2**64:
            raise InputError(f"SamplingParams: seed must be in 0 .. 2**64 - 1 or None, got {self.seed!r}.")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise InputError(f"SamplingParams: temperature must be finite and >= 0, got {self.temperature!r}.")
        if self.top_k < 1 and self.top_k != -1:
            raise InputError(f"SamplingParams: top_k must be >= 1, or -1 for no limit, got {self.top_k!r}.")
        if not 0 < self.top_p <= 1:
            raise InputError(f"SamplingParams: top_p must be in (0, 1], got {self.top_p!r}.")
        if self.stop is not None and not isinstance(self.stop, str):
            kinds = {type(stop) for stop in self.stop}
            if len(kinds) > 1:
                raise InputError("SamplingParams: stop must be all strings or all token ids, not a mixture.")


class SampleRequest(Record, frozen=True, kw_only=True):
    """Body of ``asample``.

    Args:
        prompt: what to continue.
        sampling_params: how.
        num_samples: independent continuations, >= 1.
        sampling_session_id: the sampler; ``base_model`` and ``model_path`` are its older substitutes.
        seq_id: the request's number within the sampling session; a repeat is answered with the same promise.
        prompt_logprobs: score the prompt too.
        topk_prompt_logprobs: that many best tokens for each prompt position.
        topk_sample_logprobs: that many best tokens for each sampled position.
        target_prompt_logprobs: int64 ``[len(prompt) - 1, K]``, token ids to score; -1 skips a cell.
        prompt_alt_tokens_k: that many draws for each prompt position.
        prompt_logprobs_last_n: score only that many last positions.
        record_stability_info: keep what the ``stable_reinforce`` loss needs.
    """

    prompt: ModelInput
    sampling_params: SamplingParams
    num_samples: Annotated[int, Meta(ge=1)] = 1
    base_model: str | None = None
    model_path: str | None = None
    sampling_session_id: str | None = None
    seq_id: int | None = None
    prompt_logprobs: bool | None = None
    topk_prompt_logprobs: Annotated[int, Meta(ge=0)] = 0
    topk_sample_logprobs: Annotated[int, Meta(ge=0)] = 0
    target_prompt_logprobs: TensorData | None = None
    prompt_alt_tokens_k: Annotated[int, Meta(ge=0)] = 0
    prompt_logprobs_last_n: Annotated[int, Meta(ge=1)] | None = None
    record_stability_info: bool | None = None
    type: Literal["sample"] = "sample"


class TopkLogprobs(msgspec.Struct, frozen=True, eq=False, dict=True):
    """The k best tokens for each of n positions.

    Args:
        token_ids: int32 ``[n, k]``; 0 in an empty cell.
        logprobs: float32 ``[n, k]``; -99999 in an empty cell.
    """

    token_ids: npt.NDArray[np.int32]
    logprobs: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        ids, logprobs = _array(self.token_ids, np.int32), _array(self.logprobs, np.float32)
        if ids.ndim != 2 or ids.shape != logprobs.shape:
            raise InputError(
                f"TopkLogprobs: token_ids {list(ids.shape)} and logprobs {list(logprobs.shape)} must share a shape "
                "[positions, k]."
            )
        msgspec.structs.force_setattr(self, "token_ids", ids)
        msgspec.structs.force_setattr(self, "logprobs", logprobs)

    @classmethod
    def from_lists(cls, rows: Sequence[Sequence[tuple[int, float]] | None]) -> TopkLogprobs | None:
        """Return the arrays of ``tolist``'s form, or None when no row has an entry."""
        k = max((len(row) for row in rows if row), default=0)
        if k == 0:
            return None
        ids = np.zeros((len(rows), k), np.int32)
        logprobs = np.full((len(rows), k), _EMPTY_CELL, np.float32)
        for at, row in enumerate(rows):
            for column, (token, logprob) in enumerate(row or ()):
                ids[at, column], logprobs[at, column] = token, logprob
        return cls(ids, logprobs)

    def tolist(self) -> list[list[tuple[int, float]] | None]:
        """Return, for each position, its (token id, logprob) pairs, or None where there are none."""
        rows: list[list[tuple[int, float]] | None] = []
        if self.token_ids.size == 0:
            return rows
        for ids, logprobs in zip(self.token_ids.tolist(), self.logprobs.tolist(), strict=True):
            pairs = [(token, logprob) for token, logprob in zip(ids, logprobs, strict=True) if logprob > _EMPTY_CELL]
            rows.append(pairs or None)
        return rows

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TopkLogprobs):
            return NotImplemented
        return same_array(self.token_ids, other.token_ids) and same_array(self.logprobs, other.logprobs)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        n, k = self.token_ids.shape
        return f"TopkLogprobs(<{n} positions, k={k}>)"


class PromptAltTokens(Record, frozen=True):
    """Other tokens drawn at each prompt position.

    Args:
        tokens: int64 ``[len(prompt) - 1, k]``.
        logprobs: float32, same shape.
    """

    tokens: TensorData
    logprobs: TensorData


class SampledSequence(msgspec.Struct, frozen=True, eq=False, dict=True):
    """One continuation of n tokens.

    Args:
        stop_reason: ``"stop"``, or ``"length"`` when ``max_tokens`` ended it.
        sequence_id: the server's name for it; empty where the server gives none.
        tokens_np: int32 ``[n]``; lists are converted.
        logprobs_np: float32 ``[n]`` of each sampled token, or None.
        topk_logprobs_np: for each token, the best candidates, or None.
    """

    stop_reason: StopReason
    sequence_id: str = ""
    tokens_np: npt.NDArray[np.int32] = None  # type: ignore[assignment]
    logprobs_np: npt.NDArray[np.float32] | None = None
    topk_logprobs_np: TopkLogprobs | None = None

    def __post_init__(self) -> None:
        if self.stop_reason not in ("stop", "length"):
            raise InputError(f"SampledSequence: stop_reason must be 'stop' or 'length', got {self.stop_reason!r}.")
        given: Any = self.tokens_np
        msgspec.structs.force_setattr(self, "tokens_np", _array([] if given is None else given, np.int32))
        if self.logprobs_np is not None:
            msgspec.structs.force_setattr(self, "logprobs_np", _array(self.logprobs_np, np.float32))

    @cached_property
    def tokens(self) -> list[int]:
        """The token ids as a list, made at first use."""
        tokens: list[int] = self.tokens_np.tolist()
        return tokens

    @cached_property
    def logprobs(self) -> list[float] | None:
        """The log probabilities as a list, made at first use, or None."""
        return None if self.logprobs_np is None else self.logprobs_np.tolist()

    @cached_property
    def topk_logprobs(self) -> list[list[tuple[int, float]] | None] | None:
        """The best candidates for each token, made at first use, or None."""
        return None if self.topk_logprobs_np is None else self.topk_logprobs_np.tolist()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SampledSequence):
            return NotImplemented
        return (
            (self.stop_reason, self.sequence_id) == (other.stop_reason, other.sequence_id)
            and same_array(self.tokens_np, other.tokens_np)
            and same_array(self.logprobs_np, other.logprobs_np)
            and self.topk_logprobs_np == other.topk_logprobs_np
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = ", ".join(map(str, self.tokens_np[:8].tolist())) + (", ..." if self.tokens_np.size > 8 else "")
        return (
            f"SampledSequence(stop_reason={self.stop_reason!r}, <{self.tokens_np.size} tokens: {shown}>, "
            f"logprobs={'yes' if self.logprobs_np is not None else 'no'}, sequence_id={self.sequence_id!r})"
        )


class SampleResponse(msgspec.Struct, frozen=True, eq=False, dict=True):
    """What ``sample`` gives.

    Args:
        sequences: one for each sample asked.
        prompt_logprobs_np: float32 ``[len(prompt)]``, NaN where nothing was computed (always at 0), or None. A list
            with None entries is converted.
        topk_prompt_logprobs_np: the best candidates for each prompt position, or None.
        target_prompt_logprobs: as asked for, same shape and layout, 0.0 where -1 was asked.
        prompt_cache_hit_tokens: prompt tokens that were read from the prefix cache.
        prompt_alt_tokens: other draws for each prompt position, or None.
    """

    sequences: list[SampledSequence]
    prompt_logprobs_np: npt.NDArray[np.float32] | None = None
    topk_prompt_logprobs_np: TopkLogprobs | None = None
    target_prompt_logprobs: TensorData | None = None
    prompt_cache_hit_tokens: int = 0
    prompt_alt_tokens: PromptAltTokens | None = None

    def __post_init__(self) -> None:
        for at, sequence in enumerate(self.sequences):
            if not isinstance(sequence, SampledSequence):
                raise InputError(f"SampleResponse: sequences[{at}] must be a SampledSequence, got {short(sequence)}.")
        given: Any = self.prompt_logprobs_np
        if isinstance(given, (list, tuple)):
            given = [math.nan if value is None else value for value in given]
        if given is not None:
            msgspec.structs.force_setattr(self, "prompt_logprobs_np", _array(given, np.float32))

    @cached_property
    def prompt_logprobs(self) -> list[float | None] | None:
        """For each prompt token its log probability, None where none was computed; made at first use."""
        if self.prompt_logprobs_np is None:
            return None
        return [None if math.isnan(value) else value for value in self.prompt_logprobs_np.tolist()]

    @cached_property
    def topk_prompt_logprobs(self) -> list[list[tuple[int, float]] | None] | None:
        """The best candidates for each prompt position, made at first use, or None."""
        return None if self.topk_prompt_logprobs_np is None else self.topk_prompt_logprobs_np.tolist()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SampleResponse):
            return NotImplemented
        return (
            list(self.sequences) == list(other.sequences)
            and same_array(self.prompt_logprobs_np, other.prompt_logprobs_np)
            and self.topk_prompt_logprobs_np == other.topk_prompt_logprobs_np
            and self.target_prompt_logprobs == other.target_prompt_logprobs
            and self.prompt_cache_hit_tokens == other.prompt_cache_hit_tokens
            and self.prompt_alt_tokens == other.prompt_alt_tokens
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        also = {name: getattr(self, name) for name in self.__struct_fields__[1:]}
        given = "".join(f", {name}={short(value)}" for name, value in also.items() if value is not None)
        return f"SampleResponse(sequences={short(self.sequences)}{given})"


class SampleStreamChunk(Record, frozen=True, kw_only=True):
    """One piece of a streamed sample.

    Args:
        token: its text, or an error's message.
        token_id: its id.
        index: which sequence it belongs to.
        finish_reason: why the sequence ended, with its last piece.
        total_tokens: tokens of the whole sequence, with its last piece.
        logprob: of the token.
        event_type: ``token``, ``done`` or ``error``.
    """

    token: str | None = None
    token_id: int | None = None
    index: int | None = None
    finish_reason: str | None = None
    total_tokens: int | None = None
    logprob: float | None = None
    event_type: Literal["token", "done", "error"] = "token"

    @property
    def done(self) -> bool:
        """Whether its sequence ends here."""
        return self.event_type == "done" or self.finish_reason is not None


def _array(value: Any, dtype: Any) -> npt.NDArray[Any]:
    if type(value) is np.ndarray and value.dtype == dtype:
        return value
    array = as_array(value)
    if array.size and array.dtype.kind not in "iuf":
        raise InputError(f"expected numbers, got an array of {array.dtype} (first entry {array.ravel()[0]!r}).")
    return array if array.dtype == dtype else array.astype(dtype)
