"""Seldom met moments of systems: how they fail, and what their threads do at the end."""

from __future__ import annotations

import asyncio
import threading

import pytest

from tests.runtime.actors import Recorder
from tinkex_actors.errors import (
    ClosedError,
    RestartsExhaustedError,
)
from tinkex_actors.runtime import (
    Actor,
    ActorSystem,
    ChildSpec,
    handler,
)
from tinkex_actors.testing import settle, virtual_time


@virtual_time()
async def test_a_system_without_a_block_fails_into_its_report() -> None:
    system = await ActorSystem(max_restarts=0).start()
    (await system.spawn(Recorder)).cast.crash()
    await settle()
    report = await system.stop()
    assert isinstance(report.failure, RestartsExhaustedError)
    assert not system.running


@virtual_time()
async def test_an_error_of_the_block_itself_is_not_covered_by_the_systems_failure() -> None:
    async def block() -> None:
        async with ActorSystem(max_restarts=0) as system:
            (await system.spawn(Recorder)).cast.crash()
            try:
                await asyncio.sleep(10.0)
            except asyncio.CancelledError:
                raise LookupError("the block's own") from None

    with pytest.raises(LookupError):
        await block()


@virtual_time()
async def test_a_block_cancelled_by_others_too_stays_cancelled() -> None:
    async def block() -> None:
        async with ActorSystem(max_restarts=0) as system:
            (await system.spawn(Recorder)).cast.crash()
            try:
                await asyncio.sleep(10.0)
            finally:  # cancelled by the system; now somebody else asks too
                task.cancel()

    task = asyncio.ensure_future(block())
    await asyncio.wait((task,))
    assert task.cancelled()


async def test_blocking_calls_that_no_thread_came_to_are_refused_at_the_systems_end() -> None:
    release = asyncio.Event()
    held, loop = threading.Event(), asyncio.get_running_loop()

    def hold() -> str:
        loop.call_soon_threadsafe(release.set)
        held.wait(10.0)
        return "done"

    async with ActorSystem() as system:
        running = asyncio.ensure_future(system.blocking(hold))
        second = asyncio.ensure_future(system.blocking(hold, executor="second"))
        waiting = asyncio.ensure_future(system.blocking(hold))
        await release.wait()
        stopping = asyncio.ensure_future(system.stop())
        with pytest.raises(ClosedError, match="stopped before executor 'default' came to"):
            await waiting
        held.set()
        assert (await stopping).clean
    assert [await running, await second] == ["done", "done"]


@virtual_time()
async def test_cancelling_who_waits_for_a_thread_does_not_stop_the_thread() -> None:
    release = threading.Event()
    async with ActorSystem() as system:
        work = asyncio.ensure_future(system.blocking(release.wait))
        await asyncio.sleep(0)
        work.cancel()
        await asyncio.wait((work,))
        assert work.cancelled()
        release.set()
        assert await system.blocking(max, 1, 2) == 2, "the one thread has come to an end of it"


@virtual_time()
async def test_top_level_actors_start_from_specs_while_the_system_runs() -> None:
    async with ActorSystem() as system:
        ref = await system.start_child(ChildSpec(Recorder, name="a"))
        assert system.whereis("/a") is ref
    with pytest.raises(ClosedError):
        await system.start_child(ChildSpec(Recorder, name="a"))


@virtual_time()
async def test_what_linked_tasks_have_for_sleeping_and_blocking() -> None:
    class Works(Actor):
        @handler
        async def work(self) -> int:
            await self.system.sleep(2.0)
            return await self.blocking(max, 1, 2)

    async with ActorSystem() as system:
        assert await (await system.spawn(Works)).call.work() == 2
        assert system.now() == 2.0
