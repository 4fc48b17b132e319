"""The task a handler runs in: asyncio's rules in every path, and nothing of one handler reaches another.

Each script runs as a plain ``asyncio.Task``, as a call inside its caller, and through the queue; what it sees must be
the same. Each hazard of running handlers without a task of their own has its test below.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import weakref
from collections.abc import Callable, Coroutine
from itertools import pairwise
from typing import Any

import pytest

from tinkex_actors.errors import ActorCrashedError, ActorStoppedError
from tinkex_actors.runtime import Actor, ActorRef, ActorSystem, Killed, handler
from tinkex_actors.testing import VirtualLoop, run_virtual, seeds, settle, virtual_time

Script = Callable[[], Coroutine[Any, Any, Any]]


class Host(Actor):
    """Runs whatever it is given."""

    @handler
    async def run(self, script: Script) -> Any:
        return await script()

    @handler
    async def note(self, value: int) -> int:
        return value

    @handler
    def now(self, function: Callable[[], Any]) -> Any:
        return function()


async def in_caller(ref: ActorRef[Host], script: Script) -> Any:
    return await ref.within(500.0).call.run(script)


async def in_queue(ref: ActorRef[Host], script: Script) -> Any:
    ref.cast.note(1)
    return await ref.within(500.0).call.run(script)


PATHS = [in_caller, in_queue]


# --- asyncio's rules ------------------------------------------------------------------------------------------------
async def outcome(awaitable: Any) -> tuple[str, str]:
    try:
        return "result", repr(await awaitable)
    except BaseException as error:
        return type(error).__name__, str(error)


async def timeout_fires() -> Any:
    try:
        async with asyncio.timeout(1.0):
            await asyncio.sleep(10.0)
    except TimeoutError:
        return asyncio.get_running_loop().time(), asyncio.current_task().cancelling()  # type: ignore[union-attr]


async def timeout_of_zero() -> Any:
    async with asyncio.timeout(0.0):
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def timeout_left_in_time() -> Any:
    async with asyncio.timeout(1.0) as scope:
        await asyncio.sleep(0.5)
    await asyncio.sleep(10.0)
    return scope.expired()


async def nested_timeouts() -> Any:
    async with asyncio.timeout(3.0):
        try:
            async with asyncio.timeout(1.0):
                await asyncio.sleep(10.0)
        except TimeoutError:
            await asyncio.sleep(10.0)


async def wait_for() -> Any:
    return await asyncio.wait_for(asyncio.sleep(10.0), 1.0)


async def group_of_two() -> Any:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(asyncio.sleep(seconds, seconds)) for seconds in (1, 2)]
    return [task.result() for task in tasks]


async def fail() -> None:
    raise ValueError("in a group")


async def failing_group() -> Any:
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            await asyncio.sleep(10.0)
    except ExceptionGroup as group_error:
        return repr(group_error.exceptions), asyncio.current_task().cancelling()  # type: ignore[union-attr]


async def cancels_itself_and_waits() -> Any:
    asyncio.current_task().cancel("why")  # type: ignore[union-attr]
    try:
        await asyncio.sleep(1.0)
    except asyncio.CancelledError as error:
        return str(error), asyncio.current_task().cancelling()  # type: ignore[union-attr]


async def cancels_itself_on_a_future() -> Any:
    future = asyncio.get_running_loop().create_future()
    asyncio.current_task().cancel()  # type: ignore[union-attr]
    try:
        await future
    except asyncio.CancelledError:
        return future.cancelled()


async def takes_a_cancel_back() -> Any:
    task = asyncio.current_task()
    task.cancel()  # type: ignore[union-attr]
    left = task.uncancel()  # type: ignore[union-attr]
    return left, await outcome(asyncio.sleep(0, "slept"))


async def is_cancelled_twice() -> Any:
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    loop.call_later(1.0, task.cancel)  # type: ignore[union-attr]
    loop.call_later(2.0, task.cancel, "again")  # type: ignore[union-attr]
    first = await outcome(asyncio.sleep(10.0))
    second = await outcome(asyncio.sleep(10.0))
    return first, second, task.cancelling(), loop.time()  # type: ignore[union-attr]


async def shields() -> Any:
    inner = asyncio.ensure_future(asyncio.sleep(5.0, "inner"))
    asyncio.get_running_loop().call_later(1.0, asyncio.current_task().cancel)  # type: ignore[union-attr]
    outer = await outcome(asyncio.shield(inner))
    asyncio.current_task().uncancel()  # type: ignore[union-attr]
    return outer, await inner


class Bad:
    """Yields what no task understands."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __await__(self) -> Any:
        yield self.value


