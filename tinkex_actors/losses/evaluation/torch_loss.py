"""Losses written for torch, differentiated by torch. This package never imports it: the program has, or has not."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tinkex_actors.errors import LossError
from tinkex_actors.losses.evaluation.fingerprints import is_filled
from tinkex_actors.losses.evaluation.result import Evaluation
from tinkex_actors.losses.evaluation.verdicts import check_gradients, check_metrics, check_value
from tinkex_actors.types import Datum

__all__ = ["TorchLoss", "evaluate_torch", "is_torch_loss"]

Function = Callable[[Sequence[Datum], list[Any]], tuple[Any, Any]]


class TorchLoss:
    """Say that a loss is torch's, where that cannot be seen from its code.

    A function that names the module ``torch``, or a tensor in its annotations, needs no saying.

    Metrics keep whatever names they have, as in the official client; every other kind of loss names them
    ``name:reduction``.

    Args:
        fn: ``fn(data, logprobs) -> (scalar tensor, metrics)`` on float32 CPU tensors, as in the official SDK.
    """

    def __init__(self, fn: Function) -> None:
        self.fn = fn
        self.name = getattr(fn, "__name__", type(fn).__name__)

    def __call__(self, data: Sequence[Datum], logprobs: list[Any]) -> tuple[Any, Any]:
        """Call the function."""
        return self.fn(data, logprobs)

    def value_and_grad(self, data: Sequence[Datum], logprobs: Sequence[npt.NDArray[Any]]) -> Evaluation:
        """Return the loss, its gradient by torch, and its metrics; errors as ``losses.evaluate``."""
        return evaluate_torch(self.fn, data, logprobs)


def is_torch_loss(loss: object) -> bool:
    """Return whether a loss's own code names torch: as a module it uses, as a value it captured, or in annotations."""
    torch = sys.modules.get("torch")
    function = getattr(loss, "__func__", loss)
    if not isinstance(function, types.FunctionType):
        function = type(loss).__dict__.get("__call__")
    if torch is None or not isinstance(function, types.FunctionType):
        return False
    if any("torch" in str(annotation) for annotation in function.__annotations__.values()):
        return True
    used = [function.__globals__.get(name) for name in function.__code__.co_names]
    used += [cell.cell_contents for cell in function.__closure__ or () if is_filled(cell)]
    return any(value is torch or getattr(value, "__module__", "").startswith("torch") for value in used)


def evaluate_torch(loss: Function, data: Sequence[Datum], logprobs: Sequence[npt.NDArray[Any]]) -> Evaluation:
    """Return a loss, its gradient and its metrics at one batch; see ``losses.evaluate``.

    Raises:
        LossError: torch has not been imported, or the loss has no gradient.
    """
    torch = sys.modules.get("torch")
    name = getattr(loss, "__name__", type(loss).__name__)
    if torch is None:
        raise LossError(f"{name} is a torch loss, and torch is not loaded. Run `import torch` in your program first.")
    rows = [torch.tensor(row).requires_grad_() for row in logprobs]
    result = loss(data, rows)
    if not isinstance(result, tuple) or len(result) != 2:
        raise LossError(f"{name} returned a {type(result).__name__}; expected (loss, metrics).")
    value, metrics = result
    if getattr(value, "numel", int)() == 1:
        value = value.sum()  # as torch: one number in any brackets is a scalar
    check_value(name, value)
    if not getattr(value, "requires_grad", False):
        raise LossError(
            f"{name}: the loss has no gradient. Compute it from `logprobs` with torch; .item() and .detach() cut it."
        )
    value.backward()
    gradients = [
        np.zeros_like(row) if leaf.grad is None else leaf.grad.numpy() for leaf, row in zip(rows, logprobs, strict=True)
    ]
    number = float(value.detach())
    check_gradients(name, number, gradients, logprobs)
    return Evaluation(number, gradients, check_metrics(name, metrics, any_name=True))
