"""The training step: forward, backward, optimizer (protocol 1.7.13, 1.7.14, 2.6)."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from tinkex_actors.types.datum import Datum
from tinkex_actors.types.optimizer import AdamParams
from tinkex_actors.types.tensor import TensorData

__all__ = [
    "ForwardBackwardInput",
    "ForwardBackwardOutput",
    "ForwardBackwardRequest",
    "LossFnOutput",
    "LossFnType",
    "OptimStepRequest",
    "OptimStepResponse",
]

LossFnType = Literal[
    "cross_entropy", "importance_sampling", "ppo", "cispo", "dro", "gspo", "stable_reinforce", "custom"
]

LossFnOutput = dict[str, TensorData]


class ForwardBackwardInput(msgspec.Struct, frozen=True, kw_only=True):
    """A batch and the loss to compute over it.

    Args:
        data: the examples.
        loss_fn: a name of ``LossFnType``.
        loss_fn_config: the loss's settings: numbers, and text for a few.
    """

    data: list[Datum]
    loss_fn: str
    loss_fn_config: dict[str, float | str] | None = None


class ForwardBackwardRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One chunk of a ``forward_backward`` or, with ``forward_only``, of a ``forward`` call.

    Args:
        forward_backward_input: what to compute.
        model_id: the model.
        seq_id: the request's number in the model's order, from 1.
        forward_only: compute the loss and its outputs, and no gradient.
    """

    forward_backward_input: ForwardBackwardInput
    model_id: str
    seq_id: int | None = None
    forward_only: bool = False


class ForwardBackwardOutput(msgspec.Struct, frozen=True):
    """What ``forward`` and ``forward_backward`` give.

    Args:
        loss_fn_output_type: the server's name for the kind of outputs.
        loss_fn_outputs: for each datum, in order, its tensors by name, such as ``logprobs``.
        metrics: values by ``name:reduction``, such as ``loss:sum``.
    """

    loss_fn_output_type: str
    loss_fn_outputs: list[LossFnOutput]
    metrics: dict[str, float] = {}


class OptimStepRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One optimizer step; exactly one of the two settings is sent.

    Args:
        model_id: the model.
        seq_id: the request's number in the model's order.
        adam_params: settings of an AdamW step.
        optimizer_params: settings of any other optimizer, an object with ``type``.
    """

    model_id: str
    seq_id: int | None = None
    adam_params: AdamParams | None = None
    optimizer_params: dict[str, Any] | None = None
    type: Literal["optim_step"] = "optim_step"


class OptimStepResponse(msgspec.Struct, frozen=True, kw_only=True):
    """What ``optim_step`` gives: metrics by name, or None where the server has none."""

    metrics: dict[str, float] | None = None
