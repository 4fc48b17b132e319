"""A crawler that finishes although pages, fetchers and its own book-keeping fail. No network: its web is a dict."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, replace

from tinkex_actors.runtime import (
    Actor,
    ActorRef,
    ActorSystem,
    ChildSpec,
    PartitionSupervisor,
    RestartPolicy,
    handler,
    run,
)


class PageNotFound(Exception):
    """The web's way of saying no: an answer, not a failure of the fetcher."""


class Web:
    """Pages and their links. Page ``flaky`` breaks the connection once."""

    def __init__(self) -> None:
        self.links = {
            "home": ["about", "flaky", "missing"],
            "about": ["home", "team"],
            "flaky": ["deep"],
            "team": [],
            "deep": ["home"],
        }
        self.breaks = {"flaky": 1}

    async def get(self, url: str) -> list[str]:
        await asyncio.sleep(0.01)
        if self.breaks.get(url, 0):
            self.breaks[url] -= 1
            raise ConnectionResetError(url)
        if url not in self.links:
            raise PageNotFound(url)
        return self.links[url]


class Fetcher(Actor):
    """Fetches one page at a time. A broken connection crashes it, and the page is tried once more."""

    def __init__(self, web: Web) -> None:
        self.web = web

    @handler(raises=PageNotFound, retry_once=True)
    async def fetch(self, url: str) -> list[str]:
        return await self.web.get(url)


@dataclass(frozen=True)
class Book:
    """What the crawl knows: replaced with each step, never changed in place."""

    pending: frozenset[str] = frozenset()
    found: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


class Crawl(Actor):
    """Keeps the book. A restart goes on where the last finished message left it."""

    restart_policy = RestartPolicy(carry="book")

    def __init__(self, fetchers: ActorRef[PartitionSupervisor]) -> None:
        self.fetchers = fetchers
        self.book = Book()

    async def init(self) -> None:
        for url in sorted(self.book.pending):
            self.task(self.crawl(url))

    @handler
    def visit(self, url: str) -> None:
        book = self.book
        if url not in book.pending and url not in book.found and url not in book.lost:
            self.book = replace(book, pending=book.pending | {url})
            self.task(self.crawl(url))

    @handler
    def fetched(self, url: str, links: list[str] | None) -> None:
        book = self.book
        if url not in book.pending:
            return  # fetched twice: by the last incarnation, and again by this one
        outcome = {"lost": (*book.lost, url)} if links is None else {"found": (*book.found, url)}
        self.book = replace(book, pending=book.pending - {url}, **outcome)
        for link in links or ():
            self.visit(link)

    @handler
    def report(self) -> Book:
        return self.book

    async def crawl(self, url: str) -> None:
        fetcher = await self.fetchers.call.partition(url)
        links = None
        with contextlib.suppress(PageNotFound, OSError, TimeoutError):
            links = await fetcher.within(30.0).call.fetch(url)
        self.ref.cast.fetched(url, links)


async def start(system: ActorSystem, web: Web) -> ActorRef[Crawl]:
    """Start three fetchers and a crawl of the whole web."""
    fetchers = await system.spawn(PartitionSupervisor, ChildSpec(Fetcher, (web,)), 3, name="fetchers")
    return await system.spawn(Crawl, fetchers, name="crawl")


async def finished(crawl: ActorRef[Crawl]) -> Book:
    """Wait until nothing is pending."""
    while True:
        book = await crawl.call.report()
        if not book.pending:
            return book
        await asyncio.sleep(0.05)


async def main() -> None:
    async with ActorSystem(name="crawler") as system:
        crawl = await start(system, Web())
        await crawl.call.visit("home")
        print(system.tree())
        book = await finished(crawl)
        print("found", *sorted(book.found))
        print("lost", *sorted(book.lost))


if __name__ == "__main__":
    run(main())
