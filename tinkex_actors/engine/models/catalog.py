"""The models this engine knows, where their weights are, and how to load them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tinkex_actors.engine.models import fetch
from tinkex_actors.errors import ConfigError

if TYPE_CHECKING:
    from tinkex_actors.engine.core.model import BaseModel

__all__ = ["ModelRecord", "load_model", "model_names"]


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """One model of the catalogue.

    Args:
        name: what ``local://NAME`` takes.
        parameters: number of weights.
        context_length: the most tokens that the engine processes with it.
        installed: whether ``load_model`` would find its weights.
        where: where they are, or how to get them.
    """

    name: str
    parameters: int
    context_length: int
    installed: bool
    where: str


def model_names(*, cache_dir: Path, weights_path: Path | None = None) -> list[ModelRecord]:
    """Return every model of the catalogue. Imports no JAX.

    Args:
        cache_dir: where ``fetch.pull`` puts weights.
        weights_path: a file given by the user for ``smollm2-135m``, looked at first; None for none.
    """
    found = fetch.find(fetch.SMOLLM2, cache_dir, weights_path)
    where = str(found) if found else f"run: {fetch.install_line(fetch.SMOLLM2)}"
    return [
        ModelRecord("tiny", 106_816, 2048, True, "built in (seeded random weights)"),
        ModelRecord("smollm2-135m", 134_515_008, 2048, found is not None, where),
    ]


def load_model(name: str, *, cache_dir: Path, weights_path: Path | None = None) -> BaseModel:
    """Load a model's tokenizer and weights, and turn JAX's persistent compile cache on.

    Args:
        name: a name of the catalogue.
        cache_dir: the cache folder: weights are looked for there, compiled programs kept there.
        weights_path: a GGUF file given by the user, looked at first; None for none.

    Raises:
        ConfigError: no model of that name, or a file that is not its weights.
        ModelNotInstalledError: its weights are not on this machine; the message has the line that installs them.
    """
    if name not in _LOADERS:
        raise ConfigError(f"model {name!r}: no such local model; there are {', '.join(sorted(_LOADERS))}")
    return _LOADERS[name](cache_dir, weights_path)


def _load_tiny(cache_dir: Path, weights_path: Path | None) -> BaseModel:
    from tinkex_actors.engine.core.compile_cache import enable_compile_cache
    from tinkex_actors.engine.models.tiny import load_tiny

    enable_compile_cache(cache_dir)
    return load_tiny()


def _load_smollm2(cache_dir: Path, weights_path: Path | None) -> BaseModel:
    path = fetch.require(fetch.SMOLLM2, cache_dir, weights_path)
    from tinkex_actors.engine.core.compile_cache import enable_compile_cache
    from tinkex_actors.engine.models.smollm2 import load_smollm2

    enable_compile_cache(cache_dir)
    return load_smollm2(path)


_LOADERS = {"smollm2-135m": _load_smollm2, "tiny": _load_tiny}
