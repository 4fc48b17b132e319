"""The tokenizer of the model ``tiny``: one token per UTF-8 byte."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from tinkex_actors.tokenizers.chatml import END, START, chatml_text

__all__ = ["ByteTokenizer"]

_SPECIAL = {256: "<|endoftext|>", 257: START, 258: END}
_SPECIAL_IDS = {text: token for token, text in _SPECIAL.items()}
_SPECIAL_PATTERN = re.compile("|".join(re.escape(text) for text in _SPECIAL_IDS))


class ByteTokenizer:
    """Bytes are ids 0 to 255; 256 is ``<|endoftext|>``, 257 ``<|im_start|>``, 258 ``<|im_end|>``; the rest is unused.

    Args:
        vocab_size: number of ids, at least 259. Unused ids decode to U+FFFD.
    """

    def __init__(self, vocab_size: int = 512) -> None:
        self._vocab_size = vocab_size

    @property
    def eos_id(self) -> int:
        """The id of ``<|im_end|>``."""
        return _SPECIAL_IDS[END]

    @property
    def vocab_size(self) -> int:
        """Number of ids, used or not."""
        return self._vocab_size

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Return the ids of a text; see ``Tokenizer``. There is no start token to add."""
        ids: list[int] = []
        at = 0
        for match in _SPECIAL_PATTERN.finditer(text):
            ids += text[at : match.start()].encode("utf-8", "surrogatepass")
            ids.append(_SPECIAL_IDS[match.group()])
            at = match.end()
        return ids + list(text[at:].encode("utf-8", "surrogatepass"))

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Return the text of ids; see ``Tokenizer``."""
        parts: list[str] = []
        pending = bytearray()
        for token in ids:
            if 0 <= token < 256:
                pending.append(token)
                continue
            parts.append(pending.decode("utf-8", "replace"))
            pending.clear()
            if not (skip_special_tokens and token in _SPECIAL):
                parts.append(_SPECIAL.get(token, "\ufffd"))
        parts.append(pending.decode("utf-8", "replace"))
        return "".join(parts)

    def chat_prompt(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Return the ids of a conversation in ChatML, without a default system message; see ``Tokenizer``."""
        return self.encode(chatml_text(messages))
