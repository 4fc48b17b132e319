"""From a model's name to its tokenizer."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, cast

from tinkex_actors.errors import ConfigError
from tinkex_actors.tokenizers.hub import hub_name, hub_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tinkex_actors.config import Config
    from tinkex_actors.runtime import ActorSystem
    from tinkex_actors.tokenizers import Tokenizer

__all__ = ["load_tokenizer"]

ENTRY_POINT_GROUP = "tinkex_actors.tokenizers"


async def load_tokenizer(system: ActorSystem, config: Config, base_model: str, tokenizer_id: str | None) -> Tokenizer:
    """Load a tokenizer off the loop.

    A name is looked up in the entry-point group ``tinkex_actors.tokenizers``, whose members are called with the cache
    folder; then, if it has a slash, on the Hugging Face hub, whose files are kept in the cache folder.

    Args:
        system: its executors do the loading.
        config: gives the cache folder.
        base_model: the model's name; cut at the first ``:`` (protocol 6.10).
        tokenizer_id: the server's name for the tokenizer, which goes first.

    Raises:
        ConfigError: no tokenizer of that name is installed or can be fetched.
    """
    names = [name.partition(":")[0] for name in (tokenizer_id, base_model) if name]
    for name in names:
        for point in entry_points(group=ENTRY_POINT_GROUP, name=name):
            load = cast("Callable[[Path], Tokenizer]", point.load())
            return await system.blocking(load, config.cache_dir, executor="tokenizers")
    on_hub = hub_name(base_model, tokenizer_id)
    if "/" in on_hub:
        return await system.blocking(hub_tokenizer, on_hub, config.cache_dir, executor="tokenizers")
    known = ", ".join(sorted(point.name for point in entry_points(group=ENTRY_POINT_GROUP)))
    raise ConfigError(
        f"No tokenizer is installed for {' or '.join(names)}; known: {known}. Encode with the model's own "
        f"tokenizer, and "
        "pass token ids (ModelInput.from_ints)."
    )
