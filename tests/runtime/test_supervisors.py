"""Supervision: strategies, restart types, intensity, back-off, order of starting and stopping, escalation."""

from __future__ import annotations

import asyncio
import zlib
from typing import Any

import pytest

from tests.runtime.actors import Hooked, Recorder
from tinkex_actors.errors import ActorStoppedError, ConfigError, RestartsExhaustedError, StartFailedError
from tinkex_actors.runtime import (
    ActorRestarted,
    ActorSystem,
    Backoff,
    ChildSpec,
    Crashed,
    DynamicSupervisor,
    Normal,
    PartitionSupervisor,
    Shutdown,
    Supervisor,
    SupervisorGaveUp,
    TaskSupervisor,
)
from tinkex_actors.testing import seeds, settle, virtual_time


def specs(journal: list[str], names: str = "abc", **options: Any) -> list[ChildSpec]:
    return [ChildSpec(Hooked, (name, journal), name=name, **options) for name in names]


@virtual_time()
async def test_children_start_left_to_right_and_stop_right_to_left() -> None:
    journal: list[str] = []
    async with ActorSystem() as system:
        slow_first = [
            ChildSpec(Hooked, (name, journal, seconds), name=name)
            for name, seconds in (("a", 3.0), ("b", 0), ("c", 1.0))
        ]
        await system.spawn(Supervisor, slow_first, name="sup")
        assert journal == ["a:new", "a:init", "b:new", "b:init", "c:new", "c:init"]
        journal.clear()
    assert journal == ["c:stop:Shutdown", "b:stop:Shutdown", "a:stop:Shutdown"]


@virtual_time()
async def test_a_failing_start_undoes_the_earlier_ones() -> None:
    journal: list[str] = []
    async with ActorSystem() as system:
        children = [*specs(journal, "ab"), ChildSpec(Hooked, ("c", journal, 0.0, [1]), name="c")]
        with pytest.raises(StartFailedError, match=r"/sup .*c cannot start") as info:
            await system.spawn(Supervisor, children, name="sup")
        assert isinstance(info.value.__cause__, StartFailedError)
        assert isinstance(info.value.__cause__.__cause__, OSError)
        assert journal[-2:] == ["b:stop:Shutdown", "a:stop:Shutdown"]
        assert system.whereis("/sup") is None
        await system.spawn(Recorder, name="sup")


@pytest.mark.parametrize(
    ("strategy", "restarted"),
    [("one_for_one", "b"), ("rest_for_one", "bc"), ("one_for_all", "abc")],
)
@virtual_time()
async def test_strategies(strategy: Any, restarted: str) -> None:
    journal: list[str] = []
    async with ActorSystem() as system:
        sup = await system.spawn(Supervisor, specs(journal), strategy=strategy)
        refs = {name: sup.child(name) for name in "abc"}
        journal.clear()
        with pytest.raises(ZeroDivisionError):
            await refs["b"].call.crash()
        await settle()
        stops = [entry[0] for entry in journal if ":stop:" in entry]
        starts = [entry[0] for entry in journal if entry.endswith(":init")]
        assert stops == list(reversed(restarted))
        assert starts == list(restarted)
        assert journal.index(f"{restarted[0]}:stop:{'Crashed' if restarted[0] == 'b' else 'Shutdown'}") < journal.index(
            f"{restarted[0]}:new"
        )
        for name, ref in refs.items():
            assert ref is sup.child(name)
            assert await ref.call.ping() == name
            assert ref.statistics().incarnation == (1 if name in restarted else 0)


@pytest.mark.parametrize(
    ("restart", "how", "comes_back"),
    [
        ("permanent", "crash", True),
        ("permanent", "kill", True),
        ("permanent", "finish", True),
        ("transient", "crash", True),
        ("transient", "kill", True),
        ("transient", "finish", False),
        ("temporary", "crash", False),
        ("temporary", "kill", False),
        ("temporary", "finish", False),
    ],
)
@virtual_time()
async def test_restart_types(restart: Any, how: str, comes_back: bool) -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Hooked, "x", [], restart=restart)
        if how == "kill":
            ref.kill()
        else:
            getattr(ref.cast, how)()
        await settle()
        assert ref.alive is comes_back
        assert ref.statistics().incarnation == int(comes_back)


@pytest.mark.parametrize("restart", ["permanent", "transient", "temporary"])
@virtual_time()
async def test_a_stop_asked_for_from_outside_is_final(restart: Any) -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Hooked, "x", [], restart=restart)
        assert isinstance(await ref.stop(), Shutdown)
        await settle()
        assert not ref.alive


