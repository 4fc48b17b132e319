"""Reading stacks: of the loop's thread, and of tasks that are suspended."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from operator import length_hint
from types import FrameType
from typing import Any

from tinkex_actors.runtime._core.cell import Cell
from tinkex_actors.runtime._core.messages import Handler
from tinkex_actors.runtime._core.scheduler import Scheduler
from tinkex_actors.runtime._core.tasks import HandlerTask

__all__ = ["await_chain", "handled_in_burst", "place_of", "runner_in", "stack_of"]

RUNNERS = (
    Cell.drain.__code__,
    Scheduler._run_one.__code__,
    Cell.work.__code__,
    Cell._run_inline.__code__,
    Scheduler._step_one.__code__,
    Scheduler.step_inline.__code__,
    HandlerTask._step.__code__,
)


def await_chain(task: asyncio.Task[Any]) -> Iterator[FrameType]:
    """Yield each suspended frame of a task, innermost last (its own ``get_stack`` shows the first only)."""
    awaited: Any = task.get_coro()
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if frame is not None:
            yield frame
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)


def handled_in_burst(cell: Cell) -> int:
    """Return how many messages an ``async def`` burst has taken that ``cell.processed`` does not count yet."""
    coroutine = cell.task.get_coro() if isinstance(cell.task, HandlerTask) else None
    frame = getattr(coroutine, "cr_frame", None)
    if frame is None or frame.f_code is not Cell.work.__code__:
        return 0
    burst = frame.f_locals
    return burst["size"] - length_hint(burst["turns"]) if "turns" in burst and "count" not in burst else 0


def place_of(frame: FrameType) -> str:
    """Return ``file:line`` of a frame."""
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def stack_of(frame: FrameType | None) -> list[str]:
    """Return file, line and name of a frame and of all that called it, innermost last."""
    lines: list[str] = []
    while frame is not None:
        lines.append(f"{place_of(frame)} {frame.f_code.co_name}")
        frame = frame.f_back
    return lines[::-1]


def runner_in(frame: FrameType | None) -> tuple[Cell | None, Handler[..., Any] | None]:
    """Return the innermost actor whose code is on a stack, and the message it is in; nothing is written for this."""
    while frame is not None:
        if frame.f_code in RUNNERS:
            runner, handler = frame.f_locals.get("self"), frame.f_locals.get("handler")
            cell = frame.f_locals.get("cell") if isinstance(runner, Scheduler) else runner
            if isinstance(runner, HandlerTask):
                cell = runner.cell
                handler = cell.handling if cell is not None else None
            if isinstance(cell, Cell) and isinstance(handler, Handler):
                return cell, handler
        frame = frame.f_back
    return None, None
