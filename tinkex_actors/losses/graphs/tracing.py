"""From a JAX function to the graph format of protocol 6.8.

The function is traced once by JAX, with lengths that stay symbols, so that one graph serves data of every length. Each
primitive that JAX leaves becomes a node of torch's. What has no counterpart is told by name: such a loss runs on the
client.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from tinkex_actors.errors import InputError, LossError
from tinkex_actors.losses.graphs.dimensions import Untraceable
from tinkex_actors.losses.graphs.nodes import GraphWriter
from tinkex_actors.types import CustomLossGraph, CustomLossInput

__all__ = ["METRIC_NAME", "Untraceable", "check_signature", "trace_loss"]

METRIC_NAME = re.compile(r"custom/[a-z0-9_./-]{1,64}:(sum|mean)")
"""What a metric of an uploaded loss may be called (protocol 6.8)."""

_PARAMETER = re.compile(r"[a-z_][a-z0-9_]{0,63}")
_MOST_PARAMETERS = 16


def check_signature(fn: Callable[..., Any], input_ranks: Mapping[str, int]) -> list[CustomLossInput]:
    """Return the inputs that a function declares by its parameters (protocol 6.8).

    Args:
        fn: its first parameter is ``logprobs``; the others are called as in ``loss_fn_inputs``. All positional, without
            defaults.
        input_ranks: for each parameter 0 for a scalar, 1 for ``[T]``, 2 for ``[T, K]``; 1 or 2 for ``logprobs``.

    Raises:
        InputError: any of these is not as said.
    """
    name = getattr(fn, "__name__", type(fn).__name__)
    parameters = list(inspect.signature(fn).parameters.values())
    names = [parameter.name for parameter in parameters]
    if not names or names[0] != "logprobs" or len(names) > _MOST_PARAMETERS:
        raise InputError(
            f"create_custom_loss: {name} takes ({', '.join(names)}); expected logprobs first, and at most "
            f"{_MOST_PARAMETERS} parameters."
        )
    for parameter in parameters:
        plain = parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        if not plain or parameter.default is not parameter.empty or _PARAMETER.fullmatch(parameter.name) is None:
            raise InputError(
                f"create_custom_loss: parameter {parameter} of {name}; expected a plain positional one without a "
                "default, named in lower case, as in loss_fn_inputs."
            )
    if set(input_ranks) != set(names):
        raise InputError(
            f"create_custom_loss: input_ranks has {sorted(input_ranks)}, {name} takes {sorted(names)}; expected the "
            "same names."
        )
    for one, rank in input_ranks.items():
        known = (1, 2) if one == "logprobs" else (0, 1, 2)
        if rank not in known:
            raise InputError(f"create_custom_loss: the rank of {one!r} is {rank!r}; expected one of {known}.")
    return [CustomLossInput(name=one, rank=input_ranks[one]) for one in names]  # type: ignore[arg-type]


def trace_loss(fn: Callable[..., Any], inputs: list[CustomLossInput]) -> CustomLossGraph:
    """Return a JAX loss of one datum as a graph.

    Args:
        fn: ``fn(logprobs, ...) -> (loss, metrics)`` on the arrays of one datum.
        inputs: as ``check_signature`` returned them.

    Raises:
        InputError: it does not return ``(loss, metrics)`` with metrics named ``custom/NAME:sum`` or
            ``custom/NAME:mean``.
        Untraceable: something in it has no counterpart in the format; the message names it.
    """
    name = getattr(fn, "__name__", type(fn).__name__)
    tokens, choices = export.symbolic_shape("t, k", constraints=["t >= 1", "k >= 1"])
    shapes = {0: (), 1: (tokens,), 2: (tokens, choices)}
    arguments: list[Any] = [jax.ShapeDtypeStruct(shapes[one.rank], jnp.float32) for one in inputs]  # type: ignore[no-untyped-call]
    metrics: list[str] = []

    def outputs(*arrays: Any) -> list[Any]:
        result = fn(*arrays)
        if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], Mapping):
            raise InputError(
                f"create_custom_loss: {name} returned a {type(result).__name__}; expected (loss, metrics)."
            )
        metrics[:] = result[1]
        for metric in metrics:
            if not isinstance(metric, str) or METRIC_NAME.fullmatch(metric) is None:
                raise InputError(
                    f"create_custom_loss: metric {metric!r} of {name}; expected custom/NAME:sum or custom/NAME:mean, "
                    "NAME in lower case."
                )
        return [result[0], *result[1].values()]

    try:
        closed = jax.make_jaxpr(outputs)(*arguments)
    except LossError:
        raise
    except InputError:
        raise
    except Exception as error:
        raise Untraceable(f"JAX cannot trace it with a length left open: {type(error).__name__}") from error
    if closed.out_avals[0].shape != ():
        raise InputError(
            f"create_custom_loss: {name} returned a loss of shape {closed.out_avals[0].shape}, not a scalar."
        )
    writer = GraphWriter([(one.name, one.rank) for one in inputs])
    return writer.graph(closed, metrics)