@virtual_time()
async def test_messages_queued_at_a_crash_are_kept_in_order_and_only_the_failing_one_is_lost() -> None:
    journal: list[Any] = []
    async with ActorSystem() as system:
        ref = await system.spawn(Recorder, journal)
        ref.cast.put(1)
        ref.cast.crash()
        ref.cast.put(2)
        ref.cast.put(3)
        assert await ref.call.seen() == [2, 3]
        assert journal == [1, 2, 3]
        assert len(system.dead_letters) == 0


@virtual_time()
async def test_over_the_limit_the_supervisor_stops_its_children_and_ends_after_them() -> None:
    journal: list[str] = []
    async with ActorSystem() as system:
        gave_up: list[SupervisorGaveUp] = []
        system.events.subscribe(gave_up.append, SupervisorGaveUp)
        sup = await system.spawn(Supervisor, specs(journal), name="core", restart="temporary", max_restarts=2)
        a, b = sup.child("a"), sup.child("b")
        states: list[tuple[bool, bool]] = []
        sup.stopped.add_done_callback(lambda _: states.append((a.alive, b.alive)))
        for _ in range(3):
            a.cast.crash()
            await settle()
        waiting = asyncio.ensure_future(b.call.ping())
        reason = await asyncio.shield(sup.stopped)
        assert isinstance(reason, Shutdown)
        assert isinstance(reason.why, RestartsExhaustedError)
        assert isinstance(reason.why.__cause__, ZeroDivisionError)
        assert reason.why.actor == "/core/a"
        assert states == [(False, False)]
        assert [event.child for event in gave_up] == ["/core/a"]
        with pytest.raises((RestartsExhaustedError, ActorStoppedError)):
            await waiting
        with pytest.raises(RestartsExhaustedError) as info:
            await a.call.ping()
        assert isinstance(info.value.__cause__, ZeroDivisionError)


@virtual_time()
async def test_queued_calls_fail_with_restarts_exhausted() -> None:
    async with ActorSystem() as system:
        sup = await system.spawn(
            Supervisor, [ChildSpec(Hooked, ("a", []), name="a")], restart="temporary", max_restarts=0
        )
        a = sup.child("a")
        a.cast.crash()
        with pytest.raises(RestartsExhaustedError):
            await a.call.ping()


@virtual_time()
async def test_restarts_spread_over_time_are_within_the_limit() -> None:
    async with ActorSystem(max_restarts=1, max_seconds=5.0) as system:
        ref = await system.spawn(Hooked, "a", [])
        for _ in range(10):
            ref.cast.crash()
            await asyncio.sleep(5.1)
        assert ref.statistics().incarnation == 10


@virtual_time()
async def test_exhaustion_escalates_level_by_level_and_out_of_the_block() -> None:
    reached_end = False
    with pytest.raises(RestartsExhaustedError) as info:  # noqa: PT012
        async with ActorSystem(max_restarts=1) as system:
            inner = ChildSpec(
                Supervisor, ([ChildSpec(Hooked, ("x", []), name="x")],), {"max_restarts": 1}, name="inner"
            )
            outer = await system.spawn(Supervisor, [inner], name="outer", max_restarts=1)
            for _ in range(100):
                found = system.whereis("/outer/inner/x")
                if found is not None:
                    found.cast.crash()
                await asyncio.sleep(0.1)
            reached_end = True
    assert not reached_end
    assert not outer.alive
    causes = []
    error: BaseException | None = info.value
    while error is not None:
        causes.append(type(error).__name__)
        error = error.__cause__
    assert causes[-1] == "ZeroDivisionError"
    assert system.failure is info.value


@virtual_time()
async def test_the_escalation_reaches_a_body_that_waits_for_ever() -> None:
    with pytest.raises(RestartsExhaustedError):  # noqa: PT012
        async with ActorSystem(max_restarts=0) as system:
            ref = await system.spawn(Hooked, "a", [])
            ref.cast.crash()
            await asyncio.get_running_loop().create_future()
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]


@virtual_time()
async def test_a_body_error_wins_over_nothing_and_the_tree_still_stops() -> None:
    journal: list[str] = []
    with pytest.raises(LookupError):  # noqa: PT012
        async with ActorSystem() as system:
            await system.spawn(Hooked, "a", journal)
            raise LookupError("body")
    assert journal[-1] == "a:stop:Shutdown"


@virtual_time()
async def test_an_init_that_fails_on_restart_counts_as_a_crash() -> None:
    journal: list[str] = []
    failures: list[int] = []
    async with ActorSystem(max_restarts=3) as system:
        ref = await system.spawn(Hooked, "a", journal, 0.0, failures)
        failures += [1, 1]
        ref.cast.crash()
        await settle()
        assert await ref.call.ping() == "a"
        assert ref.statistics().incarnation == 3


