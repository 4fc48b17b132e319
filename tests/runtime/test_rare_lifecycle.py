"""Seldom met moments of starting, restarting and stopping."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.runtime.actors import Hooked, Recorder, Sleeper, Watcher
from tinkex_actors.errors import (
    ActorStoppedError,
    ConfigError,
    RestartsExhaustedError,
    StartFailedError,
    StopTimeoutError,
)
from tinkex_actors.runtime import (
    Actor,
    ActorRef,
    ActorStopped,
    ActorSystem,
    Backoff,
    ChildSpec,
    Crashed,
    ExitReason,
    Killed,
    NoActor,
    Normal,
    PartitionSupervisor,
    RestartPolicy,
    Shutdown,
    Supervisor,
    TaskSupervisor,
    handler,
)
from tinkex_actors.testing import settle, virtual_time


# --- hooks -----------------------------------------------------------------------------------------------------------
class PlainHooks(Actor):
    """Hooks that are no coroutine functions."""

    def __init__(self, journal: list[str], awaited: Awaitable[None] | None = None) -> None:
        self.journal = journal
        self.awaited = awaited

    def init(self) -> Any:
        self.journal.append("init")
        return self.awaited

    def on_stop(self, reason: ExitReason) -> None:  # type: ignore[override]
        self.journal.append("on_stop")


@virtual_time()
async def test_hooks_may_be_plain_functions_or_return_anything_that_can_be_awaited() -> None:
    journal: list[str] = []
    async with ActorSystem() as system:
        await system.spawn(PlainHooks, journal)
        await system.spawn(PlainHooks, journal, asyncio.ensure_future(asyncio.sleep(3.0)))
        assert system.now() == 3.0
    assert journal == ["init", "init", "on_stop", "on_stop"]


# --- stopping --------------------------------------------------------------------------------------------------------
@virtual_time()
async def test_a_kill_cuts_a_stop_short() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Sleeper)
        ref.cast.nap(3.0)
        await settle()
        ref.request_stop(Normal())
        await asyncio.sleep(1.0)
        assert await ref.stop(Killed("now")) == Normal(), "the first reason stands"
        assert system.now() == 1.0


class Leaver(Hooked):
    async def on_stop(self, reason: ExitReason) -> None:
        await asyncio.sleep(1.0)
        await super().on_stop(reason)


@virtual_time()
async def test_a_member_stopped_while_it_halts_for_its_group_is_not_brought_back() -> None:
    async with ActorSystem() as system:
        children = [ChildSpec(Leaver, (name, []), name=name) for name in "ab"]
        top = await system.spawn(Supervisor, children, strategy="one_for_all")
        a, b = top.child("a"), top.child("b")
        a.cast.crash()
        await asyncio.sleep(0.5)  # b is in its on_stop
        assert await b.stop(Normal()) == Normal()
        await asyncio.sleep(5.0)
        assert await a.call.ping() == "a"
        assert top.children == (a,)


@virtual_time()
async def test_a_member_over_the_limit_that_is_stopped_meanwhile_ends_once() -> None:
    ended: list[ActorStopped] = []
    async with ActorSystem() as system:
        system.events.subscribe(ended.append, ActorStopped)
        children = [ChildSpec(Leaver, (name, []), name=name) for name in "ab"]
        options: dict[str, Any] = {"strategy": "one_for_all", "max_restarts": 0, "restart": "temporary"}
        top = await system.spawn(Supervisor, children, **options)
        a = top.child("a")
        a.cast.crash()
        await asyncio.sleep(0.5)
        assert await a.stop(Normal()) == Normal()
        assert isinstance(await top.stopped, Shutdown)
    assert sorted(event.path for event in ended) == ["/supervisor-1", "/supervisor-1/a", "/supervisor-1/b"]


@virtual_time()
async def test_kills_count_as_restarts_and_the_error_names_the_kill() -> None:
    async def block() -> None:
        async with ActorSystem(max_restarts=0) as system:
            (await system.spawn(Recorder)).kill("enough")
            await asyncio.sleep(1.0)

    with pytest.raises(RestartsExhaustedError, match="The last reason: Killed"):
        await block()


class Stubborn(Actor):
    """Its linked task ignores its cancellation, and acts for the actor long afterwards."""

    def __init__(self, acts: list[Callable[[Actor], object]], seen: list[BaseException]) -> None:
        self.acts, self.seen = acts, seen

    async def init(self) -> None:
        self.task(self.ignore(), name="ignore")

    async def ignore(self) -> None:
        for _ in range(2):
            try:
                await asyncio.sleep(50.0)
            except asyncio.CancelledError:
                continue
        for act in self.acts:
            try:
                act(self)
            except Exception as error:
                self.seen.append(error)

    def on_down(self, down: object) -> None:
        """Never comes."""


@virtual_time()
async def test_a_linked_task_that_does_not_stop_is_named_and_can_do_nothing_for_the_ended_actor() -> None:
    seen: list[BaseException] = []
    async with ActorSystem() as other:
        stranger = await other.spawn(Recorder)
        acts: list[Callable[[Actor], object]] = [
            lambda actor: actor.monitor(stranger),
            lambda actor: actor.link(stranger),
            lambda actor: actor.after(1.0, print),
        ]
        system = await ActorSystem().start()
        await system.spawn(Stubborn, acts, seen)
        report = await system.stop()
        assert [(item.path, item.what) for item in report.abandoned] == [("/stubborn-1", "task stubborn-1.ignore")]
        await asyncio.sleep(100.0)
        assert [type(error) for error in seen] == [ActorStoppedError] * 3
        await stranger.stop()


class Nursery(Actor):
    """Spawns children of its own, also when it is too late."""

    def __init__(self, late: list[BaseException]) -> None:
        self.late = late

    @handler
    async def grow(self) -> ActorRef[Leaver]:
        return await self.spawn(Leaver, "child", [])

    @handler
    def watch(self) -> None:
        self.task(self.too_late())

    async def too_late(self) -> None:
        await asyncio.sleep(0.5)
        try:
            await self.spawn(Recorder)
        except ActorStoppedError as error:
            self.late.append(error)


@virtual_time()
async def test_an_actor_that_stops_its_children_starts_no_more() -> None:
    late: list[BaseException] = []
    async with ActorSystem() as system:
        ref = await system.spawn(Nursery, late)
        first, second = await ref.call.grow(), await ref.call.grow()
        assert ref.children == (first, second)
        await ref.call.watch()
        await ref.stop()  # the children take a second each, one after the other
        assert not first.alive
        assert not second.alive
    assert "starts no more children" in str(late[0])


@virtual_time()
async def test_a_stop_of_what_ended_with_its_system_is_answered() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Recorder)
        top = await system.spawn(Supervisor, [ChildSpec(Recorder, name="a")])
        child = top.child("a")
    assert await ref.stop() == Shutdown("its supervisor stops")
    assert await child.stop() == Shutdown("its supervisor stops")


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (Normal(), "it had finished"),
        (Shutdown(), "shutdown"),
        (Shutdown("tired"), "shutdown: tired"),
        (Killed("why"), "killed"),
        (Crashed(OSError("disk")), "crashed: OSError: disk"),
        (NoActor(), "no such actor"),
    ],
)
@virtual_time()
async def test_a_caller_of_an_ended_actor_is_told_how_it_ended(reason: ExitReason, words: str) -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Recorder)
        assert await ref.stop(reason) == reason
        with pytest.raises(ActorStoppedError) as told:
            await ref.call.seen()
        assert f"has stopped ({words})" in str(told.value)


# --- options and small classes ---------------------------------------------------------------------------------------
def test_a_partition_supervisor_needs_a_partition() -> None:
    with pytest.raises(ConfigError, match="partitions="):
        PartitionSupervisor(ChildSpec(Recorder), 0)


@virtual_time()
async def test_the_result_of_a_task_whose_future_was_cancelled_is_dropped() -> None:
    """It is cancelled in the very turn in which the task ends."""
    async with ActorSystem() as system:
        tasks = await system.spawn(TaskSupervisor)
        gate: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def wait() -> str:
            return await gate

        outcome = await tasks.call.start_task(wait)
        await settle()
        gate.set_result("too late")
        outcome.cancel()
        await settle()
        assert outcome.cancelled()
        assert await tasks.call.running() == 0
        assert len(asyncio.all_tasks()) == 1


@virtual_time()
async def test_a_fail_fast_actor_without_a_mailbox_refuses_what_comes_while_it_is_away() -> None:
    class Fast(Recorder):
        restart_policy = RestartPolicy(fail_fast=True)

    async with ActorSystem() as system:
        again = Backoff(base=10.0, cap=10.0)
        top = await system.spawn(Supervisor, [ChildSpec(Fast, name="a")], backoff=again)
        ref = top.child("a")
        ref.kill()
        await settle()
        ref.cast.put(1)
        assert len(system.dead_letters) == 1


@virtual_time()
async def test_a_forgetful_actor_without_a_mailbox_has_nothing_to_forget() -> None:
    class Forgetful(Recorder):
        restart_policy = RestartPolicy(casts="drop")

    async with ActorSystem() as system:
        ref = await system.spawn(Forgetful)
        ref.kill()
        await settle()
        assert (ref.statistics().incarnation, len(system.dead_letters)) == (1, 0)
        assert await ref.call.seen() == []


@pytest.mark.parametrize("strategy", ["one_for_one", "one_for_all"])
@virtual_time()
async def test_a_busy_actor_over_its_limit_ends_with_its_supervisor(strategy: Any) -> None:
    """It has a linked task to wait for, and one that has nothing ends in the turn of its crash."""

    class Busy(Recorder):
        @handler
        def begin(self) -> None:
            self.task(self.sleep(100.0))

    for busy in (True, False):
        async with ActorSystem() as system:
            options: dict[str, Any] = {"strategy": strategy, "max_restarts": 0, "restart": "temporary"}
            top = await system.spawn(Supervisor, [ChildSpec(Busy, name="a")], **options)
            a = top.child("a")
            if busy:
                await a.call.begin()
            a.cast.crash()
            reason = await top.stopped
            assert isinstance(reason, Shutdown)
            assert isinstance(reason.why, RestartsExhaustedError)
            assert not a.alive


class Frail(Actor):
    """Without hooks; fails to begin as often as told."""

    def __init__(self, failures: list[int]) -> None:
        if failures:
            failures.pop()
            raise OSError("planted in __init__")

    @handler
    def crash(self) -> None:
        raise ZeroDivisionError("planted")

    @handler
    def ping(self) -> str:
        return "up"


@pytest.mark.parametrize(("fails", "comes_back"), [(1, True), (2, True), (3, False)])
@virtual_time()
async def test_a_failing_constructor_on_restart_counts_as_a_crash(fails: int, comes_back: bool) -> None:
    failures: list[int] = []
    async with ActorSystem() as system:
        top = await system.spawn(Supervisor, [ChildSpec(Frail, (failures,), name="a")], restart="temporary")
        ref = top.child("a")
        failures += [1] * fails
        ref.cast.crash()
        await asyncio.sleep(1.0)
        assert ref.alive == top.alive == comes_back
        if comes_back:
            assert await ref.call.ping() == "up"
            assert ref.statistics().incarnation == 1 + fails


@virtual_time()
async def test_draining_a_busy_actor_that_never_had_a_mailbox() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Sleeper)
        call = asyncio.ensure_future(ref.call.nap(2.0))
        await settle()
        await ref.stop(drain=True)
        assert await call == "napped"
        assert system.now() == 2.0


@virtual_time()
async def test_explain_of_an_actor_whose_init_waits_for_another() -> None:
    class Asks(Actor):
        def __init__(self, other: ActorRef[Sleeper]) -> None:
            self.other = other

        async def init(self) -> None:
            await self.other.call.nap(3.0)

    async with ActorSystem() as system:
        other = await system.spawn(Sleeper)
        spawning = asyncio.ensure_future(system.spawn(Asks, other, name="asks"))
        await asyncio.sleep(1.0)
        ref = system.whereis("asks")
        assert ref is not None
        assert "/asks waits for /sleeper-1 since 1.0 s at " in str(system.explain(ref))
        await spawning


@virtual_time()
async def test_a_ref_has_a_face_and_a_pickled_one_of_an_ended_actor_says_so() -> None:
    import pickle

    class Unpickles(Watcher):
        @handler(raises=ActorStoppedError)
        def find(self, pickled: bytes) -> Any:
            return pickle.loads(pickled)

    async with ActorSystem() as system:
        finder, gone = await system.spawn(Unpickles), await system.spawn(Recorder)
        assert repr(gone) == "<Recorder /recorder-2>"
        pickled = pickle.dumps(gone)
        assert await finder.call.find(pickled) is gone
        await gone.stop()
        with pytest.raises(ActorStoppedError, match="does not exist any more"):
            await finder.call.find(pickled)


@virtual_time()
async def test_a_start_that_fails_for_good_leaves_its_name_free() -> None:
    async with ActorSystem() as system:
        with pytest.raises(StartFailedError):
            await system.spawn(Hooked, "a", [], 0.0, [1], name="a")
        assert (await system.spawn(Hooked, "a", [], name="a")).alive


async def test_a_block_that_does_not_stop_says_what_failed_before() -> None:
    """Both at once: restarts were exhausted, and something ignores its end."""

    async def block() -> None:
        async with ActorSystem(max_restarts=0, stop_timeout=0.01) as system:
            await system.spawn(Stubborn, [], [], shutdown=0.01)
            (await system.spawn(Recorder)).cast.crash()
            await asyncio.sleep(10.0)

    with pytest.raises(StopTimeoutError) as told:
        await block()
    assert isinstance(told.value.__cause__, RestartsExhaustedError)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()


class LastWill(Actor):
    """Tries to leave something behind in its ``on_stop``: a child, a timer, a task of a task."""

    def __init__(self, journal: list[str]) -> None:
        self.journal = journal

    async def init(self) -> None:
        self.task(self.heir())

    async def heir(self) -> None:
        try:
            await asyncio.sleep(100.0)
        finally:
            self.task(asyncio.sleep(100.0), name="heir")
            self.after(1.0, self.ref.cast.note, "by the task")

    async def on_stop(self, reason: ExitReason) -> None:
        self.after(1.0, self.ref.cast.note, "by on_stop")
        try:
            await self.spawn(Recorder)
        except ActorStoppedError as error:
            self.journal.append(str(error))

    @handler
    def note(self, text: str) -> None:
        self.journal.append(text)

    @handler
    def crash(self) -> None:
        raise ZeroDivisionError("planted")


@virtual_time()
async def test_an_incarnation_leaves_neither_children_nor_tasks_nor_timers_behind() -> None:
    journal: list[str] = []
    async with ActorSystem() as system:
        ref = await system.spawn(LastWill, journal)
        ref.cast.crash()
        await asyncio.sleep(10.0)
        assert ref.statistics().incarnation == 1
        assert journal == ["/lastwill-1 has stopped and starts no more children."]
        assert ref.children == ()
        names = sorted(task.get_name() for task in asyncio.all_tasks())
        assert names == [asyncio.current_task().get_name(), "lastwill-1.heir"]  # type: ignore[union-attr]
        await ref.stop()
        assert len(asyncio.all_tasks()) == 1
