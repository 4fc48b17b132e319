"""Primitives that pick, order and lay out elements, as torch's functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tinkex_actors.losses.graphs.dimensions import Untraceable

if TYPE_CHECKING:
    from tinkex_actors.losses.graphs.nodes import GraphWriter

__all__ = ["INDEXING"]

Writer = Callable[["GraphWriter", Any, list[Any]], Any]

_EVERYTHING = {"slice": [None, None, None]}


def _slice(writer: GraphWriter, equation: Any, given: list[Any]) -> Any:
    params = equation.params
    steps = params["strides"] or (1,) * len(params["start_indices"])
    parts = [
        {"slice": [writer.dimension(start), writer.dimension(stop), writer.dimension(step)]}
        for start, stop, step in zip(params["start_indices"], params["limit_indices"], steps, strict=True)
    ]
    return writer.call("operator.getitem", [given[0], {"tuple": parts}])


def _dynamic_slice(writer: GraphWriter, equation: Any, given: list[Any]) -> Any:
    at, *starts = given
    for axis, (start, size) in enumerate(zip(starts, equation.params["slice_sizes"], strict=True)):
        at = _part(writer, at, axis, start, size, equation.invars[0].aval.shape[axis])
    return at


def _part(writer: GraphWriter, at: Any, axis: int, start: Any, size: Any, whole: Any) -> Any:
    """Return ``size`` elements along an axis, from ``start`` on."""
    if start == 0 and size == whole:
        return at
    if not writer.is_plain(start):
        if size != 1:
            raise Untraceable("a part of an array that begins where the data say")
        return writer.call("torch.index_select", [at, axis, writer.call("torch.unsqueeze", [start, 0])])
    stop = writer.call("operator.add", [start, writer.dimension(size)])
    return writer.call("operator.getitem", [at, {"tuple": [_EVERYTHING] * axis + [{"slice": [start, stop, None]}]}])


def _gather(writer: GraphWriter, equation: Any, given: list[Any]) -> Any:
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    operand, indices = (variable.aval for variable in equation.invars)
    picked, collapsed = numbers.start_index_map, numbers.collapsed_slice_dims
    if numbers.operand_batching_dims:
        if len(picked) == 1 and len(indices.shape) == len(operand.shape) + 1 and not numbers.offset_dims:
            where = writer.call("torch.squeeze", [given[1], -1])
            return writer.call("torch.gather", [given[0], int(picked[0]), where])
    elif len(indices.shape) == 1 and len(picked) == 1:
        return _window(writer, given, equation, writer.only(given[1]))
    elif len(indices.shape) == 2 and len(picked) == 1 and collapsed == picked:
        axis = int(picked[0])
        rest = [one for one in range(len(operand.shape)) if one != axis]
        if list(numbers.offset_dims) == rest and all(sizes[one] == operand.shape[one] for one in rest):
            where = writer.call("torch.squeeze", [given[1], -1])
            return writer.call("torch.index_select", [given[0], axis, where])
    elif tuple(picked) == tuple(collapsed) == tuple(range(len(picked))):
        batch = len(indices.shape) - 1
        if tuple(numbers.offset_dims) == tuple(range(batch, batch + len(operand.shape) - len(picked))):
            parts = [
                writer.call("operator.getitem", [given[1], {"tuple": [{"ellipsis": True}, place]}])
                for place in range(len(picked))
            ]
            return writer.call("operator.getitem", [given[0], {"tuple": parts}])
    raise Untraceable("a way of indexing that is none of torch's")


def _window(writer: GraphWriter, given: list[Any], equation: Any, start: Any) -> Any:
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    axis, shape = int(numbers.start_index_map[0]), equation.invars[0].aval.shape
    if any(sizes[one] != shape[one] for one in range(len(shape)) if one != axis):
        raise Untraceable("a window that is smaller than the array along two axes")
    if axis in numbers.collapsed_slice_dims:
        return writer.call("operator.getitem", [given[0], {"tuple": [_EVERYTHING] * axis + [start]}])
    return _part(writer, given[0], axis, start, sizes[axis], shape[axis])


def _iota(writer: GraphWriter, equation: Any, given: list[Any]) -> Any:
    shape, axis = equation.params["shape"], equation.params["dimension"]
    sizes = [writer.dimension(size) for size in shape]
    counted = writer.call("torch.arange", [sizes[axis]])
    if equation.outvars[0].aval.dtype.kind == "f":
        counted = writer.call("to", [counted], {"dtype": {"dtype": "float32"}}, method=True)
    if len(shape) == 1:
        return counted
    flat = [sizes[axis] if one == axis else 1 for one in range(len(shape))]
    return writer.call("expand", [writer.call("torch.reshape", [counted, flat]), *sizes], method=True)


def _sort(writer: GraphWriter, equation: Any, given: list[Any]) -> list[Any]:
    axis = int(equation.params["dimension"])
    if equation.params["num_keys"] != 1:
        raise Untraceable("a sort by several arrays")
    both = writer.call("torch.sort", [given[0]], {"dim": axis, "stable": True})
    ordered = [writer.call("operator.getitem", [both, 0])]
    if len(given) > 1:
        places = writer.call("operator.getitem", [both, 1])
        ordered += [writer.call("torch.gather", [one, axis, places]) for one in given[1:]]
    return ordered


def _rev(writer: GraphWriter, equation: Any, given: list[Any]) -> Any:
    return writer.call("torch.flip", [given[0], list(map(int, equation.params["dimensions"]))])


def _place(target: str) -> Writer:
    def place(writer: GraphWriter, equation: Any, given: list[Any]) -> Any:
        return writer.call(target, [given[0], int(equation.params["axes"][0])])

    return place


def _running(target: str, *, pair: bool = False) -> Writer:
    def running(writer: GraphWriter, equation: Any, given: list[Any]) -> Any:
        axis, back = int(equation.params["axis"]), equation.params["reverse"]
        at = writer.call("torch.flip", [given[0], [axis]]) if back else given[0]
        found = writer.call(target, [at, axis])
        found = writer.call("operator.getitem", [found, 0]) if pair else found
        return writer.call("torch.flip", [found, [axis]]) if back else found

    return running


def _concatenate(writer: GraphWriter, equation: Any, given: list[Any]) -> Any:
    return writer.call("torch.cat", [given, int(equation.params["dimension"])])


def _stack(writer: GraphWriter, equation: Any, given: list[Any]) -> Any:
    return writer.call("torch.stack", [given, int(equation.params["axis"])])


def _pad(writer: GraphWriter, equation: Any, given: list[Any]) -> Any:
    at, value = given
    sizes = [writer.dimension(size) for size in equation.invars[0].aval.shape]
    if not writer.is_plain(value):
        raise Untraceable("padding with a number that is computed")
    for axis, (low, high, inside) in enumerate(equation.params["padding_config"]):
        if inside or min(low, high) < 0:
            raise Untraceable("padding that cuts, or that goes between the elements")
        parts = [
            writer.call("torch.full", [[*sizes[:axis], int(width), *sizes[axis + 1 :]], value]) if width else None
            for width in (low, high)
        ]
        joined = [one for one in (parts[0], at, parts[1]) if one is not None]
        at = writer.call("torch.cat", [joined, axis]) if len(joined) > 1 else at
        sizes[axis] = writer.call("operator.add", [sizes[axis], int(low + high)])
    return at


def _cut(writer: GraphWriter, equation: Any, given: list[Any]) -> Any:
    at = given[0]
    for place in sorted(equation.params["dimensions"], reverse=True):
        at = writer.call("torch.squeeze", [at, int(place)])
    return at


INDEXING: Mapping[str, Writer] = {
    "argmax": _place("torch.argmax"),
    "argmin": _place("torch.argmin"),
    "concatenate": _concatenate,
    "cumlogsumexp": _running("torch.logcumsumexp"),
    "cummax": _running("torch.cummax", pair=True),
    "cummin": _running("torch.cummin", pair=True),
    "cumprod": _running("torch.cumprod"),
    "cumsum": _running("torch.cumsum"),
    "dynamic_slice": _dynamic_slice,
    "gather": _gather,
    "iota": _iota,
    "pad": _pad,
    "rev": _rev,
    "slice": _slice,
    "sort": _sort,
    "squeeze": _cut,
    "stack": _stack,
}
"""What writes each primitive: it gets the writer, the equation, and what stands for its inputs."""
