"""TensorData: what it takes, what it gives back, and what it refuses."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinkex_actors.errors import InputError
from tinkex_actors.types import TensorData


class TorchLike:
    """Has what torch tensors have and numpy cannot read directly: a graph, a device, and bfloat16."""

    def __init__(self, values: Any, dtype: str = "torch.float32", *, detached: bool = False) -> None:
        self.values, self.dtype, self.detached = np.asarray(values), dtype, detached
        self.ndim = self.values.ndim

    def detach(self) -> TorchLike:
        return TorchLike(self.values, self.dtype, detached=True)

    def cpu(self) -> TorchLike:
        return self

    def float(self) -> TorchLike:
        return TorchLike(self.values.astype(np.float32), "torch.float32", detached=self.detached)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        if not self.detached:
            raise RuntimeError("this tensor still has a graph")
        if self.dtype == "torch.bfloat16":
            raise TypeError("unsupported ScalarType BFloat16")
        return self.values


def test_lists_take_the_declared_dtype_and_keep_their_shape() -> None:
    tensor = TensorData([[1, 2], [3, 4]], "float32")

    assert (tensor.dtype, tensor.shape, tensor.data) == ("float32", [2, 2], [1.0, 2.0, 3.0, 4.0])
    assert tensor.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert tensor.to_numpy().dtype == np.float32
    assert len(tensor) == 2


def test_a_flat_list_is_shaped_and_nothing_is_empty() -> None:
    assert TensorData(data=[1, 2, 3, 4], dtype="int64", shape=[2, 2]).tolist() == [[1, 2], [3, 4]]
    assert TensorData(dtype="int64").data == []
    assert TensorData([], "float32").shape == [0]


def test_an_array_of_the_right_dtype_is_kept_by_reference() -> None:
    array = np.arange(3)

    assert TensorData(array, "int64").to_numpy() is array


def test_the_dense_array_is_always_writable() -> None:
    array = np.frombuffer(np.arange(3).tobytes(), np.int64)
    tensor = TensorData(array, "int64")

    tensor.to_numpy()[0] = 9

    assert tensor.data == [0, 1, 2]


@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        (np.float64([1.5]), "float32"),
        (np.float16([1.5]), "float32"),
        (np.int32([1]), "int64"),
        (np.int8([1]), "int64"),
        (jnp.asarray([1.5]), "float32"),
        (jnp.asarray([1.5], jnp.bfloat16), "float32"),
        (jnp.asarray([1]), "int64"),
        (TorchLike([1.5]), "float32"),
        (TorchLike([1.5], "torch.bfloat16"), "float32"),
        (TorchLike([1]), "int64"),
    ],
)
def test_arrays_of_any_library_keep_their_kind(array: Any, dtype: str) -> None:
    tensor = TensorData.from_numpy(array)

    assert tensor.dtype == dtype
    assert tensor.data == ([1.5] if dtype == "float32" else [1])


@pytest.mark.parametrize("array", [np.array([True]), np.uint8([1]), np.complex64([1j]), np.array(["a"])])
def test_other_kinds_of_arrays_are_refused(array: Any) -> None:
    with pytest.raises(InputError, match=f"dtype {array.dtype} has no wire form"):
        TensorData.from_numpy(array)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([1],), "dtype must be"),
        (([1], "int32"), "dtype must be"),
        (([[1], [1, 2]], "int64"), "rectangular"),
        ((["a"], "int64"), "expected numbers"),
        (([None], "float32"), "expected numbers"),
        (([1.7], "int64"), "fraction"),
        (([float("nan")], "int64"), "fraction"),
        (([1, 2, 3], "int64", [2]), "do not fit shape"),
        (([1, 2, 3], "int64", [-1]), "do not fit shape"),
        (([1, 2, 3], "int64", [2**70]), "do not fit shape"),
        (([1], "int64", None, [0, 1]), "go together"),
        (([1], "int64", None, [0, 1], [0]), "shape="),
        (([1], "int64", [1, 2], [0], [0]), "1 row pointers for 1 rows"),
        (([1], "int64", [1, 2], [0, 2], [0]), "row pointers that do not rise"),
        (([1, 2], "int64", [2, 2], [0, 3, 2], [0, 1]), "row pointers that do not rise"),
        (([1], "int64", [1, 2], [0, 1], [0, 1]), "2 column indices for 1 values"),
        (([1], "int64", [1, 2], [0, 1], [2]), r"outside 0\.\.1"),
        (([1], "int64", [-1, 2], [0, 1], [0]), "negative shape"),
    ],
)
def test_what_does_not_add_up_is_refused(arguments: tuple[Any, ...], words: str) -> None:
    with pytest.raises(InputError, match=words):
        TensorData(*arguments)


def test_whole_floats_become_integers() -> None:
    assert TensorData([1.0, -2.0], "int64").data == [1, -2]


MATRICES = hnp.arrays(
    np.int64, st.tuples(st.integers(1, 8), st.integers(1, 8)), elements=st.sampled_from([-100] * 8 + [1, 2, 0])
)


@settings(deadline=None, max_examples=80)
@given(array=MATRICES)
def test_csr_gives_the_matrix_back_and_is_taken_only_when_smaller(array: Any) -> None:
    rows, columns = array.shape
    stored = int((array != -100).sum())

    tensor = TensorData.from_numpy_sparse(array, pad_value=-100)

    np.testing.assert_array_equal(tensor.to_numpy(pad_value=-100), array)
    assert tensor.is_sparse == (rows + 1 + 2 * stored < rows * columns)
    assert tensor.shape == [rows, columns]
    assert pickle.loads(pickle.dumps(tensor)) == tensor
    if tensor.is_sparse:
        assert tensor.size_bytes == 8 * (rows + 1 + 2 * stored)
        assert tensor == TensorData(
            tensor.data, "int64", tensor.shape, tensor.sparse_crow_indices, tensor.sparse_col_indices
        )


def test_only_matrices_become_csr() -> None:
    assert not TensorData.from_numpy_sparse(np.zeros(100, np.int64)).is_sparse
    assert TensorData([1], "int64").sparse_crow_indices is None
    assert TensorData([1], "int64").sparse_col_indices is None


def test_equality_is_by_value_dtype_and_shape() -> None:
    tensor = TensorData([1.0, float("nan")], "float32")

    assert tensor == TensorData([1.0, float("nan")], "float32")
    assert tensor == copy.deepcopy(tensor)
    assert tensor != TensorData([1.0, 2.0], "float32")
    assert TensorData([1], "int64") != TensorData([1], "float32")
    assert TensorData([1, 2], "int64", [2]) != TensorData([1, 2], "int64", [1, 2])
    assert tensor != [1.0]
    with pytest.raises(TypeError, match="unhashable"):
        hash(tensor)


def test_it_cannot_be_changed_and_shows_itself_briefly() -> None:
    tensor = TensorData(range(100), "int64")

    with pytest.raises(AttributeError, match="immutable"):
        tensor.dtype = "float32"  # type: ignore[misc]
    with pytest.raises(AttributeError, match="immutable"):
        del tensor._values
    assert repr(tensor) == "TensorData([0, 1, 2, 3, 4, 5, ...], 'int64', shape=[100])"
    assert repr(TensorData.from_numpy_sparse(np.eye(9, dtype=int))).endswith("shape=[9, 9], csr, 9 stored)")


def test_numpy_reads_it() -> None:
    tensor = TensorData([1, 2], "int64")

    assert np.asarray(tensor).tolist() == [1, 2]
    assert np.asarray(tensor, np.float32).dtype == np.float32
    assert np.array(tensor, copy=True) is not tensor.to_numpy()
