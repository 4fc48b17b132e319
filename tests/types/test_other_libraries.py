"""Arrays of other libraries go in and come out, dense and sparse, and none of those libraries is imported for it."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.experimental import sparse

from tinkex_actors.errors import InputError
from tinkex_actors.types import Datum, EncodedTextChunk, ModelInput, SampledSequence, TensorData

MATRIX = np.array([[0, 5, 0, 0], [0, 0, 0, 0], [7, 0, 0, 9]])


class Scipy:
    """A compressed matrix as scipy has it: rows (``csr``) or columns (``csc``), told apart by ``format`` alone."""

    def __init__(self, matrix: Any, layout: str = "csr") -> None:
        dense = TensorData.from_numpy(matrix).to_numpy()
        rows, columns = np.nonzero(dense)
        self.format, self.shape = layout, dense.shape
        self.indptr = np.searchsorted(rows, np.arange(dense.shape[0] + 1)).astype(np.int32)
        self.indices, self.data = columns.astype(np.int32), dense[rows, columns]


class Torch:
    """A matrix as torch has it: every tensor has the methods of CSR, ``layout`` says which can use them."""

    ndim = 2

    def __init__(self, matrix: Any, layout: str) -> None:
        self.compressed, self.layout, self.shape = Scipy(matrix), layout, matrix.shape
        self.dense, self.dtype = matrix, matrix.dtype

    def crow_indices(self) -> Any:
        return self.compressed.indptr

    def col_indices(self) -> Any:
        return self.compressed.indices

    def values(self) -> Any:
        return self.compressed.data

    def detach(self) -> Torch:
        return self

    def cpu(self) -> Torch:
        return self

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.dense


class OnlyDlpack:
    """An array that speaks nothing but DLPack."""

    def __init__(self, array: Any) -> None:
        self.array, self.shape = array, array.shape

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


@pytest.mark.parametrize(
    "matrix",
    [Scipy(MATRIX), Torch(MATRIX, "torch.sparse_csr"), sparse.BCSR.fromdense(jnp.asarray(MATRIX))],
    ids=["scipy", "torch", "jax"],
)
def test_a_csr_matrix_stays_one(matrix: Any) -> None:
    tensor = TensorData.from_csr(matrix)

    assert (tensor.is_sparse, tensor.dtype, tensor.shape) == (True, "int64", [3, 4])
    assert tensor.sparse_crow_indices == [0, 1, 1, 3]
    assert tensor.sparse_col_indices == [1, 0, 3]
    np.testing.assert_array_equal(tensor.to_numpy(), MATRIX)
    assert Datum(ModelInput.empty(), {"target_tokens": matrix}).loss_fn_inputs["target_tokens"] == tensor


@settings(deadline=None, max_examples=40)
@given(
    matrix=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 6), st.integers(1, 6)),
        elements=st.sampled_from([0.0, 0.0, 0.0, 1.5, -2.0]),
    )
)
def test_csr_is_read_as_the_matrix_it_is(matrix: Any) -> None:
    np.testing.assert_array_equal(TensorData.from_csr(Scipy(matrix)).to_numpy(), matrix)


@pytest.mark.parametrize("other", [Scipy(MATRIX, "csc"), Torch(MATRIX, "torch.strided"), MATRIX, [1], None])
def test_what_is_no_csr_matrix_is_said_to_be_none(other: Any) -> None:
    with pytest.raises(InputError, match=rf"expected a 2-D CSR matrix .*got {type(other).__name__}"):
        TensorData.from_csr(other)


def test_columns_are_not_taken_for_rows_in_a_datum() -> None:
    with pytest.raises(InputError, match=r"loss_fn_inputs\['target_tokens'\] is a Scipy"):
        Datum(ModelInput.empty(), {"target_tokens": Scipy(MATRIX, "csc")})


def test_torch_s_own_names_are_there() -> None:
    assert TensorData.from_torch(Torch(MATRIX, "torch.strided")) == TensorData(MATRIX, "int64")
    assert TensorData.from_torch_sparse(Torch(np.eye(9, dtype=int), "torch.strided")).is_sparse


def test_an_array_that_speaks_only_dlpack_is_read() -> None:
    array = np.float32([[1, 2], [3, 4]])

    assert TensorData.from_numpy(OnlyDlpack(array)) == TensorData(array, "float32")
    assert Datum(ModelInput.empty(), {"weights": OnlyDlpack(array)}).loss_fn_inputs["weights"].shape == [2, 2]


def test_dlpack_gives_the_dense_values_to_others() -> None:
    tensor = TensorData([[1.0, 2.0]], "float32")

    np.testing.assert_array_equal(np.from_dlpack(tensor), [[1.0, 2.0]])
    assert jnp.from_dlpack(tensor).tolist() == [[1.0, 2.0]]
    np.testing.assert_array_equal(np.from_dlpack(TensorData.from_csr(Scipy(MATRIX))), MATRIX)


def test_torch_gets_a_tensor_when_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = TensorData([1, 2], "int64")
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(from_numpy=lambda array: ("torch", array)))

    library, array = tensor.to_torch()

    assert library == "torch"
    assert array is tensor.to_numpy()


def test_torch_is_asked_for_when_it_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)

    with pytest.raises(InputError, match="`import torch` first"):
        TensorData([1], "int64").to_torch()


def test_tokens_and_samples_take_jax_arrays() -> None:
    assert EncodedTextChunk(tokens=jnp.arange(3)).tokens == [0, 1, 2]  # type: ignore[arg-type]
    assert SampledSequence("stop", tokens_np=jnp.arange(3)).tokens == [0, 1, 2]  # type: ignore[arg-type]


def test_the_types_import_none_of_these_libraries() -> None:
    program = (
        "import sys, tinkex_actors.types as t; t.Datum(t.ModelInput.from_ints([1]), {'weights': [1.0]}); "
        "print(sorted({'jax', 'torch', 'scipy', 'aiohttp', 'google.protobuf'} & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)

    assert done.stdout.strip() == "[]"
