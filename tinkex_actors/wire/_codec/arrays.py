"""numpy arrays to and from protobuf tensors (protocol 3.3), with whole-buffer copies and no loop over numbers."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tinkex_actors.errors import RemoteWireError
from tinkex_actors.types import TensorData, TensorDtype, TopkLogprobs
from tinkex_actors.wire._proto import tinker_public_pb2 as pb

__all__ = [
    "WIRE_DTYPES",
    "WIRE_NUMBERS",
    "from_buffer",
    "read_tensor",
    "read_topk",
    "read_values",
    "wire_dtype",
    "write_tensor",
    "write_topk",
]

Array = npt.NDArray[Any]

# The wire is little-endian on every machine.
_DTYPES: Final[dict[int, np.dtype[Any]]] = {
    pb.DTYPE_FLOAT32: np.dtype("<f4"),
    pb.DTYPE_INT64: np.dtype("<i8"),
    pb.DTYPE_INT32: np.dtype("<i4"),
    pb.DTYPE_BFLOAT16: np.dtype("<u2"),
}
WIRE_NUMBERS: Final[dict[str, int]] = {"float32": pb.DTYPE_FLOAT32, "int64": pb.DTYPE_INT64, "int32": pb.DTYPE_INT32}
"""The ``DType`` of an element type's name."""

WIRE_DTYPES: Final[dict[str, np.dtype[Any]]] = {name: _DTYPES[number] for name, number in WIRE_NUMBERS.items()}
"""The little-endian dtype of an element type's name."""

_DENSE: Final[dict[int, tuple[np.dtype[Any], TensorDtype]]] = {
    pb.DTYPE_FLOAT32: (_DTYPES[pb.DTYPE_FLOAT32], "float32"),
    pb.DTYPE_INT64: (_DTYPES[pb.DTYPE_INT64], "int64"),
}


def wire_dtype(number: int, where: str) -> np.dtype[Any]:
    """Return the element type behind a ``DType`` number; bfloat16 is seen as the uint16 words it is kept in."""
    dtype = _DTYPES.get(number)
    if dtype is None:
        raise RemoteWireError(f"{where}: dtype {number} is not one of float32, int64, int32, bfloat16.")
    return dtype


def from_buffer(buffer: bytes, dtype: npt.DTypeLike, where: str) -> Array:
    """Return the buffer as a read-only 1-D array.

    Raises:
        RemoteWireError: its size is not a whole number of elements.
    """
    wanted = dtype if isinstance(dtype, np.dtype) else np.dtype(dtype)
    if len(buffer) % wanted.itemsize:
        raise RemoteWireError(f"{where}: {len(buffer)} bytes are not a whole number of {wanted} elements.")
    return np.frombuffer(buffer, wanted)


def read_values(buffer: bytes, number: int, where: str) -> Array:
    """Return the elements as float32 or int64: bfloat16 and int32 are widened, exactly."""
    array = from_buffer(buffer, wire_dtype(number, where), where)
    if number == pb.DTYPE_BFLOAT16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    if number == pb.DTYPE_INT32:
        return array.astype(np.int64)
    return array


def read_tensor(message: Any, where: str) -> TensorData:
    """Return a ``Tensor``.

    A dense tensor without shape is taken as 1-D, and bfloat16 is widened: two places where the official decoder goes
    wrong (protocol 3.5).
    """
    encoding, sizes = message.WhichOneof("encoding"), message.shape
    plain = _DENSE.get(message.dtype)
    if encoding == "dense" and plain is not None and len(sizes) == 1:
        # Nearly every tensor: no conversion, one comparison.
        dtype, name = plain
        buffer = message.dense
        if len(buffer) == sizes[0] * dtype.itemsize:
            return TensorData(np.frombuffer(buffer, dtype), name)
    shape = tuple(sizes)
    if encoding == "sparse_csr":
        csr = message.sparse_csr
        values = read_values(csr.values, message.dtype, f"{where}.values")
        crow = from_buffer(csr.crow_indices, "<i8", f"{where}.crow_indices")
        col = from_buffer(csr.col_indices, "<i8", f"{where}.col_indices")
        return _tensor(values, shape, where, crow, col)
    values = read_values(message.dense, message.dtype, where)
    return _tensor(values, shape or values.shape, where)


def _tensor(values: Array, shape: tuple[int, ...], where: str, crow: Any = None, col: Any = None) -> TensorData:
    dtype: TensorDtype = "float32" if values.dtype.kind == "f" else "int64"
    if crow is None and (min(shape, default=0) < 0 or math.prod(shape) != values.size):
        raise RemoteWireError(f"{where}: {values.size} values do not fit shape {list(shape)}.")
    try:
        return TensorData(values, dtype, shape, crow, col)
    except ValueError as error:
        raise RemoteWireError(f"{where}: {error}") from error


def write_tensor(message: Any, tensor: TensorData, dtype: str | None = None) -> None:
    """Fill a ``Tensor``, always with its shape.

    Args:
        message: the empty protobuf message.
        tensor: what to write.
        dtype: element type on the wire, where it is not the tensor's own.
    """
    kind = dtype or tensor.dtype
    message.dtype = WIRE_NUMBERS[kind]
    array = tensor.values_np
    if array.dtype != WIRE_DTYPES[kind]:
        array = array.astype(WIRE_DTYPES[kind])
    values = array.tobytes()
    crow, col = tensor.crow_indices_np, tensor.col_indices_np
    if crow is None or col is None:
        message.shape.extend(array.shape)
        message.dense = values
        return
    message.shape.extend(tensor.shape)
    message.sparse_csr.values = values
    message.sparse_csr.crow_indices = crow.astype("<i8", copy=False).tobytes()
    message.sparse_csr.col_indices = col.astype("<i8", copy=False).tobytes()


def read_topk(message: Any, where: str) -> TopkLogprobs | None:
    """Return ``TopkLogprobs``, or None when it has no cell."""
    n, k = message.length, message.k
    if n == 0 or k == 0:
        return None
    ids = from_buffer(message.token_ids, "<i4", f"{where}.token_ids")
    logprobs = from_buffer(message.logprobs, "<f4", f"{where}.logprobs")
    if ids.size != n * k or logprobs.size != n * k:
        raise RemoteWireError(f"{where}: {ids.size} ids and {logprobs.size} logprobs, expected {n} rows of {k}.")
    return TopkLogprobs(ids.reshape(n, k), logprobs.reshape(n, k))


def write_topk(message: Any, topk: TopkLogprobs) -> None:
    """Fill ``TopkLogprobs``."""
    message.length, message.k = topk.token_ids.shape
    message.token_ids = topk.token_ids.astype("<i4", copy=False).tobytes()
    message.logprobs = topk.logprobs.astype("<f4", copy=False).tobytes()
