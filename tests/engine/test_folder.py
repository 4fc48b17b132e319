"""Models in a Hugging Face folder: the same numbers as a plain reference, and clear words for what cannot run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.plugins.model_folder import model_config, write_model
from tests.plugins.numerics import cache_dir
from tinkex_actors.engine import core
from tinkex_actors.engine.models.catalog import describe, load_model
from tinkex_actors.errors import ConfigError, InputError, ModelNotInstalledError

TOKENS = np.array([5, 17, 3, 80, 41, 6, 6, 95, 0, 22, 13], np.int32)

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def reference_logprobs(
    config: dict[str, Any], tensors: dict[str, npt.NDArray[np.float32]], tokens: npt.NDArray[np.int32]
) -> npt.NDArray[np.float64]:
    """The decoder once more, as its papers write it: float64, head by head, nothing shared with the engine."""
    weights = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    width = config.get("head_dim") or config["hidden_size"] // heads

    def norm(x: Any, name: str) -> Any:
        return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + config["rms_norm_eps"]) * weights[name]

    def linear(x: Any, name: str) -> Any:
        bias = weights.get(f"{name}.bias")
        return x @ weights[f"{name}.weight"].T + (0.0 if bias is None else bias)

    def turn(x: Any, position: int) -> Any:
        out = np.empty_like(x)
        for pair in range(width // 2):
            angle = position * frequency(config, pair, width)
            a, b = x[pair], x[pair + width // 2]
            out[pair] = a * math.cos(angle) - b * math.sin(angle)
            out[pair + width // 2] = b * math.cos(angle) + a * math.sin(angle)
        return out

    x = weights["model.embed_tokens.weight"][tokens]
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        h = norm(x, f"{at}.input_layernorm.weight")
        parts = {part: linear(h, f"{at}.self_attn.{part}_proj").reshape(len(tokens), -1, width) for part in "qkv"}
        for part in "qk":
            if f"{at}.self_attn.{part}_norm.weight" in weights:
                parts[part] = norm(parts[part], f"{at}.self_attn.{part}_norm.weight")
            parts[part] = np.stack([[turn(head, t) for head in row] for t, row in enumerate(parts[part])])
        mixed = np.zeros((len(tokens), heads, width))
        for head in range(heads):
            shared = head // (heads // kv_heads)
            for t in range(len(tokens)):
                scores = parts["k"][: t + 1, shared] @ parts["q"][t, head] / math.sqrt(width)
                share = np.exp(scores - scores.max())
                mixed[t, head] = share / share.sum() @ parts["v"][: t + 1, shared]
        x = x + linear(mixed.reshape(len(tokens), -1), f"{at}.self_attn.o_proj")
        h = norm(x, f"{at}.post_attention_layernorm.weight")
        gate = linear(h, f"{at}.mlp.gate_proj")
        x = x + linear(gate / (1 + np.exp(-gate)) * linear(h, f"{at}.mlp.up_proj"), f"{at}.mlp.down_proj")
    head_name = "model.embed_tokens" if config["tie_word_embeddings"] else "lm_head"
    logits = norm(x, "model.norm.weight") @ weights[f"{head_name}.weight"].T
    logits -= logits.max(-1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
    return np.array([logits[t, tokens[t + 1]] for t in range(len(tokens) - 1)])


def frequency(config: dict[str, Any], pair: int, width: int) -> float:
    plain = config["rope_theta"] ** (-2 * pair / width)
    scaling = config.get("rope_scaling")
    if scaling is None:
        return plain
    if scaling.get("rope_type", scaling.get("type")) == "linear":
        return plain / scaling["factor"]
    length, original = 2 * math.pi / plain, scaling["original_max_position_embeddings"]
    if length < original / scaling["high_freq_factor"]:
        return plain
    if length > original / scaling["low_freq_factor"]:
        return plain / scaling["factor"]
    ramp = (original / length - scaling["low_freq_factor"]) / (scaling["high_freq_factor"] - scaling["low_freq_factor"])
    return (1 - ramp) * plain / scaling["factor"] + ramp * plain


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("LlamaForCausalLM", {}),
        ("LlamaForCausalLM", {"tie_word_embeddings": True, "rope_scaling": LLAMA3}),
        ("LlamaForCausalLM", {"attention_bias": True, "rope_scaling": {"type": "linear", "factor": 2.0}}),
        ("MistralForCausalLM", {"sliding_window": None, "num_key_value_heads": 1}),
        ("Qwen2ForCausalLM", {"tie_word_embeddings": True, "use_sliding_window": False, "sliding_window": 8}),
        ("Qwen3ForCausalLM", {"head_dim": 12}),
    ],
)
def test_logprobs_are_those_of_a_plain_reference(tmp_path: Path, architecture: str, changes: dict[str, Any]) -> None:
    config = model_config(architecture, **changes)
    tensors = write_model(tmp_path / "model", config)
    base = load_model(str(tmp_path / "model"), cache_dir=cache_dir())
    found = core.prompt_logprobs(base, None, TOKENS)
    np.testing.assert_allclose(found[1:], reference_logprobs(config, tensors, TOKENS), atol=2e-4)
    # Decoding goes token by token through the cache; what it says of its tokens is what scoring says of them.
    params = core.DecodeParams(max_tokens=4, temperature=1.0, seed=4)
    (answer,) = core.sample(base, None, TOKENS, 1, params)
    whole = np.concatenate([TOKENS, answer.tokens])
    np.testing.assert_allclose(answer.logprobs, core.prompt_logprobs(base, None, whole)[len(TOKENS) :], atol=1e-4)
    assert sum(tensor.size for tensor in tensors.values()) == base.config.parameters


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "shards"), [("bfloat16", 1), ("float16", 3)])
def test_half_precision_and_shards_are_read(tmp_path: Path, dtype: str, shards: int) -> None:
    config = model_config()
    tensors = write_model(tmp_path, config, dtype=dtype, shards=shards)
    base = load_model(str(tmp_path), cache_dir=cache_dir())
    expected = reference_logprobs(config, tensors, TOKENS)
    np.testing.assert_allclose(core.prompt_logprobs(base, None, TOKENS)[1:], expected, atol=2e-4)


@pytest.mark.slow
def test_an_adapter_on_it_learns(tmp_path: Path) -> None:
    write_model(tmp_path, model_config("Qwen2ForCausalLM"))
    base = load_model(str(tmp_path), cache_dir=cache_dir())
    adapter = core.new_adapter(base, core.LoraSpec(rank=4, seed=1))
    example = core.Example(
        tokens=TOKENS[:-1],
        inputs={"target_tokens": TOKENS[1:].astype(np.int64), "weights": np.ones(len(TOKENS) - 1, np.float32)},
    )
    losses = []
    for _ in range(12):
        done = core.forward_backward(
            base, adapter, [example], "cross_entropy", None, backward=True, should_stop=lambda: False
        )
        losses.append(done.metrics["loss:sum"])
        adapter, _ = core.optim_step(done.adapter, core.AdamHyper(learning_rate=2e-2))
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"architectures": ["GemmaForCausalLM"]},
            "architectures: expected one of LlamaForCausalLM.*'GemmaForCausalLM'",
        ),
        ({"architectures": None}, "architectures: expected one of"),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
            "rope_scaling: expected default, linear or llama3, got 'yarn'",
        ),
        ({"rope_parameters": {"rope_type": "dynamic"}}, "rope_scaling: .*got 'dynamic'"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "config.json lacks 'low_freq_factor'"),
        ({"hidden_act": "gelu"}, "hidden_act: expected silu, got 'gelu'"),
        ({"mlp_bias": True}, "mlp_bias: expected false"),
        ({"quantization_config": {}}, "quantization_config"),
        ({"num_key_value_heads": 3}, "num_key_value_heads: expected a divisor"),
        ({"head_dim": 7}, "head_dim: expected an even number"),
        (
            {"use_sliding_window": True, "sliding_window": 128},
            "sliding_window: expected none, or at least 512, got 128",
        ),
        ({"hidden_size": None}, "config.json lacks 'hidden_size'"),
        ({"hidden_size": "wide"}, "config.json is not usable"),
    ],
)
def test_what_the_engine_cannot_run_is_named(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(model_config(**changes)))
    with pytest.raises(ConfigError, match=said):
        describe(str(tmp_path), cache_dir=tmp_path)


def test_a_folder_that_is_none_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(ModelNotInstalledError, match="there is no such folder"):
        describe(str(tmp_path / "nothing"), cache_dir=tmp_path)
    with pytest.raises(ModelNotInstalledError, match=r"there is no config\.json in it"):
        load_model(str(tmp_path), cache_dir=tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ConfigError, match="expected a JSON object, got list"):
        describe(str(tmp_path), cache_dir=tmp_path)


def test_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(model_config(intermediate_size=64)))
    with pytest.raises(
        ConfigError, match=r"layers\.0\.mlp\.gate_proj\.weight: expected .* \[64, 32\], got float32 \[48, 32\]"
    ):
        load_model(str(tmp_path), cache_dir=tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(model_config("Qwen2ForCausalLM")))
    with pytest.raises(ConfigError, match=r"self_attn\.q_proj\.bias cannot be read"):
        load_model(str(tmp_path), cache_dir=tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(model_config(vocab_size=4)))
    with pytest.raises(ConfigError, match="its tokenizer has 8 ids, its embedding 4"):
        load_model(str(tmp_path), cache_dir=tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(model_config()))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"model\.safetensors is not in it"):
        load_model(str(tmp_path), cache_dir=tmp_path)


def test_chats_follow_the_models_own_template(tmp_path: Path) -> None:
    write_model(tmp_path)
    tokenizer = load_model(str(tmp_path), cache_dir=cache_dir()).tokenizer
    assert tokenizer.eos_id == 2
    assert tokenizer.decode(tokenizer.encode("hello world")) == "hello world"
    assert tokenizer.chat_prompt([{"role": "user", "content": "hello"}]) == [3, 2]
    with pytest.raises(InputError, match="refuses this conversation: role system"):
        tokenizer.chat_prompt([{"role": "system", "content": "a"}])
    with pytest.raises(InputError, match="no messages"):
        tokenizer.chat_prompt([])


def test_without_a_template_chats_are_chatml_or_refused(tmp_path: Path) -> None:
    from tinkex_actors.tokenizers import FolderTokenizer

    write_model(tmp_path, chat_template=None)
    tokenizer = FolderTokenizer.load(tmp_path)
    assert tokenizer.chat_prompt([{"role": "user", "content": "\nhello "}])[:3] == [1, 0, 3]
    known = json.loads((tmp_path / "tokenizer.json").read_text())
    known["model"]["vocab"] = {"a": 0}
    known["added_tokens"] = []
    (tmp_path / "tokenizer.json").write_text(json.dumps(known))
    with pytest.raises(ConfigError, match="nothing says which token ends an answer"):
        FolderTokenizer.load(tmp_path)
    plain = FolderTokenizer.load(tmp_path, eos_ids=[0])
    with pytest.raises(ConfigError, match="no chat template"):
        plain.chat_prompt([{"role": "user", "content": "a"}])
