"""Losses on padded arrays: one compiled program for many ragged batches."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from tinkex_actors.errors import LossError, ShapeMismatchError
from tinkex_actors.losses.evaluation.buckets import bucket_shape, pad_rows
from tinkex_actors.losses.evaluation.programs import ProgramCache, ShapeCount
from tinkex_actors.losses.evaluation.ragged import Layout, Place, mask_of, padded, rows_of
from tinkex_actors.losses.evaluation.result import Evaluation
from tinkex_actors.losses.evaluation.verdicts import check_gradients, check_metrics, check_value
from tinkex_actors.runtime.log import Logger
from tinkex_actors.types import Datum

__all__ = ["BatchFunction", "BatchLoss", "Packed", "view_of"]

BatchFunction = Callable[[Mapping[str, jax.Array], jax.Array, jax.Array], tuple[jax.Array, Mapping[str, Any]]]

_log = Logger("tinkex_actors.losses")

# A padded shape for looking at a loss, without computing: even groups of up to 8 divide it.
_SMALL = 840


class Packed(NamedTuple):
    """A batch as a program takes it.

    Args:
        layout: where its rows lie.
        flat: inputs of the targets' lengths, end to end, ``[N]`` or ``[N, K]``.
        padded: the other inputs, padded: ``[B]``, ``[B, M]`` or ``[B, M, K]``.
    """

    layout: Layout
    flat: dict[str, npt.NDArray[Any]]
    padded: dict[str, npt.NDArray[Any]]


class BatchLoss:
    """A loss on padded arrays, compiled once for each of a few shapes.

    ::

        def nll(inputs, logprobs_B_T, mask_B_T):
            weights_B_T = inputs["weights"] * mask_B_T
            return -(logprobs_B_T * weights_B_T).sum(), {"tokens:sum": weights_B_T.sum()}

        out = await training.forward_backward_custom(data, BatchLoss(nll))

    It is also a loss as any other, ``loss(data, logprobs)``, differentiable by ``jax.grad``; and losses add up:
    ``ppo() + 0.1 * kl_to_reference()``.

    Args:
        fn: ``fn(inputs, logprobs_B_T, mask_B_T) -> (scalar, metrics)``, traced by JAX, so a pure function of its
            arguments. ``inputs`` maps the names of ``loss_fn_inputs`` that every datum has to arrays: float32 or int32
            ``[B, T]`` (``[B, T, K]`` for two dimensions, ``[B]`` for scalars; ``[B, N]`` for rows of another length
            than the targets), zero where a datum has nothing. ``logprobs_B_T`` is float32 and 0 on padding
            (``[B, T, K]`` where ``target_tokens`` are ``[T, K]``), ``mask_B_T`` is boolean, false on padding, and has
            the shape of ``logprobs_B_T``. B and T are larger than the batch.
        name: for messages; the function's own otherwise.
        rows_per_group: data that belong together, such as 2 for pairs; batches are refused that do not divide.

    Attributes:
        compiled: how many programs have been compiled for it, one for each padded shape it met.
    """

    def __init__(self, fn: BatchFunction, *, name: str | None = None, rows_per_group: int = 1) -> None:
        if not callable(fn):
            raise LossError(f"BatchLoss: expected a function, got {type(fn).__name__}.")
        if rows_per_group < 1:
            raise LossError(f"BatchLoss: rows_per_group is the size of a group, at least 1, got {rows_per_group}.")
        self.fn = fn
        self.name = str(name or getattr(fn, "__name__", type(fn).__name__))
        self.rows_per_group = rows_per_group
        self._program = _programs.find(fn, self.name)

    @property
    def compiled(self) -> int:
        """How many programs have been compiled for it."""
        return len(self._program.shapes)

    def __call__(self, data: Sequence[Datum], logprobs: Sequence[Any]) -> tuple[jax.Array, Mapping[str, Any]]:
        """Return the loss and its metrics; traceable in ``logprobs``.

        Args:
            data: the batch.
            logprobs: an array for each datum, shaped as its ``target_tokens``.
        """
        packed = self.pack(data, [np.shape(row) for row in logprobs])
        flat = packed.layout.join([jnp.asarray(row) for row in logprobs])
        at, inputs, mask = view_of(flat, packed.flat, packed.padded, packed.layout.place, packed.layout.length)
        return self.fn(_Inputs(self.name, inputs), at, mask)

    def value_and_grad(self, data: Sequence[Datum], logprobs: Sequence[npt.NDArray[Any]]) -> Evaluation:
        """Return the loss, its gradient and its metrics at one batch of checked arrays (``losses.evaluate`` checks).

        Raises:
            ShapeMismatchError: the loss is no scalar, or an input does not fit.
            NonFiniteLossError: NaN or infinity in gradient or loss; the datum and the token are named.
            LossError: an input or a metric that is not as it must be.
        """
        shapes = [row.shape for row in logprobs]
        packed = self.pack(data, shapes, self.reads(data, len(shapes[0])))
        flat = packed.layout.flat(logprobs, logprobs[0].dtype)
        (value, metrics), gradient = jax.device_get(self._program.run(self.name, flat, packed))
        gradients, loss = packed.layout.split(gradient), float(value)
        check_gradients(self.name, loss, gradients, logprobs)
        return Evaluation(loss, gradients, check_metrics(self.name, metrics))

    def __add__(self, other: object) -> BatchLoss:
        if not isinstance(other, BatchLoss):
            return NotImplemented
        first, second = self.fn, other.fn

        def total(
            inputs: Mapping[str, jax.Array], logprobs: jax.Array, mask: jax.Array
        ) -> tuple[jax.Array, Mapping[str, Any]]:
            left, left_metrics = first(inputs, logprobs, mask)
            right, right_metrics = second(inputs, logprobs, mask)
            return left + right, {**left_metrics, **right_metrics}

        return BatchLoss(
            total,
            name=f"{self.name} + {other.name}",
            rows_per_group=int(np.lcm(self.rows_per_group, other.rows_per_group)),
        )

    def __mul__(self, factor: object) -> BatchLoss:
        if not isinstance(factor, (int, float)):
            return NotImplemented
        inner, scale = self.fn, float(factor)

        def scaled(
            inputs: Mapping[str, jax.Array], logprobs: jax.Array, mask: jax.Array
        ) -> tuple[jax.Array, Mapping[str, Any]]:
            value, metrics = inner(inputs, logprobs, mask)
            return scale * value, metrics

        return BatchLoss(scaled, name=f"{scale:g} * {self.name}", rows_per_group=self.rows_per_group)

    __rmul__ = __mul__

    def __repr__(self) -> str:
        return f"<BatchLoss {self.name}, {self.compiled} programs>"

    def pack(
        self, data: Sequence[Datum], shapes: Sequence[tuple[int, ...]], names: Iterable[str] | None = None
    ) -> Packed:
        """Return a batch as a program takes it.

        Args:
            data: the batch.
            shapes: of each datum's logprobs.
            names: the inputs to lay out; all that every datum has where None.

        Raises:
            ShapeMismatchError: another number of shapes than of data, or no whole groups.
        """
        if len(data) != len(shapes):
            raise ShapeMismatchError(f"{self.name}: {len(shapes)} arrays of logprobs for {len(data)} data.")
        if not shapes or len(shapes) % self.rows_per_group:
            raise ShapeMismatchError(
                f"{self.name}: {len(shapes)} data; expected a multiple of {self.rows_per_group}, at least one group. "
                "Keep the data of a group next to each other in one batch."
            )
        if len({len(shape) for shape in shapes}) > 1 or len(shapes[0]) not in (1, 2):
            raise ShapeMismatchError(
                f"{self.name}: logprobs of shapes {sorted(set(shapes))[:4]}; expected [T] for all, or [T, K] for all."
            )
        layout = Layout(shapes, self.rows_per_group)
        packed = Packed(layout, {}, {})
        for name in _names(data) if names is None else names:
            _gather(name, data, shapes, packed)
        return packed

    def reads(self, data: Sequence[Datum], rank: int) -> tuple[str, ...]:
        """Return the names of the inputs that the function looks at, of those that every datum has.

        Args:
            data: the batch.
            rank: dimensions of the logprobs of a datum.
        """
        first = data[0].loss_fn_inputs
        examples = {name: (len(first[name].shape), first[name].values_np.dtype) for name in _names(data)}
        return self._program.reads(self.name, examples, rank)


class _Program:
    """A function on padded arrays, compiled, and the shapes it was compiled for."""

    def __init__(self, fn: BatchFunction) -> None:
        self.shapes = ShapeCount()
        self._fn = fn
        self._compiled = jax.jit(self._traced, static_argnums=(4, 5))
        self._reads: dict[Hashable, tuple[str, ...]] = {}

    def reads(self, name: str, examples: Mapping[str, tuple[int, Any]], rank: int) -> tuple[str, ...]:
        """Return which inputs the function looks at, found by tracing it once on a small shape.

        Args:
            name: the loss, for messages.
            examples: rank and dtype of each input that there is.
            rank: dimensions of the logprobs of a datum.
        """
        key = (tuple(examples), rank)
        if (known := self._reads.get(key)) is not None:
            return known

        def shaped(rank: int, dtype: Any) -> jax.ShapeDtypeStruct:
            kept = np.int32 if dtype == np.int64 else dtype
            return jax.ShapeDtypeStruct((_SMALL, _SMALL, 1)[: rank + 1], kept)  # type: ignore[no-untyped-call]

        shapes = {key: shaped(*example) for key, example in examples.items()}
        read: set[str] = set()

        def trace(logprobs: jax.Array, arrays: dict[str, jax.Array], mask: jax.Array) -> None:
            inputs = _Inputs(name, arrays)
            self._fn(inputs, logprobs, mask)
            read.update(inputs.read)

        try:
            jax.eval_shape(trace, shaped(rank, np.float32), shapes, shaped(rank, np.bool_))
        except Exception:
            # Of another length than the targets, or wrong: the real run shows, with everything there.
            return tuple(examples)
        self._reads[key] = tuple(sorted(read & examples.keys()))
        return self._reads[key]

    def run(self, name: str, logprobs: npt.NDArray[Any], packed: Packed) -> Any:
        """Return ``((value, metrics), gradient)``, logprobs and gradient being flat."""
        length = packed.layout.length
        shapes = tuple((key, array.shape) for part in packed[1:] for key, array in part.items())
        if self.shapes.note((logprobs.shape, logprobs.dtype.str, packed.layout.rows, length, shapes)):
            _log.warning(
                "loss.compiled_often",
                loss=name,
                programs=len(self.shapes),
                shape=(packed.layout.rows, length),
                remedy="keep the number of data and the longest row of a batch in a narrower range",
            )
        return self._compiled(logprobs, packed.flat, packed.padded, packed.layout.place, length, name)

    def _traced(
        self,
        logprobs: jax.Array,
        flat: Mapping[str, jax.Array],
        other: Mapping[str, jax.Array],
        place: Place,
        length: int,
        name: str,
    ) -> tuple[tuple[jax.Array, dict[str, Any]], jax.Array]:
        at, inputs, mask = view_of(logprobs, flat, other, place, length)
        found, gradient = jax.value_and_grad(self._value, has_aux=True)(at, inputs, mask, name)
        return found, rows_of(gradient, place)

    def _value(
        self, logprobs: jax.Array, inputs: Mapping[str, jax.Array], mask: jax.Array, name: str
    ) -> tuple[jax.Array, dict[str, Any]]:
        result = self._fn(_Inputs(name, inputs), logprobs, mask)
        if not isinstance(result, tuple) or len(result) != 2:
            raise LossError(f"{name} returned one {type(result).__name__}; expected (loss, metrics).")
        value, metrics = result
        check_value(name, value)
        return jnp.asarray(value), dict(metrics)


_programs = ProgramCache(_Program)


def view_of(
    logprobs: jax.Array, flat: Mapping[str, Any], other: Mapping[str, Any], place: Place, length: int
) -> tuple[jax.Array, dict[str, jax.Array], jax.Array]:
    """Return what a ``BatchLoss``'s function is given: padded logprobs, inputs by name, mask.

    Args:
        logprobs: flat, ``[N]`` or ``[N, K]``.
        flat: flat inputs by name.
        other: padded inputs by name.
        place: where the rows are.
        length: T of padded arrays.
    """
    inputs = {name: padded(jnp.asarray(array), place, length) for name, array in flat.items()}
    mask = mask_of(place, length, None if place.widths is None else logprobs.shape[1])
    return padded(logprobs, place, length), {**inputs, **{k: jnp.asarray(v) for k, v in other.items()}}, mask


class _Inputs(dict[str, Any]):
    """A batch's inputs by name; a name that is not there is told in words."""

    def __init__(self, loss: str, inputs: Mapping[str, Any]) -> None:
        super().__init__(inputs)
        self._loss = loss
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self.read.add(str(name))
        return super().__contains__(name)

    def __iter__(self) -> Iterator[str]:
        self.read.update(super().keys())
        return super().__iter__()

    def get(self, name: str, default: Any = None) -> Any:
        """Return an input, or ``default`` where there is none."""
        self.read.add(name)
        return super().get(name, default)

    def keys(self) -> Any:
        """Return the names."""
        self.read.update(super().keys())
        return super().keys()

    def values(self) -> Any:
        """Return the arrays."""
        self.read.update(super().keys())
        return super().values()

    def items(self) -> Any:
        """Return names and arrays."""
        self.read.update(super().keys())
        return super().items()

    def __missing__(self, name: str) -> Any:
        raise LossError(
            f"{self._loss} reads loss_fn_inputs[{name!r}], which not every datum of the batch has; all have "
            f"{', '.join(sorted(dict.keys(self))) or 'nothing'}. Add it to each datum, or use inputs.get({name!r})."
        )


