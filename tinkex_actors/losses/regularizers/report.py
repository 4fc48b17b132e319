"""What a regularized loss tells of its parts: as a record, and as metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tinkex_actors.types import CustomLossOutput, RegularizerOutput

__all__ = ["Share", "metrics_of", "output_of"]


class Share(NamedTuple):
    """One term's part of a loss.

    Args:
        name: the term's name.
        value: what it computed, without its weight.
        weight: its factor.
        metrics: its own.
        grad_norm: L2 norm of its gradient, without its weight; None where that is not known.
    """

    name: str
    value: Any
    weight: float
    metrics: Mapping[str, Any]
    grad_norm: Any = None


def output_of(
    base: float,
    metrics: Mapping[str, Any],
    shares: Sequence[Share],
    base_norm: float | None = None,
    total_norm: float | None = None,
) -> CustomLossOutput:
    """Return the record of a loss and its parts."""
    total = sum(share.weight * float(share.value) for share in shares)
    outputs = {
        share.name: RegularizerOutput(
            name=share.name,
            value=float(share.value),
            weight=share.weight,
            contribution=share.weight * float(share.value),
            grad_norm=share.grad_norm,
            grad_norm_weighted=None if share.grad_norm is None else share.weight * share.grad_norm,
            custom={name: value if isinstance(value, str) else float(value) for name, value in share.metrics.items()},
        )
        for share in shares
    }
    custom = {name: value if isinstance(value, str) else float(value) for name, value in metrics.items()}
    return CustomLossOutput(
        loss_total=base + total,
        base_loss={"value": base, "grad_norm": base_norm, "custom": custom},
        regularizer_total=total,
        total_grad_norm=total_norm,
        regularizers=outputs,
    )


def metrics_of(
    base: Any,
    metrics: Mapping[str, Any],
    shares: Sequence[Share],
    total: Any,
    base_norm: Any = None,
    total_norm: Any = None,
) -> dict[str, Any]:
    """Return the parts of a loss as metrics ``name:reduction``, beside the base loss's own.

    A term ``l1`` gives ``l1/value:mean``, ``l1/contribution:mean``, ``l1/weight:mean``, ``l1/grad_norm:mean`` where it
    is known, and ``l1/NAME:mean`` for each number of its own.
    """
    told: dict[str, Any] = dict(metrics)
    told["base_loss:mean"] = base
    told["regularizer_total:mean"] = total - base
    for name, value in (("base_grad_norm", base_norm), ("total_grad_norm", total_norm)):
        if value is not None:
            told[f"{name}:mean"] = value
    for share in shares:
        numbers = {"value": share.value, "contribution": share.weight * share.value, "weight": share.weight}
        if share.grad_norm is not None:
            numbers["grad_norm"] = share.grad_norm
        own = {name.replace(":", "_"): value for name, value in share.metrics.items() if not isinstance(value, str)}
        told.update({f"{share.name}/{name}:mean": value for name, value in {**own, **numbers}.items()})
    return told
