"""Seldom met moments of messages, their tasks and their deadlines."""

from __future__ import annotations

import asyncio
import gc
import io
import sys
import threading
import time
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import structlog

from tests.runtime.actors import Recorder, Sleeper
from tinkex_actors.errors import ActorStoppedError, CallTimeoutError, ConfigError
from tinkex_actors.runtime import Actor, ActorRef, ActorSystem, HandlerBlocked, Mailbox, handler, run
from tinkex_actors.runtime._core.cell import Cell
from tinkex_actors.runtime._core.stacks import runner_in
from tinkex_actors.runtime._core.tasks import MAX_SPARES, Tasks
from tinkex_actors.runtime._core.watchdog import Watchdog
from tinkex_actors.testing import run_virtual, settle, virtual_time


class Host(Actor):
    """Runs whatever it is given."""

    @handler
    async def run(self, script: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        return await script()

    @handler
    async def note(self, value: int) -> int:
        return value


# --- senders ---------------------------------------------------------------------------------------------------------
@virtual_time()
async def test_a_handler_that_waits_for_room_is_named_as_waiting() -> None:
    async with ActorSystem() as system:
        slow, host = await system.spawn(Sleeper, name="slow", mailbox=Mailbox(1)), await system.spawn(Host, name="host")
        slow.cast.nap(2.0)
        await settle()
        slow.cast.put(1)

        async def send() -> None:
            await slow.send.put(2)

        host.cast.run(send)
        await asyncio.sleep(1.0)
        assert "/host waits for /slow" in str(system.explain(host))
        await asyncio.sleep(2.0)
        assert host.statistics().waiting_on is None
        assert await slow.call.seen() == ["napped", 1, 2]


@pytest.mark.parametrize("queued", [1, 3])
@virtual_time()
async def test_a_sender_that_waits_for_def_handlers_is_let_in_behind_what_was_queued(queued: int) -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Recorder, mailbox=Mailbox(queued))
        for number in range(queued):
            ref.cast.put(number)
        await ref.send.put(queued)
        assert await ref.call.seen() == list(range(queued + 1))


@virtual_time()
async def test_a_lone_async_message_lets_waiting_senders_in_and_goes_on_with_what_it_sent_itself() -> None:
    class Echo(Sleeper):
        @handler
        async def echo(self, item: int) -> None:
            if item:
                self.ref.cast.echo(item - 1)
            self.journal.append(item)

    journal: list[int] = []
    async with ActorSystem() as system:
        ref = await system.spawn(Echo, journal, mailbox=Mailbox(1))
        ref.cast.echo(0)
        await ref.send.echo(2)
        await settle()
        assert journal == [0, 2, 1, 0]


@virtual_time()
async def test_a_linked_task_of_an_idle_actor_may_continue_it() -> None:
    class Continues(Recorder):
        @handler
        def begin(self) -> None:
            self.task(self.later())

        async def later(self) -> None:
            await asyncio.sleep(1.0)
            self.continue_with(self.ref.cast.put, 1)

    async with ActorSystem() as system:
        ref = await system.spawn(Continues)
        ref.cast.put(0)
        ref.cast.begin()
        await asyncio.sleep(2.0)
        assert await ref.call.seen() == [0, 1]


@virtual_time()
async def test_continue_with_takes_no_calls() -> None:
    class Confused(Recorder):
        @handler(raises=ConfigError)
        def begin(self) -> None:
            self.continue_with(self.ref.send.put, 1)

    async with ActorSystem() as system:
        ref = await system.spawn(Confused)
        with pytest.raises(ConfigError, match=r"continue_with takes self\.ref\.cast"):
            await ref.call.begin()


