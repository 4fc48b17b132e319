"""A small random model in a folder, in the files that Hugging Face publishes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

WORDS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "hello", "world", "a", "b", "c")

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role not in ['user', 'assistant'] %}{{ raise_exception('role ' + message.role) }}{% endif %}"
    "{{ message.content }} {% endfor %}{% if add_generation_prompt %}{{ eos_token }}{% endif %}"
)


def model_config(architecture: str = "Qwen3ForCausalLM", **changes: Any) -> dict[str, Any]:
    """A ``config.json``: 2 layers, hidden 32, 4 query and 2 key heads, ffn 48, vocab 96; a change of None removes."""
    config = {
        "architectures": [architecture],
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 96,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "eos_token_id": 2,
    } | changes
    return {name: value for name, value in config.items() if value is not None}


def random_tensors(config: dict[str, Any], seed: int = 0) -> dict[str, npt.NDArray[np.float32]]:
    """Every tensor such a model has, under its published name; all of them far from trivial."""
    rng = np.random.default_rng(seed)
    hidden, ffn, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    width = config.get("head_dim") or hidden // heads
    queries, keys = heads * width, config["num_key_value_heads"] * width
    architecture = config["architectures"][0]
    linears = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (ffn, hidden),
        "mlp.up_proj": (ffn, hidden),
        "mlp.down_proj": (hidden, ffn),
    }
    biased = list(linears)[: 3 if architecture == "Qwen2ForCausalLM" else 4 if config.get("attention_bias") else 0]

    def normal(*shape: int, scale: float = 0.3, mean: float = 0.0) -> npt.NDArray[np.float32]:
        return (mean + scale * rng.standard_normal(shape)).astype(np.float32)

    tensors = {"model.embed_tokens.weight": normal(config["vocab_size"], hidden, scale=1.0)}
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        for name, shape in linears.items():
            tensors[f"{at}.{name}.weight"] = normal(*shape)
        for name in biased:
            tensors[f"{at}.{name}.bias"] = normal(linears[name][0])
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{at}.{name}.weight"] = normal(hidden, mean=1.0)
        if architecture == "Qwen3ForCausalLM":
            for name in ("q_norm", "k_norm"):
                tensors[f"{at}.self_attn.{name}.weight"] = normal(width, mean=1.0)
    tensors["model.norm.weight"] = normal(hidden, mean=1.0)
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = normal(config["vocab_size"], hidden)
    return tensors


def write_model(
    folder: Path,
    config: dict[str, Any] | None = None,
    *,
    shards: int = 1,
    dtype: str = "float32",
    chat_template: str | None = CHAT_TEMPLATE,
) -> dict[str, npt.NDArray[np.float32]]:
    """Write a whole model folder; return its tensors as float32, rounded as they were stored."""
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers

    config = config or model_config()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    stored = {
        name: tensor.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
        for name, tensor in random_tensors(config).items()
    }
    names = sorted(stored)
    if shards == 1:
        save_file(stored, folder / "model.safetensors")
    else:
        where = {name: f"model-{index % shards:05d}.safetensors" for index, name in enumerate(names)}
        for file in set(where.values()):
            save_file({name: stored[name] for name in names if where[name] == file}, folder / file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token=WORDS[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(list(WORDS[:3]))
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": {"__type": "AddedToken", "content": WORDS[2], "special": True},
        "chat_template": chat_template,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return {name: np.asarray(tensor, np.float32) for name, tensor in stored.items()}
