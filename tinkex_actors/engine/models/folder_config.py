"""``config.json`` of a Hugging Face folder: which decoder it describes. Imports no JAX."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinkex_actors.errors import ConfigError, ModelNotInstalledError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ARCHITECTURES", "FolderConfig", "read_folder_config", "read_json"]

ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
"""The values of ``architectures`` that the engine can run."""

_CONTEXT_LIMIT = 2048
"""The engine's attention and caches are sized for this many tokens, whatever the model was trained on."""

_ATTENTION = ("q", "k", "v", "o")


@dataclass(frozen=True, slots=True)
class FolderConfig:
    """What ``config.json`` says, in the terms of ``core.ModelConfig`` and with the same names.

    Args:
        architecture: one of :data:`ARCHITECTURES`.
        rope: arguments of ``core.architecture.RopeScaling``, or None.
        eos_ids: tokens that end an answer, the one that ends a chat turn first.
    """

    architecture: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int
    theta: float
    eps: float
    context_length: int
    head_width: int
    attention_biases: tuple[str, ...]
    query_key_norm: bool
    tied: bool
    rope: Mapping[str, Any] | None
    eos_ids: tuple[int, ...]


def read_folder_config(folder: Path) -> FolderConfig:
    """Read and check a folder's ``config.json`` (and ``generation_config.json``, where there is one).

    Raises:
        ModelNotInstalledError: no such folder, or no ``config.json`` in it.
        ConfigError: a decoder that the engine cannot run; the message names the setting.
    """
    if not folder.is_dir():
        raise ModelNotInstalledError(
            f"model {folder}: there is no such folder. Give the path of a Hugging Face model folder, or a name from "
            "`tinkex-actors models list`."
        )
    given = read_json(folder / "config.json")
    if given is None:
        raise ModelNotInstalledError(
            f"model {folder}: there is no config.json in it. Give a Hugging Face model folder: config.json, "
            "tokenizer.json and *.safetensors."
        )
    try:
        return _checked(folder, given, read_json(folder / "generation_config.json") or {})
    except KeyError as error:
        raise ConfigError(f"model {folder}: config.json lacks {error}. Use a complete model folder.") from error
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model {folder}: config.json is not usable: {error}.") from error


def read_json(path: Path) -> dict[str, Any] | None:
    """Return a JSON object; None where there is no such file.

    Raises:
        ConfigError: it cannot be read, or is no JSON object.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}). Fetch the model again.") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: expected a JSON object, got {type(found).__name__}. Fetch the model again.")
    return found


def _checked(folder: Path, given: dict[str, Any], generation: dict[str, Any]) -> FolderConfig:
    architecture = (given.get("architectures") or [None])[0]
    if architecture not in ARCHITECTURES:
        raise _unsupported(folder, "architectures", architecture, f"one of {', '.join(ARCHITECTURES)}")
    if (activation := given.get("hidden_act", "silu")) not in ("silu", "swish"):
        raise _unsupported(folder, "hidden_act", activation, "silu")
    if given.get("mlp_bias"):
        raise _unsupported(folder, "mlp_bias", True, "false")
    if "quantization_config" in given:
        raise _unsupported(
            folder, "quantization_config", "a quantised model", "weights of float32, float16 or bfloat16"
        )
    hidden, heads = int(given["hidden_size"]), int(given["num_attention_heads"])
    kv_heads = int(given.get("num_key_value_heads") or heads)
    head_width = int(given.get("head_dim") or hidden // heads)
    if heads % kv_heads:
        raise _unsupported(folder, "num_key_value_heads", kv_heads, f"a divisor of num_attention_heads, {heads}")
    if head_width % 2:
        raise _unsupported(folder, "head_dim", head_width, "an even number: rotary positions turn pairs")
    context = min(_CONTEXT_LIMIT, int(given.get("max_position_embeddings", _CONTEXT_LIMIT)))
    _check_window(folder, given, context)
    theta, rope = _rotary(folder, given)
    return FolderConfig(
        architecture=architecture,
        layers=int(given["num_hidden_layers"]),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        ffn=int(given["intermediate_size"]),
        vocab=int(given["vocab_size"]),
        theta=theta,
        eps=float(given.get("rms_norm_eps", 1e-6)),
        context_length=context,
        head_width=head_width,
        attention_biases=_biases(architecture, given),
        query_key_norm=architecture == "Qwen3ForCausalLM",
        tied=bool(given.get("tie_word_embeddings", False)),
        rope=rope,
        eos_ids=_eos(generation) or _eos(given),
    )


def _biases(architecture: str, given: dict[str, Any]) -> tuple[str, ...]:
    # Qwen 2 has them on q, k and v without saying so; the others on all four, where they say so.
    if architecture == "Qwen2ForCausalLM":
        return _ATTENTION[:3]
    return _ATTENTION if given.get("attention_bias") else ()


def _check_window(folder: Path, given: dict[str, Any], context: int) -> None:
    """Refuse attention that forgets within the context that the engine offers."""
    window = given.get("sliding_window")
    on = given.get("use_sliding_window", given["architectures"][0] == "MistralForCausalLM")
    if window is not None and on and int(window) < context:
        raise _unsupported(folder, "sliding_window", window, f"none, or at least {context}")


def _rotary(folder: Path, given: dict[str, Any]) -> tuple[float, dict[str, Any] | None]:
    """Return the base frequency and the scaling; newer configs hold both in ``rope_parameters``."""
    settings = given.get("rope_parameters") or given.get("rope_scaling") or {}
    theta = float(settings.get("rope_theta", given.get("rope_theta", 10000.0)))
    kind = settings.get("rope_type", settings.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind == "linear":
        return theta, {"kind": kind, "factor": float(settings["factor"])}
    if kind == "llama3":
        return theta, {
            "kind": kind,
            "factor": float(settings["factor"]),
            "low_freq_factor": float(settings["low_freq_factor"]),
            "high_freq_factor": float(settings["high_freq_factor"]),
            "original_context": int(settings["original_max_position_embeddings"]),
        }
    raise _unsupported(folder, "rope_scaling", kind, "default, linear or llama3")


def _eos(given: dict[str, Any]) -> tuple[int, ...]:
    found = given.get("eos_token_id")
    if found is None:
        return ()
    return tuple(int(token) for token in found) if isinstance(found, list) else (int(found),)


def _unsupported(folder: Path, setting: str, got: object, expected: str) -> ConfigError:
    return ConfigError(
        f"model {folder}: config.json: {setting}: expected {expected}, got {got!r}. The engine cannot run this model; "
        "use another one."
    )
