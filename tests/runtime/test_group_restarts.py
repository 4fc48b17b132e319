"""Restarts of groups met by other crashes, stops, back-off and the limit."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.runtime.actors import Hooked
from tinkex_actors.errors import RestartsExhaustedError, StartFailedError
from tinkex_actors.runtime import (
    ActorSystem,
    Backoff,
    ChildSpec,
    ExitReason,
    Normal,
    Shutdown,
    Supervisor,
)
from tinkex_actors.testing import settle, virtual_time


def specs(journal: list[str], names: str = "abc", **options: Any) -> list[ChildSpec]:
    return [ChildSpec(Hooked, (name, journal), name=name, **options) for name in names]


@pytest.mark.parametrize("strategy", ["one_for_all", "rest_for_one"])
@virtual_time()
async def test_a_second_crash_during_a_group_restart_is_one_more_restart(strategy: Any) -> None:
    journal: list[str] = []
    failures: list[int] = []
    async with ActorSystem() as system:
        children = [
            ChildSpec(Hooked, ("a", journal), name="a"),
            ChildSpec(Hooked, ("b", journal, 1.0, failures), name="b"),
            ChildSpec(Hooked, ("c", journal), name="c"),
        ]
        sup = await system.spawn(Supervisor, children, strategy=strategy, max_restarts=2)
        refs = [sup.child(name) for name in "abc"]
        failures.append(1)
        refs[0].cast.crash()
        await asyncio.sleep(10.0)
        assert [await ref.call.ping() for ref in refs] == ["a", "b", "c"]
        assert refs[1].statistics().incarnation == 2


@virtual_time()
async def test_a_crash_while_siblings_restart_is_not_lost() -> None:
    journal: list[str] = []
    async with ActorSystem() as system:
        children = [
            ChildSpec(Hooked, ("a", journal), name="a"),
            ChildSpec(Hooked, ("b", journal, 1.0), name="b"),
            ChildSpec(Hooked, ("c", journal), name="c"),
        ]
        sup = await system.spawn(Supervisor, children, strategy="rest_for_one")
        a, b, c = (sup.child(name) for name in "abc")
        b.cast.crash()
        await asyncio.sleep(0.5)  # b is in its init
        a.cast.crash()
        await asyncio.sleep(10.0)
        assert [await ref.call.ping() for ref in (a, b, c)] == ["a", "b", "c"]
        assert a.statistics().incarnation == 1


@virtual_time()
async def test_stopping_a_member_while_its_group_restarts() -> None:
    """In each phase: while a sibling halts, during the back-off, while a sibling starts, and before its own turn."""
    for strategy in ("one_for_all", "rest_for_one"):
        for delay in (0.0, 0.5, 1.5, 2.5, 3.5):
            async with ActorSystem() as system:
                journal: list[str] = []
                children = [
                    ChildSpec(Hooked, ("a", journal, 1.0), name="a"),
                    ChildSpec(Hooked, ("b", journal, 1.0), name="b"),
                    ChildSpec(SlowToStop, ("c", journal), name="c"),
                ]
                sup = await system.spawn(
                    Supervisor, children, strategy=strategy, backoff=Backoff(base=1.0, cap=1.0), max_restarts=100
                )
                a, b, c = (sup.child(name) for name in "abc")
                began = system.now()
                a.cast.crash()
                await asyncio.sleep(delay)
                asked = system.now()
                assert isinstance(await b.stop(), Shutdown)
                assert system.now() - asked <= 1.0, (strategy, delay)
                await asyncio.sleep(20.0)
                assert await a.call.ping() == "a"
                assert await c.call.ping() == "c"
                assert not b.alive
                assert began < system.now()


class SlowToStop(Hooked):
    async def on_stop(self, reason: ExitReason) -> None:
        await asyncio.sleep(1.0)


@virtual_time()
async def test_temporary_siblings_are_not_brought_back_by_a_group_restart() -> None:
    async with ActorSystem() as system:
        children = [*specs([], "a"), *specs([], "b", restart="temporary"), *specs([], "c")]
        sup = await system.spawn(Supervisor, children, strategy="one_for_all")
        a, b, c = (sup.child(name) for name in "abc")
        a.cast.crash()
        await settle()
        assert (a.alive, b.alive, c.alive) == (True, False, True)


@virtual_time()
async def test_a_member_that_finishes_while_its_group_restarts_is_not_brought_back() -> None:
    async with ActorSystem() as system:
        journal: list[str] = []
        children = [
            *specs(journal, "a", restart="transient"),
            ChildSpec(Hooked, ("b", journal, 1.0), name="b"),
        ]
        sup = await system.spawn(Supervisor, children, strategy="rest_for_one")
        a, b = sup.child("a"), sup.child("b")
        b.cast.crash()
        await asyncio.sleep(0.5)
        a.cast.finish()
        await asyncio.sleep(5.0)
        assert isinstance(await a.stopped, Normal)
        assert await b.call.ping() == "b"


@virtual_time()
async def test_stopping_the_supervisor_in_any_phase_of_a_group_restart() -> None:
    for delay in (0.0, 0.5, 1.5, 2.5, 3.5):
        async with ActorSystem() as system:
            journal: list[str] = []
            children = [
                ChildSpec(Hooked, ("a", journal, 1.0), name="a"),
                ChildSpec(SlowToStop, ("b", journal, 1.0), name="b"),
            ]
            sup = await system.spawn(Supervisor, children, strategy="one_for_all", backoff=Backoff(1.0, 1.0))
            a, b = sup.child("a"), sup.child("b")
            a.cast.crash()
            await asyncio.sleep(delay)
            asked = system.now()
            await sup.stop()
            assert system.now() - asked <= 2.0, delay
            assert not a.alive
            assert not b.alive


@virtual_time()
async def test_a_group_over_its_limit_ends_with_its_supervisor() -> None:
    async with ActorSystem() as system:
        sup = await system.spawn(
            Supervisor, specs([], "abc"), strategy="one_for_all", max_restarts=1, restart="temporary"
        )
        refs = [sup.child(name) for name in "abc"]
        for _ in range(2):
            refs[1].cast.crash()
            await settle()
        reason = await sup.stopped
        assert isinstance(reason, Shutdown)
        assert isinstance(reason.why, RestartsExhaustedError)
        assert not any(ref.alive for ref in refs)


@pytest.mark.parametrize("strategy", ["one_for_all", "rest_for_one"])
@virtual_time()
async def test_a_crash_while_a_sibling_is_being_started_waits_for_that_start(strategy: Any) -> None:
    journal: list[str] = []

    class Hasty(Hooked):
        """Crashes half a second after its first start."""

        async def init(self) -> None:
            await super().init()
            if journal.count("a:init") <= 1:
                self.after(0.5, self.ref.cast.crash)

    async with ActorSystem() as system:
        children = [ChildSpec(Hasty, ("a", journal), name="a"), ChildSpec(Hooked, ("b", journal, 1.0), name="b")]
        sup = await system.spawn(Supervisor, children, strategy=strategy)
        await asyncio.sleep(5.0)
        assert [await sup.child(name).call.ping() for name in "ab"] == ["a", "b"]
        assert [sup.child(name).statistics().incarnation for name in "ab"] == [1, 1]


@virtual_time()
async def test_a_start_that_a_crashed_sibling_would_have_to_answer_fails_and_does_not_hang() -> None:
    journal: list[str] = []

    class Asking(Hooked):
        """Asks its crashed sibling in its init."""

        async def init(self) -> None:
            sibling = self.ref.parent.family.cells["a"]  # type: ignore[union-attr]
            sibling.cast.crash()
            await sibling.call.ping()

    async with ActorSystem() as system:
        children = [ChildSpec(Hooked, ("a", journal), name="a"), ChildSpec(Asking, ("b", journal), name="b")]
        with pytest.raises(StartFailedError, match="CallTimeoutError"):
            await system.spawn(Supervisor, children, strategy="one_for_all")
