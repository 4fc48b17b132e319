"""Listings without pages: ``async for`` over everything, one page in memory at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from tinkex_actors.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

__all__ = ["Pages", "by_offset"]

T = TypeVar("T")


class Pages(AsyncIterator[T], Generic[T]):
    """Everything a listing has, item by item; the next page is asked for when the last one is used up.

    The server's listing may change meanwhile: an item that appears or goes away between two pages can shift others, so
    that one is missed or seen twice. Cancelling an ``async for`` gives up the page that is under way, nothing else.

    Args:
        fetch: gets where to go on, None for the first page; returns the page's items and where the next one begins,
            None after the last.
    """

    def __init__(self, fetch: Callable[[Any], Awaitable[tuple[Sequence[T], Any]]]) -> None:
        self._fetch = fetch
        self._items: list[T] = []
        self._next: Any = None
        self._over = False

    async def __anext__(self) -> T:
        while not self._items:
            if self._over:
                raise StopAsyncIteration
            items, self._next = await self._fetch(self._next)
            self._items = list(items)[::-1]
            self._over = self._next is None
        return self._items.pop()

    async def collect(self, limit: int | None = None) -> list[T]:
        """Return what is left as a list, at most ``limit`` items."""
        found: list[T] = []
        while limit is None or len(found) < limit:
            try:
                found.append(await self.__anext__())
            except StopAsyncIteration:
                break
        return found


def by_offset(page_size: int, page: Callable[[int, int], Awaitable[tuple[Sequence[T], int | None]]]) -> Pages[T]:
    """Return the items of a listing that is asked for by limit and offset (protocol 8.3).

    Args:
        page_size: items to ask for at once, 1 or more.
        page: called with limit and offset; returns the items, and how many there are in all where the server says so.

    Raises:
        InputError: a page size below 1.
    """
    if page_size < 1:
        raise InputError(f"page_size must be 1 or more, got {page_size!r}.")

    async def fetch(offset: int | None) -> tuple[Sequence[T], int | None]:
        start = offset or 0
        items, total = await page(page_size, start)
        end = start + len(items)
        # Without a total, a short page is the last one; an empty one always is, whatever the total says.
        more = len(items) > 0 and (len(items) >= page_size if total is None else end < total)
        return items, end if more else None

    return Pages(fetch)
