"""Losses of one's own, in JAX: objectives, regularizers, and what evaluates them. Pure: no event loop in here.

A loss is a function ``loss(data, logprobs) -> (scalar, metrics)``; see ``TrainingClient.forward_backward_custom``.
"""

from tinkex_actors.losses.batch_loss import BatchLoss
from tinkex_actors.losses.checking import CheckReport, check
from tinkex_actors.losses.evaluation.evaluate import Differentiable, evaluate
from tinkex_actors.losses.evaluation.result import Evaluation
from tinkex_actors.losses.evaluation.torch_loss import TorchLoss
from tinkex_actors.losses.objectives.advantages import grpo_advantages
from tinkex_actors.losses.objectives.penalties import entropy_bonus, kl_to_reference
from tinkex_actors.losses.objectives.policy import cispo, cross_entropy, dro, gspo, importance_sampling, ppo
from tinkex_actors.losses.objectives.preference import dpo
from tinkex_actors.losses.regularizers.base import Regularizer
from tinkex_actors.losses.regularizers.divergences import Entropy, JensenShannon, KLDivergence
from tinkex_actors.losses.regularizers.gradients import gradient_norm
from tinkex_actors.losses.regularizers.norms import L1, L2, ElasticNet, OutputMagnitude
from tinkex_actors.losses.regularizers.pipeline import RegularizerPipeline
from tinkex_actors.losses.regularizers.schedules import constant, cosine, linear
from tinkex_actors.losses.regularizers.spec import RegularizerSpec
from tinkex_actors.losses.regularizers.structure import Consistency, GradientPenalty, Orthogonality

__all__ = [
    "L1",
    "L2",
    "BatchLoss",
    "CheckReport",
    "Consistency",
    "Differentiable",
    "ElasticNet",
    "Entropy",
    "Evaluation",
    "GradientPenalty",
    "JensenShannon",
    "KLDivergence",
    "Orthogonality",
    "OutputMagnitude",
    "Regularizer",
    "RegularizerPipeline",
    "RegularizerSpec",
    "TorchLoss",
    "check",
    "cispo",
    "constant",
    "cosine",
    "cross_entropy",
    "dpo",
    "dro",
    "entropy_bonus",
    "evaluate",
    "gradient_norm",
    "grpo_advantages",
    "gspo",
    "importance_sampling",
    "kl_to_reference",
    "linear",
    "ppo",
]
