"""What happens while a regularized loss is computed, for whoever subscribes to ``service.system.events``.

In ``compute_regularized`` each term is computed, and told, by itself. In ``forward_backward_custom`` a pipeline is one
pass for all its terms: they start and stop together, and their ``duration`` is the pass's.
"""

from __future__ import annotations

import msgspec

__all__ = [
    "CustomLossFailed",
    "CustomLossStarted",
    "CustomLossStopped",
    "RegularizerFailed",
    "RegularizerStarted",
    "RegularizerStopped",
]


class CustomLossStarted(msgspec.Struct, frozen=True, tag="custom_loss.start", kw_only=True):
    """A regularized loss is about to be computed.

    Attributes:
        regularizer_count: its terms.
        track_grad_norms: whether gradient norms are computed as well.
    """

    regularizer_count: int
    track_grad_norms: bool


class CustomLossStopped(msgspec.Struct, frozen=True, tag="custom_loss.stop", kw_only=True):
    """It was computed.

    Attributes:
        duration: seconds.
        loss_total: the base loss and all terms.
        regularizer_total: all terms, each with its weight.
        regularizer_count: how many they are.
    """

    duration: float
    loss_total: float
    regularizer_total: float
    regularizer_count: int


class CustomLossFailed(msgspec.Struct, frozen=True, tag="custom_loss.exception", kw_only=True):
    """It was not computed.

    Attributes:
        duration: seconds until then.
        reason: the error, in words.
    """

    duration: float
    reason: str


class RegularizerStarted(msgspec.Struct, frozen=True, tag="regularizer.compute.start", kw_only=True):
    """One term is about to be computed.

    Attributes:
        regularizer_name: the term.
        weight: its factor at this step.
        is_async: whether it is awaited.
    """

    regularizer_name: str
    weight: float
    is_async: bool


class RegularizerStopped(msgspec.Struct, frozen=True, tag="regularizer.compute.stop", kw_only=True):
    """One term was computed; where gradient norms are tracked, this is told once they are known.

    Attributes:
        duration: seconds.
        value: what it computed, without its weight.
        contribution: with its weight.
        grad_norm: L2 norm of its gradient, without its weight; None where it is not tracked, or the term has none.
        regularizer_name: the term.
        weight: its factor.
        is_async: whether it was awaited.
    """

    duration: float
    value: float
    contribution: float
    grad_norm: float | None
    regularizer_name: str
    weight: float
    is_async: bool


class RegularizerFailed(msgspec.Struct, frozen=True, tag="regularizer.compute.exception", kw_only=True):
    """One term failed, or took longer than the pipeline's time-out.

    Attributes:
        duration: seconds until then.
        regularizer_name: the term.
        weight: its factor.
        reason: the error, in words.
    """

    duration: float
    regularizer_name: str
    weight: float
    reason: str
