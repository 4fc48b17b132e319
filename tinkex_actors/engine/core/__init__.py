"""The numeric core: a decoder with LoRA adapters, trained and sampled by synchronous, deterministic functions.

Layers of this folder, each importing only those to its right::

    graphs, sampling > training, scoring > batching, objectives, optimizer > forward > attention > lora > model >
    architecture

Everything here computes on the calling thread and keeps no state of its own: the base model and the adapters are
immutable values that the caller holds. The one exception is the ``Decoder``, which holds the requests that it decodes.
"""

from tinkex_actors.engine.core.architecture import ModelConfig
from tinkex_actors.engine.core.batching import Example
from tinkex_actors.engine.core.graphs.losses import GraphLoss, custom_forward_backward
from tinkex_actors.engine.core.lora import Adapter, LoraSpec, new_adapter
from tinkex_actors.engine.core.model import BaseModel
from tinkex_actors.engine.core.optimizer import AdamHyper, optim_step
from tinkex_actors.engine.core.sampling import DecodeParams, Decoder, Drawing, Sampled, sample
from tinkex_actors.engine.core.scoring import draw_alternatives, prompt_logprobs, target_logprobs, topk_prompt
from tinkex_actors.engine.core.training import BatchResult, forward_backward

__all__ = [
    "AdamHyper",
    "Adapter",
    "BaseModel",
    "BatchResult",
    "DecodeParams",
    "Decoder",
    "Drawing",
    "Example",
    "GraphLoss",
    "LoraSpec",
    "ModelConfig",
    "Sampled",
    "custom_forward_backward",
    "draw_alternatives",
    "forward_backward",
    "new_adapter",
    "optim_step",
    "prompt_logprobs",
    "sample",
    "target_logprobs",
    "topk_prompt",
]
