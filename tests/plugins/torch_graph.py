"""An uploaded loss as torch itself computes it: each node calls what it names, as a server of torch's would."""

from __future__ import annotations

import importlib
import math
import operator
from typing import Any

from tinkex_actors.types import CustomLossGraph

__all__ = ["run_in_torch"]


def run_in_torch(graph: CustomLossGraph, inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the loss and the metrics of a graph at tensors by input name.

    Raises:
        ModuleNotFoundError: torch is not installed.
    """
    torch = importlib.import_module("torch")
    homes = {"torch": torch, "operator": operator, "math": math}
    known: dict[str, Any] = {}

    def decode(encoded: Any) -> Any:
        if isinstance(encoded, (list, tuple)):
            return [decode(part) for part in encoded]
        if not isinstance(encoded, dict):
            return encoded
        ((tag, value),) = encoded.items()
        return {
            "ref": lambda: known[value],
            "tuple": lambda: tuple(map(decode, value)),
            "dict": lambda: {key: decode(part) for key, part in value.items()},
            "slice": lambda: slice(*map(decode, value)),
            "ellipsis": lambda: ...,
            "float": lambda: float(value),
            "dtype": lambda: getattr(torch, value),
        }[tag]()

    for node in graph.nodes:
        args, kwargs = [decode(one) for one in node.args], {key: decode(one) for key, one in node.kwargs.items()}
        if node.op == "placeholder":
            known[node.name] = inputs[node.target]
        elif node.op == "output":
            loss, metrics = args[0]
            return loss, metrics
        elif node.op == "call_method":
            known[node.name] = getattr(args[0], node.target)(*args[1:], **kwargs)
        else:
            home, _, name = node.target.rpartition(".")
            known[node.name] = getattr(homes[home], name)(*args, **kwargs)
    raise AssertionError("a graph without an output")
