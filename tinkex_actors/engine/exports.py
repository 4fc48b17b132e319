"""Adapters as files for other programs: the layout of PEFT, which ``transformers`` and inference servers read.

``adapter_config.json`` says what is adapted, ``adapter_model.safetensors`` holds each map's ``lora_A.weight``
``[rank, in]`` and ``lora_B.weight`` ``[out, rank]``; the factor on them is ``lora_alpha / r``, as here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinkex_actors.engine.core.lora import LORA_ALPHA, Adapter, unflatten
from tinkex_actors.engine.core.model import BaseModel
from tinkex_actors.errors import InputError

__all__ = ["check_recipients", "export_adapter"]

_MODULES = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
_PREFIX = "base_model.model"


def export_adapter(
    folder: Path, base: BaseModel, adapter: Adapter, *, published_as: str | None, recipients: Sequence[str] = ()
) -> None:
    """Write an adapter's files.

    Args:
        folder: where; made, and must not exist.
        base: the model that it adapts.
        adapter: its weights; gradient and moments stay behind.
        published_as: where the base model is found, for ``base_model_name_or_path``; None for its own name.
        recipients: ``age1...`` or SSH public keys; with any, each file is encrypted for all of them and named ``.age``.

    Raises:
        InputError: a recipient is no such key, or the package that encrypts is not installed.
    """
    from safetensors.numpy import save

    keys = check_recipients(recipients)
    files = {
        "adapter_config.json": json.dumps(_config(base, adapter, published_as), indent=2).encode(),
        "adapter_model.safetensors": save(_tensors(base, adapter), metadata={"format": "pt"}),
    }
    folder.mkdir(parents=True)
    for name, body in files.items():
        if keys:
            import pyrage

            (folder / f"{name}.age").write_bytes(pyrage.encrypt(body, keys))
        else:
            (folder / name).write_bytes(body)


def check_recipients(recipients: Sequence[str]) -> list[Any]:
    """Return the keys to encrypt for.

    Raises:
        InputError: see :func:`export_adapter`.
    """
    if not recipients:
        return []
    try:
        import pyrage
    except ImportError as error:
        raise InputError(
            "age_encryption_recipients: encryption needs pyrage where the engine runs. Install it "
            "(pip install 'tinkex-actors[age]'), or save without recipients."
        ) from error
    keys = []
    for index, text in enumerate(recipients):
        kind = pyrage.ssh if text.startswith("ssh-") else pyrage.x25519
        try:
            keys.append(kind.Recipient.from_str(text))
        except pyrage.RecipientError as error:
            raise InputError(
                f"age_encryption_recipients[{index}]: expected an age1... or ssh-... public key ({error})."
            ) from error
    return keys


def _config(base: BaseModel, adapter: Adapter, published_as: str | None) -> dict[str, Any]:
    spec = adapter.spec
    names = ("q", "k", "v", "o") if spec.train_attn else ()
    modules = [
        _MODULES[name].rpartition(".")[2] for name in (*names, *(("gate", "up", "down") if spec.train_mlp else ()))
    ]
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": published_as or base.name,
        "r": spec.rank,
        "lora_alpha": LORA_ALPHA,
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
        "target_modules": [*modules, *(["lm_head"] if spec.train_unembed else [])],
    }


def _tensors(base: BaseModel, adapter: Adapter) -> dict[str, npt.NDArray[np.float32]]:
    tensors = {}
    for name, pair in unflatten(adapter.params, base.config, adapter.spec).items():
        a, b = np.asarray(pair.a), np.asarray(pair.b)
        if name == "unembed":
            places = [(f"{_PREFIX}.lm_head", a, b)]
        else:
            places = [
                (f"{_PREFIX}.model.layers.{layer}.{_MODULES[name]}", a[layer], b[layer]) for layer in range(len(a))
            ]
        for place, down, up in places:
            tensors[f"{place}.lora_A.weight"] = np.ascontiguousarray(down.T)
            tensors[f"{place}.lora_B.weight"] = np.ascontiguousarray(up.T)
    return tensors
