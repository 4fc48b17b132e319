"""A base model: its shape, its tokenizer and its frozen weights on the device."""

from __future__ import annotations

from dataclasses import dataclass

from tinkex_actors.engine.core.architecture import ModelConfig, Weights
from tinkex_actors.tokenizers import Tokenizer

__all__ = ["BaseModel"]


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A loaded base model, shared by any number of adapters.

    Args:
        name: the catalogue's name, such as ``tiny``.
        config: its shape.
        tokenizer: its text <-> tokens conversion.
        weights: its arrays; never changed.
    """

    name: str
    config: ModelConfig
    tokenizer: Tokenizer
    weights: Weights