@virtual_time()
async def test_backoff_waits_longer_each_time_with_jitter_from_the_systems_seed() -> None:
    async def restart_times(seed: int) -> list[float]:
        times: list[float] = []
        async with ActorSystem(seed=seed) as system:
            system.events.subscribe(lambda event: times.append(event.at - base), ActorRestarted)
            sup = await system.spawn(
                Supervisor,
                [ChildSpec(Hooked, ("a", []), name="a")],
                max_restarts=100,
                backoff=Backoff(base=1.0, cap=8.0, reset_after=1000.0),
            )
            for _ in range(6):
                base = system.now()
                sup.child("a").cast.crash()
                await asyncio.sleep(10.0)
        return times

    first = await restart_times(1)
    assert len(first) == 6
    assert all(0.0 <= wait <= min(8.0, 2.0**k) for k, wait in enumerate(first))
    assert await restart_times(1) == pytest.approx(first)
    assert await restart_times(2) != pytest.approx(first)


@virtual_time()
async def test_the_supervisor_serves_other_children_while_one_backs_off() -> None:
    async with ActorSystem() as system:
        sup = await system.spawn(Supervisor, specs([]), backoff=Backoff(base=100.0, cap=100.0), max_restarts=100)
        sup.child("a").cast.crash()
        await settle()
        assert sup.child("a").statistics().state == "backing off"
        sup.child("b").kill()
        waiting = asyncio.ensure_future(sup.child("a").within(200.0).call.ping())
        assert await sup.child("c").call.ping() == "c"
        assert await waiting == "a"


@virtual_time()
async def test_stopping_during_a_backoff_ends_it() -> None:
    async with ActorSystem() as system:
        sup = await system.spawn(Supervisor, specs([]), backoff=Backoff(base=1e6, cap=1e6), max_restarts=100)
        sup.child("a").cast.crash()
        sup.child("b").cast.crash()
        await settle()
        await sup.child("b").stop()
        began = system.now()
    assert asyncio.get_running_loop().time() == began


@pytest.mark.parametrize(("rule", "ends_after"), [("never", None), ("any_significant", "a"), ("all_significant", "b")])
@virtual_time()
async def test_auto_shutdown(rule: Any, ends_after: str | None) -> None:
    async with ActorSystem() as system:
        children = specs([], "ab", restart="transient", significant=True) + specs([], "c")
        sup = await system.spawn(Supervisor, children, auto_shutdown=rule, restart="transient")
        for name in "ab":
            if sup.alive:
                sup.child(name).cast.finish()
                await settle()
            assert sup.alive is (ends_after is None or name < ends_after)


@virtual_time()
async def test_dynamic_children_share_no_restart_budget() -> None:
    async with ActorSystem() as system:
        dynamic = await system.spawn(DynamicSupervisor, name="workers", max_restarts=1)
        refs = [await dynamic.call.start_child(ChildSpec(Hooked, (str(n), []))) for n in range(5)]
        for ref in refs:
            ref.cast.crash()
        await settle()
        assert [ref.statistics().incarnation for ref in refs] == [1] * 5
        assert dynamic.alive


@pytest.mark.parametrize(("exhausted", "survives"), [("escalate", False), ("remove", True)])
@virtual_time()
async def test_a_dynamic_child_over_its_limit(exhausted: Any, survives: bool) -> None:
    async with ActorSystem() as system:
        dynamic = await system.spawn(DynamicSupervisor, max_restarts=1, exhausted=exhausted, restart="temporary")
        bad = await dynamic.call.start_child(ChildSpec(Hooked, ("bad", [])))
        good = await dynamic.call.start_child(ChildSpec(Hooked, ("good", [])))
        for _ in range(2):
            bad.cast.crash()
            await settle()
        reason = await asyncio.shield(bad.stopped)
        assert isinstance(reason, Shutdown)
        assert isinstance(reason.why, RestartsExhaustedError)
        assert dynamic.alive is survives
        assert good.alive is survives


@virtual_time()
async def test_max_children_and_taken_names() -> None:
    async with ActorSystem() as system:
        dynamic = await system.spawn(DynamicSupervisor, max_children=2)
        await dynamic.call.start_child(ChildSpec(Recorder, name="one"))
        with pytest.raises(StartFailedError, match="already has a child named 'one'"):
            await dynamic.call.start_child(ChildSpec(Recorder, name="one"))
        await dynamic.call.start_child(ChildSpec(Recorder, name="two"))
        with pytest.raises(StartFailedError, match="has 2 children and allows 2"):
            await dynamic.call.start_child(ChildSpec(Recorder, name="three"))
        assert await dynamic.call.stop_child("one") is True
        assert await dynamic.call.stop_child("one") is False
        await dynamic.call.start_child(ChildSpec(Recorder, name="three"))
        assert list(await dynamic.call.which_children()) == ["two", "three"]