@pytest.mark.parametrize("ending", ["result", "reject", "crash"])
@pytest.mark.parametrize("cls", [Recorder, Host])
def test_a_call_may_be_driven_by_hand_where_no_task_runs(cls: type[Any], ending: str) -> None:
    """A callback of the loop steps the call itself, as adapters to other frameworks do."""
    seen: list[Any] = []

    async def fail() -> None:
        raise ZeroDivisionError("planted")

    async def end() -> str:
        return "end"

    def call(ref: ActorRef[Any]) -> Any:
        if cls is Host:
            return ref.call.run(end if ending == "result" else fail)
        return ref.call.seen() if ending == "result" else ref.call.crash()

    def step(ref: ActorRef[Any]) -> None:
        try:
            call(ref).__await__().send(None)
        except StopIteration as stop:
            seen.append(stop.value)
        except ZeroDivisionError as error:
            seen.append(str(error))

    async def main() -> None:
        async with ActorSystem() as system:
            ref = await system.spawn(cls)
            asyncio.get_running_loop().call_soon(step, ref)
            await settle()
            assert ref.alive

    run_virtual(main())
    assert seen == [{Recorder: [], Host: "end"}[cls] if ending == "result" else "planted"]


class Shapes(Actor):
    @handler
    def none(self) -> tuple[Any, ...]:
        return ()

    @handler
    def one(self, first: int) -> tuple[Any, ...]:
        return (first,)

    @handler
    def two(self, first: int, second: int) -> tuple[Any, ...]:
        return (first, second)

    @handler
    def named(self, first: int, *, second: int) -> tuple[Any, ...]:
        return (first, second)


@pytest.mark.parametrize(
    ("name", "arguments", "seen"),
    [("none", (), ()), ("one", (1,), (1,)), ("two", (1, 2), (1, 2)), ("named", (1, {"second": 2}), (1, 2))],
)
def test_a_handler_runs_messages_of_every_shape(name: str, arguments: tuple[Any, ...], seen: tuple[Any, ...]) -> None:
    declared = vars(Shapes)[name]
    assert declared.run(Shapes(), (declared, *arguments)) == seen


# --- deadlines -------------------------------------------------------------------------------------------------------
@virtual_time()
async def test_deadlines_pass_over_calls_answered_behind_one_that_waits() -> None:
    async with ActorSystem() as system:
        slow, quick = await system.spawn(Sleeper), await system.spawn(Sleeper)
        first = asyncio.ensure_future(slow.call.nap(60.0))
        await settle()
        await asyncio.sleep(0.5)
        second = asyncio.ensure_future(quick.call.nap(1.0))
        other = asyncio.ensure_future(quick.within(2.0).call.put(1))
        await asyncio.sleep(1.0)
        assert await second == "napped"
        assert await other is None
        with pytest.raises(CallTimeoutError):
            await first
        assert system.now() == 5.0
        assert await slow.within(100.0).call.seen() == ["napped"]


@virtual_time()
async def test_explain_finds_the_age_of_a_call_among_others() -> None:
    async with ActorSystem() as system:
        one, two = await system.spawn(Sleeper, name="one"), await system.spawn(Sleeper, name="two")
        host = await system.spawn(Host, name="host")
        waiting = [asyncio.ensure_future(one.within(50.0).call.nap(9.0)), asyncio.ensure_future(one.call.nap(1.0))]

        async def ask() -> str:
            return await two.within(50.0).call.nap(9.0)

        await asyncio.sleep(1.0)
        host.cast.run(ask)
        await asyncio.sleep(2.0)
        assert "/host waits for /two since 2.0 s" in str(system.explain(host))
        waiting[1].cancel()
        await asyncio.wait(waiting)


# --- tasks of handlers -----------------------------------------------------------------------------------------------
def current() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


@pytest.mark.parametrize("suspend", [False, True])
@pytest.mark.parametrize("queued", [False, True])
@virtual_time()
async def test_a_handler_that_forces_its_tasks_end_harms_nobody(suspend: bool, queued: bool) -> None:
    async def force() -> str:
        if suspend:
            await asyncio.sleep(1.0)
        asyncio.Future.set_result(current(), "forced")
        return "end"

    async with ActorSystem() as system:
        host = await system.spawn(Host)
        if queued:
            host.cast.note(0)
        assert await host.call.run(force) == "end"
        assert await host.call.note(7) == 7


