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
        return handler.around(_async_around(handler) if handler.is_async else _around(handler))

    return wrap


def _around(handler: Handler[..., Any]) -> Callable[..., Any]:
    inner = handler.function
    answers: tuple[type[Exception], ...] = (Reject, *handler.raises)

    def function(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        try:
            result = inner(self, *args, **kwargs)
        except answers:
            commit(self._cell)
            raise
        commit(self._cell)
        return result

    return function


def _async_around(handler: Handler[..., Any]) -> Callable[..., Any]:
    inner = handler.function
    answers: tuple[type[Exception], ...] = (Reject, *handler.raises)

    async def function(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        try:
            result = await inner(self, *args, **kwargs)
        except answers:
            commit(self._cell)
            raise
        commit(self._cell)
        return result

    return function


def commit(cell: Cell) -> None:
    """Remember the carried attribute as it is now."""
    attribute = cell.kind.policy.carry
    if attribute is not None:
        cell.more().carried = (getattr(cell.actor, attribute),)


def hand_over(cell: Cell) -> None:
    """Give a new incarnation what the last one had committed."""
    attribute = cell.kind.policy.carry
    if attribute is not None and cell.rare is not None and cell.rare.carried:
        setattr(cell.actor, attribute, cell.rare.carried[0])
