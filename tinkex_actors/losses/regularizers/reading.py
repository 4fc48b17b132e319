"""Which numbers a regularizer reads: of logprobs, of a mask, and of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from tinkex_actors.errors import InputError, ShapeMismatchError

__all__ = ["Target", "check_target", "field_rows", "shaped_as", "target_tensor", "tensor"]

Target = Literal["logprobs", "probs"] | tuple[str, str]
"""What L1, L2, ElasticNet and OutputMagnitude penalise: ``logprobs``, ``probs`` (their exponentials), or
``("field", KEY)``, which reads ``loss_fn_inputs[KEY]`` of the first datum and so has no gradient."""

_FIELD = ("field", "loss_fn_inputs")


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
