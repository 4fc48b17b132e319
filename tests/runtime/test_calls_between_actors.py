"""Call cycles, who waits for whom, what each way of cancelling means."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import pytest

from tests.runtime.actors import Recorder, Sleeper
from tinkex_actors.errors import ActorCrashedError, CallCycleError, CallTimeoutError
from tinkex_actors.runtime import Actor, ActorRef, ActorSystem, Crashed, handler
from tinkex_actors.testing import seeds, settle, virtual_time


class Node(Actor):
    """Passes a call along a route of refs."""

    @handler(raises=(CallCycleError, CallTimeoutError))
    async def forward(self, route: list[ActorRef[Any]]) -> str:
        if not route:
            return "end"
        answer: str = await route[0].within(60.0).call.forward(route[1:])
        return answer

    @handler
    async def forward_in_side_task(self, route: list[ActorRef[Any]]) -> None:
        async def side() -> None:
            assert await route[0].call.forward(route[1:]) == "end"

        self.task(side())

    @handler
    async def ask_all(self, others: list[ActorRef[Any]]) -> list[str]:
        return list(await asyncio.gather(*(other.call.forward([]) for other in others)))


async def nodes(system: ActorSystem, names: str) -> list[ActorRef[Node]]:
    return [await system.spawn(Node, name=name) for name in names]


@virtual_time()
async def test_a_cycle_raises_at_once_and_names_the_ring() -> None:
    async with ActorSystem() as system:
        a, b, c = await nodes(system, "abc")
        with pytest.raises(CallCycleError, match="/c -> /a -> /b -> /c") as info:
            await a.call.forward([b, c, a])
        assert info.value.ring == ("/c", "/a", "/b", "/c")
        assert system.now() == 0.0
        assert await a.call.forward([b, c]) == "end"


@virtual_time()
async def test_a_call_to_oneself_is_a_cycle_of_one() -> None:
    async with ActorSystem() as system:
        (a,) = await nodes(system, "a")
        with pytest.raises(CallCycleError, match="/a -> /a"):
            await a.call.forward([a])


@virtual_time()
async def test_calls_of_side_tasks_and_gathers_are_no_cycles() -> None:
    async with ActorSystem() as system:
        a, b = await nodes(system, "ab")
        await a.call.forward_in_side_task([b, a])
        await settle()
        assert a.statistics().incarnation == 0
        assert await a.call.ask_all([b, b, b]) == ["end"] * 3
        assert a.statistics().waiting_on is None
        assert await b.call.forward([a]) == "end"


@virtual_time()
async def test_a_call_that_timed_out_leaves_no_stale_mark() -> None:
    async with ActorSystem() as system:
        a, b = await nodes(system, "ab")
        sleeper = await system.spawn(Sleeper)
        sleeper.cast.nap(100.0)
        with pytest.raises(CallTimeoutError):
            await a.within(200.0).call.forward([sleeper_as_node(sleeper)])
        assert a.statistics().waiting_on is None
        assert await b.call.forward([a]) == "end"


def sleeper_as_node(ref: ActorRef[Sleeper]) -> Any:
    class Fake:
        def within(self, seconds: float) -> Any:
            return self

        @property
        def call(self) -> Any:
            return self

        async def forward(self, route: list[Any]) -> None:
            await ref.call.nap(1.0)

    return Fake()


@virtual_time()
async def test_statistics_say_who_waits_for_whom() -> None:
    async with ActorSystem() as system:
        a, b = await nodes(system, "ab")
        b.cast.forward([])
        sleeper = await system.spawn(Sleeper, name="s")
        sleeper.cast.nap(3.0)
        asking = asyncio.ensure_future(a.call.forward([sleeper_as_node(sleeper)]))
        await settle()
        statistics = a.statistics()
        assert (statistics.state, statistics.waiting_on, statistics.handling) == ("waiting", "/s", "forward")
        assert "a    Node         ◌ waiting for /s in forward" in str(system.tree())
        await asyncio.wait({asking})


@seeds(200)
async def test_every_order_of_two_crossing_calls_ends() -> None:
    """Two actors that call each other: whatever the order, somebody hears of the cycle and nobody hangs."""
    async with ActorSystem() as system:
        a, b = await nodes(system, "ab")
        results = await asyncio.gather(a.call.forward([b]), b.call.forward([a]), return_exceptions=True)
        assert all(result == "end" or isinstance(result, CallCycleError) for result in results)
        assert system.now() == 0.0


def test_a_long_chain_of_calls_works() -> None:
    import tinkex_actors.testing as kit

    async def main() -> None:
        async with ActorSystem() as system:
            chain = [await system.spawn(Node) for _ in range(300)]
            assert await chain[0].within(60.0).call.forward(chain[1:]) == "end"

    kit.run_virtual(main())


# --- cancellation inside handlers ----------------------------------------------------------------------------------
class Odd(Actor):
    """Does to its own task what plain asyncio allows."""

    marker: contextvars.ContextVar[int] = contextvars.ContextVar("marker", default=0)

    @handler
    async def cancel_own_task_and_return(self) -> str:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return "returned"

    @handler
    async def await_cancelled_task(self) -> None:
        inner = asyncio.ensure_future(asyncio.sleep(100.0))
        await asyncio.sleep(0)
        inner.cancel()
        await inner

    @handler
    async def time_out(self) -> str:
        try:
            async with asyncio.timeout(1.0):
                await asyncio.sleep(10.0)
        except TimeoutError:
            return "timed out"
        return "no"

    @handler
    async def group(self) -> int:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(asyncio.sleep(seconds, seconds)) for seconds in (1, 2)]
        return sum(task.result() for task in tasks)

    @handler
    async def failing_group(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(100.0))
            group.create_task(self._fail())

    async def _fail(self) -> None:
        raise ValueError("in a group")

    @handler
    async def bump(self) -> int:
        self.marker.set(self.marker.get() + 1)
        await asyncio.sleep(0)
        return self.marker.get()

    @handler
    def bump_now(self) -> int:
        self.marker.set(self.marker.get() + 1)
        return self.marker.get()

    @handler
    async def capture_task(self) -> Any:
        return asyncio.current_task()

    @handler
    def who_runs_me(self) -> Any:
        return asyncio.current_task()


@seeds(200)
async def test_a_handler_that_cancels_its_own_task_and_returns_hits_no_other_message() -> None:
    async with ActorSystem() as system:
        a, b = await system.spawn(Odd), await system.spawn(Odd)
        calls = [ref.call.cancel_own_task_and_return() for ref in (a, b)]
        calls += [ref.call.time_out() for ref in (a, b)]
        assert await asyncio.gather(*calls) == ["returned", "returned", "timed out", "timed out"]
        assert a.statistics().incarnation == b.statistics().incarnation == 0


@virtual_time()
async def test_a_cancellation_nobody_asked_for_is_a_crash() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Odd, restart="temporary")
        with pytest.raises(ActorCrashedError, match="cancelled by nobody"):
            await ref.call.await_cancelled_task()
        reason = await ref.stopped
        assert isinstance(reason, Crashed)
        assert isinstance(reason.error, asyncio.CancelledError)


@virtual_time()
async def test_timeouts_and_task_groups_mean_what_they_mean_in_asyncio() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Odd)
        assert await ref.call.time_out() == "timed out"
        assert await ref.call.group() == 3
        with pytest.raises(ExceptionGroup) as info:
            await ref.call.failing_group()
        assert isinstance(info.value.exceptions[0], ValueError)
        assert await ref.call.group() == 3
        assert ref.statistics().incarnation == 1


@virtual_time()
async def test_context_variables_belong_to_the_actor() -> None:
    async with ActorSystem() as system:
        a, b = await system.spawn(Odd), await system.spawn(Odd)
        quick = await system.spawn(OnlyDef)
        for count in (1, 2, 3):
            assert await a.call.bump() == count
            assert await b.call.bump_now() == count
            assert await quick.call.bump_now() == count
            quick.cast.bump_now()
            await settle()
            quick.cast.drop()
            assert await quick.call.bump_now() == count + 1
            await quick.call.drop()
        assert Odd.marker.get() == 0


class OnlyDef(Actor):
    @handler
    def bump_now(self) -> int:
        Odd.marker.set(Odd.marker.get() + 1)
        return Odd.marker.get()

    @handler
    def drop(self) -> None:
        Odd.marker.set(Odd.marker.get() - 1)


@virtual_time()
async def test_a_captured_task_cancelled_later_reaches_no_other_actor() -> None:
    async with ActorSystem() as system:
        a, b = await system.spawn(Odd), await system.spawn(Odd)
        captured = await a.call.capture_task()
        waiting = asyncio.ensure_future(b.call.group())
        await settle()
        captured.cancel()
        assert await waiting == 3
        assert await a.call.group() == 3


@virtual_time()
async def test_a_def_handler_run_by_its_caller_is_not_in_the_callers_task() -> None:
    async with ActorSystem() as system:
        for cls in (Odd, Queued):
            ref = await system.spawn(cls)
            assert await ref.call.who_runs_me() is not asyncio.current_task()


class Queued(Odd):
    pass


@virtual_time()
async def test_a_loop_of_calls_does_not_starve_timers() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Recorder)
        fired: list[bool] = []
        asyncio.get_running_loop().call_soon(fired.append, True)
        for _ in range(300):
            await ref.call.seen()
        assert fired == [True]


@virtual_time()
async def test_no_task_exists_for_an_idle_actor() -> None:
    async with ActorSystem() as system:
        before = len(asyncio.all_tasks())
        refs = [await system.spawn(Sleeper) for _ in range(100)]
        assert len(asyncio.all_tasks()) == before
        await asyncio.gather(*(ref.call.nap(1.0) for ref in refs))
        await settle()
        assert len(asyncio.all_tasks()) == before
