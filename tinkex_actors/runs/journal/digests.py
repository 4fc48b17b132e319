"""What a request carries, in eight characters, so that a repeated one is known again."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import msgspec

from tinkex_actors.types import Datum, EncodedTextChunk, TensorData

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["digest_of"]


def digest_of(content: Any) -> str:
    """Return a short text that two different contents rarely share.

    It tells a repeated request from a different one; nothing secret or safe hangs on it. Of a large batch some examples
    are looked at, of their long tensors some numbers, and of the others the lengths, so that 64 x 1024 tokens take a
    tenth or two of a millisecond; all else is looked at as a whole.
    """
    pieces: list[bytes] = []
    _gather(content, pieces)
    return f"{zlib.crc32(_SEPARATOR.join(pieces)):08x}"


# Numbers at the end of a long tensor, where continuations of the same prompt differ; neighbours, as every other place
# would cost a cache line that nobody else needs now.
_LOOKED_AT = 32
# Examples of a large batch, evenly spread: data that were drawn or shuffled otherwise differ in nearly all of them.
_EXAMPLES = 16
_SEPARATOR = b"\x1f"


def _gather(content: Any, pieces: list[bytes]) -> None:
    match content:
        case Datum():
            for chunk in content.model_input.chunks:
                if isinstance(chunk, EncodedTextChunk):
                    _gather_some(chunk.tokens_np, pieces)
                else:
                    _gather(chunk, pieces)
            for name, tensor in content.loss_fn_inputs.items():
                pieces.append(name.encode())
                _gather_some(tensor.values_np, pieces)
                if tensor.is_sparse:
                    pieces += (tensor.crow_indices_np.tobytes(), tensor.col_indices_np.tobytes())
        case list() | tuple():
            stride = 1 + len(content) // _EXAMPLES
            for place, item in enumerate(content):
                if place % stride and isinstance(item, Datum):
                    pieces.append(b"%d" % sum(map(len, item.loss_fn_inputs.values())))
                else:
                    _gather(item, pieces)
        case EncodedTextChunk():
            pieces.append(content.tokens_np.tobytes())
        case TensorData():
            pieces.append(f"{content.shape}".encode() + content.to_numpy().tobytes())
        case msgspec.Struct():
            # Field by field: their own texts are short, for people.
            pieces.append(type(content).__name__.encode())
            _gather(msgspec.structs.astuple(content), pieces)
        case _:
            pieces.append(repr(content).encode())


def _gather_some(array: npt.NDArray[Any], pieces: list[bytes]) -> None:
    flat = array if array.ndim == 1 else array.ravel()
    pieces += (b"%d" % flat.size, flat[-_LOOKED_AT:].tobytes())
