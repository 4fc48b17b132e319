"""State that outlives a crash: what an attribute was when the last handler finished (``RestartPolicy.carry``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinkex_actors.runtime._core.cell import Cell, Reject
from tinkex_actors.runtime._core.messages import Handler, Wrap

__all__ = ["commit", "committing", "hand_over"]


def committing(attribute: str) -> Wrap:
    """Return what makes a handler remember ``attribute`` each time it finishes.

    A class that carries nothing has plain handlers and pays nothing.
    """

    def wrap(handler: Handler[..., Any]) -> Handler[..., Any]:
        around = _async_around if handler.is_async else _around
        return handler.around(around(handler, attribute))

    return wrap


def _around(handler: Handler[..., Any], attribute: str) -> Callable[..., Any]:
    inner = handler.function
    answers: tuple[type[Exception], ...] = (Reject, *handler.raises)

    def function(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        try:
            result = inner(self, *args, **kwargs)
        except answers:
            commit(self._cell, attribute)
            raise
        commit(self._cell, attribute)
        return result

    return function


def _async_around(handler: Handler[..., Any], attribute: str) -> Callable[..., Any]:
    inner = handler.function
    answers: tuple[type[Exception], ...] = (Reject, *handler.raises)

    async def function(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        try:
            result = await inner(self, *args, **kwargs)
        except answers:
            commit(self._cell, attribute)
            raise
        commit(self._cell, attribute)
        return result

    return function


def commit(cell: Cell, attribute: str) -> None:
    """Remember the carried attribute as it is now."""
    cell.more().carried = (getattr(cell.actor, attribute),)


def hand_over(cell: Cell, attribute: str) -> None:
    """Give a new incarnation what the last one had committed."""
    if cell.rare is not None and cell.rare.carried:
        setattr(cell.actor, attribute, cell.rare.carried[0])
