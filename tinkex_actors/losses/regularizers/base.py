"""What every regularizer shares: which numbers it reads, what a mask leaves out, how samples are reduced."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import lax

from tinkex_actors.errors import InputError, ShapeMismatchError

__all__ = [
    "Metrics",
    "Reduction",
    "Regularizer",
    "Target",
    "check_target",
    "choose",
    "field_rows",
    "measures",
    "reduce_samples",
    "safe_norm",
    "shaped_as",
    "target_tensor",
    "tensor",
]

Target = Literal["logprobs", "probs"] | tuple[str, str]
"""What L1, L2, ElasticNet and OutputMagnitude penalise: ``logprobs``, ``probs`` (their exponentials), or
``("field", KEY)``, which reads ``loss_fn_inputs[KEY]`` of the first datum and so has no gradient."""

Reduction = Literal["sum", "mean", "none"]

Metrics = dict[str, Any]

_FIELD = ("field", "loss_fn_inputs")


class Regularizer(ABC):
    """A penalty on logprobs: ``value, metrics = regularizer(data, logprobs)``.

    Immutable; differentiable in ``logprobs`` by ``jax.grad``, and traceable by ``jax.jit``. While it is
    traced, metrics hold numbers only, as arrays; otherwise also the words that say how it is set.

    A ragged list of arrays becomes one tensor by concatenation along the first axis: rows ``[T_i]`` become one row of
    all tokens, distributions ``[T_i, K]`` one distribution for each token. One array is taken as it is, of any rank;
    the last axis is the distribution and the axes before it count samples. What a mask leaves out is as if it were not
    there: it has no value, no gradient and no place in a mean.
    """

    __slots__ = ()

    name: ClassVar[str]
    """What the original calls it (reference 1.28), such as ``l1_sparsity``."""

    def __call__(self, data: Sequence[Any], logprobs: Any, mask: Any = None, *, key: Any = None) -> tuple[Any, Metrics]:
        """Return the penalty and its metrics.

        Args:
            data: the batch; may be empty where nothing is read from it.
            logprobs: a list of arrays ``[T_i]`` or ``[T_i, K]``, or one array.
            mask: true where a number counts: shaped as ``logprobs`` or as its first axes (a list for a list). None
                counts all.
            key: a JAX key, or a seed; only a ``GradientPenalty`` between two points draws.

        Returns:
            A scalar array (one number for each sample with ``reduction="none"``), and the metrics.

        Raises:
            InputError: no logprobs, a mask that leaves nothing, or data without what is read.
            ShapeMismatchError: a mask or a reference that does not fit the logprobs.
        """
        values, present = self.select(data, logprobs, mask)
        return self.evaluate(values, present, self.read(data, logprobs, values), key)

    def select(self, data: Sequence[Any], logprobs: Any, mask: Any) -> tuple[jax.Array, jax.Array | None]:
        """Return the tensor that is penalised, and what of it counts."""
        return tensor(logprobs, mask)

    def read(self, data: Sequence[Any], logprobs: Any, values: jax.Array) -> Any:
        """Return the reference, shaped as the tensor; None for a regularizer that compares with nothing."""
        return None

    @property
    def field(self) -> str | None:
        """The name in ``loss_fn_inputs`` of what it compares with, one number for each logprob; None for none."""
        return None

    @property
    def reads_rows(self) -> bool:
        """Whether the logprobs and ``field`` are all it reads, so that padded rows and a mask can stand for a batch."""
        return True

    @abstractmethod
    def evaluate(
        self, values: jax.Array, present: jax.Array | None, reference: Any, key: Any
    ) -> tuple[jax.Array, Metrics]:
        """Return the penalty of one tensor and its metrics: the formula alone.

        Args:
            values: floating, any rank.
            present: boolean of that shape, or None for all.
            reference: what ``read`` returned.
            key: as given to the call.
        """


def tensor(logprobs: Any, mask: Any = None) -> tuple[jax.Array, jax.Array | None]:
    """Return logprobs as one floating tensor, and a mask of its shape.

    Raises:
        InputError: no logprobs at all, or a mask that leaves none.
        ShapeMismatchError: rows of several ranks or widths, or a mask that does not fit.
    """
    values = _joined(logprobs, "logprobs")
    if values.size == 0:
        raise InputError("a regularizer got no logprobs; expected at least one number. Leave empty batches out.")
    if not jnp.issubdtype(values.dtype, jnp.floating):
        values = values.astype(jnp.float32)
    if mask is None:
        return values, None
    present = _joined(mask, "the mask").astype(bool)
    if present.ndim > values.ndim or present.shape != values.shape[: present.ndim]:
        raise ShapeMismatchError(
            f"the mask has shape {list(present.shape)}, logprobs have {list(values.shape)}; expected that shape, or "
            "its first axes."
        )
    present = jnp.broadcast_to(present.reshape(present.shape + (1,) * (values.ndim - present.ndim)), values.shape)
    if not isinstance(present, jax.core.Tracer) and not bool(present.any()):
        raise InputError("the mask leaves no logprob at all; expected at least one. Leave such batches out.")
    return values, present


def _joined(rows: Any, what: str) -> jax.Array:
    if not isinstance(rows, (list, tuple)):
        return jnp.atleast_1d(jnp.asarray(rows))
    arrays = [jnp.atleast_1d(jnp.asarray(row)) for row in rows]
    if not arrays:
        raise InputError(f"{what}: an empty list; expected an array for each datum, at least one.")
    if len({array.shape[1:] for array in arrays}) > 1:
        raise ShapeMismatchError(
            f"{what}: arrays of shapes {sorted({array.shape for array in arrays})[:4]}; expected [T] for all, or "
            "[T, K] with one K."
        )
    return arrays[0] if len(arrays) == 1 else jnp.concatenate(arrays)


def field_rows(owner: str, data: Sequence[Any], key: str, logprobs: Any) -> list[jax.Array]:
    """Return ``loss_fn_inputs[key]`` of each datum that logprobs belong to.

    Args:
        owner: who asks, for messages.
        data: the batch.
        key: the name.
        logprobs: a list has one array for each datum; one array belongs to all data.

    Raises:
        InputError: no data, or a datum without that name; the message has the names it does have.
        ShapeMismatchError: another number of data than of arrays.
    """
    if not data:
        raise InputError(f"{owner} reads loss_fn_inputs[{key!r}], but data is empty. Pass the batch.")
    if isinstance(logprobs, (list, tuple)) and len(logprobs) != len(data):
        raise ShapeMismatchError(f"{owner}: {len(logprobs)} arrays of logprobs for {len(data)} data; expected as many.")
    rows = []
    for index, datum in enumerate(data):
        inputs: Mapping[str, Any] = getattr(datum, "loss_fn_inputs", datum)
        if key not in inputs:
            given = ", ".join(sorted(inputs)) or "nothing"
            raise InputError(
                f"{owner}: datum {index} has no loss_fn_inputs[{key!r}]; it has {given}. Add it to each datum."
            )
        value = inputs[key]
        rows.append(jnp.asarray(value.to_numpy() if hasattr(value, "to_numpy") else value))
    return rows


def shaped_as(owner: str, key: str, rows: Sequence[jax.Array], values: jax.Array) -> jax.Array:
    """Return rows read from data as one array of the shape of ``values``.

    Raises:
        ShapeMismatchError: they have another shape; the message names both.
    """
    if rows[0].shape == values.shape:
        return rows[0]
    if values.ndim == rows[0].ndim and len({row.shape[1:] for row in rows}) == 1:
        joined = jnp.concatenate(rows)
        if joined.shape == values.shape:
            return joined
    if values.ndim == rows[0].ndim + 1 and values.shape[0] == len(rows):
        length, rest = values.shape[1], values.shape[2:]
        if all(len(row) <= length and row.shape[1:] == rest for row in rows):
            widths = [(0, 0)] * len(rest)
            return jnp.stack([jnp.pad(row, [(0, length - len(row)), *widths]) for row in rows])
    shapes = sorted({row.shape for row in rows})[:4]
    raise ShapeMismatchError(
        f"{owner}: {key} has shape {shapes[0] if len(shapes) == 1 else shapes}, logprobs have {values.shape}; expected "
        "one number for each logprob."
    )


def reduce_samples(samples: jax.Array, counted: jax.Array | None, how: str) -> jax.Array:
    """Return the sum or the mean of numbers, or the numbers themselves (``none``), 0 where they do not count."""
    if counted is not None:
        samples = jnp.where(counted, samples, 0)
    if how == "none":
        return samples
    total = samples.sum()
    if how == "sum":
        return total
    # Traced, a mask may leave nothing: the mean of nothing is 0, and its gradient too.
    count = samples.size if counted is None else jnp.maximum(counted.sum(), 1)
    return total / count


def safe_norm(values: jax.Array) -> jax.Array:
    """Return the L2 norm of all numbers, with gradient 0 where it is 0."""
    square = (values * values).sum()
    alive = square > 0
    return jnp.where(alive, jnp.sqrt(jnp.where(alive, square, 1)), 0)


def measures(term: jax.Array, **metrics: Any) -> Metrics:
    """Return metrics as floats and words; while the term is traced, numbers only, as arrays without gradient."""
    if any(isinstance(value, jax.core.Tracer) for value in (term, *metrics.values())):
        return {
            name: lax.stop_gradient(jnp.mean(jnp.asarray(value, jnp.float32)))
            for name, value in metrics.items()
            if not isinstance(value, str)
        }
    return {
        name: value if isinstance(value, (str, float)) else float(jnp.mean(value)) for name, value in metrics.items()
    }


def choose(owner: str, option: str, given: object, known: Sequence[object]) -> None:
    """Refuse a value that is not one of those known.

    Raises:
        InputError: naming both.
    """
    if given not in known:
        raise InputError(f"{owner}: {option} is {given!r}; expected one of {', '.join(map(repr, known))}.")


def check_target(owner: str, target: object) -> None:
    """Refuse a target that is none.

    Raises:
        InputError: naming those there are.
    """
    if target in ("logprobs", "probs"):
        return
    if isinstance(target, tuple) and len(target) == 2 and target[0] in _FIELD and isinstance(target[1], str):
        return
    raise InputError(f"{owner}: target is {target!r}; expected 'logprobs', 'probs' or ('field', NAME).")


def target_tensor(
    owner: str, target: Target, data: Sequence[Any], logprobs: Any, mask: Any
) -> tuple[jax.Array, jax.Array | None]:
    """Return what a target names: the logprobs, their exponentials, or a tensor of the first datum."""
    if isinstance(target, tuple):
        return tensor(field_rows(owner, data[:1], target[1], None)[0])
    values, present = tensor(logprobs, mask)
    if target == "probs":
        if present is not None:
            values = jnp.where(present, values, 0)
        values = jnp.exp(values)
    return values, present
