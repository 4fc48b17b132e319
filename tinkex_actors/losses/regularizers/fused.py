"""A batch loss and its regularizers in one compiled program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from tinkex_actors.errors import ShapeMismatchError
from tinkex_actors.losses.batch_loss import BatchLoss
from tinkex_actors.losses.evaluation.buckets import pad_rows
from tinkex_actors.losses.regularizers.base import Regularizer
from tinkex_actors.losses.regularizers.gradients import norm, pull_back, weighted_sum
from tinkex_actors.losses.regularizers.spec import RegularizerSpec
from tinkex_actors.types import Datum

__all__ = ["FusedTerms"]


class FusedTerms:
    """The terms of a pipeline as one program on padded rows, compiled once for each padded shape.

    The padded rows laid end to end, with the padding masked, stand for the concatenated list: a mask takes away what
    it covers.

    Args:
        base: the base loss.
        specs: terms that pass ``can_hold``.
        norms: whether gradient norms are computed.
    """

    def __init__(self, base: BatchLoss, specs: Sequence[RegularizerSpec], norms: bool) -> None:
        self._base = base
        self._specs = tuple(specs)
        self._norms = norms
        self._program = jax.jit(self._traced)

    @staticmethod
    def can_hold(specs: Sequence[RegularizerSpec]) -> bool:
        """Whether all terms are regularizers of this package that read logprobs and fields alone."""
        return all(isinstance(spec.fn, Regularizer) and spec.fn.reads_rows for spec in specs)

    def run(self, data: Sequence[Datum], logprobs: Sequence[npt.NDArray[Any]], weights: Sequence[float]) -> Any:
        """Return values, metrics, gradient norms (None each where untold), the total's norm, and its gradient's rows.

        Raises:
            InputError, ShapeMismatchError: a datum lacks a field that a term reads, or has it in another shape.
        """
        shape, inputs, mask = self._base.pack(data, [row.shape for row in logprobs])
        padded = pad_rows(logprobs, shape)
        for spec in self._specs:
            self._check_field(spec.fn, data, inputs, logprobs)
        found = self._program(padded, inputs, mask, np.asarray(weights, padded.dtype))
        values, metrics, norms, total_norm, gradient = jax.device_get(found)
        rows = [
            gradient[(row, *(slice(size) for size in given.shape))].astype(np.float32)
            for row, given in enumerate(logprobs)
        ]
        if not self._norms:
            return values, metrics, [None] * len(values), None, rows
        return values, metrics, norms, total_norm, rows

    def _check_field(
        self,
        regularizer: Regularizer,
        data: Sequence[Datum],
        inputs: dict[str, npt.NDArray[Any]],
        logprobs: Sequence[npt.NDArray[Any]],
    ) -> None:
        field = regularizer.field
        if field is None:
            return
        if field not in inputs:
            # Says which datum lacks it.
            regularizer.read(data, [None] * len(data), jnp.empty(0))
        for index, (datum, row) in enumerate(zip(data, logprobs, strict=True)):
            shape = tuple(datum.loss_fn_inputs[field].shape)
            if shape != row.shape:
                raise ShapeMismatchError(
                    f"{type(regularizer).__name__}: datum {index}: loss_fn_inputs[{field!r}] has shape {shape}, "
                    f"logprobs have {row.shape}; expected one number for each logprob."
                )

    def _traced(self, padded: Any, inputs: dict[str, Any], mask: Any, weights: Any) -> Any:
        flat = (-1, *padded.shape[2:])
        present = mask.reshape(flat)

        def base(at: jax.Array) -> Any:
            return self._base.fn(inputs, at, mask)

        def term(spec: RegularizerSpec) -> Any:
            def penalty(at: jax.Array) -> Any:
                regularizer: Regularizer = spec.fn
                values, counted = regularizer.select((), at.reshape(flat), present)
                reference = None if regularizer.field is None else inputs[regularizer.field].reshape(flat)
                return regularizer.evaluate(values, counted, reference, None)

            return penalty

        values, metrics, gradients = pull_back([base, *map(term, self._specs)], padded)
        total = weighted_sum(gradients, weights)
        if not self._norms:
            return values, metrics, None, None, total
        return values, metrics, [norm(gradient) for gradient in gradients], norm(total), total