async def yields_a_number() -> Any:
    return await Bad(7)


async def yields_a_future_wrongly() -> Any:
    kind, text = await outcome(Bad(asyncio.get_running_loop().create_future()))
    return kind, text.split(" in task ")[0]


async def awaits_itself() -> Any:
    kind, text = await outcome(asyncio.current_task())
    return kind, text.split(":")[0]


async def awaits_a_future_of_another_loop() -> Any:
    other = asyncio.new_event_loop()
    try:
        kind, text = await outcome(other.create_future())
    finally:
        other.close()
    return kind, text.split(">")[-1]


async def names_and_places() -> Any:
    task = asyncio.current_task()
    assert task is not None
    await asyncio.sleep(0)
    names = [other for other in asyncio.all_tasks() if other is task]
    with pytest.raises(RuntimeError, match="does not support set_result"):
        task.set_result(1)  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="does not support set_exception"):
        task.set_exception(ValueError())  # type: ignore[attr-defined]
    return isinstance(task, asyncio.Task), asyncio.isfuture(task), len(names), task.done(), task.cancelled()


SCRIPTS = [
    timeout_fires,
    timeout_of_zero,
    timeout_left_in_time,
    nested_timeouts,
    wait_for,
    group_of_two,
    failing_group,
    cancels_itself_and_waits,
    cancels_itself_on_a_future,
    takes_a_cancel_back,
    is_cancelled_twice,
    shields,
    yields_a_number,
    yields_a_future_wrongly,
    awaits_itself,
    awaits_a_future_of_another_loop,
    names_and_places,
]


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_a_script_sees_in_a_handler_what_it_sees_in_a_task(script: Script, path: Any, seed: int | None) -> None:
    async def plain() -> Any:
        return await outcome(asyncio.ensure_future(script()))

    async def as_handler() -> Any:
        async with ActorSystem() as system:
            ref = await system.spawn(Host)
            return await outcome(path(ref, script))

    assert run_virtual(as_handler(), seed=seed) == run_virtual(plain())


# --- nothing reaches another actor ----------------------------------------------------------------------------------
async def cancels_itself_and_returns() -> str:
    asyncio.current_task().cancel()  # type: ignore[union-attr]
    return "returned"


async def suspends_a_while() -> str:
    await asyncio.sleep(0)
    await asyncio.sleep(1.0)
    return "slept"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("seed", [None, *range(10)])
def test_a_cancel_left_behind_hits_neither_the_caller_nor_another_actor(path: Any, seed: int | None) -> None:
    async def main() -> None:
        async with ActorSystem() as system:
            a, b = await system.spawn(Host), await system.spawn(Host)
            for _ in range(3):
                assert await path(a, cancels_itself_and_returns) == "returned"
                assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]
                assert await path(b, suspends_a_while) == "slept"
                assert await path(a, suspends_a_while) == "slept"
            assert a.statistics().incarnation == b.statistics().incarnation == 0

    run_virtual(main(), seed=seed)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("suspend", [False, True])
@pytest.mark.parametrize("seed", [None, *range(10)])
def test_a_captured_task_is_never_reused(path: Any, suspend: bool, seed: int | None) -> None:
    captured: list[asyncio.Task[Any]] = []

    async def capture() -> None:
        captured.append(asyncio.current_task())  # type: ignore[arg-type]
        if suspend:
            await asyncio.sleep(0)

    async def cancel_the_captured() -> str:
        for task in captured:
            assert task is not asyncio.current_task()
            assert task.done()
            assert not task.cancel()
        await asyncio.sleep(1.0)
        return "lives"

    async def main() -> None:
        async with ActorSystem() as system:
            a, b = await system.spawn(Host), await system.spawn(Host)
            for _ in range(3):
                await path(a, capture)
                await settle()
                assert await path(b, cancel_the_captured) == "lives"
            assert len({id(task) for task in captured}) == 3

    run_virtual(main(), seed=seed)


@seeds(200)
async def test_a_task_captured_by_a_message_that_suspended_is_not_the_next_messages() -> None:
    captured: list[asyncio.Task[Any]] = []

    async def capture() -> None:
        captured.append(asyncio.current_task())  # type: ignore[arg-type]
        await asyncio.sleep(0)

    async def cancel_the_captured() -> str:
        assert not captured[0].cancel()
        await asyncio.sleep(1.0)
        return "lives"

    async with ActorSystem() as system:
        ref = await system.spawn(Host)
        for _ in range(3):
            captured.clear()
            ref.cast.run(capture)
            assert await ref.call.run(cancel_the_captured) == "lives"
        assert ref.statistics().incarnation == 0


