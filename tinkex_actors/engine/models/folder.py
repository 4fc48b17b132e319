"""A Hugging Face folder as a base model: ``config.json``, ``tokenizer.json`` and ``*.safetensors``."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from tinkex_actors.engine.core.architecture import LayerWeights, ModelConfig, RopeScaling, Weights
from tinkex_actors.engine.core.model import BaseModel
from tinkex_actors.engine.models.folder_config import FolderConfig, read_folder_config, read_json
from tinkex_actors.errors import ConfigError
from tinkex_actors.tokenizers import FolderTokenizer

__all__ = ["load_folder"]

_LINEARS = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
_NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}

_INDEX = "model.safetensors.index.json"

Array = npt.NDArray[np.float32]


def load_folder(folder: Path, name: str) -> BaseModel:
    """Read a model.

    Weights of float32, float16 and bfloat16 become float32.

    Args:
        folder: the files, as Hugging Face publishes them.
        name: what the model is called.

    Raises:
        ModelNotInstalledError: no such folder, or none of a model.
        ConfigError: a decoder the engine cannot run, a tensor that is missing or misshapen, or a damaged file.
    """
    given = read_folder_config(folder)
    config = _config(given)
    tokenizer = FolderTokenizer.load(folder, given.eos_ids)
    if tokenizer.vocab_size > config.vocab:
        raise ConfigError(
            f"model {folder}: its tokenizer has {tokenizer.vocab_size} ids, its embedding {config.vocab}. The files "
            "belong to different models; fetch them again."
        )
    with _Files(folder) as files:
        return BaseModel(name, config, tokenizer, _weights(files, config))


def _config(given: FolderConfig) -> ModelConfig:
    return ModelConfig(
        layers=given.layers,
        hidden=given.hidden,
        heads=given.heads,
        kv_heads=given.kv_heads,
        ffn=given.ffn,
        vocab=given.vocab,
        theta=given.theta,
        eps=given.eps,
        context_length=given.context_length,
        head_width=given.head_width,
        attention_biases=given.attention_biases,
        query_key_norm=given.query_key_norm,
        tied=given.tied,
        rope_scaling=None if given.rope is None else RopeScaling(**given.rope),
    )


def _weights(files: _Files, config: ModelConfig) -> Weights:
    def stack(part: str, shape: tuple[int, ...], *, turned: bool = False) -> Array:
        """Return ``[layers, ...]`` of a tensor that every layer has; linear maps are stored ``[out, in]``."""
        out = np.empty((config.layers, *(reversed(shape) if turned else shape)), np.float32)
        for layer in range(config.layers):
            found = files.read(f"model.layers.{layer}.{part}", shape)
            out[layer] = found.T if turned else found
        return out

    shapes = config.linear_shapes()
    parts = {name: stack(f"{path}.weight", shapes[name][::-1], turned=True) for name, path in _LINEARS.items()}
    parts |= {name: stack(f"{path}.weight", (config.hidden,)) for name, path in _NORMS.items()}
    parts |= {f"{name}_bias": stack(f"{_LINEARS[name]}.bias", shapes[name][1:]) for name in config.attention_biases}
    if config.query_key_norm:
        parts |= {f"{name}_norm": stack(f"self_attn.{name}_norm.weight", (config.head_dim,)) for name in ("q", "k")}
    table = (config.vocab, config.hidden)
    return Weights(
        LayerWeights(**{name: jnp.asarray(part) for name, part in parts.items()}),
        jnp.asarray(files.read("model.embed_tokens.weight", table)),
        jnp.asarray(files.read("model.norm.weight", (config.hidden,))),
        None if config.tied else jnp.asarray(files.read("lm_head.weight", table)),
    )


class _Files:
    """The tensors of a folder, in one file or in shards with an index."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[Path, Any] = {}
        self._closing = ExitStack()
        index = read_json(folder / _INDEX)
        if index is not None:
            self._shards = {name: folder / Path(str(file)).name for name, file in index["weight_map"].items()}
        else:
            self._shards = {}
        self._single = folder / "model.safetensors"

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, *exc: object) -> None:
        self._closing.close()

    def read(self, name: str, shape: tuple[int, ...]) -> Array:
        """Return a tensor as float32.

        Raises:
            ConfigError: it is not there, or has another shape or type.
        """
        from safetensors import SafetensorError, safe_open

        path = self._shards.get(name, self._single)
        try:
            if path not in self._open:
                self._open[path] = self._closing.enter_context(safe_open(path, framework="numpy"))
            found = self._open[path].get_tensor(name)
        except FileNotFoundError as error:
            raise ConfigError(f"model {self._folder}: {path.name} is not in it. Fetch the model again.") from error
        except (SafetensorError, OSError, TypeError) as error:
            raise ConfigError(
                f"model {self._folder}: tensor {name} cannot be read from {path.name} ({error}). Fetch the model again."
            ) from error
        if found.shape != shape or found.dtype.name not in ("float32", "float16", "bfloat16"):
            raise ConfigError(
                f"model {self._folder}: tensor {name}: expected float32, float16 or bfloat16 {list(shape)}, got "
                f"{found.dtype} {list(found.shape)}. The files do not belong together; fetch the model again."
            )
        as_float: Array = found.astype(np.float32)
        return as_float
