"""Lengths that are not known when a loss is traced: JAX's symbols and what is computed from them, as nodes."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

from tinkex_actors.errors import LossError

__all__ = ["Untraceable", "dimension_nodes"]

_OPERATORS: dict[type[ast.operator], str] = {
    ast.Add: "operator.add",
    ast.Sub: "operator.sub",
    ast.Mult: "operator.mul",
    ast.Pow: "operator.pow",
}
_FUNCTIONS = {"mod": "operator.mod", "floordiv": "operator.floordiv"}


class Untraceable(LossError):
    """A loss that cannot become a graph; the message says because of what."""


def dimension_nodes(size: Any, symbol: Callable[[str], Any], call: Callable[[str, list[Any]], Any]) -> Any:
    """Return a length such as ``t``, ``t - 1`` or ``max(0, t - 3)`` as a number or as the node that computes it.

    Args:
        size: a number, or one of JAX's symbolic dimensions, of which only the text is read.
        symbol: gives the node of one symbol.
        call: writes a node that computes with numbers: the target, and its arguments.

    Raises:
        Untraceable: an operation that the format has no counterpart for.
    """

    def walk(at: ast.expr) -> Any:
        if isinstance(at, ast.Constant) and isinstance(at.value, int):
            return at.value
        if isinstance(at, ast.Name):
            return symbol(at.id)
        if isinstance(at, ast.UnaryOp) and isinstance(at.op, ast.USub):
            return call("operator.neg", [walk(at.operand)])
        if isinstance(at, ast.BinOp) and type(at.op) in _OPERATORS:
            return call(_OPERATORS[type(at.op)], [walk(at.left), walk(at.right)])
        if isinstance(at, ast.Call) and isinstance(at.func, ast.Name) and len(at.args) == 2:
            left, right = map(walk, at.args)
            if at.func.id in _FUNCTIONS:
                return call(_FUNCTIONS[at.func.id], [left, right])
            if at.func.id in ("max", "min"):
                # The format has no max of numbers; (a + b + |a - b|) / 2 is one.
                apart = call("operator.abs", [call("operator.sub", [left, right])])
                join = "operator.add" if at.func.id == "max" else "operator.sub"
                both = call(join, [call("operator.add", [left, right]), apart])
                return call("operator.floordiv", [both, 2])
        raise Untraceable(f"a length that is computed, {size}")

    return walk(ast.parse(str(size).replace("^", "**"), mode="eval").body)  # JAX writes t^2
