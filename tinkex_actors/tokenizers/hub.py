"""Tokenizers of the Hugging Face hub: which one a model has, and how it is fetched."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tinkex_actors.errors import ConfigError
from tinkex_actors.tokenizers.folder import FolderTokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["hub_name", "hub_tokenizer"]

# Protocol 6.10, rule 2.
_LLAMA: Final = ("meta-llama/Llama-3", "thinkingmachineslabinc/meta-llama-3-instruct-tokenizer")
# Protocol 6.10, rule 6: the revisions that the official client pins.
_REVISIONS: Final = {
    "moonshotai/Kimi-K2-Thinking": "612681931a8c906ddb349f8ad0f582cb552189cd",
    "moonshotai/Kimi-K2.5": "4d01dfe0332d63057c186e0b262165819efb6611",
    "moonshotai/Kimi-K2.6": "b5aabbfb20227ed42becbf5541dbffd213942c58",
    "moonshotai/Kimi-K3": "f831ab66814297da540d832a5235f8e904f29d06",
}
_ALIASES: Final = {"moonshotai/Kimi-K2.5-Text-Only": "moonshotai/Kimi-K2.5"}
_FILES: Final = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def hub_name(base_model: str, tokenizer_id: str | None = None) -> str:
    """Return the hub's name for a model's tokenizer (protocol 6.10).

    Args:
        base_model: the model's name; what follows the first ``:`` is left out.
        tokenizer_id: the server's word for it, which goes first.
    """
    if tokenizer_id:
        name = tokenizer_id.partition(":")[0]
    else:
        name = base_model.partition(":")[0]
        if name.startswith(_LLAMA[0]):
            name = _LLAMA[1]
        elif name.count("/") == 2:  # org/model/variant
            name = name.rpartition("/")[0]
    return _ALIASES.get(name, name)


def hub_tokenizer(name: str, cache_dir: Path) -> FolderTokenizer:
    """Load a tokenizer of the hub; blocks, and asks the network only for what is not in the cache.

    Args:
        name: as ``hub_name`` returns it.
        cache_dir: where fetched files are kept, in the hub's own layout under ``hub``.

    Raises:
        ConfigError: it cannot be fetched, or has no ``tokenizer.json``: the fast format is the only one that needs no
            program of the model's own.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ConfigError(
            f"tokenizer {name}: fetching it needs huggingface_hub, which comes with the tokenizers package. Install "
            "both: pip install 'tinkex-actors[local]'."
        ) from error
    fetch: Callable[..., Any] = partial(
        snapshot_download,
        name,
        revision=_REVISIONS.get(name),
        cache_dir=cache_dir / "hub",
        allow_patterns=list(_FILES),
    )
    try:
        folder = Path(fetch(local_files_only=True))
        if not (folder / _FILES[0]).is_file():
            raise FileNotFoundError(_FILES[0])
    except Exception:  # Not there: the library has many errors for it, some of them ValueErrors.
        try:
            folder = Path(fetch())
        except Exception as error:
            raise ConfigError(
                f"tokenizer {name}: it is not in {cache_dir / 'hub'}, and cannot be fetched from the hub "
                f"({type(error).__name__}). Check the connection (and HF_TOKEN, if the model is gated), or encode with "
                "the model's own tokenizer and pass token ids (ModelInput.from_ints)."
            ) from error
    return FolderTokenizer.load(folder)
