"""Where a datum's tokens came from, and audio chunks, of which only the header is read."""

from __future__ import annotations

import base64
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinkex_actors.errors import InputError
from tinkex_actors.types import (
    Datum,
    DmelChunk,
    ImageChunk,
    ModelInput,
    PromptProvenanceSpan,
    SampledProvenanceSpan,
)

DATUM = Datum(ModelInput.from_ints([1, 2, 3]), {"target_tokens": [2, 3, 4]})
PROMPT = PromptProvenanceSpan(sequence_id="q", length=1)
SAMPLED = SampledProvenanceSpan(sequence_id="q", offset=4, length=2)


def test_a_datum_may_say_where_its_tokens_came_from() -> None:
    told = DATUM.with_provenance(model_input=[PROMPT, SAMPLED], loss_fn_inputs=[SAMPLED, PROMPT])

    assert told.model_input_spans == [PROMPT, SAMPLED]
    assert told.loss_fn_input_spans == [SAMPLED, PROMPT]
    assert (told.model_input, told.loss_fn_inputs) == (DATUM.model_input, DATUM.loss_fn_inputs)
    assert DATUM.model_input_spans is None
    assert told != DATUM
    assert pickle.loads(pickle.dumps(told)) == told


def test_prompt_and_sampled_spans_are_different_things() -> None:
    assert PromptProvenanceSpan(sequence_id="q", length=1) != SampledProvenanceSpan(sequence_id="q", length=1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DATUM.with_provenance(model_input=[PROMPT], loss_fn_inputs=[SAMPLED, PROMPT]), "model_input cover 1"),
        (lambda: DATUM.with_provenance(model_input=[PROMPT, SAMPLED], loss_fn_inputs=[]), "loss_fn_inputs cover 0.*3"),
        (lambda: Datum(ModelInput.empty(), {}, [PROMPT]), "go together, got only one"),
        (lambda: Datum(ModelInput.empty(), {}, None, [PROMPT]), "go together, got only one"),
        (lambda: Datum(ModelInput.empty(), {}, [7], []), r"model_input_spans\[0\] must be a PromptProvenanceSpan or"),  # type: ignore[list-item]
        (lambda: PromptProvenanceSpan(sequence_id="", length=1), "sequence_id must be text of a length >= 1"),
        (lambda: SampledProvenanceSpan(sequence_id="q", length=-1), "length must be an integer >= 0"),
        (lambda: SampledProvenanceSpan(sequence_id="q", length=1, offset=-1), "offset must be an integer >= 0"),
    ],
)
def test_spans_that_do_not_fit_are_refused(make: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()


def test_targets_of_higher_rank_are_not_counted() -> None:
    wide = Datum(ModelInput.from_ints([1]), {"target_tokens": [[1, 2]]})

    assert wide.with_provenance(model_input=[PROMPT], loss_fn_inputs=[]).loss_fn_input_spans == []


def leb128(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


@settings(deadline=None, max_examples=80)
@given(
    marked=st.booleans(),
    dtype=st.integers(0, 7),
    shape=st.lists(st.integers(0, 2**63 - 1), max_size=5),
    payload=st.binary(max_size=20),
)
def test_the_shape_of_audio_is_read_from_its_header(marked: bool, dtype: int, shape: list[int], payload: bytes) -> None:
    header = b"\xfe" * marked + bytes([dtype]) + leb128(len(shape)) + b"".join(map(leb128, shape))

    chunk = DmelChunk(dmel=header + payload)

    assert chunk.shape == shape
    if shape:
        assert chunk.length == shape[0]
        assert ModelInput.from_ints([1, 2]).append(chunk).length == 2 + shape[0]
        with pytest.raises(InputError, match="inside the tensor's header"):
            _ = DmelChunk(dmel=header[:-1]).shape
    else:
        with pytest.raises(InputError, match="no dimensions"):
            _ = chunk.length


@pytest.mark.parametrize(
    ("dmel", "words"),
    [
        (b"", "end before the tensor's header"),
        (b"\xfe", "end before the tensor's header"),
        (b"\x08\x00", r"dtype byte 8 is not in 0\.\.7"),
        (b"\xfe\xfe", r"dtype byte 254 is not in 0\.\.7"),
        (b"\x00", "inside the tensor's header"),
        (b"\x00\x02\x05", "inside the tensor's header"),
        (b"\x00" + b"\x80" * 11, "runs past 64 bits"),
    ],
)
def test_bytes_that_are_no_tensor_have_no_length(dmel: bytes, words: str) -> None:
    with pytest.raises(InputError, match=words):
        _ = DmelChunk(dmel=dmel).length


def test_audio_may_be_base64_and_is_not_printed() -> None:
    given: Any = base64.b64encode(b"\x00\x01\x07").decode()

    chunk = DmelChunk(dmel=given)

    assert (chunk.dmel, chunk.length, chunk.type) == (b"\x00\x01\x07", 7, "dmel")
    assert repr(chunk) == "DmelChunk(dmel=<3 bytes>)"
    for kind in (DmelChunk, lambda **fields: ImageChunk(format="png", data=fields["dmel"])):
        with pytest.raises(InputError, match="not base64"):
            kind(dmel="é!")  # type: ignore[operator]


def test_audio_has_no_token_ids() -> None:
    with pytest.raises(InputError, match="DmelChunk has no token ids"):
        ModelInput(chunks=[DmelChunk(dmel=b"\x00\x01\x07")]).to_ints()
