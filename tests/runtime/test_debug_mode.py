"""``ActorSystem(debug=True)`` finds tasks that escape their handlers, and only those."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.runtime.actors import Recorder
from tinkex_actors.runtime import Actor, ActorRef, ActorSystem, RestartPolicy, StrayTask, handler
from tinkex_actors.testing import settle, virtual_time


async def pause() -> None:
    await asyncio.sleep(1.0)


class Careless(Actor):
    restart_policy = RestartPolicy(carry="kept")

    def __init__(self) -> None:
        self.kept: tuple[Any, ...] = ()

    @handler
    async def create(self) -> None:
        self.kept = (asyncio.create_task(pause(), name="stray"),)

    @handler
    def create_now(self) -> None:
        self.kept = (asyncio.ensure_future(pause()),)

    @handler
    async def capture(self) -> None:
        self.kept = (asyncio.current_task(),)

    @handler
    async def capture_for_later(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.after(5.0, task.cancel)


class Careful(Recorder):
    @handler
    async def wait_for_all(self) -> None:
        task = asyncio.create_task(pause())
        await asyncio.gather(pause(), pause())
        async with asyncio.TaskGroup() as group:
            group.create_task(pause())
        await asyncio.wait_for(pause(), 5.0)
        await task

    @handler
    async def link_a_task(self) -> None:
        self.task(self.linked())

    async def linked(self) -> None:
        """Makes tasks of its own, which are not the handler's that runs beside it."""
        task = asyncio.create_task(asyncio.sleep(0.5))
        await task

    @handler
    async def time_out(self) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await pause()

    @handler(raises=LookupError)
    async def refuse(self) -> None:
        task = asyncio.current_task()
        raise LookupError(task)

    @handler
    async def crash_slowly(self) -> None:
        raise ZeroDivisionError

    @handler
    async def ask(self, other: ActorRef[Any]) -> None:
        await other.call.seen()


async def strays(system: ActorSystem, cls: type[Actor], *messages: str) -> list[StrayTask]:
    seen: list[StrayTask] = []
    end = system.events.subscribe(seen.append, StrayTask)
    ref = await system.spawn(cls)
    for message in messages:
        getattr(ref.cast, message)()
        await asyncio.sleep(10.0)
    end()
    return seen


@virtual_time()
async def test_a_task_that_outlives_its_handler_is_named_with_the_line_that_made_it() -> None:
    async with ActorSystem(debug=True) as system:
        first, second = await strays(system, Careless, "create", "create_now")
        assert (first.path, first.message, first.how, first.task) == ("/careless-1", "create", "made", "stray (pause)")
        line = Careless.create.function.__code__.co_firstlineno + 2
        assert first.place == f"{__file__}:{line}"
        assert (second.message, second.how) == ("create_now", "made")


@virtual_time()
async def test_a_captured_task_is_found() -> None:
    async with ActorSystem(debug=True) as system:
        found = await strays(system, Careless, "capture", "capture_for_later")
        assert [stray.message for stray in found] == ["capture", "capture_for_later"]
        assert {stray.how for stray in found} == {"captured"}


@virtual_time()
async def test_tasks_that_end_with_their_handler_and_linked_tasks_are_no_strays() -> None:
    async with ActorSystem(debug=True) as system:
        messages = ("wait_for_all", "link_a_task", "time_out", "refuse", "crash_slowly", "crash")
        assert await strays(system, Careful, *messages) == []
        other, asker = await system.spawn(Recorder), await system.spawn(Careful)
        asker.cast.link_a_task()
        await asker.call.wait_for_all()
        await asker.call.ask(other)
        with pytest.raises(LookupError):
            await asker.call.refuse()
        await settle()


@virtual_time()
async def test_the_programs_own_task_factory_comes_back() -> None:
    loop = asyncio.get_running_loop()
    made: list[str] = []

    def factory(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        made.append(coroutine.__qualname__)
        return asyncio.Task(coroutine, loop=loop, **options)

    loop.set_task_factory(factory)
    async with ActorSystem(debug=True) as system:
        (await system.spawn(Careless)).cast.create()
        await settle()
    assert made == ["pause"]
    assert loop.get_task_factory() is factory
    async with ActorSystem(debug=True):
        loop.set_task_factory(None)
    assert loop.get_task_factory() is None


@virtual_time()
async def test_without_debug_nothing_is_watched() -> None:
    async with ActorSystem() as system:
        assert await strays(system, Careless, "create", "capture") == []
        assert asyncio.get_running_loop().get_task_factory() is None
