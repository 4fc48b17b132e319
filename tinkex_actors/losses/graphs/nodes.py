"""One node for each primitive: the table, and what walks a traced function with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinkex_actors.errors import LossError
from tinkex_actors.types import CustomLossGraph, CustomLossNode

__all__ = ["GraphWriter", "Untraceable"]

_FUNCTIONS = {
    "add": "operator.add",
    "add_any": "operator.add",
    "sub": "operator.sub",
    "mul": "operator.mul",
    "div": "operator.truediv",
    "neg": "operator.neg",
    "pow": "torch.pow",
    "max": "torch.maximum",
    "min": "torch.minimum",
    "abs": "torch.abs",
    "sign": "torch.sign",
    "exp": "torch.exp",
    "exp2": "torch.exp2",
    "log": "torch.log",
    "log1p": "torch.log1p",
    "expm1": "torch.expm1",
    "sqrt": "torch.sqrt",
    "rsqrt": "torch.rsqrt",
    "square": "torch.square",
    "tanh": "torch.tanh",
    "logistic": "torch.sigmoid",
    "sin": "torch.sin",
    "cos": "torch.cos",
    "erf": "torch.erf",
    "floor": "torch.floor",
    "ceil": "torch.ceil",
    "is_finite": "torch.isfinite",
    "eq": "torch.eq",
    "ne": "torch.ne",
    "lt": "torch.lt",
    "le": "torch.le",
    "gt": "torch.gt",
    "ge": "torch.ge",
    "and": "torch.logical_and",
    "or": "torch.logical_or",
    "not": "torch.logical_not",
}
_REDUCTIONS = {
    "reduce_sum": "torch.sum",
    "reduce_max": "torch.amax",
    "reduce_min": "torch.amin",
    "reduce_prod": "torch.prod",
}
_INLINED = ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "remat", "checkpoint")
_TWO_ARRAYS = ("torch.maximum", "torch.minimum")


class Untraceable(LossError):
    """A loss that cannot become a graph; the message says because of what."""


class GraphWriter:
    """Writes the graph of one traced function.

    Args:
        inputs: the names and the ranks of its arguments, in order.
    """

    def __init__(self, inputs: Sequence[tuple[str, int]]) -> None:
        self._inputs = list(inputs)
        self._nodes = [CustomLossNode(op="placeholder", name=name, target=name) for name, _ in inputs]
        self._taken = {name for name, _ in inputs}
        self._sizes: dict[str, Any] = {}

    def graph(self, closed: Any, metrics: Sequence[str]) -> CustomLossGraph:
        """Return the graph of a traced function whose outputs are the loss and its metrics, in that order.

        Raises:
            Untraceable: a primitive without a counterpart.
        """
        arguments = [{"ref": name} for name, _ in self._inputs]
        loss, *values = self._walk(closed.jaxpr, closed.consts, arguments)
        named = {"dict": dict(zip(metrics, values, strict=True))}
        self._nodes.append(CustomLossNode(op="output", name="output", target="output", args=[{"tuple": [loss, named]}]))
        return CustomLossGraph(nodes=self._nodes)

    def _walk(self, jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
        known: dict[Any, Any] = dict(zip(jaxpr.invars, arguments, strict=True))
        for variable, const in zip(jaxpr.constvars, consts, strict=True):
            known[variable] = _number(const)

        def read(atom: Any) -> Any:
            return _number(atom.val) if hasattr(atom, "val") else known[atom]

        needed = _needed(jaxpr)
        for equation in jaxpr.eqns:
            if not any(variable in needed for variable in equation.outvars):
                continue
            found = self._equation(equation, [read(atom) for atom in equation.invars])
            known.update(zip(equation.outvars, found, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, equation: Any, given: list[Any]) -> list[Any]:
        name, params = equation.primitive.name, equation.params
        if name in _INLINED:
            inner = params.get("jaxpr") or params.get("call_jaxpr") or params.get("fun_jaxpr")
            closed = inner if hasattr(inner, "consts") else None
            return self._walk(closed.jaxpr if closed else inner, closed.consts if closed else (), given)
        if name in _FUNCTIONS:
            target = _FUNCTIONS[name]
            if target in _TWO_ARRAYS:
                return [self._extreme(target, given)]
            if target.startswith("torch.") and not any(isinstance(one, dict) for one in given):
                given = [self._tensor(given[0]), *given[1:]]
            return [self._call(target, given)]
        if name in _REDUCTIONS:
            return [self._reduce(_REDUCTIONS[name], given[0], params["axes"])]
        special: Callable[[Any, list[Any]], Any] | None = getattr(self, f"_{name}", None)
        if special is None:
            raise Untraceable(f"the JAX operation {name!r} has no counterpart in the format")
        return [special(equation, given)]

    # --- primitives of their own -------------------------------------------------------------------------------------
    def _integer_pow(self, equation: Any, given: list[Any]) -> Any:
        return self._call("torch.pow", [given[0], equation.params["y"]])

    def _convert_element_type(self, equation: Any, given: list[Any]) -> Any:
        # torch promotes as JAX does here; only a truth that is counted has to become a number.
        if isinstance(given[0], dict) and equation.invars[0].aval.dtype == np.bool_:
            return self._call("to", [given[0]], {"dtype": {"dtype": "float32"}}, method=True)
        return given[0]

    def _copy(self, equation: Any, given: list[Any]) -> Any:
        return given[0]

    def _stop_gradient(self, equation: Any, given: list[Any]) -> Any:
        return self._call("detach", given, method=True) if isinstance(given[0], dict) else given[0]

    def _select_n(self, equation: Any, given: list[Any]) -> Any:
        which, when_false, when_true = given
        if len(given) != 3 or not isinstance(which, dict):
            raise Untraceable("a choice between other than two arrays")
        return self._call("torch.where", [which, when_true, when_false])

    def _clamp(self, equation: Any, given: list[Any]) -> Any:
        low, at, high = given
        return self._extreme("torch.minimum", [self._extreme("torch.maximum", [at, low]), high])

    def _dim_as_value(self, equation: Any, given: list[Any]) -> Any:
        return self._dimension(equation.params["dim"])

    def _broadcast_in_dim(self, equation: Any, given: list[Any]) -> Any:
        shape, kept = equation.params["shape"], equation.params["broadcast_dimensions"]
        at = given[0]
        if not isinstance(at, dict):
            return self._call("torch.full", [[self._dimension(size) for size in shape], at]) if shape else at
        for place in range(len(shape)):
            if place not in kept:
                at = self._call("torch.unsqueeze", [at, place])
        if all(size == 1 for place, size in enumerate(shape) if place not in kept):
            return at
        return self._call("expand", [at, *(self._dimension(size) for size in shape)], method=True)

    def _reshape(self, equation: Any, given: list[Any]) -> Any:
        sizes = [self._dimension(size) for size in equation.params["new_sizes"]]
        return self._call("torch.reshape", [given[0], sizes])

    def _squeeze(self, equation: Any, given: list[Any]) -> Any:
        at = given[0]
        for place in sorted(equation.params["dimensions"], reverse=True):
            at = self._call("torch.squeeze", [at, int(place)])
        return at

    def _transpose(self, equation: Any, given: list[Any]) -> Any:
        return self._call("permute", [given[0], *map(int, equation.params["permutation"])], method=True)

    def _slice(self, equation: Any, given: list[Any]) -> Any:
        params = equation.params
        steps = params["strides"] or (1,) * len(params["start_indices"])
        parts = [
            {"slice": [self._dimension(start), self._dimension(stop), self._dimension(step)]}
            for start, stop, step in zip(params["start_indices"], params["limit_indices"], steps, strict=True)
        ]
        return self._call("operator.getitem", [given[0], {"tuple": parts}])

    def _concatenate(self, equation: Any, given: list[Any]) -> Any:
        if not all(isinstance(one, dict) for one in given):
            raise Untraceable("arrays of constants that are joined")
        return self._call("torch.cat", [given, int(equation.params["dimension"])])

    def _cumsum(self, equation: Any, given: list[Any]) -> Any:
        if equation.params["reverse"]:
            raise Untraceable("a cumulative sum from the end")
        return self._call("torch.cumsum", [given[0], int(equation.params["axis"])])

    def _dot_general(self, equation: Any, given: list[Any]) -> Any:
        (left, right), batch = equation.params["dimension_numbers"]
        ranks = [len(variable.aval.shape) for variable in equation.invars]
        if batch != ((), ()) or tuple(left) != (ranks[0] - 1,) or tuple(right) != (max(ranks[1] - 2, 0),):
            raise Untraceable("a product of arrays that is no matmul")
        return self._call("torch.matmul", given)

    # --- writing -----------------------------------------------------------------------------------------------------
    def _reduce(self, target: str, at: Any, axes: Sequence[int]) -> Any:
        if target == "torch.prod":
            for axis in sorted(axes, reverse=True):
                at = self._call(target, [at, int(axis)])
            return at
        return self._call(target, [at, [int(axis) for axis in axes]]) if axes else at

    def _extreme(self, target: str, given: list[Any]) -> Any:
        if not any(isinstance(one, dict) and "ref" in one for one in given):
            return _constant(max(map(float, given)) if target == "torch.maximum" else min(map(float, given)))
        # torch compares arrays with arrays only; against a number it clamps.
        first, second = given
        option = "min" if target == "torch.maximum" else "max"
        for at, bound in ((first, second), (second, first)):
            if not isinstance(bound, dict) or "float" in bound:
                return self._call("torch.clamp", [at], {option: bound})
        return self._call(target, given)

    def _tensor(self, value: Any) -> Any:
        return self._call("torch.tensor", [value])

    def _dimension(self, size: Any) -> Any:
        """Return a length: a number, or a node that asks an input for it."""
        if isinstance(size, (int, np.integer)):
            return int(size)
        text = str(size)
        if text in self._sizes:
            return self._sizes[text]
        for name, rank in self._inputs:
            symbols = ("t", "k")[:rank]
            if text in symbols:
                found = self._call("size", [{"ref": name}, symbols.index(text)], method=True)
                self._sizes[text] = found
                return found
        raise Untraceable(f"a length that is computed, {text}")

    def _call(
        self, target: str, args: list[Any], kwargs: dict[str, Any] | None = None, *, method: bool = False
    ) -> dict[str, str]:
        stem = target.rpartition(".")[2]
        name, number = stem, 0
        while name in self._taken:
            number += 1
            name = f"{stem}_{number}"
        self._taken.add(name)
        kind = "call_method" if method else "call_function"
        self._nodes.append(CustomLossNode(op=kind, name=name, target=target, args=args, kwargs=kwargs or {}))  # type: ignore[arg-type]
        return {"ref": name}


def _needed(jaxpr: Any) -> set[Any]:
    """Return the variables that the outputs depend on: traced code has leftovers."""
    needed = {atom for atom in jaxpr.outvars if not hasattr(atom, "val")}
    for equation in reversed(jaxpr.eqns):
        if any(variable in needed for variable in equation.outvars):
            needed.update(atom for atom in equation.invars if not hasattr(atom, "val"))
    return needed


def _number(value: Any) -> Any:
    array = np.asarray(value)
    if array.shape != ():
        raise Untraceable("it captures an array; pass it in loss_fn_inputs, as a parameter")
    return _constant(array.item())


def _constant(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"}
    return value
