"""The operations that an uploaded loss may use: names of torch, ``math`` and ``operator``, carried out by JAX."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy import special

__all__ = ["DTYPES", "find_operation"]

Operation = Callable[..., Any]

DTYPES: dict[str, Any] = {
    "float16": jnp.float16,
    "bfloat16": jnp.bfloat16,
    "float32": jnp.float32,
    "float64": jnp.float32,  # the engine computes with 32 bits
    "int32": jnp.int32,
    "int64": jnp.int32,
    "bool": jnp.bool_,
}
"""torch's dtypes, as the engine computes with them."""

_SAME_NAME = frozenset(
    """
    abs cos cosh exp exp2 expm1 floor ceil isfinite isinf isnan log log10 log1p log2 logical_and logical_not
    logical_or logical_xor sign sin sinh sqrt square tan tanh maximum minimum where matmul dot outer logaddexp
    zeros_like ones_like full_like reciprocal nan_to_num round trunc heaviside float_power atan2
    """.split()  # noqa: SIM905 - a list of words is read as words
)

_BINARY = {
    "mul": jnp.multiply,
    "multiply": jnp.multiply,
    "div": jnp.divide,
    "divide": jnp.divide,
    "true_divide": jnp.divide,
    "pow": jnp.power,
    "remainder": jnp.mod,
    "floor_divide": jnp.floor_divide,
    "eq": jnp.equal,
    "ne": jnp.not_equal,
    "lt": jnp.less,
    "le": jnp.less_equal,
    "gt": jnp.greater,
    "ge": jnp.greater_equal,
    "mm": jnp.matmul,
    "bmm": jnp.matmul,
    "mv": jnp.matmul,
}


def _add(x: Any, other: Any, *, alpha: Any = 1) -> Any:
    return jnp.add(x, alpha * other)


def _sub(x: Any, other: Any, *, alpha: Any = 1) -> Any:
    return jnp.subtract(x, alpha * other)


def _reduction(function: Callable[..., Any]) -> Operation:
    def reduce(x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None, axis: Any = None) -> Any:
        where = axis if dim is None else dim
        kept = tuple(where) if isinstance(where, list) else where
        found = function(jnp.asarray(x), axis=kept, keepdims=keepdim)
        return found if dtype is None else found.astype(dtype)

    return reduce


def _spread(function: Callable[..., Any]) -> Operation:
    # torch divides by n - 1 unless it is told otherwise.
    def spread(
        x: Any, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: float | None = None
    ) -> Any:
        if isinstance(dim, bool):
            dim, unbiased = None, dim
        ddof = float(unbiased) if correction is None else correction
        return function(x, axis=tuple(dim) if isinstance(dim, list) else dim, ddof=ddof, keepdims=keepdim)

    return spread


def _extreme(whole: Callable[..., Any], pairwise: Callable[..., Any]) -> Operation:
    def extreme(x: Any, other: Any = None, keepdim: bool = False, *, dim: int | None = None) -> Any:
        if dim is None and (other is None or isinstance(other, jax.Array)):
            return whole(x) if other is None else pairwise(x, other)
        where = other if dim is None else dim
        places = jnp.argmax(x, axis=where) if whole is jnp.max else jnp.argmin(x, axis=where)
        return whole(x, axis=where, keepdims=keepdim), jnp.expand_dims(places, where) if keepdim else places

    return extreme


def _clamp(x: Any, min: Any = None, max: Any = None) -> Any:  # noqa: A002 - torch's names
    return jnp.clip(x, min, max)


def _reshape(x: Any, *shape: Any) -> Any:
    return jnp.reshape(x, _sizes(shape))


def _expand(x: Any, *sizes: Any) -> Any:
    wanted = _sizes(sizes)
    lead = len(wanted) - x.ndim
    kept = (x.shape[at - lead] if size == -1 else size for at, size in enumerate(wanted))
    return jnp.broadcast_to(x, tuple(kept))


def _sizes(given: Sequence[Any]) -> tuple[int, ...]:
    return tuple(given[0]) if len(given) == 1 and isinstance(given[0], (list, tuple)) else tuple(given)


def _size(x: Any, dim: int | None = None) -> Any:
    return x.shape if dim is None else x.shape[dim]


def _squeeze(x: Any, dim: Any = None) -> Any:
    if dim is None:
        return jnp.squeeze(x)
    where = [dim] if isinstance(dim, int) else dim
    return jnp.squeeze(x, axis=tuple(at for at in where if x.shape[at] == 1))


