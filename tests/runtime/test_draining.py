"""``stop(drain=True)``: no new messages, but those queued are handled, within the actor's deadline."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.runtime.actors import Recorder, Sleeper
from tinkex_actors.errors import ActorStoppedError
from tinkex_actors.runtime import (
    ActorSystem,
    Backoff,
    ChildSpec,
    Mailbox,
    RestartPolicy,
    Shutdown,
    Supervisor,
    handler,
)
from tinkex_actors.testing import seeds, settle, virtual_time


class Worker(Sleeper):
    @handler
    async def work(self, item: int, seconds: float = 1.0) -> int:
        await asyncio.sleep(seconds)
        self.journal.append(item)
        return item

    @handler
    async def work_and_continue(self, item: int) -> None:
        self.continue_with(self.ref.cast.put, item)

    @handler
    async def finish(self) -> None:
        self.stop()

    @handler
    async def stop_me(self) -> Any:
        return await self.ref.stop(drain=True)


class Fast(Worker):
    restart_policy = RestartPolicy(casts="drop", fail_fast=True)


@pytest.mark.parametrize("cls", [Recorder, Worker])
def test_a_drained_actor_handles_what_is_queued_and_refuses_what_comes(cls: type[Recorder]) -> None:
    @seeds(200)
    async def scenario() -> None:
        journal: list[int] = []
        async with ActorSystem() as system:
            ref = await system.spawn(cls, journal)
            for item in range(20):
                ref.cast.put(item)
            call = asyncio.ensure_future(ref.call.put(20))
            await asyncio.sleep(0)
            ref.request_stop(Shutdown("enough"), drain=True)
            ref.cast.put(99)
            with pytest.raises(ActorStoppedError):
                await ref.call.put(99)
            assert await ref.stop(drain=True) == Shutdown("enough")
            handled_by_then = list(journal)
            assert journal[:20] == list(range(20))
            assert len(system.dead_letters) == 1
            if call.done() and call.exception() is None:
                assert handled_by_then == list(range(21))
            else:
                call.cancel()
            assert len(asyncio.all_tasks()) <= 2

    scenario()


@virtual_time()
async def test_continuations_of_drained_messages_run_and_the_message_under_way_ends() -> None:
    journal: list[int] = []
    async with ActorSystem() as system:
        ref = await system.spawn(Worker, journal)
        ref.cast.work(1)
        await settle()
        ref.cast.work_and_continue(2)
        ref.cast.work(3)
        await ref.stop(drain=True)
        assert journal == [1, 2, 3]
        assert system.now() == 2.0
        assert len(system.dead_letters) == 0


@virtual_time()
async def test_draining_an_idle_or_stopped_actor_is_stopping_it() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Worker)
        await ref.call.work(1)
        assert await ref.stop(drain=True) == Shutdown("stopped")
        assert await ref.stop(drain=True) == Shutdown("stopped")
        assert system.now() == 1.0


@virtual_time()
async def test_draining_ends_at_the_actors_own_deadline() -> None:
    journal: list[int] = []
    async with ActorSystem() as system:
        ref = await system.spawn(Worker, journal, shutdown=3.5)
        for item in range(10):
            ref.cast.work(item)
        await ref.stop(drain=True)
        assert journal == [0, 1, 2, 3]
        assert system.now() == 4.0, "the message under way at the deadline has its own grace, as in every stop"
        assert system.dead_letters.counts == {("/worker-1", "work"): 6}


@virtual_time()
async def test_a_stop_without_drain_cuts_a_drain_short_and_so_does_the_systems_end() -> None:
    journal: list[int] = []
    async with ActorSystem() as system:
        refs = [await system.spawn(Worker, journal) for _ in range(2)]
        for ref in refs:
            for item in range(4):
                ref.cast.work(item)
            ref.request_stop(Shutdown("drain"), drain=True)
        await settle()
        await refs[0].stop()
        assert journal == [0, 0]
        await settle()
    assert journal == [0, 0, 1]


@virtual_time()
async def test_senders_that_wait_for_room_are_told_at_once_and_a_full_mailbox_refuses() -> None:
    journal: list[int] = []
    async with ActorSystem() as system:
        for policy in ("raise", "wait", "drop_oldest", "drop_new"):
            ref = await system.spawn(Worker, journal, mailbox=Mailbox(1, policy))
            ref.cast.work(1)
            await settle()
            ref.cast.work(2)
            sender = asyncio.ensure_future(ref.send.work(3))
            await settle()
            ref.request_stop(Shutdown("drain"), drain=True)
            with pytest.raises(ActorStoppedError):
                await sender
            ref.cast.work(4)
            with pytest.raises(ActorStoppedError):
                await ref.call.work(5)
            await ref.stop(drain=True)
            assert journal == [1, 2]
            journal.clear()


@pytest.mark.parametrize("cls", [Worker, Fast])
def test_a_crash_while_draining_restarts_the_actor_which_goes_on(cls: type[Worker]) -> None:
    @virtual_time()
    async def scenario() -> None:
        journal: list[int] = []
        async with ActorSystem() as system:
            options = {"backoff": Backoff(base=2.0, cap=2.0)}
            ref = (await system.spawn(Supervisor, [ChildSpec(cls, (journal,), name="w")], **options)).child("w")
            ref.cast.work(1)
            ref.cast.crash()
            ref.cast.work(2)
            assert await ref.stop(drain=True) == Shutdown("stopped")
            assert journal == ([1, 2] if cls is Worker else [1])

    scenario()


@virtual_time()
async def test_a_drain_asked_for_between_two_incarnations() -> None:
    journal: list[int] = []
    async with ActorSystem() as system:
        for cls in (Worker, Fast):
            options = {"backoff": Backoff(base=2.0, cap=2.0)}
            ref = (await system.spawn(Supervisor, [ChildSpec(cls, (journal,), name="w")], **options)).child("w")
            ref.cast.crash_after(0.1)
            await settle()
            call = asyncio.ensure_future(ref.call.work(1))
            await asyncio.sleep(0.15)
            assert ref.statistics().state == "backing off"
            await ref.stop(drain=True)
            assert await call == 1
        assert journal == [1, 1]


@virtual_time()
async def test_an_actor_that_drains_itself_does_not_wait_for_itself() -> None:
    journal: list[int] = []
    async with ActorSystem() as system:
        ref = await system.spawn(Worker, journal)
        ref.cast.work(1)
        call = asyncio.ensure_future(ref.call.stop_me())
        await asyncio.sleep(0)
        ref.cast.work(2)
        assert await call == Shutdown("stopped")
        assert await ref.stopped == Shutdown("stopped")
        assert journal == [1, 2]


@virtual_time()
async def test_an_actor_that_ends_while_it_drains_leaves_no_alarm_behind() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Worker, restart="temporary", shutdown=1000.0)
        ref.cast.finish()
        ref.cast.work(1)
        await ref.stop(drain=True)
        assert system.dead_letters.counts == {("/worker-1", "work"): 1}
    assert asyncio.get_running_loop().time() < 1000.0
    assert not any(not timer.cancelled() for timer in asyncio.get_running_loop()._scheduled)  # type: ignore[attr-defined]


@virtual_time()
async def test_the_end_of_an_actor_is_told_in_words() -> None:
    async with ActorSystem() as system:
        for way, words in (("crash", "crashed: ZeroDivisionError: planted"), ("kill", "killed")):
            ref = await system.spawn(Worker, restart="temporary")
            ref.kill() if way == "kill" else ref.cast.crash()
            await settle()
            with pytest.raises(ActorStoppedError, match=words):
                await ref.call.put(1)
            assert await ref.stop() == ref.fate
        ref = await system.spawn(Worker)
        ref.cast.work(1)
        await settle()
        ref.request_stop(Shutdown(""), drain=True)
        with pytest.raises(ActorStoppedError, match="finishing what it had"):
            await ref.call.put(1)
        await ref.stopped
        with pytest.raises(ActorStoppedError, match=r"\(shutdown\)"):
            await ref.call.put(1)


class Manager(Supervisor):
    """A supervisor with messages of its own, and no limit to its stop."""

    @handler
    async def work(self, journal: list[int], item: int) -> None:
        await asyncio.sleep(100.0)
        journal.append(item)


@virtual_time()
async def test_a_supervisor_drains_without_a_limit_and_a_second_request_changes_nothing() -> None:
    journal: list[int] = []
    async with ActorSystem() as system:
        ref = await system.spawn(Manager, [ChildSpec(Recorder)])
        for item in range(3):
            ref.cast.work(journal, item)
        await settle()
        ref.request_stop(Shutdown("first"), drain=True)
        assert await ref.stop(Shutdown("second"), drain=True) == Shutdown("first")
        assert journal == [0, 1, 2]


@virtual_time()
async def test_a_stop_overrides_the_drain_of_a_supervisor() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Manager, [], shutdown=None)
        ref.cast.work([], 1)
        await settle()
        ref.request_stop(Shutdown("drain"), drain=True)
        await ref.stop(Shutdown("now"))
        assert ref.fate == Shutdown("now")
