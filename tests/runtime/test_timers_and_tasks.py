"""Timers, continuations, linked tasks: what belongs to an incarnation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.runtime.actors import Recorder, Sleeper
from tinkex_actors.errors import ActorStoppedError, ConfigError
from tinkex_actors.runtime import (
    Actor,
    ActorSystem,
    Mailbox,
    Normal,
    handler,
)
from tinkex_actors.testing import settle, virtual_time


class Clockwork(Recorder):
    """Timers, tasks and continuations on demand."""

    def __init__(self, journal: list[Any]) -> None:
        super().__init__(journal)
        self.timers: list[Any] = []

    @handler
    def tick(self, name: str = "tick") -> None:
        self.put_now(name)

    def put_now(self, name: str) -> None:
        self.journal.append((name, self.system.now()))

    @handler
    def arm(self, seconds: float, *args: str) -> None:
        self.timers.append(self.after(seconds, self.ref.cast.tick, *args))

    @handler
    def beat(self, seconds: float) -> None:
        self.timers.append(self.every(seconds, self.ref.cast.tick))

    @handler
    def disarm(self) -> None:
        for timer in self.timers:
            timer.cancel()

    @handler
    def chain(self, *names: str) -> None:
        for name in names:
            self.continue_with(self.ref.cast.tick, name)

    @handler
    def run(self, body: Callable[[Clockwork], Any]) -> Any:
        return body(self)


@virtual_time()
async def test_after_and_every_and_cancel() -> None:
    journal: list[Any] = []
    async with ActorSystem() as system:
        ref = await system.spawn(Clockwork, journal)
        ref.cast.arm(1.5, "once")
        ref.cast.beat(1.0)
        await asyncio.sleep(3.5)
        ref.cast.disarm()
        await asyncio.sleep(10.0)
        assert journal == [("tick", 1.0), ("once", 1.5), ("tick", 2.0), ("tick", 3.0)]
        assert ref.statistics().timers == 0


@virtual_time()
async def test_timers_end_with_their_incarnation() -> None:
    journal: list[Any] = []
    async with ActorSystem() as system:
        ref = await system.spawn(Clockwork, journal)
        ref.cast.arm(5.0)
        ref.cast.beat(1.0)
        ref.cast.crash()
        await asyncio.sleep(10.0)
        assert journal == []
        assert ref.alive


@virtual_time()
async def test_a_due_timer_passes_a_full_mailbox_and_a_beat_skips() -> None:
    journal: list[Any] = []
    async with ActorSystem() as system:
        ref = await system.spawn(Sleepy, journal, mailbox=Mailbox(1))
        ref.cast.prepare()
        await settle()
        ref.cast.nap(10.0)
        await settle()
        ref.cast.put("fills the mailbox")
        await asyncio.sleep(5.0)
        assert ref.statistics().queued == 2
        await asyncio.sleep(5.4)
        assert [name for name, _ in journal if name == "once"] == ["once"]
        assert [at for name, at in journal if name == "beat"] == []
        await asyncio.sleep(1.0)
        assert [at for name, at in journal if name == "beat"] == [11.0]


class Sleepy(Actor):
    def __init__(self, journal: list[Any]) -> None:
        self.journal = journal

    @handler
    def note(self, name: str) -> None:
        self.journal.append((name, self.system.now()))

    @handler
    def put(self, item: str) -> None:
        self.journal.append((item, self.system.now()))

    @handler
    def prepare(self) -> None:
        self.after(1.0, self.ref.cast.note, "once")
        self.every(1.0, self.ref.cast.note, "beat")

    @handler
    async def nap(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@virtual_time()
async def test_a_day_of_heartbeats_of_fifty_actors() -> None:
    async with ActorSystem() as system:
        refs = [await system.spawn(Clockwork, []) for _ in range(50)]
        for ref in refs:
            ref.cast.beat(100.0)
        await asyncio.sleep(86_400.0 + 1.0)
        assert {ref.statistics().processed for ref in refs} == {865}


@virtual_time()
async def test_a_timer_whose_callback_fails_crashes_its_actor() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Clockwork, [])
        await ref.call.run(lambda actor: actor.after(1.0, lambda: 1 / 0) and None)
        await asyncio.sleep(2.0)
        assert ref.statistics().last_crash == "ZeroDivisionError: division by zero"
        assert ref.statistics().incarnation == 1


@virtual_time()
async def test_impossible_timers_are_refused() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Clockwork, [])
        body: Any
        for body in (
            lambda actor: actor.after(-1.0, actor.ref.cast.tick),
            lambda actor: actor.every(0.0, actor.ref.cast.tick),
            lambda actor: actor.continue_with(print),
        ):
            with pytest.raises(ConfigError):
                await ref.call.run(body)
            await settle()


@virtual_time()
async def test_continuations_go_before_everything_queued_in_their_own_order() -> None:
    journal: list[Any] = []
    async with ActorSystem() as system:
        ref = await system.spawn(Clockwork, journal)
        ref.cast.chain("c1", "c2")
        ref.cast.tick("queued")
        await settle()
        assert [name for name, _ in journal] == ["c1", "c2", "queued"]


@virtual_time()
async def test_idle_after_stops_an_actor_nobody_talks_to() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Clockwork, [], restart="transient")
        await ref.call.run(lambda actor: actor.idle_after(10.0) and None)
        for _ in range(5):
            await asyncio.sleep(6.0)
            ref.cast.tick()
        assert ref.alive
        await asyncio.sleep(21.0)
        assert await ref.stopped == Normal()


@virtual_time()
async def test_a_linked_tasks_error_is_a_crash_even_under_a_running_handler() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Tasker)
        nap = asyncio.ensure_future(ref.call.nap(100.0))
        await settle()
        ref.kill()
        with pytest.raises(ActorStoppedError):
            await nap
        ref.cast.start_failing(1.0)
        waiting = asyncio.ensure_future(ref.within(50.0).call.nap(10.0))
        with pytest.raises(Exception, match="crashed while it ran nap") as info:
            await waiting
        assert isinstance(info.value.__cause__, LookupError)
        assert system.now() == 1.0
        assert ref.statistics().last_crash == "LookupError: task"


class Tasker(Sleeper):
    @handler
    def start_failing(self, seconds: float) -> None:
        self.task(self.fail(seconds))

    async def fail(self, seconds: float) -> None:
        await self.sleep(seconds)
        raise LookupError("task")

    @handler
    def start_endless(self, journal: list[str]) -> None:
        self.task(self.endless(journal), name="endless")

    async def endless(self, journal: list[str]) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(0.5)
            journal.append("cleaned up")


@pytest.mark.parametrize("how", ["stop", "crash"])
@virtual_time()
async def test_stop_and_restart_cancel_linked_tasks_and_wait_for_them(how: str) -> None:
    journal: list[str] = []
    async with ActorSystem() as system:
        ref = await system.spawn(Tasker)
        await ref.call.start_endless(journal)
        await settle()
        assert ref.statistics().tasks == 1
        if how == "stop":
            await ref.stop()
        else:
            ref.cast.crash()
            assert await ref.call.seen() == []
        assert journal == ["cleaned up"]
        assert ref.statistics().tasks == 0


@virtual_time()
async def test_the_dead_start_nothing() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Clockwork, [])
        actor: Clockwork = ref.actor
        await ref.stop()
        coroutine = asyncio.sleep(1.0)
        for action in (
            lambda: actor.after(1.0, ref.cast.tick),
            lambda: actor.task(coroutine),
            lambda: actor.continue_with(ref.cast.tick),
        ):
            with pytest.raises(ActorStoppedError, match="has stopped"):
                action()
        with pytest.raises(ActorStoppedError, match="starts no more children"):
            await actor.spawn(Recorder)
