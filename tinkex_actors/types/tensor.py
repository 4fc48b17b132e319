"""Flat numeric tensors as they travel: int64 or float32, dense or CSR (protocol 2.2)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Final, Literal, NoReturn, final

import numpy as np
import numpy.typing as npt

from tinkex_actors.errors import InputError

__all__ = ["TensorData", "TensorDtype"]

TensorDtype = Literal["int64", "float32"]

Array = npt.NDArray[Any]

_NUMPY_DTYPES: Final[dict[str, npt.DTypeLike]] = {"int64": np.dtype(np.int64), "float32": np.dtype(np.float32)}


@final
class TensorData:
    """A tensor of ``int64`` or ``float32`` values; dense of any rank, or a 2-D matrix in CSR form.

    Args:
        data: numbers, nested or flat, or anything numpy can read (numpy, JAX and CPU torch arrays). Dense values in C
            order, or, with ``sparse_*`` given, the values stored in the CSR matrix. An array that has the right dtype
            is kept by reference.
        dtype: ``"int64"`` or ``"float32"``; required.
        shape: the dense shape; default: the shape of ``data``. Required for CSR, ``[rows, columns]``.
        sparse_crow_indices: CSR row pointers, ``rows + 1`` of them.
        sparse_col_indices: CSR column indices, one for each value.

    Raises:
        InputError: ragged or non-numeric data, a fraction where int64 is asked, sizes that do not fit the shape.
    """

    __slots__ = ("_col", "_crow", "_dtype", "_shape", "_values")

    _values: Array
    _dtype: TensorDtype
    _shape: tuple[int, ...]
    _crow: npt.NDArray[np.int64] | None
    _col: npt.NDArray[np.int64] | None

    def __init__(
        self,
        data: Any = None,
        dtype: TensorDtype | None = None,
        shape: Sequence[int] | None = None,
        sparse_crow_indices: Any = None,
        sparse_col_indices: Any = None,
    ) -> None:
        if dtype not in _NUMPY_DTYPES:
            raise InputError(
                f"TensorData: dtype must be 'int64' or 'float32', got {dtype!r}. Pass dtype=, or use "
                "TensorData.from_numpy to take it from an array."
            )
        if type(data) is np.ndarray and sparse_crow_indices is None is sparse_col_indices:
            # The common case, and by far the most frequent in decoding: nothing to check or convert.
            kept = data.shape
            if data.dtype == _NUMPY_DTYPES[dtype] and (shape is None or tuple(shape) == kept):
                self._store(data, dtype, kept, None, None)
                return
        values = _numbers(data, dtype)
        sparse = sparse_crow_indices is not None or sparse_col_indices is not None
        if sparse:
            values, shape, crow, col = _csr(values, shape, sparse_crow_indices, sparse_col_indices)
        else:
            values, crow, col = _dense(values, shape), None, None
            shape = values.shape
        self._store(values, dtype, tuple(int(n) for n in shape), crow, col)

    def _store(self, values: Array, dtype: TensorDtype, shape: tuple[int, ...], crow: Any, col: Any) -> None:
        _set_values(self, values)
        _set_dtype(self, dtype)
        _set_shape(self, shape)
        _set_crow(self, crow)
        _set_col(self, col)

    @classmethod
    def from_numpy(cls, array: Any) -> TensorData:
        """Return a dense tensor: floating arrays become float32, signed integers int64 (bfloat16 is widened).

        Raises:
            InputError: for bool, unsigned, complex and object arrays.
        """
        plain = as_array(array)
        if plain.dtype.kind == "f":
            return cls(plain, "float32", plain.shape)
        if plain.dtype.kind == "i":
            return cls(plain, "int64", plain.shape)
        raise InputError(
            f"TensorData: an array of dtype {plain.dtype} has no wire form; expected a floating or signed integer "
            "dtype. Convert it first, for example with .astype('int64') or .astype('float32')."
        )

    @classmethod
    def from_numpy_sparse(cls, array: Any, pad_value: int = 0) -> TensorData:
        """Return the smaller of the dense and the CSR form of a 2-D array.

        CSR is taken when ``rows + 1 + 2 * stored < rows * columns`` (protocol 2.2), where an entry is stored when it
        differs from ``pad_value``; other ranks stay dense. ``to_numpy(pad_value)`` gives the array back.
        """
        dense = cls.from_numpy(array)
        if dense._values.ndim != 2:
            return dense
        rows, columns = dense._values.shape
        kept = dense._values != pad_value
        counts = kept.sum(axis=1)
        if rows + 1 + 2 * int(counts.sum()) >= rows * columns:
            return dense
        crow = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
        return cls(dense._values[kept], dense._dtype, (rows, columns), crow, np.nonzero(kept)[1].astype(np.int64))

    @classmethod
    def from_csr(cls, matrix: Any) -> TensorData:
        """Return a CSR matrix of another library as it is: scipy's, torch's ``sparse_csr``, JAX's ``BCSR``.

        Raises:
            InputError: for anything else, and for dtypes as in ``from_numpy``.
        """
        if not is_csr(matrix):
            raise InputError(
                f"TensorData.from_csr: expected a 2-D CSR matrix of scipy, torch or JAX, got {type(matrix).__name__}. "
                "Convert it to CSR first, or use from_numpy_sparse on a dense array."
            )
        if hasattr(matrix, "indptr"):
            crow, col, stored = matrix.indptr, matrix.indices, matrix.data
        else:
            crow, col, stored = matrix.crow_indices(), matrix.col_indices(), matrix.values()
        values = cls.from_numpy(stored)
        return cls(values._values, values._dtype, tuple(matrix.shape), as_array(crow), as_array(col))

    @classmethod
    def from_torch(cls, tensor: Any) -> TensorData:
        """Return a dense tensor of a torch tensor, which may be on a device or part of a graph; see ``from_numpy``."""
        return cls.from_numpy(tensor)

    @classmethod
    def from_torch_sparse(cls, tensor: Any, pad_value: int = 0) -> TensorData:
        """Return the smaller of the dense and the CSR form of a dense torch matrix; see ``from_numpy_sparse``."""
        return cls.from_numpy_sparse(tensor, pad_value)

    @property
    def data(self) -> list[Any]:
        """The values as one flat list: C order when dense, stored values when CSR."""
        return self._values.ravel().tolist()

    @property
    def values_np(self) -> Array:
        """The values as they are kept: shaped when dense, flat when CSR. Not a copy: do not write into it."""
        return self._values

    @property
    def dtype(self) -> TensorDtype:
        """``"int64"`` or ``"float32"``."""
        return self._dtype

    @property
    def shape(self) -> list[int]:
        """The dense shape, also of a CSR tensor."""
        return list(self._shape)

    @property
    def is_sparse(self) -> bool:
        """Whether the tensor is kept as CSR."""
        return self._crow is not None

    @property
    def crow_indices_np(self) -> npt.NDArray[np.int64] | None:
        """CSR row pointers, int64 ``[rows + 1]``, or None when dense."""
        return self._crow

    @property
    def col_indices_np(self) -> npt.NDArray[np.int64] | None:
        """CSR column indices, int64 ``[stored]``, or None when dense."""
        return self._col

    @property
    def sparse_crow_indices(self) -> list[int] | None:
        """CSR row pointers as a list, or None when dense."""
        return None if self._crow is None else self._crow.tolist()

    @property
    def sparse_col_indices(self) -> list[int] | None:
        """CSR column indices as a list, or None when dense."""
        return None if self._col is None else self._col.tolist()

    @property
    def size_bytes(self) -> int:
        """Bytes of the values and of the CSR indices: the estimate of protocol 6.4."""
        indices = 0 if self._crow is None or self._col is None else self._crow.nbytes + self._col.nbytes
        return self._values.nbytes + indices

    def __len__(self) -> int:
        """The leading dimension."""
        return self._shape[0] if self._shape else 1

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        array = self.to_numpy()
        return array.astype(dtype) if dtype is not None and array.dtype != dtype else array.copy() if copy else array

    def to_numpy(self, pad_value: int = 0) -> Array:
        """Return the dense, writable array of the declared dtype and shape.

        Args:
            pad_value: what unlisted cells of a CSR tensor hold.
        """
        if self._crow is None or self._col is None:
            return self._values if self._values.flags.writeable else self._values.copy()
        dense = np.full(self._shape, pad_value, self._values.dtype)
        rows = np.repeat(np.arange(self._shape[0]), np.diff(self._crow))
        dense[rows, self._col] = self._values
        return dense

    def to_torch(self, pad_value: int = 0) -> Any:
        """Return the dense torch tensor, which shares memory with ``to_numpy()`` where it can.

        Raises:
            InputError: torch has not been imported; this package never imports it.
        """
        torch = sys.modules.get("torch")
        if torch is None:
            raise InputError("TensorData.to_torch: torch is not loaded. Run `import torch` first, or use to_numpy().")
        return torch.from_numpy(self.to_numpy(pad_value))

    def __dlpack__(self, **options: Any) -> Any:
        """Return the dense values as a DLPack capsule, which ``jax.numpy.from_dlpack`` and torch's read."""
        return self.to_numpy().__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        """Return DLPack's name for the host's memory."""
        kind, index = self.to_numpy().__dlpack_device__()
        return int(kind), int(index)

    def tolist(self) -> Any:
        """Return the dense values as nested lists."""
        return self.to_numpy().tolist()

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"TensorData is immutable: cannot set {name!r}. Make a new one.")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"TensorData is immutable: cannot delete {name!r}.")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TensorData):
            return NotImplemented
        return (
            self._dtype == other._dtype
            and self._shape == other._shape
            and same_array(self._values, other._values)
            and same_array(self._crow, other._crow)
            and same_array(self._col, other._col)
        )

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return TensorData, (self._values, self._dtype, self._shape, self._crow, self._col)

    def __repr__(self) -> str:
        flat = self._values.ravel()
        shown = ", ".join(repr(value) for value in flat[:6].tolist()) + (", ..." if flat.size > 6 else "")
        layout = f", csr, {flat.size} stored" if self.is_sparse else ""
        return f"TensorData([{shown}], {self._dtype!r}, shape={list(self._shape)}{layout})"


