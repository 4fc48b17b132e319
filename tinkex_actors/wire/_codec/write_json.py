"""Messages to JSON (protocol 1.1, 2 and appendix B).

Requests leave None out and never carry NaN. Results carry NaN and infinities, which JSON lacks, as ``null``; every
other float32 travels as the shortest decimal of its double, so that it comes back exactly.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from functools import lru_cache
from typing import Any, Final

import msgspec
import numpy as np

from tinkex_actors.errors import LocalWireError
from tinkex_actors.types import (
    AdamParams,
    EncodedTextChunk,
    ForwardBackwardRequest,
    SampledSequence,
    SampleResponse,
    SamplingParams,
    TensorData,
)

__all__ = ["encode_json"]

# Every version has these, and servers differ in what they take when they are missing: sent even when they are defaults.
_ALWAYS: Final[dict[type, frozenset[str]]] = {
    AdamParams: frozenset({"learning_rate", "beta1", "beta2", "eps"}),
    SamplingParams: frozenset({"temperature", "top_k", "top_p"}),
}


class _Form(msgspec.Struct, frozen=True):
    finite: bool
    omit_none: bool
    minimal: bool


_RESULT: Final = _Form(finite=False, omit_none=True, minimal=False)


def _number(value: Any) -> Any:
    """Say what a numpy scalar is in plain Python; users take them from arrays without noticing."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no JSON form")


_encoder = msgspec.json.Encoder(enc_hook=_number)
_ATOMS = frozenset({str, int, bool, type(None)})


def encode_json(
    message: Any,
    *,
    finite: bool = True,
    omit_none: bool = True,
    minimal: bool = False,
    dropped: Collection[str] = (),
) -> bytes:
    """Return a message as compact JSON; fields that hold a default are present (protocol 1.1) unless told otherwise.

    Args:
        message: a record of ``types``, or plain JSON values.
        finite: refuse NaN and infinity; otherwise they become ``null``.
        omit_none: leave out fields that are None. Entries of plain dicts stay.
        minimal: leave out fields that hold their default (see ``Dialect.minimal``).
        dropped: dotted paths of fields to leave out whatever they hold (see ``Dialect.dropped``).

    Raises:
        LocalWireError: a value has no JSON form.
    """
    try:
        plain = _plain(message, type(message).__name__, _Form(finite, omit_none, minimal))
        for path in dropped:
            _drop(plain, path.split("."))
        return _encoder.encode(plain)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise LocalWireError(
            f"{type(message).__name__}: {error}. Give plain strings, numbers, lists and dicts where free values are "
            "allowed."
        ) from error


def _plain(value: Any, where: str, form: _Form) -> Any:
    special = _WRITERS.get(type(value))
    if special is not None:
        return special(value, where, form)
    if isinstance(value, msgspec.Struct):
        return _record(value, where, form)
    if isinstance(value, dict):
        return {key: _plain(item, f"{where}[{key!r}]", form) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{index}]", form) for index, item in enumerate(value)]
    if isinstance(value, float) and form.finite and not math.isfinite(value):
        raise LocalWireError(f"{where} is {value}, which JSON cannot carry. Give a finite number.")
    return value


def _record(value: msgspec.Struct, where: str, form: _Form) -> dict[str, Any]:
    tag, layout = _layout(type(value))
    given = msgspec.structs.asdict(value)
    if form.minimal:
        for name, default, always in layout:
            if not always and _says_nothing(name, given[name], default, where):
                del given[name]
    omit_none = form.omit_none
    # Most fields are such, and a path that nobody will read need not be made for them.
    fields = {
        name: item if type(item) in _ATOMS else _plain(item, f"{where}.{name}", form)
        for name, item in given.items()
        if item is not None or not omit_none
    }
    return {**tag, **fields} if tag else fields


def _says_nothing(name: str, item: Any, default: Any, where: str) -> bool:
    if name == "type" and "." in where:
        # Inside a message it tells one kind of record from another.
        return False
    # False is how an optional flag says the same as None.
    return bool(item == default) or (item is False and default is None)


@lru_cache(maxsize=256)
def _layout(kind: type[msgspec.Struct]) -> tuple[dict[str, Any], tuple[tuple[str, Any, bool], ...]]:
    config = kind.__struct_config__
    tag = {config.tag_field: config.tag} if config.tag_field is not None else {}
    always = _ALWAYS.get(kind, frozenset())
    layout = []
    for field in msgspec.structs.fields(kind):
        made = field.default_factory is not msgspec.NODEFAULT
        default = field.default_factory() if made else field.default
        layout.append((field.name, default, field.name in always))
    return tag, tuple(layout)


def _drop(value: Any, path: list[str]) -> None:
    if isinstance(value, list):
        for item in value:
            _drop(item, path)
    elif isinstance(value, dict):
        if len(path) == 1:
            value.pop(path[0], None)
        elif path[0] in value:
            _drop(value[path[0]], path[1:])
        elif value.get("type") == path[0]:
            # pydantic puts the discriminator of a union into the place it names.
            _drop(value, path[1:])


def _text(chunk: EncodedTextChunk, where: str, form: _Form) -> dict[str, Any]:
    # Token lists are long and hold nothing but numbers: they go to the encoder as they are.
    return {"type": "encoded_text", "tokens": chunk.tokens}


def _tensor(tensor: TensorData, where: str, form: _Form) -> dict[str, Any]:
    if form.finite and tensor.dtype == "float32" and not bool(np.isfinite(tensor.values_np).all()):
        raise LocalWireError(f"{where} holds NaN or infinity, which JSON cannot carry. Give finite numbers.")
    fields: dict[str, Any] = {"data": tensor.data, "dtype": tensor.dtype, "shape": tensor.shape}
    if tensor.is_sparse:
        fields["sparse_crow_indices"] = tensor.sparse_crow_indices
        fields["sparse_col_indices"] = tensor.sparse_col_indices
    return fields


def _training(request: ForwardBackwardRequest, where: str, form: _Form) -> dict[str, Any]:
    # Without the flag of protobuf, the key says which pass it is (protocol appendix B).
    key = "forward_input" if request.forward_only else "forward_backward_input"
    return _present(
        (key, _plain(request.forward_backward_input, f"{where}.{key}", form)),
        ("model_id", request.model_id),
        ("seq_id", request.seq_id),
    )


def _sample(response: SampleResponse, where: str, form: _Form) -> dict[str, Any]:
    tensors = ("target_prompt_logprobs", "prompt_alt_tokens")
    written = [(name, _plain(getattr(response, name), f"{where}.{name}", _RESULT)) for name in tensors]
    return _present(
        ("sequences", [_sequence(sequence) for sequence in response.sequences]),
        ("prompt_logprobs", response.prompt_logprobs),
        ("topk_prompt_logprobs", response.topk_prompt_logprobs),
        *written,
        ("prompt_cache_hit_tokens", response.prompt_cache_hit_tokens or None),
        ("type", "sample"),
    )


def _sequence(sequence: SampledSequence) -> dict[str, Any]:
    return _present(
        ("stop_reason", sequence.stop_reason),
        ("tokens", sequence.tokens),
        ("logprobs", sequence.logprobs),
        ("topk_logprobs", sequence.topk_logprobs),
    )


def _present(*fields: tuple[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields if value is not None}


_WRITERS: Final[dict[type, Any]] = {
    EncodedTextChunk: _text,
    TensorData: _tensor,
    ForwardBackwardRequest: _training,
    SampleResponse: _sample,
}
