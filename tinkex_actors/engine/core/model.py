"""A base model: its shape, its tokenizer and its frozen weights on the device."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import jax
import numpy as np

from tinkex_actors.engine.core.architecture import Ends, LayerWeights, ModelConfig, Weights
from tinkex_actors.tokenizers import Tokenizer

__all__ = ["BaseModel"]


@dataclass(frozen=True)
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

    @cached_property
    def layers(self) -> tuple[LayerWeights, ...]:
        """The layers one by one: linear maps ``[in, out]``. On the CPU they are views of ``weights``."""
        stacks = {name: stack for name, stack in self.weights.layers._asdict().items() if stack is not None}
        return tuple(
            LayerWeights(**{name: _layer(stack, index) for name, stack in stacks.items()})
            for index in range(self.config.layers)
        )

    @property
    def ends(self) -> Ends:
        """What lies before and after the layers."""
        return Ends(self.weights.embedding, self.weights.final_norm, self.weights.head)


def _layer(stack: jax.Array, index: int) -> jax.Array:
    if any(device.platform != "cpu" for device in stack.devices()):
        return stack[index]
    view: jax.Array = jax.device_put(np.asarray(stack)[index], may_alias=True)
    return view
