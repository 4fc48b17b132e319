"""Losses as the official SDK has them, on one array of logprobs for each datum.

Compiled where JAX can trace them, once for each combination of row lengths; uncompiled, with a hint, where it cannot,
and where the batch is large. Which of them it is depends on the loss and the batch alone, so that a batch gives the
same bits whenever it is computed. ``BatchLoss`` is the form for large batches and for those that differ in every step.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from tinkex_actors.errors import LossError
from tinkex_actors.losses.evaluation.programs import ProgramCache, ShapeCount
from tinkex_actors.losses.evaluation.result import Evaluation
from tinkex_actors.losses.evaluation.verdicts import check_gradients, check_metrics, check_value
from tinkex_actors.losses.evaluation.views import DatumView, NumpyView, inputs_of, unwrap
from tinkex_actors.runtime.log import Logger
from tinkex_actors.types import Datum

__all__ = ["ListLoss", "evaluate_list", "loss_name"]

ListLoss = Callable[[Sequence[Any], Sequence[Any]], tuple[Any, Any]]
Rows = Sequence[npt.NDArray[Any]]

_log = Logger("tinkex_actors.losses")

# A loss that goes through the data one by one is a program as long as the batch: beyond this, compiling takes minutes.
_COMPILED_ROWS = 128

_NO_GRADIENT = (
    "{name}: the loss does not depend on logprobs in a way that can be differentiated, so there is nothing to learn "
    "from. Compute it from `logprobs` with jax.numpy; float(), .item(), numpy.asarray() and stop_gradient cut the "
    "gradient off."
)


class _Program:
    """One loss, its compiled forms, and what is known of it."""

    def __init__(self, loss: ListLoss) -> None:
        self.loss = loss
        self.name = loss_name(loss)
        self.compiled = jax.jit(jax.value_and_grad(self._traced, has_aux=True))
        self.shapes = ShapeCount()
        self.untraceable = False
        self.why = ""
        self.hinted = False
        self.depends = False

    def _traced(self, rows: list[jax.Array], inputs: list[dict[str, Any]]) -> tuple[jax.Array, dict[str, Any]]:
        views = [DatumView(of_datum) for of_datum in inputs]
        return _split(self.name, self.loss(views, rows))

    def hint(self) -> None:
        """Say once why the loss is slower than it could be."""
        if self.untraceable and not self.hinted:
            self.hinted = True
            _log.warning(
                "loss.uncompiled",
                loss=self.name,
                why=self.why,
                remedy="it runs all the same, slower: compute with jax.numpy, and branch with jax.numpy.where",
            )

    def note(self, shapes: Hashable) -> None:
        """Count the programs, and say when there are many."""
        if self.shapes.note(shapes):
            _log.warning(
                "loss.compiled_often",
                loss=self.name,
                programs=len(self.shapes),
                remedy="each combination of row lengths is a program; losses.BatchLoss pads batches to a few shapes",
            )


_programs = ProgramCache(_Program)


def evaluate_list(loss: ListLoss, data: Sequence[Datum], logprobs: Rows) -> Evaluation:
    """Return a loss, its gradient and its metrics at one batch.

    Args:
        loss: ``loss(data, logprobs) -> (scalar, metrics)``. It is compiled as a pure function of its arguments and of
            the numbers that it captured.
        data: the batch, given to the loss.
        logprobs: an array for each datum, checked.

    Raises:
        ShapeMismatchError: the loss is no scalar.
        LossError: it has no gradient, or a metric is not as it must be.
        NonFiniteLossError: NaN or infinity; the datum and the token are named.
    """
    program = _programs.find(loss)
    inputs = inputs_of(data)
    shapes = tuple(
        (row.shape, row.dtype.str, tuple((name, array.shape) for name, array in of_datum.items()))
        for row, of_datum in zip(logprobs, inputs, strict=True)
    )
    found = None
    if not program.untraceable and len(data) <= _COMPILED_ROWS:
        found = _compiled(program, shapes, inputs, logprobs)
    if found is None:
        found = _uncompiled(program, data, logprobs)
    (value, metrics), gradients = found
    rows = [np.asarray(gradient) for gradient in gradients]
    number = float(value)
    check_gradients(program.name, number, rows, logprobs)
    if not program.depends:
        _check_dependence(program, rows, inputs, logprobs)
    return Evaluation(number, rows, check_metrics(program.name, metrics))


def loss_name(loss: object) -> str:
    """Return what messages call a loss."""
    return str(getattr(loss, "__qualname__", None) or getattr(loss, "name", None) or type(loss).__name__)


def _compiled(program: _Program, shapes: Hashable, inputs: list[dict[str, Any]], logprobs: Rows) -> Any:
    """Return the compiled program's result, or None where the loss cannot be traced."""
    try:
        found = program.compiled(list(logprobs), inputs)
    except LossError:
        raise
    except Exception as error:  # whatever it is: the uncompiled run shows whether the loss itself is wrong
        program.untraceable = True
        program.why = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        return None
    program.note(shapes)
    return found


