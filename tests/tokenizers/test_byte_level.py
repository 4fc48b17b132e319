"""The byte tokenizer of ``tiny``."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinkex_actors.errors import InputError
from tinkex_actors.tokenizers import ByteTokenizer, Tokenizer

TOKENIZER = ByteTokenizer()


@given(st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_text_comes_back(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text
    assert all(0 <= token < TOKENIZER.vocab_size for token in ids)


def test_special_tokens_are_one_id_each() -> None:
    assert TOKENIZER.encode("é<|im_end|>7") == [0xC3, 0xA9, 258, 0x37]
    assert TOKENIZER.eos_id == 258
    assert TOKENIZER.decode([104, 105, 258], skip_special_tokens=True) == "hi"
    assert TOKENIZER.decode([104, 105, 258]) == "hi<|im_end|>"


def test_broken_bytes_and_unused_ids_become_replacement_characters() -> None:
    assert TOKENIZER.decode([0xC3, 258, 0xA9]) == "\ufffd<|im_end|>\ufffd"
    assert TOKENIZER.decode([65, 400, 66]) == "A\ufffdB"


def test_a_chat_prompt_ends_where_the_answer_begins() -> None:
    ids = TOKENIZER.chat_prompt([{"role": "user", "content": "hi"}])
    assert TOKENIZER.decode(ids) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert ids[0] == 257


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([], "no messages"),
        ([{"role": "user"}], r"message 0 needs .* it has \['role'\]"),
        ([{"text": "x"}], "message 0"),
    ],
)
def test_malformed_conversations_are_refused(messages: list[dict[str, str]], says: str) -> None:
    with pytest.raises(InputError, match=says):
        TOKENIZER.chat_prompt(messages)


def test_it_is_a_tokenizer() -> None:
    assert isinstance(TOKENIZER, Tokenizer)
