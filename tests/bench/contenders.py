"""Other Python actor libraries doing the same work: a counting sink, an echo, one short life.

They come with the ``bench`` extra; one that is not installed is left out, with a line that says so. Each has its own
way of sending and stopping, so each is driven as its own documentation drives it.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

Measure = Callable[[int], Awaitable[None]]
Measures = dict[str, Measure]


def installed(module: str) -> bool:
    """Return whether a contender can be imported."""
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


def _measures(
    tell: Callable[[int], Any],
    ask: Callable[[int], Awaitable[int]],
    spawn: Measure | None = None,
) -> Measures:
    """Return the measures made of one actor's tell and ask; the ask at the end of the tells sees them all handled."""

    async def tells(count: int) -> None:
        for number in range(count):
            tell(number)
        await ask(0)

    async def asks(count: int) -> None:
        for number in range(count):
            await ask(number)

    async def askers(count: int) -> None:
        await asyncio.gather(*(asks(count // 100) for _ in range(100)))

    measures: Measures = {"tell": tells, "call": asks, "call, 100 callers": askers}
    if spawn is not None:
        measures["spawn and stop"] = spawn
    return measures


@asynccontextmanager
async def pykka() -> AsyncIterator[Measures]:
    """A thread per actor."""
    library = importlib.import_module("pykka")

    class Sink(library.ThreadingActor):  # type: ignore[name-defined, misc]
        count = 0

        def on_receive(self, message: Any) -> int:
            self.count += 1
            return int(message)

    ref = Sink.start()

    async def ask(value: int) -> int:
        return int(ref.ask(value))

    async def spawn(count: int) -> None:
        for _ in range(count):
            Sink.start().stop()

    async def askers(count: int) -> None:
        for _ in range(count // 100):
            library.get_all([ref.ask(number, block=False) for number in range(100)])

    measures = _measures(ref.tell, ask, spawn)
    measures["call, 100 callers"] = askers  # the callers would be threads; their futures are gathered instead
    yield measures
    ref.stop()


@asynccontextmanager
async def mindmesh() -> AsyncIterator[Measures]:
    """A task and a queue per actor."""
    library = importlib.import_module("mindmesh")

    @dataclass
    class Hit:
        value: int

    @dataclass
    class Echo(library.Request[int]):  # type: ignore[name-defined, misc]
        value: int

    class Sink(library.BaseActor):  # type: ignore[name-defined, misc]
        count = 0

        async def on_message(self, message: Any) -> int:
            self.count += 1
            return int(message.value)

    hive = library.ActorHive()
    ref = hive.start_actor(Sink)
    await ref.wait_for_start()

    async def ask(value: int) -> int:
        return int(await ref.ask(Echo(value)))

    async def spawn(count: int) -> None:
        for _ in range(count):
            one = hive.start_actor(Sink)
            await one.wait_for_start()
            one.stop()
            await one.wait_for_stop()

    yield _measures(lambda value: ref.tell(Hit(value)), ask, spawn)
    await hive.shutdown()


@asynccontextmanager
async def tapio() -> AsyncIterator[Measures]:
    """Typed, validated messages; validation of contents as by default."""
    library = importlib.import_module("tapio")
    mailboxes = importlib.import_module("tapio.actor")
    logging.getLogger("tapio").setLevel(logging.ERROR)

    class Answer(library.Message):  # type: ignore[name-defined, misc]
        value: int

    class Hit(library.Message):  # type: ignore[name-defined, misc]
        value: int
        reply_to: Any = None

    async def receive(message: Hit) -> Any:
        if message.reply_to is not None:
            message.reply_to.tell(Answer(value=message.value))
        return library.Behaviors.same()

    receive.__annotations__ = {"message": Hit, "return": library.Behavior}
    long = timedelta(seconds=60)
    async with library.ActorSystem("bench") as system:
        ref = system.spawn(
            library.Behaviors.receive_message(receive), "sink", mailbox=mailboxes.MailboxConfig(capacity=10_000_000)
        )

        async def ask(value: int) -> int:
            answer = await ref.ask(lambda to: Hit(value=value, reply_to=to), expect=Answer, timeout=long)
            return int(answer.value)

        yield _measures(lambda value: ref.tell(Hit(value=value)), ask)


@asynccontextmanager
async def xoscar() -> AsyncIterator[Measures]:
    """Actors of one process' pool, called through its router."""
    library = importlib.import_module("xoscar")

    class Sink(library.Actor):  # type: ignore[name-defined, misc]
        count = 0

        async def echo(self, value: int) -> int:
            self.count += 1
            return value

    pool = await library.create_actor_pool("127.0.0.1", n_process=0)
    numbers = itertools.count()
    async with pool:
        ref = await library.create_actor(Sink, address=pool.external_address, uid="sink")

        async def tells(count: int) -> None:
            for number in range(count):
                await ref.echo.tell(number)
            await ref.echo(0)

        async def spawn(count: int) -> None:
            for _ in range(count):
                one = await library.create_actor(Sink, address=pool.external_address, uid=f"s{next(numbers)}")
                await library.destroy_actor(one)

        measures = _measures(lambda value: None, ref.echo, spawn)
        measures["tell"] = tells
        yield measures


CONTENDERS = {"pykka": pykka, "mindmesh": mindmesh, "tapio": tapio, "xoscar": xoscar}
