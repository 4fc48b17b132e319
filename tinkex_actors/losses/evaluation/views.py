"""What a loss of one's own is handed in place of data and logprobs, so that what it does with them can be traced.

A loss may read ``datum.loss_fn_inputs[name]`` in any of the ways in which a ``TensorData`` can be read. While it is
being compiled, ``to_numpy()`` and arithmetic give a traced array; whatever needs real numbers (``data``, ``tolist()``,
the tokens of ``model_input``, ``numpy.asarray``) raises ``NeedsNumbers``, upon which the loss runs uncompiled, with the
data themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
from numpy.lib.mixins import NDArrayOperatorsMixin

from tinkex_actors.losses.evaluation.readable import namesake
from tinkex_actors.types import Datum

__all__ = ["DatumView", "NeedsNumbers", "NumpyView", "TensorView", "inputs_of", "unwrap"]


class NeedsNumbers(Exception):
    """The loss reads something that is not known while it is compiled; the text says what."""


class NumpyView(NDArrayOperatorsMixin):
    """A traced array that numpy's functions accept: each is carried out by its namesake in ``jax.numpy``.

    Args:
        array: the JAX array behind it.
    """

    __slots__ = ("_array",)
    __array_priority__ = 1000

    def __init__(self, array: Any) -> None:
        self._array = array

    def __jax_array__(self) -> Any:
        return self._array

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if options.pop("out", None) is not None:
            raise NeedsNumbers(f"numpy.{ufunc.__name__} into an array that there is")
        return _wrap(namesake(ufunc.__name__, method)(*unwrap(inputs), **unwrap(options)))

    def __array_function__(self, func: Any, _types: Any, args: Any, kwargs: Any) -> Any:
        return _wrap(namesake(func.__name__)(*unwrap(args), **unwrap(kwargs)))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = getattr(self._array, name)
        if not callable(found) or name == "at":
            return _wrap(found)
        return lambda *args, **options: _wrap(found(*unwrap(args), **unwrap(options)))

    def __getitem__(self, index: Any) -> Any:
        return _wrap(self._array[unwrap(index)])

    def __len__(self) -> int:
        return len(self._array)

    def __iter__(self) -> Any:
        return map(_wrap, iter(self._array))

    def __float__(self) -> float:
        return float(self._array)

    def __int__(self) -> int:
        return int(self._array)

    def __bool__(self) -> bool:
        return bool(self._array)

    def __repr__(self) -> str:
        return f"NumpyView({self._array!r})"


class TensorView(NumpyView):
    """A ``TensorData`` whose numbers are traced."""

    __slots__ = ()

    def to_numpy(self, pad_value: int = 0) -> Any:
        """Return the traced array: dense always, since sparse tensors are laid out before."""
        return self._array

    @property
    def dtype(self) -> str:
        """``"int64"`` or ``"float32"``, as a ``TensorData`` says it."""
        return "float32" if jnp.issubdtype(self._array.dtype, jnp.floating) else "int64"

    @property
    def shape(self) -> list[int]:
        """The shape, as a list."""
        return list(self._array.shape)

    @property
    def data(self) -> NoReturn:
        """Not known while compiling."""
        raise NeedsNumbers("the list `data` of an input")

    def tolist(self) -> NoReturn:
        """Not known while compiling."""
        raise NeedsNumbers("tolist() of an input")

    @property
    def values_np(self) -> NoReturn:
        """Not known while compiling."""
        raise NeedsNumbers("values_np of an input")

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise NeedsNumbers("a numpy array of an input")


class DatumView:
    """A datum whose inputs are traced; anything else of it is not known while compiling.

    Args:
        inputs: traced arrays by name.
    """

    __slots__ = ("loss_fn_inputs",)

    def __init__(self, inputs: Mapping[str, Any]) -> None:
        self.loss_fn_inputs = {name: TensorView(array) for name, array in inputs.items()}

    def __getattr__(self, name: str) -> NoReturn:
        raise NeedsNumbers(f"datum.{name}")


def inputs_of(data: Sequence[Datum]) -> list[dict[str, Any]]:
    """Return the inputs of data as plain arrays, for tracing."""
    return [
        {
            name: tensor.to_numpy() if tensor.is_sparse else tensor.values_np
            for name, tensor in datum.loss_fn_inputs.items()
        }
        for datum in data
    ]


def _wrap(value: Any) -> Any:
    if isinstance(value, jax.Array):
        return NumpyView(value)
    if isinstance(value, (list, tuple)) and any(isinstance(part, jax.Array) for part in value):
        return type(value)(map(_wrap, value)) if type(value) in (list, tuple) else value
    return value


def unwrap(value: Any) -> Any:
    """Return a value, or a list, tuple or dict of values, with the JAX arrays that stand behind views."""
    if isinstance(value, NumpyView):
        return value._array
    if isinstance(value, dict):
        return {key: unwrap(part) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(unwrap, value))
    return value
