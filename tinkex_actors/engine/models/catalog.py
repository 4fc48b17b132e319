"""The models this engine knows, where their weights are, and how to load them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tinkex_actors.engine.models import fetch
from tinkex_actors.engine.models.folder_config import read_folder_config
from tinkex_actors.engine.models.place import place_of
from tinkex_actors.errors import ConfigError

if TYPE_CHECKING:
    from tinkex_actors.engine.core.model import BaseModel

__all__ = ["ModelRecord", "describe", "load_model", "model_names"]


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """One model of the catalogue, or of a folder.

    Args:
        name: what ``local://NAME`` takes.
        parameters: number of weights; None for a folder, where nobody has counted.
        context_length: the most tokens that the engine processes with it.
        installed: whether ``load_model`` would find its weights.
        where: where they are, or how to get them.
        architecture: the family of decoder: ``llama``, ``mistral``, ``qwen2`` or ``qwen3``.
    """

    name: str
    parameters: int | None
    context_length: int
    installed: bool
    where: str
    architecture: str = "llama"


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


def describe(asked: str, *, cache_dir: Path) -> ModelRecord:
    """Return what is known of a model without loading it: of the catalogue, or of a folder. Imports no JAX.

    Args:
        asked: a name of the catalogue, or the path of a folder (see ``place_of``).
        cache_dir: as for ``model_names``.

    Raises:
        ConfigError: no model of that name, or a folder with a model that the engine cannot run.
        ModelNotInstalledError: no such folder, or none of a model.
    """
    place = place_of(asked)
    if place.folder is not None:
        config = read_folder_config(place.folder)
        architecture = config.architecture.removesuffix("ForCausalLM").lower()
        return ModelRecord(place.name, None, config.context_length, True, str(place.folder), architecture)
    records = model_names(cache_dir=cache_dir)
    for record in records:
        if record.name == asked:
            return record
    raise _unknown(asked)


def load_model(name: str, *, cache_dir: Path, weights_path: Path | None = None) -> BaseModel:
    """Load a model's tokenizer and weights, and turn JAX's persistent compile cache on.

    Args:
        name: a name of the catalogue, or the path of a Hugging Face folder (see ``place_of``).
        cache_dir: the cache folder: weights are looked for there, compiled programs kept there.
        weights_path: a GGUF file given by the user, looked at first; None for none.

    Raises:
        ConfigError: no model of that name, or a file that is not its weights.
        ModelNotInstalledError: its weights are not on this machine; the message has the line that installs them.
    """
    place = place_of(name)
    if place.folder is not None:
        from tinkex_actors.engine.core.compile_cache import enable_compile_cache
        from tinkex_actors.engine.models.folder import load_folder

        enable_compile_cache(cache_dir)
        return load_folder(place.folder, place.name)
    if name not in _LOADERS:
        raise _unknown(name)
    return _LOADERS[name](cache_dir, weights_path)


def _unknown(name: str) -> ConfigError:
    known = ", ".join(sorted(_LOADERS))
    return ConfigError(
        f"model {name!r}: no such local model; there are {known}, and any folder with a Hugging Face model "
        "(give its path, such as ./my-model)"
    )


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
