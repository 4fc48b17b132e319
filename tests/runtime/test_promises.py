"""Sentences of the semantics page that no other test is about."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.runtime.actors import Recorder, Sleeper, Watcher
from tinkex_actors.errors import ActorCrashedError, ActorStoppedError
from tinkex_actors.runtime import (
    Actor,
    ActorCrashed,
    ActorRef,
    ActorStopped,
    ActorSystem,
    ChildSpec,
    ExitReason,
    Reject,
    Rejected,
    Shutdown,
    Supervisor,
    handler,
)
from tinkex_actors.testing import seeds, settle, virtual_time


class Relay(Actor):
    def __init__(self, target: ActorRef[Recorder]) -> None:
        self.target = target

    @handler
    async def pass_on(self, item: Any) -> None:
        self.target.cast.put(item)


class Origin(Actor):
    """Tells the target, then somebody who will tell the target too."""

    def __init__(self, target: ActorRef[Recorder], relay: ActorRef[Relay]) -> None:
        self.target, self.relay = target, relay

    @handler
    async def tell(self, number: int) -> None:
        self.target.cast.put((number, "first"))
        self.relay.cast.pass_on((number, "second"))


@seeds(200)
async def test_what_caused_a_message_is_handled_before_it() -> None:
    async with ActorSystem() as system:
        target = await system.spawn(Recorder)
        origin = await system.spawn(Origin, target, await system.spawn(Relay, target))
        for number in range(5):
            origin.cast.tell(number)
        await settle()
        seen = await target.call.seen()
        assert len(seen) == 10
        assert all(seen.index((number, "first")) < seen.index((number, "second")) for number in range(5))


class Declares(Sleeper):
    @handler(raises=KeyError)
    async def refuse(self) -> None:
        raise KeyError("declared")

    @handler
    async def reject(self) -> None:
        raise Reject(ValueError("no"))

    @handler
    async def group(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.fail())
            group.create_task(self.fail())

    async def fail(self) -> None:
        raise ZeroDivisionError("planted")


@virtual_time()
async def test_a_declared_error_of_a_cast_is_an_event_and_the_actor_lives() -> None:
    rejected: list[Rejected] = []
    async with ActorSystem() as system:
        system.events.subscribe(rejected.append, Rejected)
        ref = await system.spawn(Declares)
        ref.cast.refuse()
        ref.cast.reject()
        await settle()
        assert [(event.message, type(event.error)) for event in rejected] == [
            ("refuse", KeyError),
            ("reject", ValueError),
        ]
        assert ref.statistics().incarnation == 0


@virtual_time()
async def test_an_exception_group_that_leaves_a_handler_is_one_crash() -> None:
    crashes: list[ActorCrashed] = []
    async with ActorSystem() as system:
        system.events.subscribe(crashes.append, ActorCrashed)
        ref = await system.spawn(Declares)
        with pytest.raises(ExceptionGroup) as told:
            await ref.call.group()
        assert len(told.value.exceptions) == 2
        assert len(crashes) == 1
        assert ref.statistics().incarnation == 1


@pytest.mark.parametrize("how", ["kill", "deadline"])
@virtual_time()
async def test_the_caller_of_a_message_that_is_cut_off_is_told_why(how: str) -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Sleeper, shutdown=1.0, restart="temporary")
        call = asyncio.ensure_future(ref.within(100.0).call.nap(50.0))
        await settle()
        if how == "kill":
            ref.kill("enough")
        else:
            ref.request_stop(Shutdown("enough"))
        with pytest.raises(ActorStoppedError, match="was stopped while it ran nap"):
            await call
        assert not isinstance((await asyncio.gather(call, return_exceptions=True))[0], ActorCrashedError)
        assert system.now() == (0.0 if how == "kill" else 1.0)


class Asks(Actor):
    """Its linked task waits for an answer; the reply comes when the actor has restarted."""

    def __init__(self, other: ActorRef[Sleeper], got: list[str]) -> None:
        self.other, self.got = other, got

    @handler
    def begin(self) -> None:
        self.task(self.ask())

    async def ask(self) -> None:
        self.got.append(await self.other.within(50.0).call.nap(5.0))

    @handler
    def crash(self) -> None:
        raise ZeroDivisionError("planted")


@virtual_time()
async def test_the_reply_to_a_call_of_an_earlier_incarnation_is_dropped() -> None:
    got: list[str] = []
    async with ActorSystem() as system:
        other = await system.spawn(Sleeper)
        ref = await system.spawn(Asks, other, got)
        ref.cast.begin()
        await asyncio.sleep(1.0)
        ref.cast.crash()
        await asyncio.sleep(20.0)
        assert ref.statistics().incarnation == 1
        assert await other.call.seen() == ["napped"], "the handler ran to its end"
        assert got == []


class Last(Watcher):
    """Looks, when it hears of an end, at what others see of it by then."""

    def __init__(self, journal: list[str]) -> None:
        super().__init__()
        self.journal = journal

    def on_down(self, down: Any) -> None:
        gone = self.system.whereis(down.ref.path)
        self.journal.append(f"down, and its name is {'free' if gone is None else 'taken'}")


@virtual_time()
async def test_at_the_end_the_name_is_free_before_anybody_hears_of_it() -> None:
    journal: list[str] = []
    async with ActorSystem() as system:
        watcher = await system.spawn(Last, journal)
        ref = await system.spawn(Recorder, name="ends")
        await watcher.call.watch(ref)
        system.events.subscribe(
            lambda event: journal.append(f"event, and it is {system.whereis('/ends')}"), ActorStopped
        )
        ref.stopped.add_done_callback(lambda _: journal.append("stopped future"))
        await ref.stop()
        await settle()
        assert set(journal) == {
            "event, and it is None",
            "down, and its name is free",
            "stopped future",
        }
        assert (await system.spawn(Recorder, name="ends")).alive


@virtual_time()
async def test_a_system_stopping_with_full_mailboxes_needs_no_turn_for_them() -> None:
    """Nothing of a stopping actor is in the run queue: no core spins while it ends."""

    class Slow(Recorder):
        async def on_stop(self, reason: ExitReason) -> None:
            await asyncio.sleep(3.0)

    async with ActorSystem() as system:
        top = await system.spawn(Supervisor, [ChildSpec(Slow, name=name) for name in "ab"])
        for name in "ab":
            for item in range(1024):
                top.child(name).cast.put(item)
        loop: Any = asyncio.get_running_loop()
        stopping = asyncio.ensure_future(top.stop())
        await asyncio.sleep(1.0)
        before = loop.steps
        await asyncio.sleep(1.0)
        assert loop.steps - before < 5, "callbacks that ran in a second of waiting"
        await stopping
