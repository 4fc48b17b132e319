"""JSON to messages (protocol 1.1, 2 and appendix B), tolerant of what independent servers leave out.

``null`` where a number is due comes back as NaN.
"""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec
import numpy as np

from tinkex_actors.errors import RemoteWireError
from tinkex_actors.types import (
    ForwardBackwardInput,
    ForwardBackwardOutput,
    ForwardBackwardRequest,
    OptimStepResponse,
    PromptAltTokens,
    SampledSequence,
    SampleResponse,
    TensorData,
    TopkLogprobs,
)

__all__ = ["decode_json"]

# The best candidates come as ragged rows and become a rectangle, so a short body could ask for a large one. This is
# far above any prompt (a million tokens, 32 candidates each), and far below a machine's memory (256 MiB).
_MAX_TOPK_CELLS: Final = 2**25


class _Sequence(msgspec.Struct):
    stop_reason: str
    tokens: list[int]
    logprobs: list[float | None] | None = None
    topk_logprobs: list[list[tuple[int, float]] | None] | None = None


class _Sample(msgspec.Struct):
    sequences: list[_Sequence]
    prompt_logprobs: list[float | None] | None = None
    topk_prompt_logprobs: list[list[tuple[int, float]] | None] | None = None
    target_prompt_logprobs: TensorData | None = None
    prompt_alt_tokens: PromptAltTokens | None = None
    prompt_cache_hit_tokens: int | None = None


class _Training(msgspec.Struct):
    model_id: str
    seq_id: int | None = None
    forward_backward_input: ForwardBackwardInput | None = None
    forward_input: ForwardBackwardInput | None = None


class _Output(msgspec.Struct):
    loss_fn_outputs: list[dict[str, TensorData]]
    loss_fn_output_type: str | None = None
    metrics: dict[str, float | None] | None = None


class _Step(msgspec.Struct):
    metrics: dict[str, float | None] | None = None


def _read_sample(sample: _Sample) -> SampleResponse:
    return SampleResponse(
        [_read_sequence(sequence) for sequence in sample.sequences],
        prompt_logprobs_np=_numbers(sample.prompt_logprobs),
        topk_prompt_logprobs_np=_topk(sample.topk_prompt_logprobs),
        target_prompt_logprobs=sample.target_prompt_logprobs,
        prompt_cache_hit_tokens=sample.prompt_cache_hit_tokens or 0,
        prompt_alt_tokens=sample.prompt_alt_tokens,
    )


def _read_sequence(sequence: _Sequence) -> SampledSequence:
    if sequence.stop_reason not in ("stop", "length"):
        raise RemoteWireError(f"stop_reason {sequence.stop_reason!r} is neither 'stop' nor 'length'.")
    return SampledSequence(
        "stop" if sequence.stop_reason == "stop" else "length",
        tokens_np=np.asarray(sequence.tokens, np.int32),
        logprobs_np=_numbers(sequence.logprobs),
        topk_logprobs_np=_topk(sequence.topk_logprobs),
    )


def _numbers(values: list[float | None] | None) -> Any:
    return None if values is None else np.asarray(values, dtype=np.float32)


def _topk(rows: list[list[tuple[int, float]] | None] | None) -> TopkLogprobs | None:
    if rows is None:
        return None
    k = max((len(row) for row in rows if row), default=0)
    if k * len(rows) > _MAX_TOPK_CELLS:
        raise RemoteWireError(f"{len(rows)} rows of up to {k} candidates; expected at most {_MAX_TOPK_CELLS} cells.")
    return TopkLogprobs.from_lists(rows)


def _metrics(metrics: dict[str, float | None] | None) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in (metrics or {}).items()}


def _read_training(request: _Training) -> ForwardBackwardRequest:
    batch = request.forward_backward_input or request.forward_input
    if batch is None:
        raise RemoteWireError("neither `forward_backward_input` nor `forward_input` is there - at `$`")
    return ForwardBackwardRequest(
        forward_backward_input=batch,
        model_id=request.model_id,
        seq_id=request.seq_id,
        forward_only=request.forward_backward_input is None,
    )


def _read_step(step: _Step) -> OptimStepResponse:
    return OptimStepResponse(metrics=None if step.metrics is None else _metrics(step.metrics))


def _read_output(output: _Output) -> ForwardBackwardOutput:
    kind = (output.loss_fn_output_type or "").rpartition(":")[2]
    return ForwardBackwardOutput(kind or "ArrayRecord", output.loss_fn_outputs, _metrics(output.metrics))


# JSON has forms that the public records do not (null for NaN, lists for arrays): these are read first, then turned.
_READERS: dict[Any, tuple[Any, Any]] = {
    SampleResponse: (_Sample, _read_sample),
    ForwardBackwardOutput: (_Output, _read_output),
    ForwardBackwardRequest: (_Training, _read_training),
    OptimStepResponse: (_Step, _read_step),
}


def decode_json(kind: Any, body: bytes, *, lax: bool = True) -> Any:
    """Return the message of type ``kind`` that ``body`` holds. Unknown fields are ignored.

    Args:
        kind: a type of ``types``.
        body: the bytes.
        lax: accept numbers and booleans written as strings, as the official client does (protocol 1.1).

    Raises:
        RemoteWireError: the bytes are no such message; the text says where in the payload.
    """
    shape, turn = _READERS.get(kind, (kind, None))
    try:
        raw = msgspec.json.decode(body, type=shape, strict=not lax, dec_hook=_from_builtins)
        return raw if turn is None else turn(raw)
    except (ValueError, TypeError, OverflowError, RecursionError, RemoteWireError) as error:
        name = getattr(kind, "__name__", str(kind))
        raise RemoteWireError(f"{name}: {error} ({len(body)} bytes beginning {_excerpt(body)})") from error


def _from_builtins(kind: type, value: Any) -> Any:
    if kind is not TensorData:
        raise NotImplementedError(f"no JSON form of {kind.__name__}")
    if not isinstance(value, dict):
        raise ValueError(f"expected a tensor object with data and dtype, got {type(value).__name__}")
    known = ("data", "dtype", "shape", "sparse_crow_indices", "sparse_col_indices")
    fields = {name: value[name] for name in known if name in value}
    if fields.get("dtype") == "float32" and isinstance(fields.get("data"), list):
        fields["data"] = np.asarray(fields["data"], dtype=np.float32)
    return TensorData(**fields)


def _excerpt(body: bytes) -> str:
    return repr(body[:60].decode("utf-8", "replace"))
