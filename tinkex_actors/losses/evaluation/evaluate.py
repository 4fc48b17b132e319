"""The one way in: whatever kind of loss it is, its value, gradient and metrics at a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
import numpy.typing as npt

from tinkex_actors.errors import ClosedError, ConfigError, LossError, TinkexError
from tinkex_actors.losses.evaluation.listed import ListLoss, evaluate_list, evaluate_uncompiled, loss_name
from tinkex_actors.losses.evaluation.result import Evaluation
from tinkex_actors.losses.evaluation.torch_loss import evaluate_torch, is_torch_loss
from tinkex_actors.losses.evaluation.verdicts import check_logprobs
from tinkex_actors.runtime.log import Logger
from tinkex_actors.types import Datum

__all__ = ["Differentiable", "evaluate", "never_stop", "run_loss"]

_log = Logger("tinkex_actors.losses")

# float32 has 24 bits: a sum over a batch keeps about this much of them.
_PRECISION = 1e-4


@runtime_checkable
class Differentiable(Protocol):
    """A loss that knows its own gradient, as ``BatchLoss`` does."""

    def value_and_grad(self, data: Sequence[Datum], logprobs: Sequence[npt.NDArray[Any]]) -> Evaluation:
        """Return the loss, its gradient and its metrics at one batch of checked arrays."""


def never_stop() -> bool:
    """Say no: the ``should_stop`` of a computation that nobody will interrupt."""
    return False


def evaluate(
    loss: ListLoss | Differentiable,
    data: Sequence[Datum],
    logprobs: Sequence[Any],
    *,
    device: str | None = None,
    float64: bool = False,
    should_stop: Callable[[], bool] = never_stop,
) -> Evaluation:
    """Return a loss, its gradient with respect to logprobs, and its metrics. Equal arguments give equal bits.

    Args:
        loss: ``loss(data, logprobs) -> (scalar, metrics)`` in JAX, numpy or torch; a ``BatchLoss``; or anything
            with ``value_and_grad(data, logprobs) -> Evaluation``.
        data: the batch.
        logprobs: for each datum an array of its ``target_tokens``' shape; taken as float32.
        device: the platform to compute on, ``cpu`` or ``gpu``, or one device as ``gpu:1``; None is JAX's choice. torch
            losses choose their own.
        float64: compute once more with 64 bits, and warn (``loss.imprecise``) where 32 bits are not enough.
        should_stop: asked before and after each part of the work; true abandons it.

    Raises:
        ShapeMismatchError: data and logprobs do not fit, or the loss is no scalar.
        NonFiniteLossError: NaN or infinity; the message names the datum, the token and the value.
        LossError: no gradient, or a metric that is not a number named ``name:reduction``.
        ClosedError: ``should_stop`` said so.
        ConfigError: there is no such device.
    """
    rows = [np.asarray(row, np.float32) for row in logprobs]
    check_logprobs(data, rows)
    _go_on(should_stop, loss)
    with ExitStack() as settings:
        if device is not None:
            settings.enter_context(jax.default_device(_device(device)))
        found = run_loss(loss, data, rows)
        _go_on(should_stop, loss)
        if float64:
            settings.enter_context(jax.enable_x64(True))
            _compare(loss_name(loss), found, run_loss(loss, data, [row.astype(np.float64) for row in rows]))
            _go_on(should_stop, loss)
    return found


def run_loss(loss: Any, data: Sequence[Datum], rows: list[npt.NDArray[Any]]) -> Evaluation:
    """Return a loss at rows of any precision, on JAX's device; see ``evaluate``."""
    if isinstance(loss, Differentiable):
        try:
            return loss.value_and_grad(data, rows)
        except TinkexError:
            raise
        except Exception as error:  # whatever it is: uncompiled, the loss shows whether it is wrong itself
            if not callable(loss):
                raise
            return evaluate_uncompiled(loss, data, rows, error)
    if not callable(loss):
        raise LossError(f"expected a loss, a function of (data, logprobs), got {type(loss).__name__}.")
    if is_torch_loss(loss):
        return evaluate_torch(loss, data, rows)
    return evaluate_list(loss, data, rows)


def _go_on(should_stop: Callable[[], bool], loss: object) -> None:
    if should_stop():
        raise ClosedError(f"{loss_name(loss)} was abandoned: nobody waits for it any more.")


def _device(name: str) -> Any:
    platform, _, number = name.partition(":")
    try:
        return jax.devices(platform)[int(number or 0)]
    except (RuntimeError, ValueError, IndexError) as error:
        known = ", ".join(f"{device.platform}:{device.id}" for device in jax.devices())
        raise ConfigError(
            f"losses cannot run on {name!r}: JAX sees {known}. Name one of these, or leave the choice to JAX."
        ) from error


def _compare(name: str, found: Evaluation, exact: Evaluation) -> None:
    gap, where = 0.0, 0
    scale = max((float(np.abs(row).max()) for row in exact.gradients if row.size), default=0.0)
    for index, (row, wanted) in enumerate(zip(found.gradients, exact.gradients, strict=True)):
        apart = float(np.abs(row - wanted).max()) if row.size else 0.0
        if apart > gap:
            gap, where = apart, index
    value_gap = abs(found.loss - exact.loss) / max(abs(exact.loss), 1e-30)
    if gap > _PRECISION * scale or value_gap > _PRECISION:
        _log.warning(
            "loss.imprecise",
            loss=name,
            gradient_error=gap / scale if scale else gap,
            datum=where,
            loss_error=value_gap,
            remedy="32 bits are not enough here: subtract large terms before the exponential, or sum less at once",
        )
