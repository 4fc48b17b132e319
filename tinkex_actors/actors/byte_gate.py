"""Waiting for room in a byte budget."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from tinkex_actors.machines.budget import Budget

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["ByteGate"]


class ByteGate:
    """Lets bytes through, up to a limit (see :class:`~tinkex_actors.machines.budget.Budget`).

    Args:
        limit_bytes: how many bytes may be inside at once; one item may overdraw it.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._budget = Budget(balance=limit_bytes)
        self._waiters: dict[int, asyncio.Future[None]] = {}
        self._items = itertools.count()

    @asynccontextmanager
    async def passing(self, size_bytes: int) -> AsyncIterator[None]:
        """Hold ``size_bytes`` of the budget while inside; waits, in order, until there is room.

        Cancelling the wait gives back what was taken.
        """
        item = next(self._items)
        if not self._budget.acquire(item, size_bytes):
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters[item] = waiter
            try:
                await waiter
            except asyncio.CancelledError:
                granted = self._waiters.pop(item, None) is None
                self._wake(self._budget.release(size_bytes) if granted else self._budget.withdraw(item))
                raise
        try:
            yield
        finally:
            self._wake(self._budget.release(size_bytes))

    def _wake(self, items: list[int]) -> None:
        for item in items:
            waiter = self._waiters.pop(item)
            if not waiter.done():
                waiter.set_result(None)
