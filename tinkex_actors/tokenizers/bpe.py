"""Byte-level BPE, built from a vocabulary and its merges (such as a GGUF file carries)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tinkex_actors.errors import ConfigError
from tinkex_actors.tokenizers.chatml import END, chatml_text

if TYPE_CHECKING:
    import tokenizers

__all__ = ["SMOLLM_SYSTEM", "BpeTokenizer"]

SMOLLM_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
"""The system message that SmolLM2-Instruct was trained with; its template adds it to a conversation without one."""


class BpeTokenizer:
    """The tokenizer of ``smollm2-135m``: single digits, then the GPT-2 split, then byte-level BPE; ChatML.

    Args:
        engine: the built ``tokenizers.Tokenizer``; use ``from_parts`` or ``from_json``.
        default_system: content of the system message added to a conversation without one.
    """

    def __init__(self, engine: tokenizers.Tokenizer, default_system: str | None = SMOLLM_SYSTEM) -> None:
        eos = engine.token_to_id(END)
        if eos is None:
            raise ConfigError(f"tokenizer: its vocabulary has no {END}, which this chat template needs")
        self._engine = engine
        self._eos_id = int(eos)
        self._default_system = default_system

    @classmethod
    def from_parts(cls, tokens: Sequence[str], merges: Sequence[str], special: Sequence[str]) -> BpeTokenizer:
        """Build a tokenizer.

        Args:
            tokens: every token's text (GPT-2's byte alphabet), its index being its id.
            merges: pairs ``"left right"``, the first being merged first.
            special: texts of the tokens that are never split.
        """
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

        vocabulary = {text: index for index, text in enumerate(tokens)}
        pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
        engine = Tokenizer(models.BPE(vocabulary, pairs))
        # The order matters: digits alone first, or "2024" is one piece of the GPT-2 split and merges across digits.
        engine.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
        engine.decoder = decoders.ByteLevel()
        engine.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
        return cls(engine)

    @classmethod
    def from_json(cls, text: str) -> BpeTokenizer:
        """Read what ``to_json`` wrote."""
        from tokenizers import Tokenizer

        return cls(Tokenizer.from_str(text))

    def to_json(self) -> str:
        """Return the tokenizer in Hugging Face's ``tokenizer.json`` format."""
        return str(self._engine.to_str())

    @property
    def eos_id(self) -> int:
        """The id of ``<|im_end|>``."""
        return self._eos_id

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return int(self._engine.get_vocab_size())

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Return the ids of a text; see ``Tokenizer``. The model's start token is not added: it was trained without."""
        return list(self._engine.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Return the text of ids; see ``Tokenizer``."""
        return str(self._engine.decode([int(token) for token in ids], skip_special_tokens=skip_special_tokens))

    def chat_prompt(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Return the ids of a conversation in ChatML, with the default system message; see ``Tokenizer``."""
        return self.encode(chatml_text(messages, self._default_system))
