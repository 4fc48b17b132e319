"""Errands: operations that are a conversation of a few requests, such as creating a client or listing checkpoints.

An errand is a coroutine function that may be begun again: every request in it carries a key or a number that was
taken at the call, so a second run finds what the first one left.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from tinkex_actors.actors.attribution import calling
from tinkex_actors.actors.desk import Desk
from tinkex_actors.runtime import Actor, handler

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

    from tinkex_actors.actors.futures import ApiFuture
    from tinkex_actors.actors.ledger import Ledger

__all__ = ["Courier", "CourierDesk"]


class _Errand:
    __slots__ = ("future", "run")

    def __init__(self, future: ApiFuture[Any], run: Callable[[ApiFuture[Any]], Awaitable[Any]]) -> None:
        self.future = future
        self.run = run


class CourierDesk(Desk):
    """Every errand that has not ended.

    Args:
        ledger: opens the futures.
    """

    __slots__ = ("_ids", "_ledger", "cancelled", "errands")

    def __init__(self, *, ledger: Ledger) -> None:
        super().__init__()
        self.errands: dict[int, _Errand] = {}
        self.cancelled: list[int] = []
        self._ids = itertools.count(1)
        self._ledger = ledger

    def send(self, operation: str, run: Callable[[ApiFuture[Any]], Awaitable[Any]], **ids: object) -> ApiFuture[Any]:
        """Begin an errand; ``run`` gets the errand's own future, to say on it what it waits for."""
        errand_id = next(self._ids)
        future = self._ledger.open(operation, **ids)
        future.waits_for("the server's answer")
        future.on_cancel(lambda: self._cancel(errand_id))
        self.errands[errand_id] = _Errand(future, run)
        self.ring()
        return future

    def _cancel(self, errand_id: int) -> bool:
        if self.errands.pop(errand_id, None) is None:
            return False
        self.cancelled.append(errand_id)
        self.ring()
        return True


class Courier(Actor):
    """Runs each errand in a task of its own.

    Args:
        desk: the errands; outlives this incarnation, which begins all of them again.
    """

    def __init__(self, desk: CourierDesk) -> None:
        self._desk = desk
        self._running: dict[int, asyncio.Task[None]] = {}

    async def init(self) -> None:
        """Begin again what has not ended."""
        self._desk.attend(self.ref.cast.wake)
        self._begin()

    @handler
    def wake(self) -> None:
        """Begin what is new on the desk, and stop what nobody wants."""
        self._desk.answered()
        cancelled, self._desk.cancelled = self._desk.cancelled, []
        for errand_id in cancelled:
            if task := self._running.pop(errand_id, None):
                task.cancel()
        self._begin()

    def _begin(self) -> None:
        for errand_id, errand in self._desk.errands.items():
            if errand_id not in self._running:
                self._running[errand_id] = self.task(self._run(errand_id, errand), name=errand.future.operation)

    async def _run(self, errand_id: int, errand: _Errand) -> None:
        calling.set(errand.future.caller)
        try:
            result = await errand.run(errand.future)
        except Exception as error:
            errand.future.fail(error)
        else:
            errand.future.resolve(result)
        self._desk.errands.pop(errand_id, None)
        self._running.pop(errand_id, None)
