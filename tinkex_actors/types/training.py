"""The training step: forward, backward, optimizer (protocol 1.7.13, 1.7.14, 2.6)."""

from __future__ import annotations

from typing import Any, Literal

from msgspec.structs import force_setattr

from tinkex_actors.errors import InputError
from tinkex_actors.types._record import Record, short
from tinkex_actors.types.datum import Datum
from tinkex_actors.types.optimizer import AdamParams, DimuonParams, OptimParams
from tinkex_actors.types.tensor import TensorData

__all__ = [
    "ForwardBackwardInput",
    "ForwardBackwardOutput",
    "ForwardBackwardRequest",
    "ForwardRequest",
    "LossFnInputs",
    "LossFnOutput",
    "LossFnType",
    "OptimStepRequest",
    "OptimStepResponse",
]

LossFnType = Literal[
    "cross_entropy", "importance_sampling", "ppo", "cispo", "dro", "gspo", "stable_reinforce", "custom"
]

LossFnInputs = dict[str, TensorData]
LossFnOutput = dict[str, TensorData]


class ForwardBackwardInput(Record, frozen=True, kw_only=True):
    """A batch and the loss to compute over it.

    Args:
        data: the examples.
        loss_fn: a name of ``LossFnType``.
        loss_fn_config: the loss's settings: numbers, and text for a few.
    """

    data: list[Datum]
    loss_fn: str
    loss_fn_config: dict[str, float | str] | None = None


class ForwardBackwardRequest(Record, frozen=True, kw_only=True):
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


class ForwardRequest(Record, frozen=True, kw_only=True):
    """Body of the older ``forward`` endpoint; the same as a ``ForwardBackwardRequest`` with ``forward_only``.

    Args:
        forward_input: what to compute.
        model_id: the model.
        seq_id: the request's number in the model's order, from 1.
    """

    forward_input: ForwardBackwardInput
    model_id: str
    seq_id: int | None = None


class ForwardBackwardOutput(Record, frozen=True):
    """What ``forward`` and ``forward_backward`` give.

    Args:
        loss_fn_output_type: the server's name for the kind of outputs.
        loss_fn_outputs: for each datum, in order, its tensors by name, such as ``logprobs``.
        metrics: values by ``name:reduction``, such as ``loss:sum``.
    """

    loss_fn_output_type: str
    loss_fn_outputs: list[LossFnOutput]
    metrics: dict[str, float] = {}


class OptimStepRequest(Record, frozen=True, kw_only=True):
    """One optimizer step; exactly one of the two settings is sent.

    Args:
        model_id: the model.
        seq_id: the request's number in the model's order.
        adam_params: settings of an AdamW step.
        optimizer_params: settings of any other optimizer: ``DimuonParams``, or a dict with its name under ``type``.

    Raises:
        InputError: both are given, or ``optimizer_params`` is something else.
    """

    model_id: str
    seq_id: int | None = None
    adam_params: AdamParams | None = None
    optimizer_params: Any = None
    type: Literal["optim_step"] = "optim_step"

    def __post_init__(self) -> None:
        super().__post_init__()
        other = self.optimizer_params
        if other is None or isinstance(other, DimuonParams):
            pass
        elif not isinstance(other, dict) or not isinstance(other.get("type"), str):
            raise InputError(
                "OptimStepRequest: optimizer_params must be DimuonParams or a dict with the optimizer's name under "
                f"'type', got {short(other)}. AdamParams go into adam_params."
            )
        elif other["type"] == "dimuon" and {"learning_rate"} <= other.keys() <= set(DimuonParams.__struct_fields__):
            force_setattr(self, "optimizer_params", DimuonParams(**other))
        if other is not None and self.adam_params is not None:
            raise InputError(
                "OptimStepRequest: adam_params and optimizer_params are both given; a step has one of them."
            )

    @classmethod
    def of(cls, model_id: str, optim_params: OptimParams, seq_id: int | None = None) -> OptimStepRequest:
        """Return the request for these settings, under the wire's name for their optimizer (protocol 1.7.14)."""
        if isinstance(optim_params, AdamParams):
            return cls(model_id=model_id, seq_id=seq_id, adam_params=optim_params)
        return cls(model_id=model_id, seq_id=seq_id, optimizer_params=optim_params)


class OptimStepResponse(Record, frozen=True, kw_only=True):
    """What ``optim_step`` gives: metrics by name, or None where the server has none."""

    metrics: dict[str, float] | None = None
