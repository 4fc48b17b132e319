"""What is refused of a loss's inputs and results, each refusal naming the datum, the token and the value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tinkex_actors.errors import LossError, NonFiniteLossError, ShapeMismatchError
from tinkex_actors.types import Datum

__all__ = [
    "REDUCTIONS",
    "check_gradients",
    "check_logprobs",
    "check_metrics",
    "check_value",
    "first_bad",
]

Rows = Sequence[npt.NDArray[Any]]

REDUCTIONS = frozenset({"mean", "sum", "min", "max", "slack", "hash2", "unique"})
"""How a metric's values are combined, by the last part of its name (protocol 6.5)."""


def check_logprobs(data: Sequence[Datum], logprobs: Rows) -> None:
    """Refuse logprobs that are not one finite array for each datum, shaped as its ``target_tokens``.

    Raises:
        ShapeMismatchError: another number of arrays, another shape, no ``target_tokens``, or no logprob at all.
        NonFiniteLossError: a logprob is NaN or infinite.
    """
    if len(data) != len(logprobs):
        raise ShapeMismatchError(
            f"{len(logprobs)} arrays of logprobs for {len(data)} data; a loss needs one for each datum, in order."
        )
    for index, (datum, row) in enumerate(zip(data, logprobs, strict=True)):
        if "target_tokens" not in datum.loss_fn_inputs:
            raise ShapeMismatchError(
                f"datum {index}: loss_fn_inputs['target_tokens'] is missing, so there are no tokens whose logprobs the "
                "loss could read. Add the tokens to predict, the prompt's shifted left by one."
            )
        expected = tuple(datum.loss_fn_inputs["target_tokens"].shape)
        if row.shape != expected:
            raise ShapeMismatchError(
                f"datum {index}: logprobs have shape {list(row.shape)}, expected {list(expected)} as its "
                "target_tokens. Keep data and logprobs in one order."
            )
    if not any(row.size for row in logprobs):
        raise ShapeMismatchError(
            f"{len(data)} data without a single logprob: a loss needs at least one token to predict. Leave out batches "
            "and data whose target_tokens are empty."
        )
    if (at := first_bad(logprobs)) is not None:
        raise NonFiniteLossError(
            f"{_place(at)}: its logprob is {_value(logprobs, at)}, before the loss was computed. The model itself has "
            "diverged, or the server answered nonsense: go back to a checkpoint, with a lower learning rate."
        )


def check_value(name: str, value: Any) -> None:
    """Refuse a loss that is not one number.

    Args:
        name: the loss, for the message.
        value: what it returned beside the metrics.

    Raises:
        ShapeMismatchError: it is an array.
        LossError: it is no number at all.
    """
    shape = getattr(value, "shape", () if isinstance(value, (int, float)) else None)
    if shape is None:
        raise LossError(
            f"{name} returned a {type(value).__name__} as its loss; expected a scalar array that was computed from "
            "logprobs. Return (loss, metrics)."
        )
    if tuple(shape) != ():
        raise ShapeMismatchError(
            f"{name} returned a loss of shape {list(shape)}; expected a scalar. End it with .sum() or .mean()."
        )


def check_gradients(name: str, value: float, gradients: Rows, logprobs: Rows) -> None:
    """Refuse a loss or a gradient that is not finite, and a gradient that is zero everywhere.

    Args:
        name: the loss, for the message.
        value: the loss.
        gradients: d loss / d logprobs, one array for each datum.
        logprobs: what it was computed from, to name the token that is to blame.

    Raises:
        NonFiniteLossError: NaN or infinity; the message names the datum, the token and the value.
    """
    at = first_bad(gradients)
    if at is not None:
        raise NonFiniteLossError(
            f"{name}: {_place(at)}: the gradient is {_value(gradients, at)} where its logprob is "
            f"{_value(logprobs, at)} (the loss is {value}). Look for a division by zero, a logarithm of zero or an "
            "exponential that overflows there; losses.check(loss, data) looks closer."
        )
    if not math.isfinite(value):
        raise NonFiniteLossError(
            f"{name}: the loss is {value}, though every gradient is finite; the largest logprob is "
            f"{_extreme(logprobs)}. Look for an overflow in a term that does not depend on logprobs, such as a ratio "
            "of inputs."
        )


def check_metrics(name: str, metrics: Any, *, any_name: bool = False) -> dict[str, float]:
    """Return a loss's metrics as numbers.

    Args:
        name: the loss, for messages.
        metrics: what it returned beside its value.
        any_name: take names as they are, as the official client does (protocol 6.7).

    Raises:
        LossError: no mapping, a name that is not ``name:reduction``, or a value that is no scalar.
    """
    if not isinstance(metrics, Mapping):
        raise LossError(
            f"{name} returned a {type(metrics).__name__} as its metrics; expected a dict. Return (loss, {{}}) without."
        )
    return {_metric_name(name, key, any_name): _metric_value(name, key, value) for key, value in metrics.items()}


def first_bad(rows: Rows) -> tuple[int, tuple[int, ...]] | None:
    """Return the datum and the place of the first value that is NaN or infinite, or None."""
    if rows and np.isfinite(np.concatenate(rows, axis=None)).all():
        return None  # at once for all: a batch has hundreds of rows, and nearly always nothing is wrong
    for index, row in enumerate(rows):
        if not np.isfinite(row).all():
            return index, tuple(int(part) for part in np.argwhere(~np.isfinite(row))[0])
    return None


def _metric_name(name: str, key: object, any_name: bool) -> str:
    if any_name:
        if not isinstance(key, str) or not key:
            raise LossError(f"{name}: metric {key!r} has no name; expected text, such as 'margin:mean'.")
        return key
    words = key.split(":") if isinstance(key, str) else []
    if len(words) == 2 and words[0] and words[1] in REDUCTIONS:
        return str(key)
    example = f"{words[0] or 'margin'}:mean" if words else "margin:mean"
    raise LossError(
        f"{name}: metric {key!r} is not named name:reduction, with one of {', '.join(sorted(REDUCTIONS))} as its "
        f"reduction, by which results are combined. Call it {example!r}, for example."
    )


def _metric_value(name: str, key: str, value: Any) -> float:
    shape = tuple(getattr(value, "shape", ()))
    try:
        if shape != ():
            raise TypeError(f"an array of shape {list(shape)}")
        return float(value)
    except (TypeError, ValueError) as error:
        raise LossError(
            f"{name}: metric {key!r} is {error if shape else f'a {type(value).__name__}'}; expected a number. Reduce "
            "it in the loss, for example with .mean()."
        ) from error


def _place(at: tuple[int, tuple[int, ...]]) -> str:
    index, where = at
    return f"datum {index}, token {where[0]}" + (f", choice {where[1]}" if len(where) > 1 else "")


def _value(rows: Rows, at: tuple[int, tuple[int, ...]]) -> float:
    return float(rows[at[0]][at[1]])


def _extreme(rows: Rows) -> float:
    return max((float(row.max()) for row in rows if row.size), default=math.nan)
