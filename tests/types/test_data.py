"""Model inputs and datums: what they take, and how they say what is wrong."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

from tinkex_actors.errors import InputError
from tinkex_actors.types import (
    Datum,
    EncodedTextChunk,
    ImageAssetPointerChunk,
    ImageChunk,
    ModelInput,
    TensorData,
    check_datum,
)

IMAGE = ImageChunk(data=b"\x89PNG", format="png", expected_tokens=5)


@pytest.mark.parametrize("tokens", [[1, 2, 3], (1, 2, 3), range(1, 4), np.array([1, 2, 3]), np.uint16([1, 2, 3])])
def test_tokens_may_be_any_flat_integers_and_are_kept_as_a_list(tokens: Any) -> None:
    chunk = EncodedTextChunk(tokens=tokens)

    assert chunk.tokens == [1, 2, 3]
    assert type(chunk.tokens) is list
    assert chunk.tokens_np.dtype == np.int32
    assert (chunk.length, chunk.type) == (3, "encoded_text")
    assert pickle.loads(pickle.dumps(chunk)) == chunk
    assert pickle.loads(pickle.dumps(chunk)).tokens_np.tolist() == [1, 2, 3]
    assert copy.copy(chunk).tokens_np.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ([[1, 2]], "flat list"),
        ([1.5], "flat list of integers, got float64"),
        ("text", "flat list"),
        ([1, -100], "token ids run from -100"),
        ([2**31], "token ids run"),
        ([2**70], "token|flat"),
        ([[1], [1, 2]], "rectangular"),
    ],
)
def test_other_tokens_are_refused(tokens: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        ModelInput.from_ints(tokens)


def test_an_input_grows_into_new_inputs() -> None:
    start = ModelInput.empty()

    grown = start.append_int(7).append_int(8).append(IMAGE).append_int(9)

    assert start.chunks == []
    assert [type(chunk) for chunk in grown.chunks] == [EncodedTextChunk, ImageChunk, EncodedTextChunk]
    assert grown.length == 2 + 5 + 1
    assert ModelInput.from_ints([7, 8]).append_int(9).to_ints() == [7, 8, 9]


def test_an_image_has_no_tokens_and_a_length_only_when_told() -> None:
    with pytest.raises(InputError, match="ImageChunk has no token ids"):
        ModelInput(chunks=[IMAGE]).to_ints()
    with pytest.raises(InputError, match="expected_tokens"):
        _ = ModelInput(chunks=[ImageAssetPointerChunk(location="x", format="png")]).length
    with pytest.raises(InputError, match="expected_tokens"):
        _ = ImageChunk(data=b"", format="jpeg").length


def test_image_data_may_be_base64() -> None:
    given: Any = "iVBORw=="

    assert ImageChunk(data=given, format="png").data == b"\x89PNG"
    with pytest.raises(InputError, match="not base64"):
        ImageChunk(data="not base64!", format="png")  # type: ignore[arg-type]
    assert repr(IMAGE) == "ImageChunk(<4 bytes>, format='png', expected_tokens=5)"
    assert IMAGE.type == "image"
    assert ImageAssetPointerChunk(location="x", format="png").type == "image_asset_pointer"


def test_lists_take_the_dtype_of_their_name() -> None:
    names = ("weights", "advantages", "logprobs", "clip_low_threshold", "clip_high_threshold", "sequence_ratio_mask")
    datum = Datum(ModelInput.from_ints([1]), {"target_tokens": [1.0], **{name: [1] for name in names}})

    assert datum.loss_fn_inputs["target_tokens"] == TensorData([1], "int64")
    for name in names:
        assert datum.loss_fn_inputs[name] == TensorData([1.0], "float32")


def test_arrays_and_tensors_are_taken_under_any_name() -> None:
    kept = TensorData([1], "int64")

    datum = Datum(model_input=ModelInput.empty(), loss_fn_inputs={"a": np.ones((2, 2)), "b": kept})

    assert datum.loss_fn_inputs["a"].shape == [2, 2]
    assert datum.loss_fn_inputs["b"] is kept
    assert pickle.loads(pickle.dumps(datum)) == datum
    assert datum != Datum(model_input=ModelInput.empty(), loss_fn_inputs={"a": np.ones((2, 2))})


class Matrix:
    ndim = 2

    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values)
        self.dtype = self.values.dtype

    def detach(self) -> Matrix:
        return self

    def cpu(self) -> Matrix:
        return self

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.values


def test_a_torch_matrix_of_targets_becomes_csr_when_smaller() -> None:
    datum = Datum(ModelInput.empty(), {"target_tokens": Matrix(np.eye(9, dtype=int)), "other": Matrix(np.eye(9))})

    assert datum.loss_fn_inputs["target_tokens"].is_sparse
    assert not datum.loss_fn_inputs["other"].is_sparse


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"weights": [[1.0], [1.0, 2.0]]}, r"loss_fn_inputs\['weights'\].*rectangular.*one datum of each"),
        ({"mine": [1.0]}, r"loss_fn_inputs\['mine'\].*no dtype of its own"),
        ({"weights": ["a"]}, r"loss_fn_inputs\['weights'\].*expected numbers"),
        ({"weights": "abc"}, r"loss_fn_inputs\['weights'\] is a str"),
        ({"weights": None}, r"loss_fn_inputs\['weights'\] is a NoneType"),
        ({"weights": {"data": [1], "kind": "float32"}}, r"loss_fn_inputs\['weights'\].*kind"),
        ({"target_tokens": [1.5]}, r"loss_fn_inputs\['target_tokens'\].*fraction"),
        ([1], "loss_fn_inputs must map names to tensors, got list"),
    ],
)
def test_a_bad_datum_names_the_field(inputs: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Datum(ModelInput.from_ints([1]), inputs)


POLICY = {"target_tokens": [2, 3], "logprobs": [-1.0, -1.0], "advantages": [1.0, 1.0]}


@pytest.mark.parametrize(
    ("loss_fn", "inputs"),
    [
        ("cross_entropy", {"target_tokens": [2, 3]}),
        ("cross_entropy", {"target_tokens": [2, 3], "weights": [0, 1]}),
        ("cross_entropy", {"target_tokens": np.zeros((2, 4), int), "weights": np.zeros((2, 4))}),
        ("importance_sampling", POLICY),
        ("ppo", POLICY),
        ("cispo", POLICY),
        ("dro", POLICY),
        ("gspo", {**POLICY, "sequence_ratio_mask": [1, 1]}),
        ("custom", {}),
        ("of_a_later_server", {"x": np.zeros(9)}),
    ],
)
def test_a_datum_that_fits_its_loss_passes(loss_fn: str, inputs: dict[str, Any]) -> None:
    check_datum(Datum(ModelInput.from_ints([1, 2]), inputs), loss_fn)


@pytest.mark.parametrize(
    ("loss_fn", "inputs", "words"),
    [
        (
            "cross_entropy",
            {"weights": [1, 1]},
            r"datum 3: loss_fn_inputs\['target_tokens'\] is missing.*expects target_tokens, got weights\. Add",
        ),
        ("ppo", {"target_tokens": [2, 3]}, r"'logprobs'\] is missing.*expects target_tokens, logprobs, advantages"),
        ("gspo", POLICY, "sequence_ratio_mask"),
        ("cross_entropy", {"target_tokens": [2]}, r"datum 3: .*'target_tokens'\] has 1 entries, expected 2"),
        ("cross_entropy", {"target_tokens": [2, 3], "weights": [1, 1, 1]}, r"'weights'\] has 3 entries, expected 2"),
        ("cross_entropy", {"target_tokens": np.float32([2, 3])}, "float32, expected int64"),
    ],
)
def test_a_datum_that_does_not_fit_says_which_what_and_how(loss_fn: str, inputs: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_datum(Datum(ModelInput.from_ints([1, 2]), inputs), loss_fn, index=3)


def test_the_length_of_an_image_is_the_servers_to_say() -> None:
    check_datum(Datum(ModelInput(chunks=[IMAGE]), {"target_tokens": [1, 2, 3]}), "cross_entropy")
