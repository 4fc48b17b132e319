"""Actors that many tests use."""

from __future__ import annotations

import asyncio
from typing import Any

from tinkex_actors.runtime import Actor, ActorRef, Down, ExitReason, handler


class Recorder(Actor):
    """``def`` handlers only: no task. Records what it is sent; ``journal`` outlives restarts."""

    def __init__(self, journal: list[Any] | None = None) -> None:
        self.journal = journal if journal is not None else []
        self.mine: list[Any] = []

    @handler
    def put(self, item: Any) -> None:
        self.mine.append(item)
        self.journal.append(item)

    @handler
    def seen(self) -> list[Any]:
        return list(self.mine)

    @handler
    def crash(self) -> None:
        raise ZeroDivisionError("planted")


class Sleeper(Recorder):
    """The same with an ``async def`` handler: a task per burst."""

    busy = False

    @handler
    async def nap(self, seconds: float) -> str:
        assert not self.busy, "two messages at a time"
        self.busy = True
        await asyncio.sleep(seconds)
        self.busy = False
        self.mine.append("napped")
        return "napped"

    @handler
    async def crash_after(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        raise ZeroDivisionError("planted")


class Hooked(Actor):
    """Writes its hooks into a shared journal as ``name:hook``."""

    def __init__(self, name: str, journal: list[str], init_seconds: float = 0.0, fail_inits: list[int] | None = None):
        self.name = name
        self.journal = journal
        self.init_seconds = init_seconds
        self.fail_inits = fail_inits if fail_inits is not None else []
        journal.append(f"{name}:new")

    async def init(self) -> None:
        if self.init_seconds:
            await asyncio.sleep(self.init_seconds)
        if self.fail_inits:
            self.fail_inits.pop()
            raise OSError(f"{self.name} cannot start")
        self.journal.append(f"{self.name}:init")

    async def on_stop(self, reason: ExitReason) -> None:
        self.journal.append(f"{self.name}:stop:{type(reason).__name__}")

    @handler
    async def crash(self) -> None:
        raise ZeroDivisionError(self.name)

    @handler
    async def ping(self) -> str:
        return self.name

    @handler
    async def finish(self) -> None:
        self.stop()


class Watcher(Actor):
    """Monitors and links on demand."""

    def __init__(self) -> None:
        self.downs: list[Down] = []

    @handler
    def watch(self, ref: ActorRef[Any]) -> None:
        self.monitor(ref)

    @handler
    def unwatch(self, ref: ActorRef[Any]) -> None:
        self.demonitor(ref)

    @handler
    def tie(self, ref: ActorRef[Any]) -> None:
        self.link(ref)

    @handler
    def untie(self, ref: ActorRef[Any]) -> None:
        self.unlink(ref)

    @handler
    async def busy(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    @handler
    def crash(self) -> None:
        raise ZeroDivisionError

    @handler
    def seen(self) -> list[Down]:
        return list(self.downs)

    def on_down(self, down: Down) -> None:
        self.downs.append(down)
