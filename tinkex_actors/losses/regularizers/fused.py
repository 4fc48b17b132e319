"""A batch loss and its regularizers in one compiled program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from tinkex_actors.errors import ShapeMismatchError
from tinkex_actors.losses.batch_loss import BatchLoss, view_of
from tinkex_actors.losses.evaluation.ragged import Place, rows_of, tokens_of
from tinkex_actors.losses.regularizers.base import Regularizer
from tinkex_actors.losses.regularizers.gradients import norm, pull_back, weighted_sum
from tinkex_actors.losses.regularizers.spec import RegularizerSpec
from tinkex_actors.types import Datum

__all__ = ["FusedTerms"]


class FusedTerms:
    """The terms of a pipeline as one program on padded rows, compiled once for each padded shape.

    The base reads padded rows. The terms read the rows end to end, with what is behind the last of them masked: that
    is the concatenated list, as a mask takes away what it covers, and a fraction of the padded numbers.

    Args:
        base: the base loss.
        specs: terms that pass ``can_hold``.
        norms: whether gradient norms are computed.
    """

    def __init__(self, base: BatchLoss, specs: Sequence[RegularizerSpec], norms: bool) -> None:
        self._base = base
        self._specs = tuple(specs)
        self._norms = norms
        self._program = jax.jit(self._traced, static_argnums=5)

    @staticmethod
    def can_hold(specs: Sequence[RegularizerSpec]) -> bool:
        """Whether all terms are regularizers of this package that read logprobs and fields alone."""
        return all(isinstance(spec.fn, Regularizer) and spec.fn.reads_rows for spec in specs)

    def run(self, data: Sequence[Datum], logprobs: Sequence[npt.NDArray[Any]], weights: Sequence[float]) -> Any:
        """Return values, metrics, gradient norms (None each where untold), the total's norm, and its gradient's rows.

        Raises:
            InputError, ShapeMismatchError: a datum lacks a field that a term reads, or has it in another shape.
        """
        shapes = [row.shape for row in logprobs]
        fields = {spec.fn.field: spec.fn for spec in self._specs if spec.fn.field is not None}
        given = [name for name in fields if all(name in datum.loss_fn_inputs for datum in data)]
        read = self._base.reads(data, len(shapes[0]))
        packed = self._base.pack(data, shapes, sorted({*read, *given}))
        for name, regularizer in fields.items():
            if len(shapes[0]) > 1 or name not in packed.flat or packed.flat[name].ndim > 1:
                _check_field(regularizer, name, data, shapes)
        flat = packed.layout.flat(logprobs, logprobs[0].dtype)
        found = self._program(
            flat, packed.flat, packed.padded, packed.layout.place, np.asarray(weights, flat.dtype), packed.layout.length
        )
        values, metrics, norms, total_norm, gradient = jax.device_get(found)
        rows = packed.layout.split(gradient)
        if not self._norms:
            return values, metrics, [None] * len(values), None, rows
        return values, metrics, norms, total_norm, rows

    def _traced(
        self,
        logprobs: jax.Array,
        flat: dict[str, jax.Array],
        other: dict[str, jax.Array],
        place: Place,
        weights: jax.Array,
        length: int,
    ) -> Any:
        present = tokens_of(logprobs, place, length)
        at, inputs, mask = view_of(logprobs, flat, other, place, length)
        (value, told), gradient = jax.value_and_grad(lambda x: self._base.fn(inputs, x, mask), has_aux=True)(at)

        def term(spec: RegularizerSpec) -> Any:
            def penalty(at: jax.Array) -> Any:
                regularizer: Regularizer = spec.fn
                values, counted = regularizer.select((), at, present)
                reference = None if regularizer.field is None else flat[regularizer.field]
                return regularizer.evaluate(values, counted, reference, None)

            return penalty

        values, metrics, gradients = pull_back([term(spec) for spec in self._specs], logprobs)
        values, metrics = [value, *values], [dict(told), *metrics]
        gradients = [jnp.where(present, rows_of(gradient, place), 0), *gradients]
        total = weighted_sum(gradients, weights)
        if not self._norms:
            return values, metrics, None, None, total
        return values, metrics, [norm(gradient) for gradient in gradients], norm(total), total


def _check_field(
    regularizer: Regularizer, field: str, data: Sequence[Datum], shapes: Sequence[tuple[int, ...]]
) -> None:
    """Refuse a field that is not one number for each logprob, naming the datum."""
    for index, (datum, shape) in enumerate(zip(data, shapes, strict=True)):
        if field not in datum.loss_fn_inputs:
            # Says which datum lacks it, and what it has.
            regularizer.read(data, [None] * len(data), jnp.empty(0))
        found = tuple(datum.loss_fn_inputs[field].shape)
        if found != shape:
            raise ShapeMismatchError(
                f"{type(regularizer).__name__}: datum {index}: loss_fn_inputs[{field!r}] has shape {found}, "
                f"logprobs have {shape}; expected one number for each logprob."
            )
