"""SmolLM2-135M-Instruct from a GGUF file of the Llama architecture with a tied head."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from tinkex_actors.engine.core.architecture import LayerWeights, ModelConfig, Weights
from tinkex_actors.engine.core.model import BaseModel
from tinkex_actors.engine.models.gguf import GgufFile
from tinkex_actors.engine.models.tokenizer import gguf_tokenizer
from tinkex_actors.errors import ConfigError

__all__ = ["load_smollm2"]

_CONTEXT_LIMIT = 2048
"""The model was trained on 8192 tokens; the engine's attention and caches are sized for a quarter of that."""

_LINEARS = {
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}


def load_smollm2(path: Path) -> BaseModel:
    """Read the model ``smollm2-135m``.

    Args:
        path: the GGUF file.

    Raises:
        ConfigError: the file is not this model, or damaged.
    """
    with GgufFile(path) as file:
        try:
            config = _config(file.metadata)
            tokenizer = gguf_tokenizer(file.metadata)
        except KeyError as error:
            raise ConfigError(f"gguf {path}: its metadata lack {error}; expected SmolLM2-135M-Instruct") from error
        weights = _weights(file, config)
    return BaseModel("smollm2-135m", config, tokenizer, weights)


def _config(metadata: dict[str, Any]) -> ModelConfig:
    if metadata["general.architecture"] != "llama":
        raise ConfigError(f"gguf: architecture {metadata['general.architecture']!r}; expected 'llama'")
    return ModelConfig(
        layers=int(metadata["llama.block_count"]),
        hidden=int(metadata["llama.embedding_length"]),
        heads=int(metadata["llama.attention.head_count"]),
        kv_heads=int(metadata["llama.attention.head_count_kv"]),
        ffn=int(metadata["llama.feed_forward_length"]),
        vocab=int(metadata["llama.vocab_size"]),
        theta=float(metadata["llama.rope.freq_base"]),
        eps=float(metadata["llama.attention.layer_norm_rms_epsilon"]),
        context_length=min(_CONTEXT_LIMIT, int(metadata["llama.context_length"])),
    )


def _weights(file: GgufFile, config: ModelConfig) -> Weights:
    # numpy lets go of the GIL in conversions and copies, so two threads nearly halve the time to the first answer.
    with ThreadPoolExecutor(max_workers=2) as threads:
        stacks = dict(zip(_LINEARS, threads.map(lambda name: _linear_stack(file, config, name), _LINEARS), strict=True))
    norms = {
        name: jnp.asarray(np.stack([file.read(f"blk.{layer}.{name}.weight") for layer in range(config.layers)]))
        for name in ("attn_norm", "ffn_norm")
    }
    return Weights(
        LayerWeights(**{name: jnp.asarray(stack) for name, stack in stacks.items()}, **norms),
        jnp.asarray(file.read("token_embd.weight")),
        jnp.asarray(file.read("output_norm.weight")),
    )


def _linear_stack(file: GgufFile, config: ModelConfig, name: str) -> npt.NDArray[np.float32]:
    heads = {"q": config.heads, "k": config.kv_heads}
    fan_in, fan_out = config.linear_shapes()[name]
    stack = np.empty((config.layers, fan_in, fan_out), np.float32)
    for layer in range(config.layers):
        weight = file.read(f"blk.{layer}.{_LINEARS[name]}.weight")
        if weight.shape != (fan_out, fan_in):
            raise ConfigError(
                f"gguf: {_LINEARS[name]} of layer {layer} is {weight.shape}, expected {(fan_out, fan_in)}"
            )
        stack[layer] = (_half_split(weight, heads[name]) if name in heads else weight).T
    return stack


def _half_split(weight: npt.NDArray[np.float32], heads: int) -> npt.NDArray[np.float32]:
    # The converter interleaves each head's rotary halves; this restores the layout that `attention.rotate` works on,
    # which is also the one adapters are exchanged in.
    rows, width = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, width).swapaxes(1, 2).reshape(rows, width)
