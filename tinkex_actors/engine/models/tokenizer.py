"""The tokenizers of the catalogue's models. Imports no JAX: clients of a remote engine need no more than this."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinkex_actors.engine.models import fetch
from tinkex_actors.engine.models.gguf import GgufFile
from tinkex_actors.errors import ConfigError
from tinkex_actors.tokenizers import BpeTokenizer, ByteTokenizer

if TYPE_CHECKING:
    from tinkex_actors.tokenizers import Tokenizer

__all__ = ["gguf_tokenizer", "smollm2_tokenizer", "tiny_tokenizer"]

_CONTROL_TOKEN = 3


def gguf_tokenizer(metadata: dict[str, Any]) -> BpeTokenizer:
    """Build the tokenizer that a GGUF file of SmolLM2 describes.

    Raises:
        ConfigError: the file describes another kind.
    """
    kind, split = metadata["tokenizer.ggml.model"], metadata["tokenizer.ggml.pre"]
    if (kind, split) != ("gpt2", "smollm"):
        raise ConfigError(f"gguf: tokenizer {kind!r} with split {split!r}; expected 'gpt2' with 'smollm'")
    tokens = metadata["tokenizer.ggml.tokens"]
    kinds = metadata["tokenizer.ggml.token_type"]
    special = [text for text, token_kind in zip(tokens, kinds, strict=True) if token_kind == _CONTROL_TOKEN]
    return BpeTokenizer.from_parts(tokens, metadata["tokenizer.ggml.merges"], special)


def tiny_tokenizer(_cache_dir: Path) -> Tokenizer:
    """Return the tokenizer of ``tiny``: one token a byte."""
    return ByteTokenizer()


def smollm2_tokenizer(cache_dir: Path) -> Tokenizer:
    """Read the tokenizer of ``smollm2-135m`` from its weights' file.

    Raises:
        ModelNotInstalledError: the file is not on this machine; the message has the line that installs it.
    """
    with GgufFile(fetch.require(fetch.SMOLLM2, cache_dir, None)) as file:
        return gguf_tokenizer(file.metadata)
