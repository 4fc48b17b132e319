"""One actor from start to end: init, stop, kill, on_stop, deadlines."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import structlog

from tests.runtime.actors import Hooked, Recorder, Sleeper
from tinkex_actors.errors import ActorStoppedError, StartFailedError
from tinkex_actors.runtime import (
    Actor,
    ActorRestarted,
    ActorSystem,
    ChildSpec,
    Crashed,
    DynamicSupervisor,
    ExitReason,
    Killed,
    NoActor,
    Normal,
    Shutdown,
    Supervisor,
    handler,
)
from tinkex_actors.testing import settle, virtual_time


@virtual_time()
async def test_init_ends_before_the_first_message_and_before_spawn_returns() -> None:
    journal: list[str] = []
    async with ActorSystem() as system:
        ref = await system.spawn(Hooked, "a", journal, 3.0)
        assert system.now() == 3.0
        assert journal == ["a:new", "a:init"]
        assert await ref.call.ping() == "a"


@pytest.mark.parametrize("fails_in", ["constructor", "init"])
@virtual_time()
async def test_a_failing_start_fails_the_spawn_and_leaves_nothing(fails_in: str) -> None:
    async with ActorSystem() as system:
        arguments: tuple[Any, ...] = () if fails_in == "constructor" else ("x", [], 1.0, [1])
        with pytest.raises(StartFailedError, match="/x ") as info:
            await system.spawn(Hooked, *arguments, name="x")
        assert isinstance(info.value.__cause__, TypeError if fails_in == "constructor" else OSError)
        assert system.tree().children == ()
        await system.spawn(Recorder, name="x")


@virtual_time()
async def test_cancelling_a_spawn_cancels_init_and_leaves_nothing() -> None:
    journal: list[str] = []
    async with ActorSystem() as system:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await system.spawn(Hooked, "x", journal, 100.0, name="x")
        assert system.now() == 1.0
        assert journal == ["x:new"]
        assert system.whereis("/x") is None


@virtual_time()
async def test_stop_lets_the_current_message_finish_and_runs_on_stop_last() -> None:
    journal: list[Any] = []
    async with ActorSystem() as system:
        ref = await system.spawn(Finisher, journal)
        nap = asyncio.ensure_future(ref.call.nap(2.0))
        await settle()
        ref.cast.nap(1.0)
        reason = await ref.stop(Shutdown("enough"))
        assert reason == Shutdown("enough")
        assert await nap == "napped"
        assert journal == ["napped", ("on_stop", Shutdown("enough"))]
        assert not ref.alive
        assert await ref.stopped == Shutdown("enough")
        assert await ref.stop() == Shutdown("enough")


class Finisher(Sleeper):
    async def on_stop(self, reason: ExitReason) -> None:
        self.journal += self.mine
        self.journal.append(("on_stop", reason))


@pytest.mark.parametrize(("shutdown", "ends_at"), [(0.0, 0.0), (2.0, 2.0), (None, 5.0)])
@virtual_time()
async def test_a_message_over_the_deadline_is_cancelled(shutdown: float | None, ends_at: float) -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Sleeper, shutdown=shutdown)
        nap = asyncio.ensure_future(ref.within(100.0).call.nap(50.0))
        await settle()
        await ref.stop()
        assert system.now() == ends_at
        with pytest.raises(ActorStoppedError, match="was stopped while it ran nap"):
            await nap


@virtual_time()
async def test_a_kill_cancels_at_once_skips_on_stop_and_the_supervisor_restarts() -> None:
    journal: list[Any] = []
    async with ActorSystem() as system:
        ref = await system.spawn(Finisher, journal)
        nap = asyncio.ensure_future(ref.call.nap(2.0))
        await settle()
        ref.cast.put("queued")
        ref.kill()
        with pytest.raises(ActorStoppedError):
            await nap
        assert await ref.call.seen() == ["queued"]
        assert journal == ["queued"]
        assert system.now() == 0.0


@virtual_time()
async def test_a_killed_temporary_actor_ends_as_killed() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Sleeper, restart="temporary")
        ref.kill("test")
        assert await ref.stopped == Killed("test")
        late = await system.spawn(Sleeper)
        await late.stop()
        assert late.statistics().state == "dead"


@virtual_time()
async def test_an_old_incarnation_has_ended_before_the_new_one_begins() -> None:
    journal: list[str] = []
    async with ActorSystem() as system:
        ref = await system.spawn(SlowEnd, journal)
        ref.cast.fail()
        await asyncio.sleep(10.0)
        assert journal == ["init", "stopping", "stopped", "init"]


class SlowEnd(Actor):
    def __init__(self, journal: list[str]) -> None:
        self.journal = journal

    async def init(self) -> None:
        self.journal.append("init")

    async def on_stop(self, reason: ExitReason) -> None:
        self.journal.append("stopping")
        await asyncio.sleep(2.0)
        self.journal.append("stopped")

    @handler
    def fail(self) -> None:
        raise RuntimeError("end")


@virtual_time()
async def test_an_error_in_on_stop_is_logged_and_stops_nothing() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(BadEnd)
        with structlog.testing.capture_logs() as logs:
            await ref.stop()
        assert [entry["where"] for entry in logs] == ["on_stop"]
        assert not ref.alive


class BadEnd(Actor):
    def on_stop(self, reason: ExitReason) -> None:  # type: ignore[override]
        raise RuntimeError("at the end")


@virtual_time()
async def test_an_actor_may_stop_itself() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Hooked, "a", [], restart="temporary")
        ref.cast.finish()
        assert await ref.stopped == Normal()
        other = await system.spawn(Suicidal, restart="temporary")
        assert await other.call.end() == "asked, not waited for"
        assert await other.stopped == Shutdown("stopped")


class Suicidal(Actor):
    @handler
    async def end(self) -> str:
        await self.ref.stop()
        return "asked, not waited for"


@virtual_time()
async def test_stopping_an_ancestor_from_below_does_not_wait_for_oneself() -> None:
    async with ActorSystem() as system:
        sup = await system.spawn(Supervisor, [ChildSpec(Patricide, name="child")], name="sup")
        assert await sup.child("child").call.strike() == "done"
        await sup.stopped
        assert system.now() == 0.0


class Patricide(Actor):
    @handler
    async def strike(self) -> str:
        parent = self.system.whereis("/sup")
        assert parent is not None
        await parent.stop()
        return "done"


@virtual_time()
async def test_an_abandoned_future_of_an_ended_actor() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Recorder)
        await ref.stop()
        assert isinstance(await ref.stopped, Shutdown)
        assert not isinstance(ref.statistics(), NoActor)


@virtual_time()
async def test_a_crash_while_the_parent_stops_does_not_restart() -> None:
    journal: list[str] = []
    async with ActorSystem() as system:
        sup = await system.spawn(
            Supervisor,
            [ChildSpec(Hooked, ("a", journal), name="a"), ChildSpec(SlowEnd, (journal,), name="b")],
        )
        a = sup.child("a")
        stopping = asyncio.ensure_future(sup.stop())
        await asyncio.sleep(1.0)  # b is in its on_stop
        a.cast.crash()
        await stopping
        assert journal.count("a:new") == 1
        assert isinstance(await a.stopped, Crashed)


@virtual_time()
async def test_cancelling_one_wait_for_the_end_cancels_nobody_elses() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Sleeper)
        told: list[ExitReason] = []
        ref.stopped.add_done_callback(lambda future: told.append(future.result()))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await ref.stopped
        for _ in range(100):
            ref.stopped.cancel()
        assert told == []
        await ref.stop()
        await settle()
        assert told == [Shutdown("stopped")]


@virtual_time()
async def test_a_supervisor_stops_although_a_child_of_its_never_starts() -> None:
    async with ActorSystem() as system:
        dynamic = await system.spawn(DynamicSupervisor)
        starting = asyncio.ensure_future(
            dynamic.within(1e6).call.start_child(ChildSpec(Hooked, ("slow", [], 1e9), name="slow"))
        )
        await settle()
        await dynamic.stop()
        assert system.now() == 0.0
        with pytest.raises(StartFailedError):
            await starting


@pytest.mark.parametrize("act", ["stop", "kill"])
@virtual_time()
async def test_a_subscriber_may_stop_or_kill_the_actor_it_hears_of(act: str) -> None:
    async with ActorSystem() as system:

        def on_restart(event: ActorRestarted) -> None:
            ref = system.whereis(event.path)
            assert ref is not None
            if act == "stop":
                ref.request_stop(Shutdown("by subscriber"))
            elif event.incarnation == 1:
                ref.kill()

        system.events.subscribe(on_restart, ActorRestarted)
        ref = await system.spawn(Hooked, "a", [])
        ref.cast.crash()
        await settle()
        if act == "stop":
            assert await ref.stopped == Shutdown("by subscriber")
        else:
            assert ref.statistics().incarnation == 2
            assert await ref.call.ping() == "a"


@virtual_time()
async def test_an_actor_that_stops_itself_in_init_fails_its_start() -> None:
    async with ActorSystem() as system:
        with pytest.raises(StartFailedError, match="was stopped while it started"):
            await system.spawn(Faint, name="faint")
        assert system.whereis("/faint") is None


class Faint(Actor):
    async def init(self) -> None:
        self.stop()


@virtual_time()
async def test_stop_and_kill_during_init() -> None:
    async with ActorSystem() as system:
        for end in ("stop", "kill"):
            starting = asyncio.ensure_future(system.spawn(Hooked, "x", [], 100.0, name="x"))
            await settle()
            ref = system.whereis("/x")
            assert ref is not None
            if end == "stop":
                assert await ref.stop() == Shutdown("stopped")
            else:
                ref.kill()
            with pytest.raises(StartFailedError):
                await starting
        assert system.now() == 0.0


@virtual_time()
async def test_a_kill_cuts_a_slow_end_short() -> None:
    journal: list[str] = []
    async with ActorSystem() as system:
        ref = await system.spawn(SlowEnd, journal)
        stopping = asyncio.ensure_future(ref.stop())
        await settle()
        ref.kill()
        await stopping
        assert system.now() == 0.0
        assert journal == ["init", "stopping"]
