"""One result from the results of a call's chunks (protocol 6.5).

Outputs are concatenated in chunk order. Metrics are named ``name:reduction``; those of the first chunk that every chunk
has are reduced, with weights ``w_i`` = number of outputs in chunk i:

=============  =======================================================================
``mean``       ``sum(w_i v_i) / sum(w_i)``
``sum``        ``sum(v_i)``
``min, max``   the smallest, the largest; NaN if any value is
``slack``      ``max(v_i) - mean``
``hash2``      ``sum(int(v_i) mod 2**64) mod 2**64``; NaN if any value is not finite
``unique``     the first value under the key, the others under ``key_1``, ``key_2``, ...
=============  =======================================================================

A metric of any other reduction is left out: we cannot know how to add it up. Two departures from the official client:
without a single output (all weights 0) ``mean`` and ``slack`` use the plain mean, where it divides by zero; and a name
that is not ``name:reduction`` passes unchanged through a call of one chunk, where it fails a step that has been made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tinkex_actors.errors import InputError, RemoteWireError
from tinkex_actors.types import ForwardBackwardOutput

__all__ = ["combine"]

_HASH_MODULUS = 2**64


def combine(outputs: Sequence[ForwardBackwardOutput]) -> ForwardBackwardOutput:
    """Combine the outputs of a call's chunks, in chunk order.

    Args:
        outputs: one or more; not changed.

    Returns:
        The result of the whole call; ``loss_fn_output_type`` is the first chunk's.

    Raises:
        InputError: there is none.
        RemoteWireError: there are several, and a metric of the first is not named ``name:reduction``.
    """
    if not outputs:
        raise InputError("expected the output of at least one chunk, got none; refuse empty data before sending it")
    return ForwardBackwardOutput(
        loss_fn_output_type=outputs[0].loss_fn_output_type,
        loss_fn_outputs=[row for output in outputs for row in output.loss_fn_outputs],
        metrics=_metrics(outputs),
    )


def _metrics(outputs: Sequence[ForwardBackwardOutput]) -> dict[str, float]:
    weights = [len(output.loss_fn_outputs) for output in outputs]
    combined: dict[str, float] = {}
    for key, first in outputs[0].metrics.items():
        _, colon, reduction = key.partition(":")
        if not colon or ":" in reduction:
            if len(outputs) > 1:
                raise RemoteWireError(
                    f"metrics[{key!r}]: expected a name of the form name:reduction, so that the values of "
                    f"{len(outputs)} chunks can be combined; send fewer data per call, or report this to the server"
                )
            combined[key] = first
            continue
        if not all(key in output.metrics for output in outputs):
            continue
        values = [output.metrics[key] for output in outputs]
        if reduction == "unique":
            combined[key] = first
            combined.update({f"{key}_{index}": value for index, value in enumerate(values[1:], start=1)})
        elif reduction in _REDUCTIONS:
            combined[key] = _REDUCTIONS[reduction](values, weights)
    return combined


def _mean(values: Sequence[float], weights: Sequence[int]) -> float:
    total = sum(weights)
    if total == 0:
        return sum(values) / len(values)
    return sum(weight * value for weight, value in zip(weights, values, strict=True)) / total


def _sum(values: Sequence[float], _weights: Sequence[int]) -> float:
    return sum(values)


def _min(values: Sequence[float], _weights: Sequence[int]) -> float:
    return math.nan if any(map(math.isnan, values)) else min(values)


def _max(values: Sequence[float], _weights: Sequence[int]) -> float:
    return math.nan if any(map(math.isnan, values)) else max(values)


def _slack(values: Sequence[float], weights: Sequence[int]) -> float:
    return _max(values, weights) - _mean(values, weights)


def _hash2(values: Sequence[float], _weights: Sequence[int]) -> float:
    if not all(map(math.isfinite, values)):
        return math.nan
    return sum(int(value) % _HASH_MODULUS for value in values) % _HASH_MODULUS


_REDUCTIONS: dict[str, Callable[[Sequence[float], Sequence[int]], float]] = {
    "hash2": _hash2,
    "max": _max,
    "mean": _mean,
    "min": _min,
    "slack": _slack,
    "sum": _sum,
}
