"""Uploaded losses (protocol 6.8): a traced graph, evaluated on one datum at a time, and training with it.

The graph sees each datum at its own length, unpadded. Its gradient with respect to the logprobs goes into the model as
the weights of a linear loss, ``sum(-logprob * weight)``, whose gradient is the same (protocol 6.7).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from tinkex_actors.engine.core.batching import Example
from tinkex_actors.engine.core.graphs.operations import DTYPES, find_operation
from tinkex_actors.engine.core.lora import Adapter
from tinkex_actors.engine.core.model import BaseModel
from tinkex_actors.engine.core.training import BatchResult, forward_backward, never_stop
from tinkex_actors.errors import InputError, NonFiniteLossError
from tinkex_actors.types import CustomLossGraph, CustomLossInput, CustomLossNode

__all__ = ["GraphLoss", "custom_forward_backward"]

_METRIC = re.compile(r"custom/[a-z0-9_./-]{1,64}:(sum|mean)")
_REMEDY = "Pass the function itself to forward_backward_custom, which runs it on the client."
_LOGPROBS = "logprobs"


class GraphLoss:
    """An uploaded loss, checked and ready.

    Args:
        name: for messages.
        inputs: ``logprobs`` first, then what else it reads of ``loss_fn_inputs``, with their ranks.
        graph: its operations, in an order in which each comes after those that it reads.

    Raises:
        InputError: an operation that is not known here, a reference to none, or no output; the node is named.
    """

    def __init__(self, name: str, inputs: Sequence[CustomLossInput], graph: CustomLossGraph) -> None:
        self.name = name
        self.inputs = tuple(inputs)
        self._nodes = tuple(graph.nodes)
        self._check()
        self._program = jax.jit(jax.value_and_grad(self._run, has_aux=True))

    def evaluate(
        self, logprobs: npt.NDArray[np.float32], given: Mapping[str, npt.NDArray[Any]], where: str
    ) -> tuple[float, npt.NDArray[np.float32], dict[str, float]]:
        """Return the loss of one datum, its gradient with respect to the logprobs, and its metrics.

        Args:
            logprobs: of its targets.
            given: its ``loss_fn_inputs``.
            where: how messages call the datum.

        Raises:
            InputError: an input is missing or has another rank, or the graph cannot be evaluated on these shapes.
            NonFiniteLossError: the loss or its gradient is NaN or infinite.
        """
        inputs = {one.name: self._input(one, given, where) for one in self.inputs if one.name != _LOGPROBS}
        expected = next(one.rank for one in self.inputs if one.name == _LOGPROBS)
        if logprobs.ndim != expected:
            raise InputError(f"{where}: {self.name} takes logprobs of rank {expected}, got {list(logprobs.shape)}")
        try:
            (value, metrics), gradient = self._program(jnp.asarray(logprobs), inputs)
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"{where}: the uploaded loss {self.name} cannot be evaluated: {type(error).__name__}: {error}"
            ) from error
        number, slope = float(value), np.asarray(gradient)
        if not (np.isfinite(number) and np.isfinite(slope).all()):
            raise NonFiniteLossError(
                f"{where}: the uploaded loss {self.name} is {number}, with {int((~np.isfinite(slope)).sum())} "
                "gradients that are not finite, so no gradient was added; check its inputs"
            )
        return number, slope, {key: float(metric) for key, metric in metrics.items()}

    def _input(self, one: CustomLossInput, given: Mapping[str, npt.NDArray[Any]], where: str) -> npt.NDArray[Any]:
        if one.name not in given:
            raise InputError(f"{where}: loss_fn_inputs[{one.name!r}] is missing; {self.name} declares it as an input")
        array = np.asarray(given[one.name])
        if array.ndim != one.rank:
            raise InputError(
                f"{where}: loss_fn_inputs[{one.name!r}] has shape {list(array.shape)}, but {self.name} declares rank "
                f"{one.rank}"
            )
        return array.astype(np.int32) if array.dtype == np.int64 else array

    # --- the graph ---------------------------------------------------------------------------------------------------
    def _check(self) -> None:
        names = [one.name for one in self.inputs]
        if _LOGPROBS not in names or len(set(names)) < len(names):
            raise InputError(
                f"custom loss {self.name}: its inputs are {names}; expected different names, with logprobs"
            )
        known: set[str] = set()
        for node in self._nodes:
            where = f"custom loss {self.name}: node {node.name!r}"
            for wanted in _references([node.args, node.kwargs]):
                if wanted not in known:
                    raise InputError(f"{where} reads {wanted!r}, which no node before it is called")
            if node.op == "placeholder":
                if node.target not in names:
                    raise InputError(f"{where} reads the input {node.target!r}; declared are {', '.join(names)}")
            elif node.op in ("call_function", "call_method"):
                if find_operation(node.op, node.target) is None:
                    raise InputError(f"{where} calls {node.target!r}, which this engine cannot. {_REMEDY}")
            elif node.op != "output":
                raise InputError(f"{where} is a {node.op}, which this engine cannot evaluate. {_REMEDY}")
            known.add(node.name)
        if not self._nodes or self._nodes[-1].op != "output" or not self._nodes[-1].args:
            raise InputError(f"custom loss {self.name}: its last node is no output; expected (loss, metrics)")

    def _run(self, logprobs: jax.Array, inputs: Mapping[str, Any]) -> tuple[jax.Array, dict[str, Any]]:
        known: dict[str, Any] = {}
        for node in self._nodes:
            if node.op == "placeholder":
                known[node.name] = logprobs if node.target == _LOGPROBS else inputs[node.target]
            elif node.op != "output":
                known[node.name] = self._call(node, known)
        result = _decode(self._nodes[-1].args[0], known)
        loss, metrics = result if isinstance(result, tuple) and len(result) == 2 else (result, {})
        if jnp.shape(loss) != ():
            raise InputError(
                f"custom loss {self.name}: its loss has shape {list(jnp.shape(loss))}; expected a scalar for each datum"
            )
        for key, value in metrics.items():
            if _METRIC.fullmatch(key) is None or jnp.shape(value) != ():
                raise InputError(
                    f"custom loss {self.name}: metric {key!r} of shape {list(jnp.shape(value))}; expected a scalar "
                    "named custom/NAME:sum or custom/NAME:mean"
                )
        return jnp.asarray(loss, jnp.float32), dict(metrics)

    def _call(self, node: CustomLossNode, known: Mapping[str, Any]) -> Any:
        operation = find_operation(node.op, node.target)
        assert operation is not None
        arguments = [_decode(argument, known) for argument in node.args]
        options = {name: _decode(argument, known) for name, argument in node.kwargs.items()}
        for ignored in ("device", "layout", "memory_format", "requires_grad", "pin_memory", "out", "input"):
            value = options.pop(ignored, None)
            if ignored == "input" and value is not None:
                arguments.insert(0, value)
        try:
            return operation(*arguments, **options)
        except Exception as error:
            raise InputError(
                f"custom loss {self.name}: node {node.name!r} ({node.target}) failed: {type(error).__name__}: {error}"
            ) from error


def custom_forward_backward(
    base: BaseModel,
    adapter: Adapter,
    examples: Sequence[Example],
    loss: GraphLoss,
    *,
    backward: bool = True,
    should_stop: Callable[[], bool] = never_stop,
) -> BatchResult:
    """Compute an uploaded loss and, if asked, the gradient with respect to the adapter. See ``forward_backward``.

    The losses of all data are summed; ``:sum`` metrics are summed and ``:mean`` metrics averaged over data.

    Raises:
        InputError, NonFiniteLossError, ClosedError: as ``forward_backward`` and ``GraphLoss.evaluate``.
    """
    plain = [
        Example(one.tokens, {name: one.inputs[name] for name in ("target_tokens",) if name in one.inputs})
        for one in examples
    ]
    scored = forward_backward(base, adapter, plain, "cross_entropy", backward=False, should_stop=should_stop)
    total, weighted, metrics = 0.0, [], dict[str, float]()
    for index, (example, logprobs) in enumerate(zip(plain, scored.logprobs, strict=True)):
        value, slope, found = loss.evaluate(logprobs, examples[index].inputs, f"datum {index}")
        total += value
        weighted.append(Example(example.tokens, {**example.inputs, "weights": -slope}))
        for key, number in found.items():
            share = number / len(plain) if key.endswith(":mean") else number
            metrics[key] = metrics.get(key, 0.0) + share
    trained = scored
    if backward:
        trained = forward_backward(base, adapter, weighted, "cross_entropy", should_stop=should_stop)
    told = {"loss:sum": total, "tokens:sum": trained.metrics["tokens:sum"], **metrics}
    return replace(trained, loss_sum=total, metrics=told)


def _references(encoded: Any) -> list[str]:
    if isinstance(encoded, Mapping):
        if set(encoded) == {"ref"}:
            return [encoded["ref"]]
        return [name for part in encoded.values() for name in _references(part)]
    if isinstance(encoded, (list, tuple)):
        return [name for part in encoded for name in _references(part)]
    return []


def _decode(encoded: Any, known: Mapping[str, Any]) -> Any:
    """Return an argument (protocol 6.8): scalars and lists are themselves, the rest is tagged by its only key."""
    if isinstance(encoded, (list, tuple)):
        return [_decode(part, known) for part in encoded]
    if not isinstance(encoded, Mapping):
        return encoded
    ((tag, value),) = encoded.items()
    if tag == "ref":
        return known[value]
    if tag == "tuple":
        return tuple(_decode(part, known) for part in value)
    if tag == "dict":
        return {name: _decode(part, known) for name, part in value.items()}
    if tag == "slice":
        return slice(*(_decode(part, known) for part in value))
    if tag == "float":
        return float(value)
    if tag == "dtype":
        return DTYPES[value.removeprefix("torch.")]
    return ... if tag == "ellipsis" else None
