"""Losses as the official SDK has them, on one array of logprobs for each datum.

Compiled where JAX can trace them, once for each combination of row lengths; uncompiled, with a hint, where it cannot,
and where the batch is large. Which of them it is depends on the loss and the batch alone, so that a batch gives the
same bits whenever it is computed. ``BatchLoss`` is the form for large batches and for those that differ in every step.
"""

from __future__ import annotations

import traceback
import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from tinkex_actors.errors import LossError
from tinkex_actors.losses.evaluation.fingerprints import Snapshot
from tinkex_actors.losses.evaluation.programs import ProgramCache, ShapeCount
from tinkex_actors.losses.evaluation.readable import reading
from tinkex_actors.losses.evaluation.result import Evaluation
from tinkex_actors.losses.evaluation.verdicts import check_gradients, check_metrics, check_value
from tinkex_actors.losses.evaluation.views import DatumView, inputs_of, unwrap
from tinkex_actors.runtime.log import Logger
from tinkex_actors.types import Datum

__all__ = ["ListLoss", "evaluate_list", "evaluate_uncompiled", "loss_name"]

ListLoss = Callable[[Sequence[Any], Sequence[Any]], tuple[Any, Any]]
Rows = Sequence[npt.NDArray[Any]]

_log = Logger("tinkex_actors.losses")

# A loss that goes through the data one by one is a program as long as the batch: beyond this, compiling takes minutes.
_COMPILED_ROWS = 128

# Programs of one loss that are kept: each takes some megabytes.
_KEPT_PROGRAMS = 64

_NO_GRADIENT = (
    "{name}: the loss does not depend on logprobs in a way that can be differentiated, so there is nothing to learn "
    "from. Compute it from `logprobs` with jax.numpy; float(), .item(), math.exp(), numpy.asarray() and stop_gradient "
    "cut the gradient off."
)


# What losses written for torch call, and JAX's arrays do not have.
_TORCHS_OWN = ("backward", "clamp", "cpu", "detach", "numpy", "requires_grad_", "size", "unsqueeze", "view")


class _SideEffect(Exception):
    """The loss does more than compute; the text says what."""


class _Program:
    """One loss, its compiled forms, and what is known of it."""

    def __init__(self, loss: ListLoss) -> None:
        self.loss = loss
        self.name = loss_name(loss)
        self.compiled: Any = jax.jit(jax.value_and_grad(self._traced, has_aux=True))
        self.shapes = ShapeCount()
        self.untraceable = False
        self.depends = False

    def _traced(self, rows: list[jax.Array], inputs: list[dict[str, Any]]) -> tuple[jax.Array, dict[str, Any]]:
        views = [DatumView(of_datum) for of_datum in inputs]
        before = Snapshot(self.loss)
        try:
            result = _split(self.name, self.loss(views, rows))
            if before.changed():
                raise _SideEffect("it changes something that it captured, such as a list that it appends to")
        except Exception:
            # It was but looked at: what it does beside computing is for the run that counts.
            before.restore()
            raise
        return result

    def keep_uncompiled(self, why: str) -> None:
        """Compile it no more, and say so: it has been seen to run uncompiled only."""
        self.untraceable = True
        if _code(self.loss) in _hinted:
            return
        _hinted.add(_code(self.loss))
        _log.warning(
            "loss.uncompiled",
            loss=self.name,
            why=why,
            remedy="it runs all the same, slower: compute with jax.numpy, branch with jax.numpy.where, return arrays "
            "as metrics instead of float() of them, and change nothing outside the loss",
        )

    def note(self, shapes: Hashable) -> None:
        """Count the programs, say when there are many, and let go of them when there are very many."""
        if len(self.shapes) % _KEPT_PROGRAMS == 0 and shapes not in self.shapes:
            # A run for days meets new lengths in every step: what was compiled for the old ones would pile up.
            self.compiled.clear_cache()
        if self.shapes.note(shapes):
            _log.warning(
                "loss.compiled_often",
                loss=self.name,
                programs=len(self.shapes),
                remedy="each combination of row lengths is a program; losses.BatchLoss pads batches to a few shapes",
            )