@virtual_time()
async def test_a_handlers_task_tells_where_it_is_and_in_what_context() -> None:
    printed = io.StringIO()

    async def wait() -> None:
        task = current()
        task.uncancel()
        tasks.append(task)
        await asyncio.sleep(1.0)

    tasks: list[asyncio.Task[Any]] = []
    async with ActorSystem() as system:
        host = await system.spawn(Host)
        host.cast.run(wait)
        await settle()
        (task,) = tasks
        task.print_stack(file=printed)
        assert "in run" in printed.getvalue()
        if sys.version_info >= (3, 12):
            assert task.get_context() is not None
        else:
            assert task.get_context() is host.context  # type: ignore[attr-defined]
        await asyncio.sleep(2.0)
        task.print_stack(file=printed)
        assert len(printed.getvalue().splitlines()) == 1, "nothing to show once it is over"


@virtual_time()
async def test_a_second_cancel_meets_a_handler_that_is_being_cancelled() -> None:
    """Both cancellations ask before the handler's next step: it sees one, as a plain task does."""
    seen: list[str] = []

    async def wait() -> None:
        tasks.append(current())
        for _ in range(2):
            try:
                await asyncio.sleep(1.0)
            except asyncio.CancelledError:
                seen.append("cancelled")

    tasks: list[asyncio.Task[Any]] = []
    async with ActorSystem() as system:
        host = await system.spawn(Host)
        host.cast.run(wait)
        await settle()
        tasks[0].cancel()
        tasks[0].cancel()
        await asyncio.sleep(5.0)
        assert seen == ["cancelled"]


def test_a_burst_on_a_closed_loop_is_collected_in_silence() -> None:
    """As one message is: the queue behind the suspended handler is gone with the loop."""
    loop = asyncio.new_event_loop()

    async def start() -> None:
        system = await ActorSystem().start()
        ref = await system.spawn(Sleeper)
        for _ in range(3):
            ref.cast.nap(1000.0)
        lone = await system.spawn(Sleeper)
        lone.cast.nap(1000.0)
        await asyncio.sleep(0)

    loop.run_until_complete(start())
    loop.close()
    gc.collect()


class Ignores(Actor):
    """Ignores its cancellation, and leaves with an error long after it was given up."""

    @handler
    async def ignore(self, error: BaseException) -> None:
        while True:
            try:
                await asyncio.sleep(50.0)
            except asyncio.CancelledError:
                continue
            raise error


@pytest.mark.parametrize("how", ["cast", "call"])
@pytest.mark.parametrize("error", [ValueError("late"), SystemExit(3)], ids=["error", "exit"])
def test_a_handler_given_up_on_may_fail_but_not_swallow_an_exit(error: BaseException, how: str) -> None:
    async def main() -> str:
        async with ActorSystem() as system:
            ref = await system.spawn(Ignores, restart="temporary")
            ref.cast.ignore(error)
            if how == "call":
                ref = await system.spawn(Ignores, restart="temporary")
                call = asyncio.ensure_future(ref.within(500.0).call.ignore(error))
            await settle()
            ref.kill()
            await ref.stopped
            await asyncio.sleep(100.0)
            if how == "call":
                with pytest.raises(ActorStoppedError):
                    await call
            return "went on"

    if isinstance(error, Exception):
        assert run_virtual(main()) == "went on"
    else:
        with pytest.raises(SystemExit):
            run_virtual(main())


@virtual_time()
async def test_a_burst_given_up_on_ends_without_touching_the_next_incarnation() -> None:
    """The second message of a burst ignores its cancellation; what it raises later is nobody's."""
    async with ActorSystem() as system:

        class Both(Ignores):
            @handler
            async def note(self, value: int) -> int:
                return value

        ref = await system.spawn(Both)
        ref.cast.note(0)
        ref.cast.ignore(ValueError("late"))
        await settle()
        ref.kill()
        await asyncio.sleep(100.0)
        assert await ref.call.note(1) == 1
        assert ref.statistics().incarnation == 1


