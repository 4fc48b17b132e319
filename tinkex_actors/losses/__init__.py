"""Losses of one's own, in JAX: objectives, regularizers, and what evaluates them. Pure: no event loop in here.

A loss is a function ``loss(data, logprobs) -> (scalar, metrics)``; see ``TrainingClient.forward_backward_custom``.
"""

from tinkex_actors.losses.evaluation.result import Evaluation

__all__ = ["Evaluation"]
