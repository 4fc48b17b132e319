"""Losses of one's own, in JAX: objectives, regularizers, and what evaluates them. Pure: no event loop in here.

A loss is a function ``loss(data, logprobs) -> (scalar, metrics)``; see ``TrainingClient.forward_backward_custom``.
"""

from tinkex_actors.losses.batch_loss import BatchLoss
from tinkex_actors.losses.evaluation.evaluate import Differentiable, evaluate
from tinkex_actors.losses.evaluation.result import Evaluation
from tinkex_actors.losses.evaluation.torch_loss import TorchLoss

__all__ = ["BatchLoss", "Differentiable", "Evaluation", "TorchLoss", "evaluate"]
