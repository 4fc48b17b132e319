"""Training requests, and the results of training and sampling, to and from protobuf bytes (protocol 3.2, 3.4).

Imported at the first protobuf message, because it imports protobuf.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate, pairwise
from typing import Any, Final

import numpy as np
from google.protobuf.message import DecodeError, EncodeError

from tinkex_actors.errors import LocalWireError, RemoteWireError
from tinkex_actors.types import (
    Datum,
    DmelChunk,
    EncodedTextChunk,
    ForwardBackwardInput,
    ForwardBackwardOutput,
    ForwardBackwardRequest,
    ImageChunk,
    ModelInput,
    ModelInputChunk,
    PromptAltTokens,
    PromptProvenanceSpan,
    ProvenanceSpans,
    SampledProvenanceSpan,
    SampledSequence,
    SampleResponse,
    TensorData,
    TensorDtype,
)
from tinkex_actors.wire._codec.arrays import (
    WIRE_DTYPES,
    WIRE_NUMBERS,
    from_buffer,
    read_tensor,
    read_topk,
    read_values,
    wire_dtype,
    write_tensor,
    write_topk,
)
from tinkex_actors.wire._proto import tinker_public_pb2 as pb

__all__ = ["decode_protobuf", "encode_protobuf"]

# A record that had its fields stripped says only how many datums it stood for. Chunks hold 1024 datums (protocol 5.2);
# past this bound, over all records of a result, the number is nonsense and would only serve to fill the memory.
_MAX_BARE_DATUMS: Final = 100_000
# A thousand tokens with targets and weights are some 16 KiB; parts beyond 128 KiB cost the allocator page by page.
_DATA_IN_PART: Final = 4
_TOKENS: Final = WIRE_DTYPES["int32"]
_IMAGE_FORMATS: Final = ("png", "jpeg")


def encode_protobuf(message: Any) -> bytes:
    """Return the protobuf form of a ``ForwardBackwardRequest``, ``ForwardBackwardOutput`` or ``SampleResponse``.

    The same message gives the same bytes, so that a repeated request is identical.

    Raises:
        LocalWireError: something in it has no protobuf form.
    """
    writers: dict[Any, Callable[[Any], Iterable[Any]]] = {
        ForwardBackwardRequest: _write_request,
        ForwardBackwardOutput: _write_output,
        SampleResponse: _write_sample,
    }
    try:
        # Parts that follow one another are one message, by protobuf's rules. A large one is made of parts because the
        # compiled runtime takes many times as long to grow a buffer of a megabyte as to fill it.
        parts = [part.SerializeToString(deterministic=True) for part in writers[type(message)](message)]
    except (TypeError, ValueError, OverflowError, EncodeError) as error:
        raise LocalWireError(f"{type(message).__name__}: cannot be written as protobuf: {error}") from error
    return parts[0] if len(parts) == 1 else b"".join(parts)


def decode_protobuf(kind: Any, body: bytes) -> Any:
    """Return the message of type ``kind`` (one of the three that ``encode_protobuf`` takes) that ``body`` holds.

    Raises:
        RemoteWireError: the bytes are no such message; the text says where.
    """
    message_type, read = {
        ForwardBackwardRequest: (pb.ForwardBackwardRequest, _read_request),
        ForwardBackwardOutput: (pb.ForwardBackwardOutput, _read_output),
        SampleResponse: (pb.SampleResponse, _read_sample),
    }[kind]
    try:
        message = message_type.FromString(body)
    except (DecodeError, ValueError) as error:
        # ValueError: bad UTF-8 in the pure-Python runtime, where the compiled one says DecodeError.
        raise RemoteWireError(f"{kind.__name__}: {len(body)} bytes that are not its protobuf form: {error}") from error
    try:
        return read(message)
    except (ValueError, TypeError, OverflowError) as error:
        raise RemoteWireError(f"{kind.__name__}: {error}") from error


# --- forward and backward: the request -----------------------------------------------------------------------------
def _write_request(request: ForwardBackwardRequest) -> Iterator[Any]:
    # In the order of the fields' numbers: the same bytes as of one message.
    batch = request.forward_backward_input
    yield pb.ForwardBackwardRequest(model_id=request.model_id, seq_id=request.seq_id or 0)
    for start in range(0, len(batch.data), _DATA_IN_PART):
        part = pb.ForwardBackwardRequest()
        for datum in batch.data[start : start + _DATA_IN_PART]:
            _write_datum(part.data.add(), datum)
        yield part
    rest = pb.ForwardBackwardRequest(loss_fn=batch.loss_fn, forward_only=request.forward_only)
    for name, value in (batch.loss_fn_config or {}).items():
        if isinstance(value, str):
            rest.loss_fn_config_v2[name].text = value
        else:
            rest.loss_fn_config_v2[name].number = value
            rest.loss_fn_config[name] = value
    yield rest


def _write_datum(message: Any, datum: Datum) -> None:
    chunks, fields = message.model_input, message.loss_fn_inputs
    for chunk in datum.model_input.chunks:
        _write_chunk(chunks.add(), chunk)
    for name, tensor in datum.loss_fn_inputs.items():
        write_tensor(fields[name], tensor)
    if datum.model_input_spans:
        _write_spans(message.model_input_spans, datum.model_input_spans)
    if datum.loss_fn_input_spans:
        _write_spans(message.loss_fn_input_spans, datum.loss_fn_input_spans)


def _write_spans(field: Any, spans: ProvenanceSpans) -> None:
    for span in spans:
        item = field.add()
        kept = item.prompt_tokens if isinstance(span, PromptProvenanceSpan) else item.sampled_tokens
        kept.sequence_id, kept.offset, kept.length = span.sequence_id, span.offset, span.length


def _write_chunk(message: Any, chunk: ModelInputChunk) -> None:
    if isinstance(chunk, EncodedTextChunk):
        message.encoded_text.tokens = chunk.tokens_np.astype(WIRE_DTYPES["int32"], copy=False).tobytes()
    elif isinstance(chunk, ImageChunk):
        message.image.data = chunk.data
        message.image.format = chunk.format
        if chunk.expected_tokens is not None:
            message.image.expected_tokens = chunk.expected_tokens
    elif isinstance(chunk, DmelChunk):
        message.dmel.dmel = chunk.dmel
    else:
        raise LocalWireError(
            f"a {type(chunk).__name__} cannot be trained on: it has no protobuf form. Send the image itself, as an "
            "ImageChunk."
        )


def _read_request(message: Any) -> ForwardBackwardRequest:
    config: dict[str, float | str] = dict(message.loss_fn_config)
    for name, value in message.loss_fn_config_v2.items():
        config[name] = value.text if value.WhichOneof("value") == "text" else value.number
    return ForwardBackwardRequest(
        model_id=message.model_id,
        # Zero is how an absent number travels (protocol 3.2).
        seq_id=message.seq_id or None,
        forward_only=message.forward_only,
        forward_backward_input=ForwardBackwardInput(
            data=[_read_datum(datum, index) for index, datum in enumerate(message.data)],
            loss_fn=message.loss_fn,
            loss_fn_config=config or None,
        ),
    )


def _read_datum(message: Any, index: int) -> Datum:
    # Places are put into words when something is wrong with them, not for every tensor.
    chunks: list[ModelInputChunk] = []
    for chunk in message.model_input:
        try:
            chunks.append(_read_chunk(chunk))
        except (RemoteWireError, ValueError) as error:
            raise _placed(error, f"data[{index}].model_input[{len(chunks)}]") from error
    inputs = {}
    for name, tensor in message.loss_fn_inputs.items():
        try:
            inputs[name] = read_tensor(tensor, "")
        except RemoteWireError as error:
            raise _placed(error, f"data[{index}].loss_fn_inputs[{name!r}]") from error
    if not (message.model_input_spans or message.loss_fn_input_spans):
        return Datum(ModelInput(chunks=chunks), inputs)
    try:
        spans = _read_spans(message.model_input_spans), _read_spans(message.loss_fn_input_spans)
    except (RemoteWireError, ValueError) as error:
        raise _placed(error, f"data[{index}]") from error
    return Datum(ModelInput(chunks=chunks), inputs, *spans)


def _placed(error: Exception, place: str) -> RemoteWireError:
    between = "" if isinstance(error, RemoteWireError) else ": "
    return RemoteWireError(f"{place}{between}{error}")


def _read_spans(spans: Any) -> ProvenanceSpans:
    kinds: dict[str, Any] = {"prompt_tokens": PromptProvenanceSpan, "sampled_tokens": SampledProvenanceSpan}
    found: ProvenanceSpans = []
    for span in spans:
        kind = span.WhichOneof("span")
        if kind is None:
            raise RemoteWireError(f": a provenance span of no kind; expected {' or '.join(kinds)}.")
        item = getattr(span, kind)
        found.append(kinds[kind](sequence_id=item.sequence_id, offset=item.offset, length=item.length))
    return found


def _read_chunk(message: Any) -> ModelInputChunk:
    kind = message.WhichOneof("chunk")
    if kind == "encoded_text":
        buffer = message.encoded_text.tokens
        # In place where the size fits, which is nearly always: one call less for each datum.
        tokens: Any = np.frombuffer(buffer, _TOKENS) if not len(buffer) % 4 else from_buffer(buffer, _TOKENS, "")
        return EncodedTextChunk(tokens=tokens)
    if kind == "image":
        image = message.image
        if image.format not in _IMAGE_FORMATS:
            raise RemoteWireError(f": image format {image.format!r} is not one of {', '.join(_IMAGE_FORMATS)}.")
        expected = image.expected_tokens if image.HasField("expected_tokens") else None
        return ImageChunk(data=image.data, format=image.format, expected_tokens=expected)
    if kind == "dmel":
        return DmelChunk(dmel=message.dmel.dmel)
    raise RemoteWireError(": a chunk of no kind; expected encoded_text, image or dmel.")


# --- forward and backward: the result ------------------------------------------------------------------------------
def _write_output(output: ForwardBackwardOutput) -> list[Any]:
    message = pb.ForwardBackwardOutput(loss_fn_output_type=output.loss_fn_output_type)
    for name, value in output.metrics.items():
        message.metrics[name] = value
    for start, stop in _alike(output.loss_fn_outputs):
        datums = output.loss_fn_outputs[start:stop]
        record = message.loss_fn_outputs.add(type_tag=output.loss_fn_output_type, num_datums=len(datums))
        for name in datums[0]:
            _write_field(record.fields[name], [datum[name] for datum in datums])
    return [message]


def _alike(outputs: list[dict[str, TensorData]]) -> Iterator[tuple[int, int]]:
    # A record has one dtype and one trailing shape for each field, so it holds a run of datums that agree on them.
    start = 0
    signatures = [
        {
            name: (tensor.dtype, tensor.values_np.shape[1:] if not tensor.is_sparse else tuple(tensor.shape[1:]))
            for name, tensor in datum.items()
        }
        for datum in outputs
    ]
    for index in range(1, len(outputs) + 1):
        if index == len(outputs) or signatures[index] != signatures[start]:
            yield start, index
            start = index


def _write_field(field: Any, tensors: list[TensorData]) -> None:
    dtype = WIRE_DTYPES[tensors[0].dtype]
    arrays = [tensor.to_numpy() if tensor.is_sparse else tensor.values_np for tensor in tensors]
    parts = [array.astype(dtype, copy=False).tobytes() for array in arrays]
    field.dtype = WIRE_NUMBERS[tensors[0].dtype]
    field.trailing_shape.extend(arrays[0].shape[1:])
    field.data = b"".join(parts)
    field.offsets = np.fromiter(accumulate(map(len, parts), initial=0), "<i8", len(parts) + 1).tobytes()


def _read_output(message: Any) -> ForwardBackwardOutput:
    outputs: list[dict[str, TensorData]] = []
    bare = 0
    for index, record in enumerate(message.loss_fn_outputs):
        where = f"loss_fn_outputs[{index}]"
        if record.fields:
            outputs.extend(_read_record(record, where))
            continue
        bare += record.num_datums
        if record.num_datums < 0 or bare > _MAX_BARE_DATUMS:
            raise RemoteWireError(f"{where}: num_datums {record.num_datums} is out of range and there are no fields.")
        outputs.extend({} for _ in range(record.num_datums))
    kind = message.loss_fn_output_type.rpartition(":")[2]
    return ForwardBackwardOutput(kind or "ArrayRecord", outputs, dict(message.metrics))


def _read_record(record: Any, where: str) -> list[dict[str, TensorData]]:
    columns = {
        name: _read_field(field, f"{where}.fields[{name!r}]", record.num_datums)
        for name, field in record.fields.items()
    }
    counts = {len(column) for column in columns.values()}
    if len(counts) > 1:
        raise RemoteWireError(f"{where}: its fields disagree on the number of datums: {sorted(counts)}.")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _read_field(field: Any, where: str, num_datums: int) -> list[TensorData]:
    values = read_values(field.data, field.dtype, where)
    offsets = from_buffer(field.offsets, "<i8", f"{where}.offsets")
    itemsize = wire_dtype(field.dtype, where).itemsize
    if num_datums and offsets.size != num_datums + 1:
        raise RemoteWireError(
            f"{where}: {offsets.size} offsets for {num_datums} datums, expected one more than datums."
        )
    if offsets.size and (
        offsets[0] < 0
        or offsets[-1] > len(field.data)
        or bool(np.any(np.diff(offsets) < 0))
        or bool(np.any(offsets % itemsize))
    ):
        raise RemoteWireError(f"{where}: offsets must rise from 0 to {len(field.data)} in steps of {itemsize} bytes.")
    trailing = tuple(field.trailing_shape)
    size = 1
    for dimension in trailing:
        size *= dimension
    if min(trailing, default=0) < 0:
        raise RemoteWireError(f"{where}: a negative dimension in trailing_shape {list(trailing)}.")
    dtype: TensorDtype = "float32" if values.dtype.kind == "f" else "int64"
    bounds = (offsets // itemsize).tolist()
    if not trailing:
        return [TensorData(values[start:stop], dtype) for start, stop in pairwise(bounds)]
    tensors = []
    for start, stop in pairwise(bounds):
        rows = (stop - start) // size if size else 0
        if rows * size != stop - start:
            raise RemoteWireError(f"{where}: {stop - start} values are not whole rows of shape {list(trailing)}.")
        tensors.append(TensorData(values[start:stop], dtype, (rows, *trailing)))
    return tensors


# --- sampling ------------------------------------------------------------------------------------------------------
def _write_sample(response: SampleResponse) -> list[Any]:
    message = pb.SampleResponse(prompt_cache_hit_tokens=response.prompt_cache_hit_tokens)
    for sequence in response.sequences:
        reason = pb.STOP_REASON_STOP if sequence.stop_reason == "stop" else pb.STOP_REASON_LENGTH
        item = message.sequences.add(stop_reason=reason)
        item.tokens = sequence.tokens_np.astype("<i4", copy=False).tobytes()
        if sequence.logprobs_np is not None:
            item.logprobs = sequence.logprobs_np.astype("<f4", copy=False).tobytes()
        if sequence.topk_logprobs_np is not None:
            write_topk(item.topk_sampled_logprobs, sequence.topk_logprobs_np)
    if response.prompt_logprobs_np is not None:
        message.prompt_logprobs = response.prompt_logprobs_np.astype("<f4", copy=False).tobytes()
    if response.topk_prompt_logprobs_np is not None:
        write_topk(message.topk_prompt_logprobs, response.topk_prompt_logprobs_np)
    if response.target_prompt_logprobs is not None:
        write_tensor(message.target_prompt_logprobs, response.target_prompt_logprobs)
    if response.prompt_alt_tokens is not None:
        write_tensor(message.prompt_alt_tokens.tokens, response.prompt_alt_tokens.tokens, "int32")
        write_tensor(message.prompt_alt_tokens.logprobs, response.prompt_alt_tokens.logprobs)
    return [message]


def _read_sample(message: Any) -> SampleResponse:
    sequences = [_read_sequence(item, f"sequences[{index}]") for index, item in enumerate(message.sequences)]
    prompt = message.prompt_logprobs
    topk = message.topk_prompt_logprobs if message.HasField("topk_prompt_logprobs") else None
    target = message.target_prompt_logprobs if message.HasField("target_prompt_logprobs") else None
    alternatives = message.prompt_alt_tokens if message.HasField("prompt_alt_tokens") else None
    return SampleResponse(
        sequences,
        # Empty bytes mean that nobody asked (protocol 3.4).
        prompt_logprobs_np=from_buffer(prompt, "<f4", "prompt_logprobs") if prompt else None,
        topk_prompt_logprobs_np=None if topk is None else read_topk(topk, "topk_prompt_logprobs"),
        target_prompt_logprobs=None if target is None else read_tensor(target, "target_prompt_logprobs"),
        prompt_cache_hit_tokens=message.prompt_cache_hit_tokens,
        prompt_alt_tokens=None
        if alternatives is None
        else PromptAltTokens(
            read_tensor(alternatives.tokens, "prompt_alt_tokens.tokens"),
            read_tensor(alternatives.logprobs, "prompt_alt_tokens.logprobs"),
        ),
    )


def _read_sequence(message: Any, where: str) -> SampledSequence:
    if message.stop_reason not in (pb.STOP_REASON_STOP, pb.STOP_REASON_LENGTH):
        raise RemoteWireError(f"{where}: stop_reason {message.stop_reason} is neither stop (0) nor length (1).")
    topk = message.topk_sampled_logprobs if message.HasField("topk_sampled_logprobs") else None
    return SampledSequence(
        "stop" if message.stop_reason == pb.STOP_REASON_STOP else "length",
        tokens_np=from_buffer(message.tokens, "<i4", f"{where}.tokens"),
        logprobs_np=from_buffer(message.logprobs, "<f4", f"{where}.logprobs") if message.logprobs else None,
        topk_logprobs_np=None if topk is None else read_topk(topk, f"{where}.topk_sampled_logprobs"),
    )
