"""Inside any running program: both loops, several systems in one loop, a system per thread, nothing at import."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from tests.runtime.actors import Hooked, Recorder, Sleeper
from tinkex_actors.errors import CallTimeoutError
from tinkex_actors.runtime import ActorRef, ActorSystem, ChildSpec, Supervisor

RECORDER: web.AppKey[ActorRef[Sleeper]] = web.AppKey("recorder", ActorRef)


async def a_bit_of_everything() -> None:
    journal: list[str] = []
    async with ActorSystem() as system:
        sup = await system.spawn(Supervisor, [ChildSpec(Hooked, ("a", journal), name="a")])
        quick, slow = await system.spawn(Recorder), await system.spawn(Sleeper)
        for number in range(100):
            quick.cast.put(number)
            slow.cast.put(number)
        assert await quick.call.seen() == await slow.call.seen() == list(range(100))
        with pytest.raises(TimeoutError):
            await slow.within(0.01).call.nap(0.03)
        with pytest.raises(ZeroDivisionError):
            await sup.child("a").call.crash()
        assert await sup.child("a").call.ping() == "a"
        assert await system.blocking(threading.get_ident) != threading.get_ident()
        assert await slow.call.seen() == [*range(100), "napped"]
    assert journal[-1] == "a:stop:Shutdown"
    assert len(asyncio.all_tasks()) == 1


def loops() -> list[Callable[[], asyncio.AbstractEventLoop]]:
    found: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.SelectorEventLoop]
    if sys.platform != "win32":
        import uvloop

        found.append(uvloop.new_event_loop)
    return found


@pytest.mark.parametrize("factory", loops(), ids=lambda factory: factory.__module__)
@pytest.mark.parametrize("debug", [False, True])
def test_real_time_on_every_loop(factory: Callable[[], asyncio.AbstractEventLoop], debug: bool) -> None:
    with asyncio.Runner(loop_factory=factory, debug=debug) as runner:
        runner.run(a_bit_of_everything())


async def test_inside_a_web_application() -> None:
    """Started and stopped by the application's own life cycle; handlers of requests call actors."""

    async def actors(app: web.Application) -> AsyncIterator[None]:
        async with ActorSystem(name="web") as system:
            app[RECORDER] = await system.spawn(Sleeper)
            yield

    async def put(request: web.Request) -> web.Response:
        await request.app[RECORDER].call.put(request.match_info["item"])
        return web.json_response(await request.app[RECORDER].call.seen())

    async def too_slow(request: web.Request) -> web.Response:
        try:
            await request.app[RECORDER].within(0.01).call.nap(0.05)
        except CallTimeoutError:
            return web.Response(status=504)
        return web.Response()

    app = web.Application()
    app.cleanup_ctx.append(actors)
    app.router.add_put("/{item}", put)
    app.router.add_get("/slow", too_slow)
    async with TestClient(TestServer(app)) as client:
        answers = await asyncio.gather(*(client.put(f"/{item}") for item in "abc"))
        assert [answer.status for answer in answers] == [200, 200, 200]
        assert sorted(await (await client.put("/d")).json()) == ["a", "b", "c", "d"]
        assert (await client.get("/slow")).status == 504
    assert not app[RECORDER].alive


async def test_several_systems_share_a_loop() -> None:
    async with ActorSystem(name="one") as one, ActorSystem(name="two") as two:
        first, second = await one.spawn(Recorder, name="same"), await two.spawn(Recorder, name="same")
        await first.call.put(1)
        assert await second.call.seen() == []
        assert one.whereis("same") is first
        assert two.whereis("same") is second


def test_a_system_per_thread() -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            asyncio.run(a_bit_of_everything())
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.slow
def test_importing_makes_no_thread_and_no_loop_and_loads_no_logger() -> None:
    program = (
        "import sys, threading, tinkex_actors.runtime;"
        "assert threading.active_count() == 1;"
        "assert not {'structlog', 'uvloop', 'aiohttp', 'jax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


async def test_a_task_factory_of_the_program_sees_only_the_programs_own_tasks() -> None:
    """An eager factory would run handlers inside their senders: the runtime's own tasks do not pass by it."""
    loop = asyncio.get_running_loop()
    made: list[str] = []

    def factory(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        made.append(coroutine.__qualname__)
        return asyncio.Task(coroutine, loop=loop, **options)

    loop.set_task_factory(factory)
    try:
        async with ActorSystem() as system:
            slow, hooked = await system.spawn(Sleeper), await system.spawn(Hooked, "a", [])
            await slow.call.nap(0.0)
            with pytest.raises(ZeroDivisionError):
                await hooked.call.crash()
            assert await hooked.call.ping() == "a"
    finally:
        loop.set_task_factory(None)
    assert made == []
