"""One node for each primitive: the table, and what walks a traced function with it."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinkex_actors.losses.graphs.dimensions import Untraceable, dimension_nodes
from tinkex_actors.losses.graphs.indexing import INDEXING
from tinkex_actors.types import CustomLossGraph, CustomLossNode

__all__ = ["GraphWriter"]

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
    "rem": "torch.fmod",
    "is_finite": "torch.isfinite",
    "eq": "operator.eq",
    "ne": "operator.ne",
    "lt": "operator.lt",
    "le": "operator.le",
    "gt": "operator.gt",
    "ge": "operator.ge",
    "and": "torch.logical_and",
    "or": "torch.logical_or",
    "not": "torch.logical_not",
}
_REDUCTIONS = {
    "reduce_sum": "torch.sum",
    "reduce_max": "torch.amax",
    "reduce_min": "torch.amin",
}
_EACH_AXIS = {"reduce_prod": "torch.prod", "reduce_and": "torch.all", "reduce_or": "torch.any"}
# Python's own, for what is a number before the data are known.
_FOLDED: dict[str, Callable[..., Any]] = {
    "operator.add": operator.add,
    "operator.sub": operator.sub,
    "operator.mul": operator.mul,
    "operator.neg": operator.neg,
    "operator.abs": abs,
    "operator.eq": operator.eq,
    "operator.ne": operator.ne,
    "operator.lt": operator.lt,
    "operator.le": operator.le,
    "operator.gt": operator.gt,
    "operator.ge": operator.ge,
}
_MOST_CAPTURED = 4096
_INLINED = ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "remat", "checkpoint")
_TWO_ARRAYS = ("torch.maximum", "torch.minimum")


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
        # Nodes that are Python's numbers and no tensors, and the number that an array of one element was made of.
        self._plain: set[str] = set()
        self._only: dict[str, Any] = {}

    def graph(self, closed: Any, metrics: Sequence[str]) -> CustomLossGraph:
        """Return the graph of a traced function whose outputs are the loss and its metrics, in that order.

        Raises:
            Untraceable: a primitive without a counterpart.
        """
        arguments = [{"ref": name} for name, _ in self._inputs]
        loss, *values = self._walk(closed.jaxpr, closed.consts, arguments)
        named = {"dict": dict(zip(metrics, values, strict=True))}
        self._nodes.append(CustomLossNode(op="output", name="output", target="output", args=[{"tuple": [loss, named]}]))
        return CustomLossGraph(nodes=_reached(self._nodes))

    def _walk(self, jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
        known: dict[Any, Any] = dict(zip(jaxpr.invars, arguments, strict=True))
        for variable, const in zip(jaxpr.constvars, consts, strict=True):
            known[variable] = self._captured(const)

        def read(atom: Any) -> Any:
            return self._captured(atom.val) if hasattr(atom, "val") else known[atom]

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
            if name in ("div", "rem") and equation.outvars[0].aval.dtype.kind == "i":
                raise Untraceable(f"a division of whole numbers, {name}")
            return [self._function(_FUNCTIONS[name], given)]
        if name in _REDUCTIONS:
            return [self._reduce(_REDUCTIONS[name], given[0], params["axes"])]
        if name in _EACH_AXIS:
            return [self._reduce_each(_EACH_AXIS[name], given[0], params["axes"])]
        own: Callable[[Any, list[Any]], Any] | None = getattr(self, f"_{name}", None)
        if own is None and name not in INDEXING:
            raise Untraceable(f"the JAX operation {name!r} has no counterpart in the format")
        found = INDEXING[name](self, equation, given) if own is None else own(equation, given)
        return found if equation.primitive.multiple_results else [found]

    def _function(self, target: str, given: list[Any]) -> Any:
        if target in _TWO_ARRAYS:
            return self._extreme(target, given)
        if target.startswith("torch.") and all(map(self.is_plain, given)):
            given = [self._tensor(given[0]), *given[1:]]
        return self.call(target, given)

    # --- primitives of their own -------------------------------------------------------------------------------------
    def _integer_pow(self, equation: Any, given: list[Any]) -> Any:
        return self.call("torch.pow", [given[0], equation.params["y"]])

    def _convert_element_type(self, equation: Any, given: list[Any]) -> Any:
        old, new = equation.invars[0].aval.dtype.kind, equation.outvars[0].aval.dtype.kind
        if self.is_plain(given[0]) or old == new:
            return given[0]
        names = {"f": "float32", "i": "int64", "u": "int64", "b": "bool"}
        return self.call("to", [given[0]], {"dtype": {"dtype": names[new]}}, method=True)

    def _copy(self, equation: Any, given: list[Any]) -> Any:
        return given[0]

    def _stop_gradient(self, equation: Any, given: list[Any]) -> Any:
        return given[0] if self.is_plain(given[0]) else self.call("detach", given, method=True)

    def _round(self, equation: Any, given: list[Any]) -> Any:
        if int(equation.params["rounding_method"]) != 1:
            raise Untraceable("rounding of halves away from zero")
        return self._function("torch.round", given)

    def _select_n(self, equation: Any, given: list[Any]) -> Any:
        which, when_false, *others = given
        when_true = others[0] if others else None
        if len(given) != 3:
            raise Untraceable("a choice between other than two arrays")
        if not self._is_node(which):
            return when_true if which else when_false
        if self.is_plain(which):
            if self.is_plain(when_true) and self.is_plain(when_false):
                # Numbers, such as a place from the end: they stay numbers.
                taken = self.call("operator.mul", [which, when_true])
                left = self.call("operator.mul", [self.call("operator.sub", [1, which]), when_false])
                return self.call("operator.add", [taken, left])
            which = self._tensor(which)
        return self.call("torch.where", [which, when_true, when_false])

    def _clamp(self, equation: Any, given: list[Any]) -> Any:
        low, at, high = given
        return self._extreme("torch.minimum", [self._extreme("torch.maximum", [at, low]), high])

    def _dim_as_value(self, equation: Any, given: list[Any]) -> Any:
        return self.dimension(equation.params["dim"])

    def _broadcast_in_dim(self, equation: Any, given: list[Any]) -> Any:
        shape, kept = equation.params["shape"], equation.params["broadcast_dimensions"]
        at = given[0]
        if self.is_plain(at):
            if not shape:
                return at
            full = self.call("torch.full", [[self.dimension(size) for size in shape], at])
            self._only[full["ref"]] = at
            return full
        scalar = at
        for place in range(len(shape)):
            if place not in kept:
                at = self.call("torch.unsqueeze", [at, place])
        if not kept and shape:
            self._only[at["ref"]] = scalar
        if all(size == 1 for place, size in enumerate(shape) if place not in kept):
            return at
        return self.call("expand", [at, *(self.dimension(size) for size in shape)], method=True)

    def _reshape(self, equation: Any, given: list[Any]) -> Any:
        sizes = [self.dimension(size) for size in equation.params["new_sizes"]]
        if self.is_plain(given[0]):
            return self.call("torch.full", [sizes, given[0]])
        return self.call("torch.reshape", [given[0], sizes])

    def _transpose(self, equation: Any, given: list[Any]) -> Any:
        return self.call("permute", [given[0], *map(int, equation.params["permutation"])], method=True)

    def _dot_general(self, equation: Any, given: list[Any]) -> Any:
        (left, right), batch = equation.params["dimension_numbers"]
        ranks = [len(variable.aval.shape) for variable in equation.invars]
        if batch == ((), ()) and not left and ranks == [1, 1]:
            return self.call("torch.outer", given)
        if batch != ((), ()) or tuple(left) != (ranks[0] - 1,) or tuple(right) != (max(ranks[1] - 2, 0),):
            raise Untraceable("a product of arrays that is no matmul")
        return self.call("torch.matmul", given)

    # --- writing -----------------------------------------------------------------------------------------------------
    def is_plain(self, value: Any) -> bool:
        """Whether a value is a number of Python's, known now or when the graph is run, and no tensor."""
        return not self._is_node(value) or value["ref"] in self._plain

    def only(self, value: Any) -> Any:
        """Return the number that an array of one element holds."""
        if value["ref"] in self._only:
            return self._only[value["ref"]]
        return self.call("torch.squeeze", [value, 0])

    def dimension(self, size: Any) -> Any:
        """Return a length: a number, or a node that computes it of an input's.

        Raises:
            Untraceable: it is computed in a way that the format has no counterpart for.
        """
        return int(size) if isinstance(size, (int, np.integer)) else dimension_nodes(size, self._size, self.call)

    def call(self, target: str, args: list[Any], kwargs: dict[str, Any] | None = None, *, method: bool = False) -> Any:
        """Write a call, and return what refers to its result; of numbers alone, return their result where it is one."""
        plain = target.startswith("operator.") and all(map(self.is_plain, args)) and target != "operator.getitem"
        if plain and target in _FOLDED and not any(isinstance(one, dict) for one in args):
            return _FOLDED[target](*args)
        stem = target.rpartition(".")[2]
        name, number = stem, 0
        while name in self._taken:
            number += 1
            name = f"{stem}_{number}"
        self._taken.add(name)
        if plain:
            self._plain.add(name)
        kind = "call_method" if method else "call_function"
        self._nodes.append(CustomLossNode(op=kind, name=name, target=target, args=args, kwargs=kwargs or {}))  # type: ignore[arg-type]
        return {"ref": name}

    @staticmethod
    def _is_node(value: Any) -> bool:
        return isinstance(value, dict) and "ref" in value

    def _reduce(self, target: str, at: Any, axes: Sequence[int]) -> Any:
        return self.call(target, [at, [int(axis) for axis in axes]]) if axes else at

    def _reduce_each(self, target: str, at: Any, axes: Sequence[int]) -> Any:
        for axis in sorted(axes, reverse=True):
            at = self.call(target, [at, int(axis)])
        return at

    def _extreme(self, target: str, given: list[Any]) -> Any:
        if not any(map(self._is_node, given)):
            return _constant(max(map(float, given)) if target == "torch.maximum" else min(map(float, given)))
        # torch compares arrays with arrays only; against a number it clamps.
        first, second = given
        option = "min" if target == "torch.maximum" else "max"
        for at, bound in ((first, second), (second, first)):
            if self.is_plain(bound):
                return self.call("torch.clamp", [self._tensor(at) if self.is_plain(at) else at], {option: bound})
        return self.call(target, given)

    def _tensor(self, value: Any) -> Any:
        return self.call("torch.tensor", [value])

    def _size(self, symbol: str) -> Any:
        if symbol not in self._sizes:
            name, axis = next((name, ("t", "k").index(symbol)) for name, rank in self._inputs if symbol in "tk"[:rank])
            found = self.call("size", [{"ref": name}, axis], method=True)
            self._plain.add(found["ref"])
            self._sizes[symbol] = found
        return self._sizes[symbol]

    def _captured(self, value: Any) -> Any:
        array = np.asarray(value)
        if array.shape == ():
            return _constant(array.item())
        if array.size > _MOST_CAPTURED:
            raise Untraceable(
                f"it captures an array of {array.size} numbers, more than the {_MOST_CAPTURED} that are written into a "
                "graph; pass it in loss_fn_inputs, as a parameter"
            )
        dtype = {"f": "float32", "b": "bool"}.get(array.dtype.kind, "int64")
        return self.call("torch.tensor", [_nested(array.tolist())], {"dtype": {"dtype": dtype}})


def _nested(value: Any) -> Any:
    return list(map(_nested, value)) if isinstance(value, list) else _constant(value)


def _reached(nodes: list[CustomLossNode]) -> list[CustomLossNode]:
    """Return the inputs, and the nodes that the output depends on."""
    kept, wanted = list[CustomLossNode](), set[str]()
    for node in reversed(nodes):
        if node.op in ("placeholder", "output") or node.name in wanted:
            kept.append(node)
            wanted |= set(_references([node.args, node.kwargs]))
    return kept[::-1]


def _references(encoded: Any) -> list[str]:
    if isinstance(encoded, dict):
        return [encoded["ref"]] if "ref" in encoded else [name for one in encoded.values() for name in _references(one)]
    return [name for one in encoded for name in _references(one)] if isinstance(encoded, (list, tuple)) else []


def _needed(jaxpr: Any) -> set[Any]:
    """Return the variables that the outputs depend on: traced code has leftovers."""
    needed = {atom for atom in jaxpr.outvars if not hasattr(atom, "val")}
    for equation in reversed(jaxpr.eqns):
        if any(variable in needed for variable in equation.outvars):
            needed.update(atom for atom in equation.invars if not hasattr(atom, "val"))
    return needed


def _constant(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"}
    return value
