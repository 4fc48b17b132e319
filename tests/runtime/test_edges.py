"""Rare paths: options that cannot be, moments that are seldom met, programs that end by a signal."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
from typing import Any

import pytest

from tests.runtime.actors import Hooked, Recorder, Sleeper, Watcher
from tinkex_actors.errors import (
    ActorStoppedError,
    CallTimeoutError,
    ClosedError,
    ConfigError,
    RestartsExhaustedError,
    StartFailedError,
)
from tinkex_actors.runtime import (
    Actor,
    ActorSystem,
    ChildSpec,
    DynamicSupervisor,
    ExitReason,
    Killed,
    Mailbox,
    Normal,
    Supervisor,
    TaskSupervisor,
    handler,
    run,
)
from tinkex_actors.testing import settle, virtual_time


# --- run() -----------------------------------------------------------------------------------------------------------
def test_run_gives_the_result_on_uvloop_where_it_is_installed() -> None:
    async def main() -> str:
        return type(asyncio.get_running_loop()).__module__

    expected = "asyncio.unix_events" if sys.platform == "win32" else "uvloop"
    assert run(main()) == expected


def test_run_ends_with_1_and_the_reason_when_restarts_are_exhausted(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        async with ActorSystem(max_restarts=0) as system:
            (await system.spawn(Recorder)).cast.crash()
            await asyncio.sleep(60.0)

    with pytest.raises(SystemExit) as left:
        run(main())
    assert left.value.code == 1
    assert "/recorder-1 ended 1 times" in capsys.readouterr().err


def test_a_signal_stops_in_order_and_is_the_exit_code() -> None:
    journal: list[str] = []

    async def main() -> None:
        async with ActorSystem() as system:
            await system.spawn(Hooked, "a", journal)
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(60.0)

    with pytest.raises(SystemExit) as left:
        run(main())
    assert left.value.code == 128 + signal.SIGTERM
    assert journal[-1] == "a:stop:Shutdown"


def test_a_cancellation_without_a_signal_is_the_programs_own() -> None:
    async def main() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        run(main())


# --- options ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("options", [{"max_children": -1}, {"exhausted": "shrug"}])
def test_a_dynamic_supervisor_refuses_what_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        DynamicSupervisor(**options)


async def test_executors_need_a_worker_and_a_running_system() -> None:
    async with ActorSystem() as system:
        with pytest.raises(ConfigError, match="workers"):
            await system.blocking(os.getpid, workers=0)
        assert await system.blocking(os.getpid) == os.getpid()
        assert await system.blocking(os.getpid) == os.getpid(), "the same pool again"
    with pytest.raises(ClosedError):
        await system.blocking(os.getpid)
    assert (await ActorSystem().stop()).stopped == 0
    with pytest.raises(ClosedError):
        ActorSystem().now()


@virtual_time()
async def test_the_root_is_stopped_by_its_system_only() -> None:
    async with ActorSystem() as system:
        with pytest.raises(ConfigError, match=r"system\.stop"):
            system.root.request_stop(Normal())
        system.root.kill()
        assert system.root.alive


# --- moments ---------------------------------------------------------------------------------------------------------
@virtual_time()
async def test_two_children_of_one_name_and_names_that_are_taken() -> None:
    async with ActorSystem() as system:
        await system.spawn(Recorder, name="recorder-1")
        with pytest.raises(StartFailedError, match="already has a child"):
            await system.spawn(Recorder, name="recorder-1")
        assert (await system.spawn(Recorder)).name == "recorder-2"


@virtual_time()
async def test_who_wants_no_more_to_hear_of_an_end_hears_nothing() -> None:
    async with ActorSystem() as system:
        watcher, other, stranger = [await system.spawn(cls) for cls in (Watcher, Recorder, Recorder)]
        await watcher.call.unwatch(stranger)
        await watcher.call.untie(stranger)
        await watcher.call.watch(other)
        await watcher.call.tie(other)
        await watcher.call.unwatch(other)
        await watcher.call.untie(other)
        await other.stop(Killed("gone"))
        await settle()
        assert await watcher.call.seen() == []
        assert watcher.alive


class Beats(Actor):
    @handler
    async def beat(self) -> tuple[bool, float, bool]:
        timer = self.after(3.0, self.ref.cast.beat)
        before, when = timer.active, timer.when
        timer.cancel()
        timer.cancel()
        return before, when, timer.active

    @handler
    async def continue_then_wait(self, journal: list[str]) -> None:
        self.continue_with(self.ref.cast.note, journal, "first")
        self.continue_with(self.ref.cast.note, journal, "second")
        journal.append("asked")

    @handler
    async def note(self, journal: list[str], text: str) -> None:
        journal.append(text)

    async def on_stop(self, reason: ExitReason) -> None:
        self.continue_with(self.ref.cast.beat)


@virtual_time()
async def test_a_timer_says_when_and_whether_it_fires() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Beats)
        assert await ref.call.beat() == (True, 3.0, False)


@virtual_time()
async def test_a_continuation_of_a_stopping_actor_is_a_dead_letter() -> None:
    journal: list[str] = []
    async with ActorSystem() as system:
        ref = await system.spawn(Beats)
        await ref.call.continue_then_wait(journal)
        await settle()
        assert journal == ["asked", "first", "second"]
        await ref.stop()
        assert system.dead_letters.counts == {("/beats-1", "beat"): 1}


class Starter(Actor):
    """Continues from its init, when there is no mailbox yet."""

    def __init__(self, journal: list[str]) -> None:
        self.journal = journal

    async def init(self) -> None:
        self.continue_with(self.ref.cast.first)

    @handler
    def first(self) -> None:
        self.journal.append("first")


@virtual_time()
async def test_a_continuation_of_init_is_the_first_message() -> None:
    journal: list[str] = []
    async with ActorSystem() as system:
        await system.spawn(Starter, journal)
        await settle()
        assert journal == ["first"]


@virtual_time()
async def test_a_retried_call_waits_for_room_under_wait_and_its_deadline_is_its_own() -> None:
    class Again(Sleeper):
        @handler(retry_once=True)
        def again(self) -> str:
            return "again"

    async with ActorSystem() as system:
        ref = await system.spawn(Again, mailbox=Mailbox(1, "wait"))
        ref.cast.nap(2.0)
        await settle()
        ref.cast.nap(2.0)
        with pytest.raises(CallTimeoutError):
            await ref.within(1.0).call.again()
        assert await ref.call.again() == "again"
        assert system.now() == 4.0


@virtual_time()
async def test_senders_that_gave_up_are_passed_over_at_the_end() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Sleeper, mailbox=Mailbox(1))
        ref.cast.nap(2.0)
        await settle()
        ref.cast.put(1)
        gone, waiting = asyncio.ensure_future(ref.send.put(2)), asyncio.ensure_future(ref.send.put(3))
        await settle()
        gone.cancel()
        assert "2 senders blocked" in str(system.tree())
        ref.request_stop(Normal())
        with pytest.raises(ActorStoppedError, match="it had finished"):
            await waiting


@virtual_time()
async def test_a_child_asked_for_by_a_wrong_name_is_told_with_the_right_ones() -> None:
    async with ActorSystem() as system:
        top = await system.spawn(Supervisor, [ChildSpec(Recorder, name="a")])
        with pytest.raises(ActorStoppedError, match="it has: a"):
            top.child("b")
        with pytest.raises(ActorStoppedError, match="it has: none"):
            top.child("a").child("b")


@virtual_time()
async def test_a_task_whose_future_was_cancelled_ends_in_silence() -> None:
    async def stubborn() -> str:
        try:
            await asyncio.sleep(10.0)
        except asyncio.CancelledError:
            raise ValueError("too late") from None
        return "never"

    async with ActorSystem() as system:
        tasks = await system.spawn(TaskSupervisor)
        outcome = await tasks.call.start_task(stubborn)
        await settle()
        outcome.cancel()
        await settle()
        assert await tasks.call.running() == 0
        assert tasks.statistics().incarnation == 0


@virtual_time()
async def test_the_second_failure_of_a_system_changes_nothing() -> None:
    async def block() -> None:
        async with ActorSystem(max_restarts=0) as system:
            one, two = await system.spawn(Recorder, name="one"), await system.spawn(Recorder, name="two")
            one.cast.crash()
            two.cast.crash()
            await asyncio.sleep(10.0)

    with pytest.raises(RestartsExhaustedError, match="/one"):
        await block()


def test_a_loop_that_is_closed_under_its_actors_leaves_nothing_behind() -> None:
    """Not a way to end: but what is collected then must not raise, and the watchdog's thread must end."""
    loop = asyncio.new_event_loop()

    async def start() -> None:
        system = await ActorSystem(name="forsaken", watchdog=0.01).start()
        ref = await system.spawn(Sleeper)
        ref.cast.nap(1000.0)
        await asyncio.sleep(0)

    loop.run_until_complete(start())
    loop.close()
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "forsaken.watchdog"]
    thread.join(10.0)
    assert not thread.is_alive()
    gc.collect()


@virtual_time()
async def test_a_registered_key_may_be_registered_again_by_its_owner_and_taken_back_by_anybody() -> None:
    async with ActorSystem() as system:
        one, two = await system.spawn(Recorder), await system.spawn(Recorder)
        system.registry.register("key", one)
        system.registry.register("key", one)
        system.registry.unregister("key", two)
        assert system.whereis("key") is one
        system.registry.unregister("key", one)
        system.registry.unregister("key", one)
        assert system.whereis("key") is None


def test_a_handler_and_a_ref_have_a_readable_face() -> None:
    assert repr(vars(Recorder)["put"]) == "<handler Recorder.put>"
