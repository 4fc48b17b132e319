"""One actor from start to end: init, stop, kill, on_stop, linked tasks, timers, continuations, deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import structlog

from tests.runtime.actors import Hooked, Recorder, Sleeper
from tinkex_actors.errors import ActorStoppedError, ClosedError, ConfigError, StartFailedError, StopTimeoutError
from tinkex_actors.runtime import (
    Actor,
    ActorRestarted,
    ActorSystem,
    ChildSpec,
    Crashed,
    DidNotStop,
    DynamicSupervisor,
    ExitReason,
    Killed,
    NoActor,
    Normal,
    Shutdown,
    StopReport,
    Supervisor,
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
    assert any("test_lifecycle.py" in line and "dig_in" in line for line in report.abandoned[0].stack)
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


# --- timers --------------------------------------------------------------------------------------------------------
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
        ref = await system.spawn(Sleepy, journal, mailbox=_mailbox(1))
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


def _mailbox(capacity: int) -> Any:
    from tinkex_actors.runtime import Mailbox

    return Mailbox(capacity)


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


# --- linked tasks --------------------------------------------------------------------------------------------------
@virtual_time()
async def test_a_linked_tasks_error_is_a_crash_even_under_a_running_handler() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Tasker)
        nap = asyncio.ensure_future(ref.call.nap(100.0))
        await settle()
        await ref.stopped if not ref.alive else None
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


# --- blocking and the end of a system ------------------------------------------------------------------------------
@virtual_time()
async def test_blocking_runs_on_a_thread_and_raises_what_it_raised() -> None:
    import threading

    async with ActorSystem(name="app") as system:
        name = await system.blocking(lambda: threading.current_thread().name, executor="io")
        assert name.startswith("app.io")
        with pytest.raises(ZeroDivisionError):
            await system.blocking(lambda: 1 / 0)
        with pytest.raises(ConfigError, match="workers="):
            await system.blocking(print, executor="none", workers=0)
    with pytest.raises(ClosedError):
        await system.blocking(print)


async def test_a_thread_that_does_not_end_is_named_in_the_report() -> None:
    import threading

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