def is_csr(value: Any) -> bool:
    """Return whether ``value`` is a CSR matrix of scipy, torch or JAX, without importing them."""
    if len(getattr(value, "shape", ())) != 2:
        return False
    if all(hasattr(value, name) for name in ("indptr", "indices", "data")):
        return bool(getattr(value, "format", "csr") == "csr")
    return str(getattr(value, "layout", "")) == "torch.sparse_csr"


# Past `__setattr__`, which refuses, and without looking the slots up for every tensor.
_set_values, _set_dtype, _set_shape, _set_crow, _set_col = (
    TensorData.__dict__[name].__set__ for name in ("_values", "_dtype", "_shape", "_crow", "_col")
)


def same_array(left: Array | None, right: Array | None) -> bool:
    """Return whether two arrays have one shape and equal entries, NaN being equal to NaN; None equals only None."""
    if left is None or right is None:
        return left is right
    return bool(np.array_equal(left, right, equal_nan=left.dtype.kind == "f" and right.dtype.kind == "f"))


def as_array(value: Any) -> Array:
    """Return ``value`` as a numpy array, without importing the library it comes from.

    torch tensors are detached and brought to the host first; bfloat16, which numpy lacks, is widened to float32.
    """
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if str(value.dtype).endswith("bfloat16"):
            value = value.float()
    try:
        if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
            return np.from_dlpack(value)
        array = np.asarray(value)
    except (ValueError, TypeError, OverflowError, BufferError) as error:
        raise InputError(
            f"cannot read {type(value).__name__} as a rectangular array of numbers ({error}). If its rows differ in "
            "length, pad them or make one datum of each."
        ) from error
    # 2: a dtype that another library registered; asking the name of every array would be slow.
    return array.astype(np.float32) if array.dtype.isbuiltin == 2 and array.dtype.name == "bfloat16" else array


