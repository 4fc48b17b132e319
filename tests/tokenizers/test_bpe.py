"""Byte-level BPE on a vocabulary small enough to follow by hand."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinkex_actors.errors import ConfigError
from tinkex_actors.tokenizers import BpeTokenizer, Tokenizer
from tinkex_actors.tokenizers.bpe import SMOLLM_SYSTEM

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["l o", "lo w", "Ġ low", "1 2", "e r"]


def byte_alphabet() -> list[str]:
    """GPT-2's printable character for each byte, in the order of bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(moved)) for byte in range(256)]


def build() -> BpeTokenizer:
    merged = [merge.replace(" ", "") for merge in MERGES]
    return BpeTokenizer.from_parts([*SPECIAL, *byte_alphabet(), *merged], MERGES, SPECIAL)


TOKENIZER = build()


def pieces(text: str) -> list[str]:
    return [TOKENIZER.decode([token]) for token in TOKENIZER.encode(text)]


def test_merges_are_applied_in_their_order_within_words() -> None:
    assert pieces("low lower") == ["low", " low", "er"]


def test_digits_stand_alone_even_where_a_merge_would_join_them() -> None:
    assert pieces("a12b") == ["a", "1", "2", "b"]


def test_special_tokens_are_recognised_in_text_and_left_out_on_request() -> None:
    ids = TOKENIZER.encode("low<|im_end|>")
    assert ids[-1] == TOKENIZER.eos_id == 2
    assert TOKENIZER.decode(ids) == "low<|im_end|>"
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == "low"


@given(st.text(max_size=40))
@settings(max_examples=200, deadline=None)
def test_text_comes_back(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_json_holds_the_whole_tokenizer() -> None:
    again = BpeTokenizer.from_json(TOKENIZER.to_json())
    text = "lower 2024 <|im_start|> ١٢ 🙂"
    assert again.encode(text) == TOKENIZER.encode(text)
    assert again.vocab_size == TOKENIZER.vocab_size == 3 + 256 + len(MERGES)


def test_the_default_system_message_comes_first_unless_there_is_one() -> None:
    user = {"role": "user", "content": "hi"}
    tail = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert TOKENIZER.decode(TOKENIZER.chat_prompt([user])) == f"<|im_start|>system\n{SMOLLM_SYSTEM}<|im_end|>\n{tail}"
    own = [{"role": "system", "content": "S"}, user]
    assert TOKENIZER.decode(TOKENIZER.chat_prompt(own)) == f"<|im_start|>system\nS<|im_end|>\n{tail}"


def test_a_vocabulary_without_the_end_token_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no <\|im_end\|>"):
        BpeTokenizer.from_parts(byte_alphabet(), [], [])


def test_it_is_a_tokenizer() -> None:
    assert isinstance(TOKENIZER, Tokenizer)


def test_importing_loads_neither_the_library_nor_jax() -> None:
    script = "import sys, tinkex_actors.tokenizers; print(sorted({'tokenizers', 'jax'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