@virtual_time()
async def test_mailboxes_of_the_dead_are_not_kept_waiting_for() -> None:
    async with ActorSystem() as system:
        for _ in range(3):
            refs = [await system.spawn(Recorder) for _ in range(1100)]
            for ref in refs:
                ref.cast.put(1)
            await settle()
            for ref in refs:
                await ref.stop()
        last = await system.spawn(Recorder)
        last.cast.put(2)
        assert await last.call.seen() == [2]


async def test_no_more_spare_tasks_are_kept_than_calls_nest() -> None:
    tasks = Tasks(asyncio.get_running_loop())
    taken = [tasks.take() for _ in range(2 * MAX_SPARES)]
    first, last = weakref.ref(taken[0]), weakref.ref(taken[-1])
    while taken:
        task = taken.pop()
        tasks.give(task)
    del task
    assert first() is None, "it was given back last, when there were enough"
    again = [tasks.take() for _ in range(MAX_SPARES + 1)]
    assert last() in again
    assert len({id(task) for task in again}) == MAX_SPARES + 1


def test_a_generator_exit_of_a_handlers_own_is_the_loops_and_the_actor_still_stops() -> None:
    told: list[Any] = []

    async def end() -> None:
        await asyncio.sleep(1.0)
        raise GeneratorExit

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
        async with ActorSystem() as system:
            ref = await system.spawn(Host)
            with pytest.raises(CallTimeoutError):
                await ref.call.run(end)
            await ref.stop()

    run_virtual(main())
    assert [type(error) for error in told] == [GeneratorExit]


# --- stacks and the watchdog -----------------------------------------------------------------------------------------
def test_a_stack_seen_before_its_message_is_known_names_nobody() -> None:
    """The sampling thread may look at any line, also at the first of a burst."""
    found: list[Any] = []

    class Looking:
        @property
        def box(self) -> Any:
            found.append(runner_in(sys._getframe()))
            raise LookupError

    with pytest.raises(LookupError):
        Cell.drain(Looking(), 1)  # type: ignore[arg-type]
    assert found == [(None, None)]


async def test_nobody_has_a_share_of_a_processor_that_waits() -> None:
    async with ActorSystem() as system:
        await system.spawn(Recorder)
        assert [row.share for row in (await system.top(0.1)).rows] == [0.0]


async def test_a_held_loop_is_logged_without_subscribers_too() -> None:
    blocked: list[HandlerBlocked] = []
    async with ActorSystem(watchdog=0.01) as system:
        await asyncio.sleep(0.1)  # it answers in time
        with structlog.testing.capture_logs() as logs:
            time.sleep(0.1)  # noqa: ASYNC251  # what the watchdog is there for
            await asyncio.sleep(0.05)
        assert "loop.blocked" in [line["event"] for line in logs]
        unsubscribe = system.events.subscribe(blocked.append, HandlerBlocked)
        time.sleep(0.1)  # noqa: ASYNC251
        await asyncio.sleep(0.05)
        unsubscribe()
    assert blocked[0].path == "", "the program's own code, no actor's"


async def test_a_watchdog_stopped_while_the_loop_is_held_says_nothing() -> None:
    async with ActorSystem(name="held") as system:
        watchdog = Watchdog(system, 0.01)
        with structlog.testing.capture_logs() as logs:
            time.sleep(0.1)  # noqa: ASYNC251
            watchdog.stop()
            await asyncio.sleep(0)
    assert logs == []
    assert not [thread for thread in threading.enumerate() if thread.name == "held.watchdog"]


# --- run() -----------------------------------------------------------------------------------------------------------
def test_run_takes_the_stock_loop_where_uvloop_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)

    async def main() -> str:
        return type(asyncio.get_running_loop()).__module__.partition(".")[0]

    assert run(main()) == "asyncio"


def test_run_in_a_thread_does_without_signals() -> None:
    results: list[str] = []

    async def main() -> str:
        async with ActorSystem() as system:
            return await (await system.spawn(Sleeper)).call.nap(0.0)

    thread = threading.Thread(target=lambda: results.append(run(main())))
    thread.start()
    thread.join(10.0)
    assert results == ["napped"]
