"""Fault points act where they say, bring themselves along with a seed, and cost nobody else anything."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

import pytest

from tinkex_actors.errors import ActorStoppedError, CallTimeoutError, ConfigError
from tinkex_actors.runtime import Actor, ActorRef, ActorSystem, ChildSpec, DynamicSupervisor, RestartPolicy, handler
from tinkex_actors.testing import Faults, InjectedFault, run_virtual, seeds, settle, virtual_time


class Store(Actor):
    restart_policy = RestartPolicy(carry="items")

    def __init__(self) -> None:
        self.items: tuple[int, ...] = ()

    @handler
    def put(self, item: int) -> int:
        self.items = (*self.items, item)
        return item

    @handler(raises=LookupError)
    async def find(self, item: int) -> int:
        if item not in self.items:
            raise LookupError(item)
        return item

    @handler(retry_once=True)
    async def put_again(self, item: int) -> None:
        self.items = (*self.items, item)

    @handler
    def all(self) -> tuple[int, ...]:
        return self.items


@virtual_time()
async def test_a_crash_hits_exactly_the_message_it_names() -> None:
    async with ActorSystem() as system:
        store = await system.spawn(Store, name="store")
        faults = Faults(system)
        faults.crash("/store", "put", at=2)
        assert await store.call.put(1) == 1
        assert await store.call.all() == (1,)
        with pytest.raises(InjectedFault, match="/store"):
            await store.call.put(2)
        assert await store.call.put(3) == 3
        assert await store.call.all() == (1, 3)
        (injected,) = faults.injected
        assert (injected.what, injected.path, injected.message, injected.number) == ("crash", "/store", "put", 2)


@virtual_time()
async def test_a_crash_may_be_an_error_of_the_testers_and_is_tried_again_like_any_other() -> None:
    async with ActorSystem() as system:
        faults = Faults(system)
        faults.crash("/pool/*", at=1, error=OSError("disk full"))
        pool = await system.spawn(DynamicSupervisor, name="pool")
        first = await pool.call.start_child(ChildSpec(Store, name="a"))
        await first.call.put_again(1)
        assert await first.call.all() == (1,)
        assert first.statistics().incarnation == 1
        second = await pool.call.start_child(ChildSpec(Store, name="b"))
        with pytest.raises(OSError, match="disk full"):
            await second.call.put(2)
        other = await system.spawn(Store, name="other")
        assert await other.call.put(3) == 3


@virtual_time()
async def test_a_dropped_reply_leaves_the_handler_done_and_the_caller_in_doubt() -> None:
    async with ActorSystem() as system:
        store = await system.spawn(Store, name="store")
        Faults(system).drop_reply("/store", at=1)
        began = system.now()
        with pytest.raises(CallTimeoutError, match="drop_reply"):
            await store.within(2.0).call.put(1)
        assert system.now() - began == 2.0
        assert await store.call.all() == (1,)


@virtual_time(seed=1)
async def test_a_delayed_reply_is_late_or_too_late_whether_it_is_a_value_or_an_error() -> None:
    async with ActorSystem() as system:
        store = await system.spawn(Store, name="store")
        Faults(system).delay_reply("/store", 1.5, "find", chance=1.0)
        await store.call.put(1)
        assert await store.call.find(1) == 1
        assert system.now() == 1.5
        with pytest.raises(LookupError):
            await store.call.find(2)
        assert system.now() == 3.0
        with pytest.raises(CallTimeoutError):
            await store.within(1.0).call.find(1)
        assert system.now() == 4.0
        await store.stop()
        with pytest.raises(ActorStoppedError):
            await store.call.find(1)
        assert system.now() == 4.0, "the runtime's own errors are not replies"


@virtual_time()
async def test_calls_of_retried_handlers_are_held_back_too() -> None:
    async with ActorSystem() as system:
        store = await system.spawn(Store, name="store")
        Faults(system).delay_reply("/store", 1.0, at=1)
        await store.call.put_again(1)
        assert system.now() == 1.0


def injections(seed: int) -> list[Any]:
    async def main() -> list[Any]:
        async with ActorSystem() as system:
            store = await system.spawn(Store, name="store", restart="permanent")
            faults = Faults(system)
            faults.crash("/store", within=10)
            faults.crash("/store", chance=0.05)
            for item in range(20):
                store.cast.put(item)
                await asyncio.sleep(10.0)
            return faults.injected

    return run_virtual(main(), seed=seed)


def test_what_is_drawn_comes_from_the_seed() -> None:
    runs = [injections(seed) for seed in range(20)]
    assert runs == [injections(seed) for seed in range(20)]
    assert len({tuple(run) for run in runs}) > 5


async def test_on_a_real_loop_the_system_draws() -> None:
    async with ActorSystem(seed=3, max_restarts=100) as system:
        store = await system.spawn(Store, name="store")
        faults = Faults(system)
        faults.drop_reply("/store", chance=0.5)
        for item in range(5):
            with contextlib.suppress(CallTimeoutError):
                await store.within(0.01).call.put(item)
        rng = random.Random(3)
        drawn = [number for number in range(1, 6) if rng.random() < 0.5]
        assert [fault.number for fault in faults.injected] == drawn


@virtual_time()
async def test_in_virtual_time_without_a_seed_nothing_happens_by_chance() -> None:
    async with ActorSystem() as system:
        store = await system.spawn(Store, name="store")
        faults = Faults(system)
        faults.crash("/store", chance=1.0)
        store.cast.put(1)
        await settle()
        assert faults.injected == []


@pytest.mark.parametrize(
    "options",
    [{}, {"at": 1, "within": 2}, {"at": 0}, {"within": 0}, {"chance": 1.5}],
    ids=lambda options: str(options),
)
def test_a_fault_point_that_cannot_be_is_refused(options: dict[str, Any]) -> None:
    @virtual_time()
    async def scenario() -> None:
        async with ActorSystem() as system:
            with pytest.raises(ConfigError):
                Faults(system).crash("/a", **options)
            with pytest.raises(ConfigError):
                Faults(system).delay_reply("/a", 0.0, at=1)

    scenario()


class Caller(Actor):
    def __init__(self, store: ActorRef[Store]) -> None:
        self.store = store

    @handler
    async def run(self, count: int) -> int:
        done = 0
        for item in range(count):
            try:
                await self.store.within(60.0).call.put_again(item)
                done += 1
            except InjectedFault:
                continue
        return done


@seeds(200)
async def test_the_runtime_holds_its_promises_under_faults() -> None:
    """Carried state, retried messages, kept queues: a crash within ten messages loses nothing."""
    async with ActorSystem() as system:
        store = await system.spawn(Store, name="store")
        faults = Faults(system)
        faults.crash("/store", within=10)
        callers = [await system.spawn(Caller, store) for _ in range(3)]
        done = await asyncio.gather(*(caller.within(100.0).call.run(4) for caller in callers))
        assert done == [4, 4, 4]
        assert sorted(await store.call.all()) == sorted([*range(4)] * 3)
        assert len(faults.injected) == 1