def _names(data: Sequence[Datum]) -> list[str]:
    names = set(data[0].loss_fn_inputs)
    for datum in data:
        if datum.loss_fn_inputs.keys() != names:
            names &= datum.loss_fn_inputs.keys()
    return sorted(names)


def _gather(name: str, data: Sequence[Datum], shapes: Sequence[tuple[int, ...]], packed: Packed) -> None:
    """Put one input of all data where it belongs."""
    tensors = [datum.loss_fn_inputs[name] for datum in data]
    arrays = [tensor.to_numpy() if tensor.is_sparse else tensor.values_np for tensor in tensors]
    ranks = {array.ndim for array in arrays}
    if len(ranks) > 1 or max(ranks) > 2:
        raise ShapeMismatchError(
            f"loss_fn_inputs[{name!r}] has {sorted(ranks)} dimensions in different data; expected 0, 1 or 2 in all."
        )
    # 32 bits, as JAX computes: token ids and numbers of 64 bits would be cut silently.
    dtype = np.dtype(np.int32) if arrays[0].dtype == np.int64 else arrays[0].dtype
    if ranks != {0} and all(len(array) == shape[0] for array, shape in zip(arrays, shapes, strict=True)):
        packed.flat[name] = packed.layout.flat(arrays, dtype)
    elif ranks == {0}:
        packed.padded[name] = np.zeros(packed.layout.rows, dtype)
        packed.padded[name][: len(arrays)] = arrays
    else:
        length = bucket_shape(1, max(map(len, arrays)))[1]
        packed.padded[name] = pad_rows(arrays, (packed.layout.rows, length)).astype(dtype, copy=False)