def _numbers(data: Any, dtype: TensorDtype) -> Array:
    array = as_array([] if data is None else data)
    target = np.dtype(_NUMPY_DTYPES[dtype])
    if array.dtype == target:
        return array
    if array.size and array.dtype.kind not in "iufb":
        raise InputError(
            f"TensorData: expected numbers for dtype {dtype}, got {array.dtype} (first entry {array.ravel()[0]!r}). "
            "Give numbers, all rows of one length."
        )
    if dtype == "int64" and array.dtype.kind == "f" and array.size and not bool(np.all(array == np.trunc(array))):
        raise InputError("TensorData: a fraction, NaN or infinity cannot be int64. Round it, or use dtype='float32'.")
    return array.astype(target)


def _dense(values: Array, shape: Sequence[int] | None) -> Array:
    if shape is None or tuple(shape) == values.shape:
        return values
    try:
        if min(shape, default=0) < 0:
            raise ValueError("negative dimension")
        return values.reshape(tuple(shape))
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(
            f"TensorData: {values.size} values do not fit shape {list(shape)}. Leave shape out, or correct it."
        ) from error


def _csr(
    values: Array, shape: Sequence[int] | None, crow: Any, col: Any
) -> tuple[Array, Sequence[int], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    if crow is None or col is None:
        raise InputError("TensorData: sparse_crow_indices and sparse_col_indices go together; give both or neither.")
    if shape is None or len(shape) != 2:
        raise InputError(f"TensorData: a CSR tensor needs shape=[rows, columns], got {shape!r}.")
    rows, columns = int(shape[0]), int(shape[1])
    flat, crow_np, col_np = values.ravel(), _numbers(crow, "int64").ravel(), _numbers(col, "int64").ravel()
    problem = ""
    if rows < 0 or columns < 0:
        problem = f"a negative shape {[rows, columns]}"
    elif crow_np.size != rows + 1:
        problem = f"{crow_np.size} row pointers for {rows} rows (expected {rows + 1})"
    elif crow_np[0] != 0 or crow_np[-1] != flat.size or bool(np.any(np.diff(crow_np) < 0)):
        problem = f"row pointers that do not rise from 0 to {flat.size}, the number of values"
    elif col_np.size != flat.size:
        problem = f"{col_np.size} column indices for {flat.size} values"
    elif col_np.size and (int(col_np.min()) < 0 or int(col_np.max()) >= columns):
        problem = f"a column index outside 0..{columns - 1}"
    if problem:
        raise InputError(f"TensorData: the CSR matrix has {problem}. Build it with TensorData.from_numpy_sparse.")
    return flat, (rows, columns), crow_np, col_np
