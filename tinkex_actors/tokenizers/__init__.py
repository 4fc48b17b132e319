"""Text <-> tokens, and chat templates. Imports no JAX, and the ``tokenizers`` library only when one is built."""

from tinkex_actors.tokenizers.bpe import BpeTokenizer
from tinkex_actors.tokenizers.byte_level import ByteTokenizer
from tinkex_actors.tokenizers.folder import FolderTokenizer
from tinkex_actors.tokenizers.protocol import Tokenizer

__all__ = ["BpeTokenizer", "ByteTokenizer", "FolderTokenizer", "Tokenizer"]
