"""Losses of one's own: the traced graph that a server can run, and what a regularized loss reports (protocol 6.8)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from tinkex_actors.types._record import Record

__all__ = [
    "CreateCustomLossRequest",
    "CreateCustomLossResponse",
    "CustomLossGraph",
    "CustomLossInput",
    "CustomLossInputRank",
    "CustomLossNode",
    "CustomLossNodeOp",
    "CustomLossOutput",
    "RegularizerOutput",
]

CustomLossInputRank = Literal[0, 1, 2]

CustomLossNodeOp = Literal["placeholder", "get_attr", "call_function", "call_method", "call_module", "output"]


class CustomLossInput(Record, frozen=True, kw_only=True):
    """A tensor that the loss reads.

    Args:
        name: ``logprobs``, or a key of ``loss_fn_inputs``.
        rank: 0 for a scalar, 1 for ``[T]``, 2 for ``[T, K]``.
    """

    name: Annotated[str, Meta(min_length=1)]
    rank: CustomLossInputRank


class CustomLossNode(Record, frozen=True, kw_only=True):
    """One operation of the traced graph.

    Args:
        op: what kind of step it is.
        name: what later nodes call its value.
        target: the function's or method's qualified name.
        args: its arguments, each encoded as in protocol 6.8, such as ``{"ref": "logprobs"}``.
        kwargs: the named ones.
    """

    op: CustomLossNodeOp
    name: str
    target: str
    args: list[Any] = []
    kwargs: dict[str, Any] = {}


class CustomLossGraph(Record, frozen=True, kw_only=True):
    """A traced loss: its operations in order."""

    nodes: list[CustomLossNode]
    format: Literal[1] = 1


class CreateCustomLossRequest(Record, frozen=True, kw_only=True):
    """Body of ``create_custom_loss``.

    Args:
        session_id: the session whose clients may use it.
        custom_loss_seq_id: 0, 1, 2 ... within the session.
        name: for people.
        inputs: ``logprobs`` first, then what else it reads, in the order of its parameters.
        graph: what it computes.
    """

    session_id: str
    custom_loss_seq_id: Annotated[int, Meta(ge=0)]
    name: str
    inputs: list[CustomLossInput]
    graph: CustomLossGraph
    type: Literal["create_custom_loss"] = "create_custom_loss"


class CreateCustomLossResponse(Record, frozen=True, kw_only=True):
    """The loss's id, for ``loss_fn_config`` of the loss ``custom``."""

    loss_id: str
    type: Literal["create_custom_loss"] = "create_custom_loss"


class RegularizerOutput(Record, frozen=True, kw_only=True):
    """What one regularizer added to a loss.

    Args:
        name: its name.
        value: what it computed.
        weight: its factor.
        contribution: weight times value.
        grad_norm: L2 norm of its gradient, where that was tracked.
        grad_norm_weighted: weight times that.
        custom: metrics of its own: numbers, and words that say how it is set.
    """

    name: str
    value: float
    weight: float
    contribution: float
    grad_norm: float | None = None
    grad_norm_weighted: float | None = None
    custom: dict[str, float | str] = {}


class CustomLossOutput(Record, frozen=True, kw_only=True):
    """A regularized loss and its parts.

    Args:
        loss_total: the base loss and all contributions.
        base_loss: ``value``, ``grad_norm`` and ``custom`` of the loss without regularizers.
        regularizer_total: the contributions alone.
        total_grad_norm: L2 norm of the whole gradient, where that was tracked.
        regularizers: each one's part, by name.
    """

    loss_total: float
    base_loss: dict[str, Any] | None = None
    regularizer_total: float = 0.0
    total_grad_norm: float | None = None
    regularizers: dict[str, RegularizerOutput] = {}