def _uncompiled(program: _Program, data: Sequence[Datum], logprobs: Rows) -> Any:
    def plain(rows: list[jax.Array]) -> tuple[jax.Array, dict[str, Any]]:
        return _differentiable(program.name, program.loss(data, rows))

    def for_numpy(rows: list[jax.Array]) -> tuple[jax.Array, dict[str, Any]]:
        return _differentiable(program.name, program.loss(data, [NumpyView(row) for row in rows]))

    rows = [jnp.asarray(row) for row in logprobs]
    try:
        found = jax.value_and_grad(plain, has_aux=True)(rows)
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError, TypeError) as error:
        found = _for_numpy(program, for_numpy, rows, error)
    program.hint()
    return found


def _for_numpy(program: _Program, loss: Any, rows: list[jax.Array], refusal: Exception) -> Any:
    """Return the result of a loss that computes with numpy, or raise what JAX had to say of it."""
    try:
        return jax.value_and_grad(loss, has_aux=True)(rows)
    except LossError:
        raise
    except Exception as error:
        if not isinstance(refusal, jax.errors.ConcretizationTypeError):
            raise refusal from error
        raise LossError(
            f"{program.name} takes a number out of an array that the gradient goes through, with float() or the like. "
            "Metrics may be arrays, and are made numbers afterwards: leave float() out, or use .item()."
        ) from refusal


def _split(name: str, result: Any) -> tuple[jax.Array, dict[str, Any]]:
    if not isinstance(result, tuple) or len(result) != 2:
        raise LossError(f"{name} returned one {type(result).__name__}; expected (loss, metrics).")
    value, metrics = unwrap(result)
    check_value(name, value)
    if not isinstance(metrics, dict):
        check_metrics(name, metrics)
    return jnp.asarray(value), dict(metrics)


def _differentiable(name: str, result: Any) -> tuple[jax.Array, dict[str, Any]]:
    value, metrics = _split(name, result)
    if not isinstance(value, jax.core.Tracer):
        raise LossError(_NO_GRADIENT.format(name=name))
    return value, metrics


def _check_dependence(program: _Program, rows: Rows, inputs: list[dict[str, Any]], logprobs: Rows) -> None:
    """Refuse a loss that cannot have a gradient: one that is zero here may be so by chance, as of advantages of 0."""
    if any(row.any() for row in rows) or program.untraceable:
        program.depends = True
        return

    def tangent(moved: list[jax.Array]) -> Any:
        return jax.jvp(lambda at: program._traced(at, inputs)[0], (list(logprobs),), (moved,))[1]

    jaxpr = jax.make_jaxpr(tangent)(list(logprobs)).jaxpr
    reached = set(jaxpr.invars)
    for equation in jaxpr.eqns:
        if any(variable in reached for variable in equation.invars if not hasattr(variable, "val")):
            reached.update(equation.outvars)
    if not any(variable in reached for variable in jaxpr.outvars if not hasattr(variable, "val")):
        raise LossError(_NO_GRADIENT.format(name=program.name))
    program.depends = True
