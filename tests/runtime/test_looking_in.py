"""Events, the tree, statistics, the log: what a system shows of itself."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable

import msgspec
import structlog

from tests.runtime.actors import Hooked, Recorder, Sleeper
from tinkex_actors.runtime import (
    ActorCrashed,
    ActorRestarted,
    ActorStarted,
    ActorStopped,
    ActorSystem,
    ActorTree,
    ChildSpec,
    Event,
    EventHub,
    HandlerBlocked,
    Poisoned,
    Supervisor,
)
from tinkex_actors.testing import settle, virtual_time


@virtual_time()
async def test_the_life_of_an_actor_as_events() -> None:
    async with ActorSystem() as system:
        seen: list[Event] = []
        unsubscribe = system.events.subscribe(seen.append)
        ref = await system.spawn(Hooked, "a", [], name="a")
        ref.cast.crash()
        await settle()
        await ref.stop()
        assert [type(event) for event in seen] == [
            ActorStarted,
            ActorCrashed,
            Poisoned,
            ActorStarted,
            ActorRestarted,
            ActorStopped,
        ]
        assert {event.path for event in seen} == {"/a"}
        crash = seen[1]
        assert isinstance(crash, ActorCrashed)
        assert (crash.where, crash.incarnation, type(crash.error)) == ("crash", 0, ZeroDivisionError)
        unsubscribe()
        await system.spawn(Recorder)
        assert len(seen) == 6


def test_subscribers_choose_types_and_failing_ones_are_isolated() -> None:
    hub = EventHub()
    numbers: list[object] = []
    everything: list[object] = []

    def broken(event: object) -> None:
        raise ValueError("subscriber")

    assert not hub.active
    first = hub.subscribe(broken)
    hub.subscribe(numbers.append, int, float)
    hub.subscribe(everything.append)
    for event in (1, "a", 2.5):
        hub.publish(event)
    assert numbers == [1, 2.5]
    assert everything == [1, "a", 2.5]
    assert hub.failures == 3
    assert isinstance(hub.last_failure, ValueError)
    first()
    first()
    hub.publish(3)
    assert hub.failures == 3


def test_a_subscriber_may_unsubscribe_while_it_is_told() -> None:
    hub = EventHub()
    seen: list[object] = []
    end = hub.subscribe(lambda event: (seen.append(event), end()))
    hub.publish(1)
    hub.publish(2)
    assert seen == [1]
    assert not hub.active


@virtual_time()
async def test_the_tree_is_a_picture_and_plain_data() -> None:
    async with ActorSystem(name="app") as system:
        sup = await system.spawn(
            Supervisor,
            [ChildSpec(Sleeper, name="one"), ChildSpec(Recorder, name="two")],
            name="core",
        )
        await system.spawn(Recorder, name="side")
        sup.child("one").cast.nap(5.0)
        sup.child("two").cast.crash()
        await settle()
        sup.child("one").cast.put(1)
        tree = system.tree()
        assert str(tree) == "\n".join(
            [
                "app        ActorSystem  4 actors · 1 queued · 2 done",
                "├─ core    Supervisor   ○ idle",
                "│  ├─ one  Sleeper      ● running in nap · 1 queued · 1 done",
                "│  └─ two  Recorder     ○ idle · 1 done · restarted 1x (ZeroDivisionError: planted)",
                "└─ side    Recorder     ○ idle",
            ]
        )
        assert msgspec.json.decode(msgspec.json.encode(tree), type=ActorTree) == tree


@virtual_time()
async def test_the_picture_cuts_what_is_long_and_keeps_its_columns() -> None:
    async with ActorSystem(name="app") as system:
        await system.spawn(Recorder, name="run-0123456789abcdef0123456789abcdef:train:0")
        failing = await system.spawn(Failing, name="f")
        failing.cast.fail("x" * 200 + "\nsecond line")
        failing.kill()
        await settle()
        assert str(system.tree()).splitlines() == [
            "app                     ActorSystem  2 actors · 1 done",
            "├─ run-012345…:train:0  Recorder     ○ idle",
            f"└─ f                    Failing      ○ idle · 1 done · restarted 2x (ValueError: {'x' * 59}…)",
        ]
        assert "0123456789abcdef0123456789abcdef" in system.tree().children[0].statistics.path


class Failing(Recorder):
    from tinkex_actors.runtime import handler as _handler

    @_handler
    def fail(self, text: str) -> None:
        raise ValueError(text)


async def test_an_actor_with_work_on_a_thread_computes_and_one_with_tasks_is_not_idle() -> None:
    release = threading.Event()
    async with contextlib.AsyncExitStack() as stack:
        system = await stack.enter_async_context(ActorSystem(name="app"))
        stack.callback(release.set)
        inside, beside = await system.spawn(Computer, name="inside"), await system.spawn(Computer, name="beside")
        tending = await system.spawn(Computer, name="tending")
        inside.cast.compute(release.wait)
        beside.cast.compute_beside(release.wait)
        tending.cast.tend(4)
        for _ in range(3):  # the handlers, then the tasks they made
            await asyncio.sleep(0)
        assert str(system.tree()).splitlines()[1:] == [
            "├─ inside   Computer     ● computing Event.wait in compute · 1 done",
            "├─ beside   Computer     ● computing Event.wait · 1 task running · 1 done",
            "└─ tending  Computer     ◌ 4 tasks running · 1 done",
        ]
        statistics = [ref.statistics() for ref in (inside, beside, tending)]
        assert [row.state for row in statistics] == ["computing", "computing", "idle"]
        assert [row.computing for row in statistics] == [("Event.wait",), ("Event.wait",), ()]
        text = str(system.explain(inside))
        assert text.startswith("/inside runs compute at ")
        assert text.endswith(": Event.wait on a thread")
        assert str(system.explain(beside)) == "/beside is computing: Event.wait on a thread"
        release.set()
        assert await inside.call.seen() == ["computed"]
        assert inside.statistics().computing == ()


class Computer(Recorder):
    from tinkex_actors.runtime import handler as _handler

    @_handler
    async def compute(self, wait: Callable[[], object]) -> None:
        await self.blocking(wait, workers=2)
        self.mine.append("computed")

    @_handler
    def compute_beside(self, wait: Callable[[], object]) -> None:
        self.task(self.blocking(wait, workers=2))

    @_handler
    def tend(self, tasks: int) -> None:
        for _ in range(tasks):
            self.task(asyncio.Event().wait())


@virtual_time()
async def test_statistics_count() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Recorder, name="r")
        for number in range(10):
            ref.cast.put(number)
        assert ref.statistics().queued == 10
        assert ref.statistics().state == "ready"
        await settle()
        statistics = ref.statistics()
        assert (statistics.processed, statistics.queued, statistics.state) == (10, 0, "idle")
        assert (statistics.capacity, statistics.cls, statistics.handling) == (1024, "Recorder", None)


@virtual_time()
async def test_one_log_line_per_crash_with_a_traceback_but_no_local_variables() -> None:
    async with ActorSystem(name="app") as system:
        ref = await system.spawn(Secretive)
        with structlog.testing.capture_logs() as logs:
            ref.cast.leak()
            await settle()
        (line,) = logs
        assert line["event"] == "actor.crashed"
        assert line["log_level"] == "error"
        assert (line["system"], line["actor"], line["where"], line["incarnation"]) == ("app", "/secretive-1", "leak", 0)
        assert "ValueError: planted" in line["exception"]
        assert "tml-" not in str(line)
        assert "exc_info" not in line


class Secretive(Recorder):
    from tinkex_actors.runtime import handler as _handler

    @_handler
    def leak(self) -> None:
        key = "tml" + "-secret"
        assert key
        raise ValueError("planted")


async def test_a_handler_that_blocks_the_loop_is_named() -> None:
    async with ActorSystem(watchdog=0.05) as system:
        seen: list[HandlerBlocked] = []
        system.events.subscribe(seen.append, HandlerBlocked)
        ref = await system.spawn(Blocker)
        slow = await system.spawn(AsyncBlocker)
        for sending in (ref.cast.block, ref.call.block, slow.call.block, slow.cast.block, slow.call.block_later):
            told = len(seen)
            result = sending(time.sleep)
            if result is not None:
                await result
            async with asyncio.timeout(10.0):
                await asyncio.to_thread(_until, lambda told=told: len(seen) > told)
        assert [(event.path, event.message) for event in seen] == [
            ("/blocker-1", "block"),
            ("/blocker-1", "block"),
            ("/asyncblocker-2", "block"),
            ("/asyncblocker-2", "block"),
            ("/asyncblocker-2", "block_later"),
        ]
        assert all(event.seconds >= 0.05 for event in seen)
        assert all(event.stack[-1].split()[-1] in ("block", "block_later") for event in seen)


def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.005)


class Blocker(Recorder):
    from tinkex_actors.runtime import handler as _handler

    @_handler
    def block(self, sleep: object) -> None:
        sleep(0.3)  # type: ignore[operator]


class AsyncBlocker(Recorder):
    from tinkex_actors.runtime import handler as _handler

    @_handler
    async def block(self, sleep: object) -> None:
        sleep(0.3)  # type: ignore[operator]

    @_handler
    async def block_later(self, sleep: object) -> None:
        await asyncio.sleep(0)
        sleep(0.3)  # type: ignore[operator]
