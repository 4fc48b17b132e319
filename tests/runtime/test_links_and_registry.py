"""Monitors, links, names."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.runtime.actors import Recorder, Sleeper, Watcher
from tinkex_actors.errors import ActorStoppedError, ConfigError
from tinkex_actors.runtime import (
    Actor,
    ActorRef,
    ActorSystem,
    ChildSpec,
    Crashed,
    Down,
    Killed,
    Mailbox,
    NoActor,
    Normal,
    Shutdown,
    Supervisor,
    handler,
)
from tinkex_actors.testing import settle, virtual_time


class Told(Watcher):
    def on_exit(self, down: Down) -> None:
        self.downs.append(down)


@virtual_time()
async def test_a_monitor_hears_of_the_end_but_not_of_restarts() -> None:
    async with ActorSystem() as system:
        watcher, target = await system.spawn(Watcher), await system.spawn(Recorder)
        await watcher.call.watch(target)
        await watcher.call.watch(target)
        target.cast.crash()
        await settle()
        assert await watcher.call.seen() == []
        await target.stop(Shutdown("over"))
        assert await watcher.call.seen() == [Down(ref=target, reason=Shutdown("over"), incarnation=1)]


@virtual_time()
async def test_monitoring_the_dead_answers_at_once() -> None:
    async with ActorSystem() as system:
        watcher, target = await system.spawn(Watcher), await system.spawn(Recorder)
        await target.stop()
        await watcher.call.watch(target)
        (down,) = await watcher.call.seen()
        assert down.reason == NoActor()


@virtual_time()
async def test_monitors_end_with_the_watchers_incarnation_and_by_demonitor() -> None:
    async with ActorSystem() as system:
        watcher = await system.spawn(Watcher)
        first, second = await system.spawn(Recorder), await system.spawn(Recorder)
        await watcher.call.watch(first)
        watcher.cast.crash()
        await watcher.call.watch(second)
        await watcher.call.unwatch(second)
        await first.stop()
        await second.stop()
        assert await watcher.call.seen() == []


@virtual_time()
async def test_a_down_passes_a_full_mailbox() -> None:
    async with ActorSystem() as system:
        watcher = await system.spawn(Watcher, mailbox=Mailbox(1))
        target = await system.spawn(Recorder)
        await watcher.call.watch(target)
        watcher.cast.busy(1.0)
        await settle()
        watcher.cast.busy(1.0)
        await target.stop()
        await asyncio.sleep(3.0)
        assert len(await watcher.call.seen()) == 1


@virtual_time()
async def test_monitoring_without_on_down_is_refused() -> None:
    async with ActorSystem() as system:
        deaf, target = await system.spawn(Deaf), await system.spawn(Recorder)
        with pytest.raises(ConfigError, match=r"no on_down\(self, down\)"):
            await deaf.call.watch(target)


class Deaf(Actor):
    @handler(raises=ConfigError)
    def watch(self, ref: ActorRef[Any]) -> None:
        self.monitor(ref)


@pytest.mark.parametrize("restart", ["permanent", "temporary"])
@virtual_time()
async def test_a_link_takes_the_other_down_and_its_supervisor_decides(restart: Any) -> None:
    async with ActorSystem() as system:
        target = await system.spawn(Sleeper, restart="temporary")
        other = await system.spawn(Watcher, restart=restart)
        await other.call.tie(target)
        target.cast.crash()
        await settle()
        assert isinstance(await target.stopped, Crashed)
        if restart == "permanent":
            assert other.statistics().incarnation == 1
        else:
            reason = await other.stopped
            assert isinstance(reason, Crashed)
            assert isinstance(reason.error, ZeroDivisionError)


@virtual_time()
async def test_links_go_both_ways_but_not_for_restarts_or_normal_ends() -> None:
    async with ActorSystem() as system:
        one = await system.spawn(Watcher)
        two = await system.spawn(Recorder, restart="temporary")
        await one.call.tie(two)
        one.cast.crash()
        await settle()
        assert two.alive
        await one.stop(Normal())
        assert two.alive
        three = await system.spawn(Watcher)
        await three.call.tie(two)
        await three.call.untie(two)
        await three.stop(Shutdown())
        assert two.alive
        four = await system.spawn(Watcher)
        await four.call.tie(two)
        await four.stop(Shutdown("four"))
        assert await two.stopped == Shutdown("four")


@virtual_time()
async def test_on_exit_makes_a_message_of_a_link() -> None:
    async with ActorSystem() as system:
        told, target = await system.spawn(Told), await system.spawn(Recorder, restart="temporary")
        await told.call.tie(target)
        target.kill("by test")
        await settle()
        assert [down.reason for down in await told.call.seen()] == [Killed("by test")]
        assert told.statistics().incarnation == 0
        with pytest.raises(ActorStoppedError, match="cannot be linked"):
            await told.call.tie(target)


@virtual_time()
async def test_the_registry_is_unique_or_duplicate_and_entries_end_with_their_owner() -> None:
    async with ActorSystem() as system:
        one, two = await system.spawn(Recorder), await system.spawn(Recorder)
        registry = system.registry
        registry.register("leader", one)
        with pytest.raises(ConfigError, match="belongs to /recorder-1"):
            registry.register("leader", two)
        registry.register(("topic", 1), one, duplicate=True)
        registry.register(("topic", 1), two, duplicate=True)
        with pytest.raises(ConfigError):
            registry.register(("topic", 1), two)
        assert registry.lookup_all(("topic", 1)) == [one, two]
        assert system.whereis("leader") is one
        one.cast.crash()
        await settle()
        assert registry.lookup("leader") is one
        await one.stop()
        assert registry.lookup("leader") is None
        assert registry.lookup_all(("topic", 1)) == [two]
        registry.unregister(("topic", 1), two)
        assert registry.lookup(("topic", 1)) is None
        with pytest.raises(ConfigError, match="has ended"):
            registry.register("leader", one)


@virtual_time()
async def test_paths_and_names() -> None:
    async with ActorSystem() as system:
        sup = await system.spawn(Supervisor, [ChildSpec(Recorder, name="child")], name="sup")
        child = sup.child("child")
        assert child.path == "/sup/child"
        assert system.whereis("/sup/child") is child
        assert system.whereis("sup") is sup
        assert system.whereis("/sup/nobody") is None
        assert sup.children == (child,)
        assert (await sup.call.which_children()) == {"child": child}
        with pytest.raises(ActorStoppedError, match="no child 'x'; it has: child"):
            sup.child("x")
        unnamed = [await system.spawn(Recorder) for _ in range(2)]
        assert len({ref.path for ref in unnamed}) == 2
