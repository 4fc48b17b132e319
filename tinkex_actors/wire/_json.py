"""Messages to and from JSON (protocol 1.1, 2 and appendix B).

Requests leave None out and never carry NaN. Results carry NaN and infinities, which JSON lacks, as ``null``, and come
back with NaN there; every other float32 travels as the shortest decimal of its double, so that it comes back exactly.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np

from tinkex_actors.errors import LocalWireError, RemoteWireError
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

__all__ = ["decode_json", "encode_json"]


def _number(value: Any) -> Any:
    """Say what a numpy scalar is in plain Python; users take them from arrays without noticing."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no JSON form")


_encoder = msgspec.json.Encoder(enc_hook=_number)


def encode_json(message: Any, *, finite: bool = True, omit_none: bool = True) -> bytes:
    """Return a message as compact JSON; defaults are always present (protocol 1.1).

    Args:
        message: a record of ``types``, or plain JSON values.
        finite: refuse NaN and infinity; otherwise they become ``null``.
        omit_none: leave out fields that are None. Entries of plain dicts stay.

    Raises:
        LocalWireError: a value has no JSON form.
    """
    try:
        return _encoder.encode(_plain(message, type(message).__name__, finite, omit_none))
    except (TypeError, ValueError, OverflowError) as error:
        raise LocalWireError(
            f"{type(message).__name__}: {error}. Give plain strings, numbers, lists and dicts where free values are "
            "allowed."
        ) from error


def _plain(value: Any, where: str, finite: bool, omit_none: bool) -> Any:
    special = _WRITERS.get(type(value))
    if special is not None:
        return special(value, where, finite)
    if isinstance(value, msgspec.Struct):
        tag, names = _layout(type(value))
        fields = dict(tag)
        for name in names:
            item = getattr(value, name)
            if item is not None or not omit_none:
                fields[name] = _plain(item, f"{where}.{name}", finite, omit_none)
        return fields
    if isinstance(value, dict):
        return {key: _plain(item, f"{where}[{key!r}]", finite, omit_none) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        # Token lists are long and flat: they go to the encoder as they are.
        if not value or isinstance(value[0], (int, str)):
            return value
        return [_plain(item, f"{where}[{index}]", finite, omit_none) for index, item in enumerate(value)]
    if isinstance(value, float) and finite and not math.isfinite(value):
        raise LocalWireError(f"{where} is {value}, which JSON cannot carry. Give a finite number.")
    return value


@lru_cache(maxsize=256)
def _layout(kind: type[msgspec.Struct]) -> tuple[tuple[tuple[str, Any], ...], tuple[str, ...]]:
    config = kind.__struct_config__
    tag = ((config.tag_field, config.tag),) if config.tag_field is not None else ()
    return tag, kind.__struct_fields__


def _tensor(tensor: TensorData, where: str, finite: bool) -> dict[str, Any]:
    if finite and tensor.dtype == "float32" and not bool(np.isfinite(tensor.values_np).all()):
        raise LocalWireError(f"{where} holds NaN or infinity, which JSON cannot carry. Give finite numbers.")
    fields: dict[str, Any] = {"data": tensor.data, "dtype": tensor.dtype, "shape": tensor.shape}
    if tensor.is_sparse:
        fields["sparse_crow_indices"] = tensor.sparse_crow_indices
        fields["sparse_col_indices"] = tensor.sparse_col_indices
    return fields


def _training(request: ForwardBackwardRequest, where: str, finite: bool) -> dict[str, Any]:
    # Without the flag of protobuf, the key says which pass it is (protocol appendix B).
    key = "forward_input" if request.forward_only else "forward_backward_input"
    fields = {
        key: _plain(request.forward_backward_input, f"{where}.{key}", finite, True),
        "model_id": request.model_id,
        "seq_id": request.seq_id,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _sample(response: SampleResponse, where: str, finite: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "sequences": [_sequence(sequence) for sequence in response.sequences],
        "prompt_logprobs": response.prompt_logprobs,
        "topk_prompt_logprobs": response.topk_prompt_logprobs,
        "target_prompt_logprobs": response.target_prompt_logprobs,
        "prompt_alt_tokens": response.prompt_alt_tokens,
        "prompt_cache_hit_tokens": response.prompt_cache_hit_tokens or None,
        "type": "sample",
    }
    return {
        name: _plain(value, f"{where}.{name}", finite, True)
        if isinstance(value, (TensorData, PromptAltTokens))
        else value
        for name, value in fields.items()
        if value is not None
    }


def _sequence(sequence: SampledSequence) -> dict[str, Any]:
    fields = {
        "stop_reason": sequence.stop_reason,
        "tokens": sequence.tokens,
        "logprobs": sequence.logprobs,
        "topk_logprobs": sequence.topk_logprobs,
    }
    return {name: value for name, value in fields.items() if value is not None}


_WRITERS: dict[type, Any] = {TensorData: _tensor, ForwardBackwardRequest: _training, SampleResponse: _sample}


# --- reading -------------------------------------------------------------------------------------------------------
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
    prompt_cache_hit_tokens: int = 0


class _Training(msgspec.Struct):
    model_id: str
    seq_id: int | None = None
    forward_backward_input: ForwardBackwardInput | None = None
    forward_input: ForwardBackwardInput | None = None


class _Output(msgspec.Struct):
    loss_fn_outputs: list[dict[str, TensorData]]
    loss_fn_output_type: str = "ArrayRecord"
    metrics: dict[str, float | None] = {}


class _Step(msgspec.Struct):
    metrics: dict[str, float | None] | None = None


def _read_sample(sample: _Sample) -> SampleResponse:
    return SampleResponse(
        [_read_sequence(sequence) for sequence in sample.sequences],
        prompt_logprobs_np=_numbers(sample.prompt_logprobs),
        topk_prompt_logprobs_np=_topk(sample.topk_prompt_logprobs),
        target_prompt_logprobs=sample.target_prompt_logprobs,
        prompt_cache_hit_tokens=sample.prompt_cache_hit_tokens,
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
    return None if rows is None else TopkLogprobs.from_lists(rows)


def _metrics(metrics: dict[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in metrics.items()}


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
    kind = output.loss_fn_output_type.rpartition(":")[2]
    return ForwardBackwardOutput(kind, output.loss_fn_outputs, _metrics(output.metrics))


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