_programs = ProgramCache(_Program)

# Losses that change what they captured, such as a list that they append to: compiled, they would do so but once.
_changing: weakref.WeakSet[Any] = weakref.WeakSet()
# Losses that the hint was given for: one made anew for each step is still one.
_hinted: weakref.WeakSet[Any] = weakref.WeakSet()


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
    found, why = None, ""
    if not program.untraceable and len(data) <= _COMPILED_ROWS and _code(loss) not in _changing:
        found, why = _compiled(program, shapes, inputs, logprobs)
    if found is None:
        found = _uncompiled(program, data, logprobs)
        if why:
            program.keep_uncompiled(why)
    evaluation = _finished(program, found, logprobs)
    if not program.depends:
        _check_dependence(program, evaluation.gradients, inputs, logprobs)
    return evaluation


def evaluate_uncompiled(loss: ListLoss, data: Sequence[Datum], logprobs: Rows, refusal: Exception) -> Evaluation:
    """Return a loss, its gradient and its metrics, where compiling it has failed; say so once.

    Args:
        loss: as for ``evaluate_list``.
        data: the batch.
        logprobs: an array for each datum, checked.
        refusal: what compiling it raised.

    Raises:
        LossError: as ``evaluate_list``; and whatever the loss raises when it is run with numbers.
    """
    program = _Program(loss)
    found = _uncompiled(program, data, logprobs)
    program.keep_uncompiled(_why(loss, refusal))
    return _finished(program, found, logprobs)


def _finished(program: _Program, found: Any, logprobs: Rows) -> Evaluation:
    (value, metrics), gradients = found
    rows, number = [np.asarray(gradient) for gradient in gradients], float(value)
    check_gradients(program.name, number, rows, logprobs)
    return Evaluation(number, rows, check_metrics(program.name, metrics))


def loss_name(loss: object) -> str:
    """Return what messages call a loss."""
    return str(getattr(loss, "__qualname__", None) or getattr(loss, "name", None) or type(loss).__name__)


def _compiled(program: _Program, shapes: Hashable, inputs: list[dict[str, Any]], logprobs: Rows) -> tuple[Any, str]:
    """Return the compiled program's result; or None, and why the loss cannot be compiled."""
    try:
        found = program.compiled(list(logprobs), inputs)
    except LossError:
        raise
    except Exception as error:  # whatever it is: the uncompiled run shows whether the loss itself is wrong
        if isinstance(error, _SideEffect):
            _changing.add(_code(program.loss))
        return None, _why(program.loss, error)
    program.note(shapes)
    return found, ""


def _code(loss: Any) -> Any:
    function = getattr(loss, "fn", loss)
    function = getattr(function, "__func__", function)
    return getattr(function, "__code__", type(loss))


def _why(loss: Any, error: BaseException) -> str:
    """Return why a loss cannot be compiled, with the line of its file in which that came up."""
    if isinstance(error, _SideEffect):
        return str(error)
    file = getattr(_code(loss), "co_filename", None)
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == file]
    where = f"line {lines[-1]}: " if lines else ""
    return f"{where}{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def _uncompiled(program: _Program, data: Sequence[Datum], logprobs: Rows) -> Any:
    def loss(rows: list[Any]) -> tuple[Any, dict[str, Any]]:
        return _differentiable(program.name, program.loss(data, rows))

    try:
        found = jax.value_and_grad(reading(loss), has_aux=True)([jnp.asarray(row) for row in logprobs])
    except AttributeError as error:
        if error.name in _TORCHS_OWN:
            raise LossError(
                f"{program.name} calls {error.name}(), which torch's tensors have and JAX's arrays have not. Say that "
                f"it is a torch loss, losses.TorchLoss({program.name}), or write it with jax.numpy: "
                "docs/how-to/port-a-torch-loss."
            ) from error
        raise
    return found


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