@virtual_time()
async def test_partitions_are_stable_and_restart() -> None:
    async with ActorSystem() as system:
        sup = await system.spawn(PartitionSupervisor, ChildSpec(Recorder), 4, name="parts")
        assert (await sup.call.partition("user-1")).path == f"/parts/{zlib.crc32(b'user-1') % 4}"
        assert (await sup.call.partition(7)).path == "/parts/3"
        assert len({(await sup.call.partition(f"key {n}")).path for n in range(100)}) == 4
        before = await sup.call.partition("user-1")
        before.cast.crash()
        await settle()
        assert await sup.call.partition("user-1") is before


@virtual_time()
async def test_task_supervisor_keeps_failures_to_the_task() -> None:
    async def work(seconds: float, fail: bool = False) -> str:
        await asyncio.sleep(seconds)
        if fail:
            raise ValueError("task")
        return "done"

    async with ActorSystem() as system:
        tasks = await system.spawn(TaskSupervisor, max_tasks=3)
        good = await tasks.call.start_task(work, 1.0)
        bad = await tasks.call.start_task(work, 0.5, fail=True)
        hanging = await tasks.call.start_task(work, 1e9)
        with pytest.raises(StartFailedError, match="runs 3 tasks"):
            await tasks.call.start_task(work, 1.0)
        assert await good == "done"
        with pytest.raises(ValueError, match="task"):
            await bad
        assert await tasks.call.running() == 1
        assert tasks.statistics().incarnation == 0
    assert hanging.cancelled()


@virtual_time()
async def test_an_ordinary_actor_supervises_its_own_children() -> None:
    async with ActorSystem() as system:
        parent = await system.spawn(Parent)
        child = parent.child("child")
        for _ in range(3):
            child.cast.crash()
            await settle()
        assert child.alive
        assert child.statistics().incarnation == 3
        child.cast.crash()
        await settle()
        assert not child.alive
        assert parent.statistics().incarnation == 1
        assert parent.child("child") is not child


class Parent(Hooked):
    def __init__(self) -> None:
        super().__init__("parent", [])

    async def init(self) -> None:
        await self.spawn(Hooked, "child", [], name="child")


@seeds(200)
async def test_no_order_of_execution_loses_an_actor_or_a_message() -> None:
    """Crashes, kills and messages in any order: everything sent is handled once or was the victim of a planted kill."""
    journal: list[Any] = []
    async with ActorSystem(max_restarts=1000) as system:
        sup = await system.spawn(
            Supervisor,
            [ChildSpec(Recorder, (journal,), name=name) for name in "abc"],
            strategy="rest_for_one",
            max_restarts=1000,
        )
        rng = system.loop.permutation  # type: ignore[attr-defined]
        refs = [sup.child(name) for name in "abc"]
        for number in range(60):
            ref = rng.choice(refs)
            ref.cast.put(number)
            if rng.random() < 0.2:
                ref.cast.crash()
            if rng.random() < 0.2:
                await asyncio.sleep(0)
        await settle()
        assert sorted(journal) == list(range(60))
        assert all(ref.alive for ref in refs)
        assert len(system.dead_letters) == 0


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"strategy": "some"}, "strategy="),
        ({"max_restarts": -1}, "max_restarts="),
        ({"max_seconds": 0.0}, "max_seconds="),
        ({"auto_shutdown": "maybe"}, "auto_shutdown="),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Supervisor([], **options)


def test_wrong_specs_are_refused() -> None:
    with pytest.raises(ConfigError, match="subclasses of Actor"):
        ChildSpec(int)
    with pytest.raises(ConfigError, match="without '/'"):
        ChildSpec(Recorder, name="a/b")
    with pytest.raises(ConfigError, match="restart="):
        ChildSpec(Recorder, restart="always")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="significant"):
        ChildSpec(Recorder, significant=True)
    with pytest.raises(ConfigError, match="shutdown="):
        ChildSpec(Recorder, shutdown=-1.0)
    with pytest.raises(ConfigError, match="name of its own"):
        Supervisor([ChildSpec(Recorder, name="a"), ChildSpec(Recorder, name="a")])


def test_reasons_say_whether_they_are_abnormal() -> None:
    assert Crashed(ValueError()).abnormal
    assert not Normal().abnormal
    assert not Shutdown("x").abnormal