@virtual_time()
async def test_a_task_held_by_nobody_is_reused() -> None:
    async def who() -> int:
        return id(asyncio.current_task())

    async with ActorSystem() as system:
        a, b = await system.spawn(Host), await system.spawn(Host)
        assert len({await path(ref, who) for path in PATHS for ref in (a, b) for _ in range(5)}) == 1


@virtual_time()
async def test_a_done_callback_of_a_handlers_task_runs_at_its_end() -> None:
    done: list[str] = []

    async def subscribe() -> None:
        asyncio.current_task().add_done_callback(lambda _: done.append("done"))  # type: ignore[union-attr]

    async with ActorSystem() as system:
        ref = await system.spawn(Host)
        for path in PATHS:
            await path(ref, subscribe)
        await settle()
        assert done == ["done", "done"]


@virtual_time()
async def test_a_captured_failing_handlers_task_is_over_too() -> None:
    captured: list[asyncio.Task[Any]] = []

    async def capture_and_fail() -> None:
        captured.append(asyncio.current_task())  # type: ignore[arg-type]
        raise ValueError("planted")

    async with ActorSystem() as system:
        ref = await system.spawn(Host)
        for path in PATHS:
            with pytest.raises(ValueError, match="planted"):
                await path(ref, capture_and_fail)
        assert all(task.done() for task in captured)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("seed", [None, *range(5)])
def test_context_variables_stay_with_their_actor_across_suspensions(path: Any, seed: int | None) -> None:
    marker: contextvars.ContextVar[int] = contextvars.ContextVar("marker", default=0)

    async def bump() -> int:
        marker.set(marker.get() + 1)
        await asyncio.sleep(0)
        async with asyncio.timeout(5.0):
            await asyncio.sleep(1.0)
        return marker.get()

    async def main() -> None:
        async with ActorSystem() as system:
            a, b = await system.spawn(Host), await system.spawn(Host)
            for count in (1, 2, 3):
                assert await asyncio.gather(path(a, bump), path(b, bump)) == [count, count]
                assert await path(a, lambda: look()) == count
            assert marker.get() == 0

    async def look() -> int:
        return marker.get()

    run_virtual(main(), seed=seed)


# --- calls inside their callers -------------------------------------------------------------------------------------
class Chain(Actor):
    @handler
    async def down(self, route: list[ActorRef[Any]], suspend: bool) -> int:
        if suspend:
            await asyncio.sleep(0)
        return 1 + (await route[0].within(60.0).call.down(route[1:], suspend) if route else 0)


@pytest.mark.parametrize("suspend", [False, True])
def test_a_chain_of_two_thousand_calls_does_not_exhaust_the_stack(suspend: bool) -> None:
    async def main() -> None:
        async with ActorSystem() as system:
            chain = [await system.spawn(Chain) for _ in range(2000)]
            assert await chain[0].within(60.0).call.down(chain[1:], suspend) == 2000

    run_virtual(main())


@virtual_time()
async def test_a_cancelled_caller_leaves_the_handler_that_began_inside_it_alone() -> None:
    ended: list[str] = []

    async def long() -> None:
        await asyncio.sleep(2.0)
        ended.append("ended")

    async with ActorSystem() as system:
        ref = await system.spawn(Host)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await ref.call.run(long)
        assert ended == []
        assert await ref.call.note(3) == 3
        assert ended == ["ended"]
        assert ref.statistics().incarnation == 0


@virtual_time()
async def test_stop_and_kill_end_a_handler_that_began_inside_its_caller() -> None:
    async with ActorSystem() as system:
        for stop in (False, True):
            ref = await system.spawn(Host, restart="temporary", shutdown=1.0)
            calling = asyncio.ensure_future(ref.within(100.0).call.run(lambda: asyncio.sleep(50.0)))
            await settle()
            if stop:
                await ref.stop()
            else:
                ref.kill()
                assert isinstance(await ref.stopped, Killed)
            with pytest.raises(ActorStoppedError):
                await calling


@pytest.mark.parametrize("path", PATHS)
def test_a_handler_given_up_on_cannot_crash_the_next_incarnation(path: Any) -> None:
    async def ignores_its_cancellation() -> None:
        end = asyncio.get_running_loop().time() + 50.0
        while (now := asyncio.get_running_loop().time()) < end:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(end - now)
        raise ValueError("too late")

    async def main() -> None:
        async with ActorSystem() as system:
            ref = await system.spawn(Host)
            calling = asyncio.ensure_future(path(ref, ignores_its_cancellation))
            await settle()
            ref.kill()
            await asyncio.sleep(10.0)
            assert ref.statistics().incarnation == 1
            assert await ref.call.note(1) == 1
            with pytest.raises(ActorStoppedError, match="was stopped while it ran"):
                await calling
            assert await ref.call.note(2) == 2
            assert ref.statistics().incarnation == 1

    run_virtual(main())


