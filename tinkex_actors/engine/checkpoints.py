"""Adapters on disk: one safetensors file each, replaced atomically, readable by a later process.

A checkpoint is a folder holding ``adapter.safetensors``. Its tensors are ``lora.<map>.a`` and ``.b`` in the shapes of
``core.lora.leaves`` and, with the optimizer, ``adam.first_moment`` and ``adam.second_moment``, flat in that same order;
everything else is JSON in the file's own header, so a checkpoint is whole or absent. A gradient not yet used by an
``optim_step`` is not part of it.
"""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinkex_actors.engine.core.architecture import ModelConfig
from tinkex_actors.engine.core.lora import Adapter, LoraSpec, leaves
from tinkex_actors.engine.core.model import BaseModel
from tinkex_actors.errors import ConfigError, InputError

__all__ = [
    "CheckpointInfo",
    "load_checkpoint",
    "read_checkpoint_info",
    "save_checkpoint",
]

_FILE = "adapter.safetensors"
_HEADER = "tinkex_actors"
_FORMAT = 1
_MOMENTS = ("first_moment", "second_moment")


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """What is known of a checkpoint without reading its tensors.

    Args:
        base_model: name of the model it adapts.
        spec: the adapter's spec.
        optimizer: whether moments are stored.
        steps: optimizer steps taken, 0 without the optimizer.
        meta: the caller's own record, as saved.
        size_bytes: size of the file.
    """

    base_model: str
    spec: LoraSpec
    optimizer: bool
    steps: int
    meta: dict[str, Any]
    size_bytes: int


def save_checkpoint(
    directory: Path, base: BaseModel, adapter: Adapter, *, optimizer: bool, meta: Mapping[str, Any] | None = None
) -> CheckpointInfo:
    """Write a checkpoint; one that is there already is replaced, and a reader sees the old one or the new one.

    Args:
        directory: the checkpoint's folder, made if need be.
        base: the model that the adapter belongs to.
        adapter: what to save.
        optimizer: whether to store moments and step count.
        meta: the caller's record, anything JSON can hold.
    """
    from safetensors.numpy import save_file

    tensors = _split(np.asarray(adapter.params), base.config, adapter.spec)
    if optimizer:
        for name in _MOMENTS:
            held = getattr(adapter, name)
            tensors[f"adam.{name}"] = np.zeros_like(adapter.params) if held is None else np.asarray(held)
    header = {
        "format": _FORMAT,
        "base_model": base.name,
        "spec": asdict(adapter.spec),
        "optimizer": optimizer,
        "steps": adapter.steps if optimizer else 0,
        "meta": dict(meta or {}),
    }
    directory.mkdir(parents=True, exist_ok=True)
    draft = directory / f".{secrets.token_hex(8)}.tmp"
    try:
        save_file(tensors, draft, metadata={_HEADER: json.dumps(header)})
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(draft, directory / _FILE)
    finally:
        draft.unlink(missing_ok=True)
    return read_checkpoint_info(directory)


def read_checkpoint_info(directory: Path) -> CheckpointInfo:
    """Read a checkpoint's header.

    Raises:
        ConfigError: there is no readable checkpoint in the folder.
    """
    header, size = _header(directory)
    spec = LoraSpec(**header["spec"])
    return CheckpointInfo(header["base_model"], spec, header["optimizer"], header["steps"], header["meta"], size)


def load_checkpoint(directory: Path, base: BaseModel) -> tuple[LoraSpec, Adapter, dict[str, Any]]:
    """Read a checkpoint.

    Args:
        directory: the checkpoint's folder.
        base: the model it must belong to.

    Returns:
        The spec, the adapter (with moments and steps where they were saved), and the caller's record.

    Raises:
        ConfigError: there is no readable checkpoint in the folder.
        InputError: it belongs to another base model.
    """
    import jax.numpy as jnp
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    info = read_checkpoint_info(directory)
    if info.base_model != base.name:
        raise InputError(
            f"checkpoint {directory.name}: it adapts {info.base_model}, not {base.name}; use a service with that model"
        )
    try:
        tensors = load_file(directory / _FILE)
        params = _join(tensors, base.config, info.spec)
        moments = {name: jnp.asarray(tensors[f"adam.{name}"]) for name in _MOMENTS} if info.optimizer else {}
    except (SafetensorError, KeyError, ValueError) as error:
        raise ConfigError(
            f"checkpoint {directory}: its tensors are damaged ({error}); use another checkpoint"
        ) from error
    return info.spec, Adapter(info.spec, jnp.asarray(params), steps=info.steps, **moments), info.meta


def _header(directory: Path) -> tuple[dict[str, Any], int]:
    from safetensors import SafetensorError, safe_open

    path = directory / _FILE
    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {})[_HEADER])
        if header["format"] != _FORMAT:
            raise ConfigError(
                f"checkpoint {directory}: its format is {header['format']}, this version reads {_FORMAT}; "
                "upgrade tinkex-actors"
            )
        return header, path.stat().st_size
    except FileNotFoundError as error:
        raise ConfigError(f"checkpoint {directory}: there is none; it was never saved, or it was deleted") from error
    except (SafetensorError, KeyError, ValueError) as error:
        raise ConfigError(f"checkpoint {directory}: not a checkpoint of ours ({error}); use another one") from error


def _split(flat: npt.NDArray[np.float32], config: ModelConfig, spec: LoraSpec) -> dict[str, npt.NDArray[np.float32]]:
    tensors = {}
    start = 0
    for name, shape in leaves(config, spec):
        end = start + math.prod(shape)
        tensors[f"lora.{name}"] = flat[start:end].reshape(shape)
        start = end
    return tensors


def _join(
    tensors: Mapping[str, npt.NDArray[np.float32]], config: ModelConfig, spec: LoraSpec
) -> npt.NDArray[np.float32]:
    parts = []
    for name, shape in leaves(config, spec):
        tensor = tensors[f"lora.{name}"]
        if tensor.shape != shape or tensor.dtype != np.float32:
            raise ValueError(f"lora.{name} is {tensor.dtype} {list(tensor.shape)}, expected float32 {list(shape)}")
        parts.append(tensor.reshape(-1))
    return np.concatenate(parts)
