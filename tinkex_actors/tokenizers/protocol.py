"""What the rest of the package asks of a tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

__all__ = ["Tokenizer"]


@runtime_checkable
class Tokenizer(Protocol):
    """Text <-> tokens of one model family, with its chat template."""

    @property
    def eos_id(self) -> int:
        """The token with which the model ends an answer."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of ids; every id is below it."""
        ...

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Return the ids of a text. Special tokens written out in the text are recognised as such.

        Args:
            text: any text.
            add_special_tokens: put the model's start token in front, where it has one.
        """
        ...

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Return the text of ids. Bytes that are not UTF-8 become U+FFFD.

        Args:
            ids: ids of this tokenizer.
            skip_special_tokens: leave special tokens out.
        """
        ...

    def chat_prompt(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Return the ids of a conversation, ready for the assistant's answer.

        Args:
            messages: mappings with ``role`` and ``content``.

        Raises:
            InputError: no messages, or one without a role or content.
        """
        ...
