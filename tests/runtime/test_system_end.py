"""The end of a system: blocking calls, deadlines, what is abandoned, what is reported."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.runtime.actors import Recorder
from tinkex_actors.errors import ClosedError, ConfigError, StartFailedError, StopTimeoutError
from tinkex_actors.runtime import (
    Actor,
    ActorSystem,
    DidNotStop,
    StopReport,
    handler,
)
from tinkex_actors.testing import settle, virtual_time


@virtual_time()
async def test_what_ignores_its_cancellation_is_abandoned_and_named() -> None:
    events: list[DidNotStop] = []
    release = asyncio.Event()
    system = ActorSystem(stop_timeout=3.0)
    system.events.subscribe(events.append, DidNotStop)
    with pytest.raises(StopTimeoutError, match=r"/mule: dig_in") as info:
        await leave_with_a_mule(system, release)
    report = info.value.report
    assert isinstance(report, StopReport)
    assert not report.clean
    assert [(item.path, item.what) for item in report.abandoned] == [("/mule", "dig_in")]
    assert any("test_system_end.py" in line and "dig_in" in line for line in report.abandoned[0].stack)
    assert system.now() == 4.0  # the deadline, and a second for the cancellation
    assert [event.what for event in events] == ["dig_in"]
    release.set()
    await settle()


async def leave_with_a_mule(system: ActorSystem, release: asyncio.Event) -> None:
    async with system:
        mule = await system.spawn(Stubborn, release, name="mule")
        mule.cast.dig_in()
        await settle()


@virtual_time()
async def test_what_was_abandoned_and_ended_later_does_not_spoil_the_end() -> None:
    release = asyncio.Event()
    async with ActorSystem() as system:
        mule = await system.spawn(Stubborn, release, shutdown=1.0)
        mule.cast.dig_in()
        await settle()
        await mule.stop()
        assert system.now() == 2.0
        release.set()
        await settle()
    assert (await system.stop()).clean


class Stubborn(Actor):
    def __init__(self, release: asyncio.Event) -> None:
        self.release = release

    @handler
    async def dig_in(self) -> None:
        while not self.release.is_set():
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                continue


@virtual_time()
async def test_blocking_runs_on_a_thread_and_raises_what_it_raised() -> None:
    async with ActorSystem(name="app") as system:
        name = await system.blocking(lambda: threading.current_thread().name, executor="io")
        assert name.startswith("app.io")
        with pytest.raises(ZeroDivisionError):
            await system.blocking(lambda: 1 / 0)
        with pytest.raises(ConfigError, match="workers="):
            await system.blocking(print, executor="none", workers=0)
    with pytest.raises(ClosedError):
        await system.blocking(print)


@pytest.mark.skipif(sys.platform != "linux", reason="niceness belongs to the whole process elsewhere")
async def test_threads_that_would_fill_every_processor_give_way_and_so_do_those_they_start() -> None:
    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def both() -> tuple[int, int]:
        with ThreadPoolExecutor(1) as started:
            return priority(), started.submit(priority).result()

    own = priority()
    async with ActorSystem() as system:
        assert await system.blocking(both, executor="polite", niceness=1) == (min(own + 1, 19),) * 2
        assert await system.blocking(both, executor="polite") == (min(own + 1, 19),) * 2
        assert await system.blocking(both) == (own, own)
    assert priority() == own


async def test_a_thread_that_does_not_end_is_named_in_the_report() -> None:
    release = threading.Event()
    system = await ActorSystem().start()
    waiting = asyncio.ensure_future(system.blocking(release.wait, executor="slow"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    report = await system.stop(timeout=0.05)
    assert [str(item) for item in report.abandoned] == ["executor: slow: Event.wait"]
    release.set()
    await waiting


@virtual_time()
async def test_stop_is_idempotent_and_closes_the_system() -> None:
    system = ActorSystem(name="twice")
    with pytest.raises(ClosedError, match="has not started"):
        await system.spawn(Recorder)
    await system.start()
    await system.start()
    await system.spawn(Recorder)
    first, second = await asyncio.gather(system.stop(), system.stop())
    assert first is second
    assert first.stopped == 1
    assert first.clean
    with pytest.raises(ClosedError, match="has stopped"):
        await system.spawn(Recorder)
    with pytest.raises(ClosedError, match="make a new one"):
        await system.start()


@pytest.mark.parametrize("where", ["init", "handler"])
@virtual_time()
async def test_no_wait_without_a_limit_outlives_the_systems_deadline(where: str) -> None:
    """Not even one that began, without a limit of its own, before the system was asked to stop."""
    release = asyncio.Event()
    system = await ActorSystem(stop_timeout=3.0).start()
    starting = None
    if where == "init":
        starting = asyncio.ensure_future(system.spawn(StubbornStart, release, name="mule"))
    else:
        mule = await system.spawn(Stubborn, release, name="mule", shutdown=float("inf"))
        mule.cast.dig_in()
        await settle()
        stopping = asyncio.ensure_future(mule.stop())
    await settle()
    report = await system.stop()
    assert [(item.path, item.what) for item in report.abandoned] == [("/mule", "init" if where == "init" else "dig_in")]
    assert system.now() <= 4.0
    if starting is not None:
        with pytest.raises(StartFailedError):
            await starting
    else:
        await stopping
    release.set()
    await settle()


class StubbornStart(Stubborn):
    async def init(self) -> None:
        while not self.release.is_set():
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                continue
