"""What every regularizer shares: which numbers it reads, what a mask leaves out, how samples are reduced."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import lax

from tinkex_actors.errors import InputError
from tinkex_actors.losses.regularizers.reading import tensor

__all__ = ["Metrics", "Reduction", "Regularizer", "choose", "measures", "reduce_samples", "safe_norm"]

Reduction = Literal["sum", "mean", "none"]

Metrics = dict[str, Any]


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
