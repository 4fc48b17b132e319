"""What the actor bench measures: our runtime, and the least that could do the same job."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from tinkex_actors.runtime import Actor, ActorRef, ActorSystem, Mailbox, handler

__all__ = ["AsyncLink", "AsyncSink", "Measure", "Ours", "RawCallSoon", "RawQueue", "Sink"]

Measure = Callable[[int], Awaitable[None]]

RING = 1000
BURST = 1000  # tells at once, within a default mailbox's bound
LARGE = Mailbox(10_000_000)


# --- ours ------------------------------------------------------------------------------------------------------------
class Sink(Actor):
    """``def`` handlers only."""

    def __init__(self) -> None:
        self.count = 0
        self.wanted = 0
        self.full: asyncio.Future[None] | None = None

    @handler
    def tell(self, _: int) -> None:
        self.count += 1
        if self.count == self.wanted and self.full is not None:
            self.full.set_result(None)

    @handler
    def expect(self, wanted: int, full: asyncio.Future[None]) -> None:
        self.count, self.wanted, self.full = 0, wanted, full

    @handler
    def echo(self, value: int) -> int:
        return value

    @handler
    def crash(self) -> None:
        raise ZeroDivisionError


class AsyncSink(Actor):
    """The same with ``async def`` handlers."""

    def __init__(self) -> None:
        self.count = 0
        self.wanted = 0
        self.full: asyncio.Future[None] | None = None

    @handler
    async def tell(self, _: int) -> None:
        self.count += 1
        if self.count == self.wanted and self.full is not None:
            self.full.set_result(None)

    @handler
    async def expect(self, wanted: int, full: asyncio.Future[None]) -> None:
        self.count, self.wanted, self.full = 0, wanted, full

    @handler
    async def echo(self, value: int) -> int:
        return value

    @handler
    async def suspend(self, value: int) -> int:
        await asyncio.sleep(0)
        return value


class Link(Actor):
    """One place of a ring."""

    @handler
    def join(self, following: ActorRef[Link], done: asyncio.Future[None]) -> None:
        self.pass_on, self.done = following.cast.hop, done

    @handler
    def hop(self, left: int) -> None:
        if left:
            self.pass_on(left - 1)
        else:
            self.done.set_result(None)


class AsyncLink(Link):
    """The same with an ``async def`` handler."""

    @handler
    async def hop(self, left: int) -> None:
        if left:
            self.pass_on(left - 1)
        else:
            self.done.set_result(None)


class Ours:
    """The measures on the runtime, for one kind of sink."""

    def __init__(self, system: ActorSystem, cls: type[Any], link: type[Any] = Link) -> None:
        self.system = system
        self.cls = cls
        self.link = link

    async def tell(self, count: int) -> None:
        ref = await self.system.spawn(self.cls)
        tell = ref.cast.tell
        for _ in range(count // BURST):
            full = asyncio.get_running_loop().create_future()
            await ref.call.expect(BURST, full)
            for number in range(BURST):
                tell(number)
            await full
        await ref.stop()

    async def backlog(self, count: int) -> None:
        ref = await self.system.spawn(self.cls, mailbox=LARGE)
        full = asyncio.get_running_loop().create_future()
        await ref.call.expect(count, full)
        tell = ref.cast.tell
        for number in range(count):
            tell(number)
        await full
        await ref.stop()

    async def fan_in(self, count: int) -> None:
        ref = await self.system.spawn(self.cls, mailbox=LARGE)
        full = asyncio.get_running_loop().create_future()
        await ref.call.expect(count, full)

        async def producer() -> None:
            tell = ref.cast.tell
            for number in range(count // 100):
                tell(number)
                if number % 64 == 0:
                    await asyncio.sleep(0)

        await asyncio.gather(*(producer() for _ in range(100)), full)
        await ref.stop()

    async def ask(self, count: int) -> None:
        ref = await self.system.spawn(self.cls)
        echo = ref.call.echo
        for number in range(count):
            await echo(number)
        await ref.stop()

    async def many_askers(self, count: int) -> None:
        ref = await self.system.spawn(self.cls)

        async def asker() -> None:
            echo = ref.call.echo
            for number in range(count // 100):
                await echo(number)

        await asyncio.gather(*(asker() for _ in range(100)))
        await ref.stop()

    async def suspending(self, count: int) -> None:
        refs = [await self.system.spawn(AsyncSink) for _ in range(100)]

        async def asker(ref: ActorRef[AsyncSink]) -> None:
            suspend = ref.call.suspend
            for number in range(count // 100):
                await suspend(number)

        await asyncio.gather(*(asker(ref) for ref in refs))
        for ref in refs:
            await ref.stop()

    async def ring(self, count: int) -> None:
        links = [await self.system.spawn(self.link) for _ in range(RING)]
        done = asyncio.get_running_loop().create_future()
        for index, link in enumerate(links):
            link.cast.join(links[(index + 1) % RING], done)
        links[0].cast.hop(count)
        await done
        for link in links:
            await link.stop()

    async def spawn(self, count: int) -> None:
        for _ in range(count):
            ref = await self.system.spawn(Sink)
            await ref.stop()


# --- the baselines ---------------------------------------------------------------------------------------------------
class RawCell:
    """A deque and a flag."""

    __slots__ = ("box", "busy", "function", "loop")

    def __init__(self, function: Callable[[Any], None]) -> None:
        self.loop = asyncio.get_running_loop()
        self.box: deque[Any] = deque()
        self.busy = False
        self.function = function

    def tell(self, message: Any) -> None:
        self.box.append(message)
        if not self.busy:
            self.busy = True
            self.loop.call_soon(self.drain)

    def drain(self) -> None:
        box, function = self.box, self.function
        while box:
            function(box.popleft())
        self.busy = False


class RawSink:
    """``Sink`` without the actor."""

    def __init__(self, wanted: int, full: asyncio.Future[None]) -> None:
        self.count, self.wanted, self.full = 0, wanted, full

    def tell(self, _: int) -> None:
        self.count += 1
        if self.count == self.wanted and self.full is not None:
            self.full.set_result(None)


class RawCallSoon:
    """The measures on ``RawCell``."""

    def _counter(self, count: int) -> tuple[RawCell, asyncio.Future[None]]:
        full: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        return RawCell(RawSink(count, full).tell), full

    async def tell(self, count: int) -> None:
        for _ in range(count // BURST):
            await self.backlog(BURST)

    async def backlog(self, count: int) -> None:
        cell, full = self._counter(count)
        tell = cell.tell
        for number in range(count):
            tell(number)
        await full

    async def fan_in(self, count: int) -> None:
        cell, full = self._counter(count)

        async def producer() -> None:
            for number in range(count // 100):
                cell.tell(number)
                if number % 64 == 0:
                    await asyncio.sleep(0)

        await asyncio.gather(*(producer() for _ in range(100)), full)

    async def ask(self, count: int, askers: int = 1) -> None:
        cell = RawCell(lambda message: message[1].set_result(message[0]))
        loop = asyncio.get_running_loop()

        async def asker() -> None:
            for number in range(count // askers):
                future = loop.create_future()
                cell.tell((number, future))
                await future

        await asyncio.gather(*(asker() for _ in range(askers)))

    async def many_askers(self, count: int) -> None:
        await self.ask(count, 100)

    async def ring(self, count: int) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        cells: list[RawCell] = []

        def hop(index: int) -> Callable[[int], None]:
            following = (index + 1) % RING

            def receive(left: int) -> None:
                if left:
                    cells[following].tell(left - 1)
                else:
                    done.set_result(None)

            return receive

        cells += [RawCell(hop(index)) for index in range(RING)]
        cells[0].tell(count)
        await done


class RawQueue:
    """One task per actor around a queue; it answers whoever sent a future."""

    def __init__(self, suspend: bool = False) -> None:
        self.suspend = suspend

    def start(self) -> tuple[asyncio.Queue[Any], asyncio.Task[None]]:
        queue: asyncio.Queue[Any] = asyncio.Queue()

        async def work() -> None:
            while True:
                value, future = await queue.get()
                if self.suspend:
                    await asyncio.sleep(0)
                if future is not None:
                    future.set_result(value)

        return queue, asyncio.create_task(work())

    async def tell(self, count: int) -> None:
        queue, task = self.start()
        for _ in range(count // BURST):
            for number in range(BURST - 1):
                queue.put_nowait((number, None))
            last = asyncio.get_running_loop().create_future()
            queue.put_nowait((count, last))
            await last
        await _end([task])

    async def ask(self, count: int, actors: int = 1) -> None:
        loop = asyncio.get_running_loop()
        workers = [self.start() for _ in range(actors)]

        async def asker(queue: asyncio.Queue[Any]) -> None:
            for number in range(count // actors):
                future = loop.create_future()
                queue.put_nowait((number, future))
                await future

        await asyncio.gather(*(asker(queue) for queue, _ in workers))
        await _end([task for _, task in workers])

    async def suspending(self, count: int) -> None:
        await self.ask(count, 100)

    async def spawn(self, count: int) -> None:
        for _ in range(count):
            _, task = self.start()
            await _end([task])


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
