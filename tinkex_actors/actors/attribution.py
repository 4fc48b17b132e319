"""On whose behalf a request is sent: the outermost public method of a client (protocol 1.2, ``x-sdk-method``).

A call does its work later and elsewhere, in tasks of actors that serve many calls. So the name is taken at the call,
kept by the call's future, and put back by the task that works for it.
"""

from __future__ import annotations

import functools
import inspect
from contextlib import aclosing
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

__all__ = ["attributed", "calling", "unattributed"]

C = TypeVar("C", bound=type)
P = ParamSpec("P")
T = TypeVar("T")

calling: ContextVar[str | None] = ContextVar("tinkex_calling", default=None)
"""The public method that is being worked for, such as ``TrainingClient.forward``; None for our own business."""


def attributed(cls: C) -> C:
    """Class decorator: what the public methods of a client ask for carries their names.

    Of a public method that calls another one, also of another client, only the outer one counts.
    """
    for name, member in list(vars(cls).items()):
        if not name.startswith("_") and inspect.isfunction(member):
            named = _named_stream if inspect.isasyncgenfunction(member) else _named
            setattr(cls, name, named(member, f"{cls.__name__}.{name}"))
    return cls


def unattributed(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call ``function`` so that what it starts is nobody's, as it lives for longer than the call that starts it."""
    context = copy_context()
    context.run(calling.set, None)
    return context.run(function, *args, **kwargs)


def _named(method: Callable[..., Any], name: str) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        if calling.get() is not None:
            return method(*args, **kwargs)
        token = calling.set(name)
        try:
            return method(*args, **kwargs)
        finally:
            calling.reset(token)

    return call


def _named_stream(method: Callable[..., AsyncGenerator[T, None]], name: str) -> Callable[..., AsyncGenerator[T, None]]:
    @functools.wraps(method)
    async def stream(*args: Any, **kwargs: Any) -> AsyncGenerator[T, None]:
        async with aclosing(method(*args, **kwargs)) as items:
            while True:
                # Only while it works: between two items the caller's own requests are made in the same context.
                token = calling.set(calling.get() or name)
                try:
                    item = await anext(items)
                except StopAsyncIteration:
                    return
                finally:
                    calling.reset(token)
                yield item

    return stream