def test_the_end_of_the_loop_cancels_a_suspended_handler() -> None:
    ended: list[str] = []

    async def long() -> None:
        try:
            await asyncio.sleep(1000.0)
        finally:
            ended.append("cancelled")

    async def main() -> None:
        system = await ActorSystem().start()
        ref = await system.spawn(Host, restart="temporary")
        ref.cast.run(long)
        await settle()

    run_virtual(main())
    assert ended == ["cancelled"]


@virtual_time()
async def test_a_crash_after_suspending_inside_the_caller_is_one_crash() -> None:
    async def crash() -> None:
        await asyncio.sleep(1.0)
        raise ValueError("planted")

    async def cancelled_under_it() -> None:
        inner = asyncio.ensure_future(asyncio.sleep(10.0))
        await asyncio.sleep(0)
        inner.cancel()
        await inner

    async with ActorSystem() as system:
        ref = await system.spawn(Host)
        with pytest.raises(ValueError, match="planted"):
            await ref.call.run(crash)
        with pytest.raises(ActorCrashedError, match="cancelled by nobody"):
            await ref.call.run(cancelled_under_it)
        assert await ref.call.note(1) == 1
        assert ref.statistics().incarnation == 2


@virtual_time()
async def test_messages_behind_a_call_that_suspended_keep_their_order() -> None:
    seen: list[int] = []

    async def first() -> None:
        await asyncio.sleep(1.0)
        seen.append(0)

    async with ActorSystem() as system:
        ref = await system.spawn(Host)
        calling = asyncio.ensure_future(ref.call.run(first))
        await settle()
        for number in (1, 2, 3):
            ref.cast.now(lambda number=number: seen.append(number))
        await calling
        await ref.call.note(0)
        assert seen == [0, 1, 2, 3]


@seeds(200)
async def test_a_suspended_handler_is_among_all_tasks_and_gone_at_its_end() -> None:
    async with ActorSystem() as system:
        before = len(asyncio.all_tasks())
        ref = await system.spawn(Host, name="host")
        calling = asyncio.ensure_future(ref.call.run(suspends_a_while))
        await settle()
        (task,) = [task for task in asyncio.all_tasks() if task.get_name() == "host"]
        assert "suspends_a_while" in repr(task.get_stack()) or task.get_coro() is not None
        assert "pending name='host'" in repr(task)
        assert await calling == "slept"
        assert len(asyncio.all_tasks()) == before


@virtual_time()
async def test_what_a_handler_returned_or_raised_is_not_kept_alive() -> None:
    class Thing:
        pass

    async def make() -> Thing:
        return Thing()

    async with ActorSystem() as system:
        ref = await system.spawn(Host)
        for path in PATHS:
            kept = weakref.ref(await path(ref, make))
            await asyncio.sleep(0)  # the loop itself holds what it just delivered
            gc.collect()
            assert kept() is None


class Clockwork(VirtualLoop):
    """A virtual loop whose clock the test moves while a handler runs."""

    def advance(self, seconds: float) -> None:
        self._now += seconds


@pytest.mark.parametrize("how", ["run", "now"])
@pytest.mark.parametrize("cost", [0.0001, 0.001, 0.01])
def test_slow_handlers_called_in_a_loop_hold_the_loop_no_longer_than_a_slice_and_a_few_calls(
    how: str, cost: float
) -> None:
    loop = Clockwork()
    turns: list[float] = []

    async def main() -> None:
        def turn() -> None:
            turns.append(loop.time())
            loop.call_soon(turn)

        async def work() -> None:
            loop.advance(cost)

        async with ActorSystem() as system:
            ref = await system.spawn(Host)
            turn()
            for _ in range(200):
                await (ref.call.run(work) if how == "run" else ref.call.now(lambda: loop.advance(cost)))
            turns.append(loop.time())
            loop.stop()

    with asyncio.Runner(loop_factory=lambda: loop) as runner, pytest.raises(RuntimeError, match="stopped before"):
        runner.run(main())
    gaps = [after - before for before, after in pairwise(turns)]
    assert max(gaps[30:]) <= 0.001 + 3 * cost
    assert len(gaps) >= 200 * cost / (0.001 + 3 * cost)