def _flatten(x: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    last = end_dim % max(x.ndim, 1)
    return jnp.reshape(x, (*x.shape[:start_dim], -1, *x.shape[last + 1 :]))


def _to(x: Any, *targets: Any, dtype: Any = None, **_: Any) -> Any:
    wanted = dtype or next((one for one in targets if one is not None and not isinstance(one, (bool, str))), None)
    if wanted is None:
        return x
    return jnp.asarray(x).astype(getattr(wanted, "dtype", wanted))


def _tensor(value: Any, *, dtype: Any = None, **_: Any) -> Any:
    return jnp.asarray(value, dtype or (jnp.float32 if isinstance(value, float) else None))


def _arange(start: int, end: int | None = None, step: int = 1, *, dtype: Any = None, **_: Any) -> Any:
    return jnp.arange(start, end, step, dtype=dtype)


def _sort(x: Any, dim: int = -1, descending: bool = False, *, stable: bool = False) -> Any:
    places = jnp.argsort(x, axis=dim, descending=descending)
    return jnp.take_along_axis(x, places, axis=dim), places


def _topk(x: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:  # noqa: A002 - torch's
    values, places = _sort(x, dim, descending=largest)
    first = tuple(slice(k) if axis == dim % x.ndim else slice(None) for axis in range(x.ndim))
    return values[first], places[first]


def _running(function: Callable[..., Any]) -> Operation:
    def running(x: Any, dim: int) -> Any:
        values = function(x, axis=dim % x.ndim)
        # torch tells where as well: at the last element so far that is as far out.
        counted = jnp.arange(x.shape[dim]).reshape([-1 if axis == dim % x.ndim else 1 for axis in range(x.ndim)])
        return values, lax.cummax(jnp.where(x == values, counted, 0), axis=dim % x.ndim)

    return running


def _filled(value: float) -> Operation:
    return lambda *size, dtype=None, **_: jnp.full(_sizes(size), value, dtype or jnp.float32)


def _cast(dtype: Any) -> Operation:
    return lambda x, **_: jnp.asarray(x).astype(dtype)


def _joined(function: Callable[..., Any]) -> Operation:
    return lambda tensors, dim=0, *, axis=None: function(tensors, axis=dim if axis is None else axis)


_OWN: dict[str, Operation] = {
    "add": _add,
    "sub": _sub,
    "subtract": _sub,
    "rsub": lambda x, other, *, alpha=1: jnp.subtract(other, alpha * x),
    "neg": jnp.negative,
    "negative": jnp.negative,
    "absolute": jnp.abs,
    "rsqrt": lax.rsqrt,
    "sigmoid": jax.nn.sigmoid,
    "relu": jax.nn.relu,
    "erf": special.erf,
    "asin": jnp.arcsin,
    "acos": jnp.arccos,
    "atan": jnp.arctan,
    "lerp": lambda x, end, weight: x + weight * (end - x),
    "sum": _reduction(jnp.sum),
    "mean": _reduction(jnp.mean),
    "prod": _reduction(jnp.prod),
    "amax": _reduction(jnp.max),
    "amin": _reduction(jnp.min),
    "all": _reduction(jnp.all),
    "any": _reduction(jnp.any),
    "argmax": _reduction(jnp.argmax),
    "argmin": _reduction(jnp.argmin),
    "logsumexp": _reduction(special.logsumexp),
    "std": _spread(jnp.std),
    "var": _spread(jnp.var),
    "max": _extreme(jnp.max, jnp.maximum),
    "min": _extreme(jnp.min, jnp.minimum),
    "softmax": lambda x, dim, dtype=None: jax.nn.softmax(x, axis=dim),
    "log_softmax": lambda x, dim, dtype=None: jax.nn.log_softmax(x, axis=dim),
    "cumsum": lambda x, dim, *, dtype=None: jnp.cumsum(x, axis=dim),
    "cumprod": lambda x, dim, *, dtype=None: jnp.cumprod(x, axis=dim),
    "cummax": _running(lax.cummax),
    "cummin": _running(lax.cummin),
    "logcumsumexp": lambda x, dim: lax.cumlogsumexp(x, axis=dim % x.ndim),
    "diff": lambda x, n=1, dim=-1: jnp.diff(x, n, axis=dim),
    "fmod": lambda x, other: jnp.fmod(x, other),
    "sort": _sort,
    "argsort": lambda x, dim=-1, descending=False, *, stable=False: jnp.argsort(x, axis=dim, descending=descending),
    "topk": _topk,
    "median": lambda x: jnp.sort(jnp.ravel(x))[(x.size - 1) // 2],
    "flip": lambda x, dims: jnp.flip(x, tuple(dims)),
    "clamp": _clamp,
    "clip": _clamp,
    "clamp_min": lambda x, bound: jnp.maximum(x, bound),
    "clamp_max": lambda x, bound: jnp.minimum(x, bound),
    "masked_fill": lambda x, mask, value: jnp.where(mask, value, x),
    "detach": lax.stop_gradient,
    "contiguous": lambda x, **_: x,
    "clone": lambda x, **_: x,
    "reshape": _reshape,
    "view": _reshape,
    "expand": _expand,
    "expand_as": lambda x, other: jnp.broadcast_to(x, other.shape),
    "broadcast_to": lambda x, size: jnp.broadcast_to(x, tuple(size)),
    "unsqueeze": lambda x, dim: jnp.expand_dims(x, dim),
    "squeeze": _squeeze,
    "flatten": _flatten,
    "transpose": lambda x, dim0, dim1: jnp.swapaxes(x, dim0, dim1),
    "permute": lambda x, *dims: jnp.transpose(x, _sizes(dims)),
    "t": lambda x: x.T,
    "size": _size,
    "numel": lambda x: x.size,
    "dim": lambda x: x.ndim,
    "gather": lambda x, dim, index: jnp.take_along_axis(x, index, axis=dim),
    "index_select": lambda x, dim, index: jnp.take(x, index, axis=dim),
    "cat": _joined(jnp.concatenate),
    "concat": _joined(jnp.concatenate),
    "stack": _joined(jnp.stack),
    "tensor": _tensor,
    "as_tensor": _tensor,
    "zeros": _filled(0.0),
    "ones": _filled(1.0),
    "full": lambda size, fill_value, *, dtype=None, **_: jnp.full(tuple(size), fill_value, dtype),
    "arange": _arange,
    "to": _to,
    "type_as": lambda x, other: x.astype(other.dtype),
    "float": _cast(jnp.float32),
    "double": _cast(jnp.float32),
    "int": _cast(jnp.int32),
    "long": _cast(jnp.int32),
    "bool": _cast(jnp.bool_),
}

_TORCH: dict[str, Operation] = {name: getattr(jnp, name) for name in _SAME_NAME} | _BINARY | _OWN

_OPERATORS = frozenset(
    """
    add sub mul truediv floordiv mod pow neg pos abs eq ne lt le gt ge and_ or_ xor invert not_ matmul getitem
    """.split()  # noqa: SIM905 - a list of words is read as words
)

_MATH = frozenset(
    """
    exp expm1 log log1p log2 log10 sqrt pow sin cos tan tanh floor ceil fabs erf
    """.split()  # noqa: SIM905 - a list of words is read as words
)

_ATTRIBUTES: dict[str, Operation] = {
    "shape": lambda x: x.shape,
    "ndim": lambda x: x.ndim,
    "dtype": lambda x: x.dtype,
    "device": lambda x: None,
    "T": lambda x: x.T,
    "mT": lambda x: jnp.swapaxes(x, -1, -2),
}


def _attribute(x: Any, name: str) -> Any:
    return _ATTRIBUTES[name](x)


def find_operation(kind: str, target: str) -> Operation | None:
    """Return what carries out a node, or None where there is nothing.

    Args:
        kind: ``call_function`` or ``call_method``.
        target: a qualified name (``torch.exp``, ``operator.add``, ``math.sqrt``, ``getattr``), or a tensor's method.
    """
    if kind == "call_method":
        return _TORCH.get(target.removesuffix("_") if target not in _TORCH else target)
    module, _, name = target.rpartition(".")
    if module in ("torch", "torch._C._VariableFunctions", "torch.functional"):
        return _TORCH.get(name)
    if module in ("operator", "_operator") and name in _OPERATORS:
        found: Operation = getattr(operator, name)
        return found
    if module == "math" and name in _MATH:
        return lambda *numbers: getattr(math, name)(*numbers)
    return _attribute if name == "getattr" else None
