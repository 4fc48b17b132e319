"""What a restart means for the failing message, the queue, the children and the state: each policy of its own."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any, ClassVar

import pytest

from tests.runtime.actors import Hooked, Recorder
from tinkex_actors.errors import (
    ActorRestartedError,
    ActorStoppedError,
    CallTimeoutError,
    ConfigError,
    RestartsExhaustedError,
)
from tinkex_actors.runtime import (
    Actor,
    ActorRef,
    ActorSystem,
    Backoff,
    ChildSpec,
    Down,
    Killed,
    Mailbox,
    Poisoned,
    Reject,
    Restarted,
    RestartPolicy,
    Supervisor,
    handler,
)
from tinkex_actors.testing import seeds, settle, virtual_time

BACKING_OFF = {"backoff": Backoff(base=8.0, cap=8.0), "max_restarts": 100}


class Slow(Recorder):
    """Crashes in its own time, so that messages can be queued behind."""

    @handler
    async def crash_slowly(self) -> None:
        await asyncio.sleep(1.0)
        raise ZeroDivisionError("planted")


class Dropping(Slow):
    restart_policy = RestartPolicy(casts="drop")


class Failing(Slow):
    restart_policy = RestartPolicy(calls="fail")


class Fast(Slow):
    restart_policy = RestartPolicy(fail_fast=True)


async def queue_behind_a_crash(ref: ActorRef[Any]) -> asyncio.Task[Any]:
    ref.cast.crash_slowly()
    await settle()
    ref.cast.put(1)
    call = asyncio.ensure_future(ref.call.put(2))
    await settle()
    return call


@pytest.mark.parametrize(
    ("cls", "handled", "lost"), [(Slow, [1, 2], 0), (Dropping, [2], 1), (Failing, [1], 0)], ids=lambda value: str(value)
)
def test_queued_messages_follow_the_policy(cls: type[Slow], handled: list[int], lost: int) -> None:
    @virtual_time()
    async def scenario() -> None:
        journal: list[int] = []
        async with ActorSystem() as system:
            ref = await system.spawn(cls, journal)
            call = await queue_behind_a_crash(ref)
            await asyncio.sleep(2.0)
            assert journal == handled
            assert len(system.dead_letters) == lost
            if cls is Failing:
                with pytest.raises(ActorRestartedError, match="safe to repeat"):
                    await call
            else:
                assert await call is None

    scenario()


@seeds(200)
async def test_the_policy_holds_for_siblings_that_restart_with_the_group() -> None:
    journal: list[int] = []
    async with ActorSystem() as system:
        top = await system.spawn(
            Supervisor,
            [ChildSpec(Dropping, (journal,), name="a"), ChildSpec(Slow, (journal,), name="b")],
            strategy="one_for_all",
        )
        a, b = top.child("a"), top.child("b")
        b.cast.crash_slowly()
        a.cast.crash_slowly()
        await asyncio.sleep(0.5)
        a.cast.put(1)
        b.cast.put(2)
        await asyncio.sleep(3.0)
        assert journal == [2]
        assert list(system.dead_letters.counts) == [("/supervisor-1/a", "put")]


@virtual_time()
async def test_fail_fast_refuses_calls_and_casts_while_it_backs_off_and_takes_them_afterwards() -> None:
    journal: list[int] = []
    async with ActorSystem(seed=1) as system:
        top = await system.spawn(Supervisor, [ChildSpec(Fast, (journal,), name="a")], **BACKING_OFF)
        ref = top.child("a")
        call = await queue_behind_a_crash(ref)
        await asyncio.sleep(1.0)
        await settle()
        assert ref.statistics().state == "backing off"
        with pytest.raises(ActorRestartedError):
            await ref.call.put(3)
        ref.cast.put(4)
        await ref.send.put(5)
        assert len(system.dead_letters) == 2
        await asyncio.sleep(10.0)
        assert await call is None, "what was queued before the crash is kept"
        await ref.call.put(6)
        assert journal == [1, 2, 6]


class SmallFast(Fast):
    """A full mailbox with senders waiting."""


@virtual_time()
async def test_fail_fast_wakes_senders_that_wait_for_room() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(SmallFast, mailbox=Mailbox(1, "wait"))
        ref.cast.crash_slowly()
        await settle()
        ref.cast.put(1)
        sender = asyncio.ensure_future(ref.send.put(2))
        caller = asyncio.ensure_future(ref.call.put(3))
        gone = asyncio.ensure_future(ref.send.put(4))
        await settle()
        gone.cancel()
        await asyncio.sleep(2.0)
        for waiting in (sender, caller):
            with pytest.raises(ActorRestartedError):
                await waiting


class SmallDropping(Dropping):
    """Its queue is emptied by the crash, which makes room."""


@virtual_time()
async def test_room_made_by_dropping_goes_to_who_waits_for_it() -> None:
    journal: list[int] = []
    async with ActorSystem() as system:
        ref = await system.spawn(SmallDropping, journal, mailbox=Mailbox(1, "wait"))
        ref.cast.crash_slowly()
        await settle()
        ref.cast.put(1)
        sender = asyncio.ensure_future(ref.send.put(2))
        await asyncio.sleep(2.0)
        assert sender.done()
        assert journal == [2]


@virtual_time()
async def test_stopping_an_actor_that_fails_fast_while_it_backs_off() -> None:
    async with ActorSystem() as system:
        top = await system.spawn(Supervisor, [ChildSpec(Fast, name="a")], **BACKING_OFF)
        ref = top.child("a")
        call = await queue_behind_a_crash(ref)
        await asyncio.sleep(1.0)
        await settle()
        await ref.stop()
        with pytest.raises(ActorStoppedError):
            await call
        assert system.dead_letters.counts == {("/supervisor-1/a", "put"): 1}


# --- the failing message ---------------------------------------------------------------------------------------------
class Flaky(Recorder):
    """Its handlers fail as often as the shared list has entries."""

    def __init__(self, failures: list[int], journal: list[Any]) -> None:
        super().__init__(journal)
        self.failures = failures

    @handler(retry_once=True)
    async def write(self, item: int) -> int:
        self.attempt(item)
        return item

    @handler(retry_once=True)
    def write_now(self, item: int) -> int:
        self.attempt(item)
        return item

    def attempt(self, item: int) -> None:
        if self.failures:
            self.failures.pop()
            raise OSError("planted")
        self.journal.append(item)


class FlakyFast(Flaky):
    restart_policy = RestartPolicy(casts="drop", calls="fail", fail_fast=True)


@pytest.mark.parametrize("cls", [Flaky, FlakyFast])
@pytest.mark.parametrize("message", ["write", "write_now"])
def test_a_message_with_retry_once_is_handled_again_first_of_all(cls: type[Flaky], message: str) -> None:
    @seeds(200)
    async def scenario() -> None:
        journal: list[Any] = []
        async with ActorSystem() as system:
            ref = await system.spawn(cls, [1], journal)
            assert await getattr(ref.call, message)(1) == 1
            ref = await system.spawn(cls, [1], journal)
            getattr(ref.cast, message)(2)
            await settle()
            assert ref.statistics().incarnation == 1
            assert journal == [1, 2]
            assert len(system.dead_letters) == 0

    scenario()


@virtual_time()
async def test_a_retried_message_comes_before_those_queued_behind_it() -> None:
    journal: list[Any] = []
    async with ActorSystem() as system:
        ref = await system.spawn(Flaky, [1], journal)
        ref.cast.write(1)
        ref.cast.write(2)
        ref.cast.put(3)
        await settle()
        assert journal == [1, 2, 3]


@virtual_time()
async def test_the_second_crash_is_final_for_the_message_and_its_caller_gets_the_error() -> None:
    async with ActorSystem() as system:
        poisoned: list[Poisoned] = []
        system.events.subscribe(poisoned.append, Poisoned)
        ref = await system.spawn(Flaky, [1, 1], [])
        with pytest.raises(OSError, match="planted"):
            await ref.call.write(1)
        await settle()
        assert ref.statistics().incarnation == 2
        assert [(event.path, event.message) for event in poisoned] == [("/flaky-1", "write")]
        assert await ref.call.write(2) == 2


@virtual_time()
async def test_without_retry_the_failing_message_is_poisoned_at_once_also_inside_its_caller() -> None:
    async with ActorSystem() as system:
        poisoned: list[Poisoned] = []
        system.events.subscribe(poisoned.append, Poisoned)
        ref = await system.spawn(Recorder)
        with pytest.raises(ZeroDivisionError):
            await ref.call.crash()
        ref.cast.crash()
        await settle()
        assert [event.message for event in poisoned] == ["crash", "crash"]


@virtual_time()
async def test_nothing_is_retried_where_no_incarnation_follows() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Flaky, [1], [], restart="temporary")
        with pytest.raises(OSError, match="planted"):
            await ref.call.write(1)
        assert not ref.alive


@virtual_time()
async def test_a_retried_call_still_has_its_deadline_and_the_limit_of_restarts_holds() -> None:
    async with ActorSystem() as system:
        top = await system.spawn(
            Supervisor, [ChildSpec(Flaky, ([1], []), name="a")], backoff=Backoff(base=1e6, cap=1e6), max_restarts=1
        )
        with pytest.raises(CallTimeoutError):
            await top.child("a").call.write(1)
        top = await system.spawn(
            Supervisor, [ChildSpec(Flaky, ([1], []), name="a")], max_restarts=0, restart="temporary"
        )
        with pytest.raises(RestartsExhaustedError):
            await top.child("a").call.write(1)


# --- state -----------------------------------------------------------------------------------------------------------
class Tally(Actor):
    """A shell around a value: replaces it in each handler."""

    restart_policy = RestartPolicy(carry="total")

    def __init__(self, seen: list[int]) -> None:
        self.seen = seen
        self.total = 0

    async def init(self) -> None:
        self.seen.append(self.total)
        self.total += 100

    @handler
    def add(self, amount: int) -> int:
        self.total += amount
        if amount < 0:
            raise ValueError("planted")
        if amount == 0:
            self.total += 7
            raise Reject(LookupError("no"))
        return self.total

    @handler
    async def add_slowly(self, amount: int) -> int:
        """Changes first, so that a failure leaves a change behind."""
        self.total += amount
        await asyncio.sleep(1.0)
        if amount < 0:
            raise ValueError("planted")
        if amount == 0:
            raise Reject(LookupError("no"))
        return self.total


@pytest.mark.parametrize("message", ["add", "add_slowly"])
def test_carry_hands_the_state_of_the_last_finished_handler_to_init(message: str) -> None:
    @seeds(200)
    async def scenario() -> None:
        seen: list[int] = []
        async with ActorSystem() as system:
            ref = await system.spawn(Tally, seen)
            assert await getattr(ref.call, message)(1) == 101
            with pytest.raises(LookupError):
                await getattr(ref.call, message)(0)
            with pytest.raises(ValueError, match="planted"):
                await getattr(ref.call, message)(-50)
            expected = 108 if message == "add" else 101
            assert await getattr(ref.call, message)(1) == expected + 101
            assert seen == [0, expected]

    scenario()


@virtual_time()
async def test_a_handler_cut_off_by_a_kill_commits_nothing() -> None:
    seen: list[int] = []
    async with ActorSystem() as system:
        ref = await system.spawn(Tally, seen)
        ref.cast.add_slowly(5)
        await asyncio.sleep(0.5)
        ref.kill()
        await asyncio.sleep(1.0)
        assert seen == [0, 100]


@virtual_time()
async def test_a_wrong_message_to_a_carrying_actor_is_still_found_where_it_is_written() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Tally, [])
        with pytest.raises(TypeError):
            ref.cast.add()


# --- children --------------------------------------------------------------------------------------------------------
class Keeper(Actor):
    restart_policy = RestartPolicy(children="keep")

    def __init__(self, journal: list[str]) -> None:
        self.journal = journal

    async def init(self) -> None:
        if not self.ref.children:
            await self.spawn(Hooked, "child", self.journal, name="child")

    @handler
    def crash(self) -> None:
        raise ZeroDivisionError("planted")


@seeds(200)
async def test_kept_children_go_on_across_their_parents_restart_and_end_with_it() -> None:
    journal: list[str] = []
    async with ActorSystem() as system:
        keeper = await system.spawn(Keeper, journal, name="keeper")
        child = keeper.child("child")
        keeper.cast.crash()
        await settle()
        assert (keeper.statistics().incarnation, keeper.child("child")) == (1, child)
        assert await child.call.ping() == "child"
        with pytest.raises(ZeroDivisionError):
            await child.call.crash()
        assert await child.call.ping() == "child", "its parent still supervises it"
        await keeper.stop()
        assert not child.alive
    assert [entry for entry in journal if entry.startswith("child:stop")] == [
        "child:stop:Crashed",
        "child:stop:Shutdown",
    ]


@virtual_time()
async def test_kept_children_end_with_a_parent_that_does_not_come_back() -> None:
    journal: list[str] = []
    async with ActorSystem() as system:
        top = await system.spawn(Supervisor, [ChildSpec(Keeper, (journal,), name="keeper")], **BACKING_OFF)
        keeper = top.child("keeper")
        child = keeper.child("child")
        keeper.cast.crash()
        await settle()
        assert keeper.statistics().state == "backing off"
        assert child.alive
        await keeper.stop()
        assert not child.alive
        top = await system.spawn(
            Supervisor, [ChildSpec(Keeper, (journal,), name="keeper")], max_restarts=0, restart="temporary"
        )
        child = top.child("keeper").child("child")
        top.child("keeper").cast.crash()
        await settle()
        assert not child.alive


@pytest.mark.parametrize("strategy", ["one_for_all", "rest_for_one"])
def test_kept_children_survive_a_group_restart(strategy: str) -> None:
    @seeds(200)
    async def scenario() -> None:
        async with ActorSystem() as system:
            specs = [ChildSpec(Recorder, name="first"), ChildSpec(Keeper, ([],), name="keeper")]
            top = await system.spawn(Supervisor, specs, strategy=strategy)
            child = top.child("keeper").child("child")
            top.child("first").cast.crash()
            await settle()
            assert top.child("keeper").statistics().incarnation == 1
            assert await child.call.ping() == "child"
            await top.stop()
            assert not child.alive

    scenario()


# --- monitors --------------------------------------------------------------------------------------------------------
class Observer(Actor):
    def __init__(self, notices: list[Restarted | Down]) -> None:
        self.notices = notices

    @handler
    def watch(self, ref: ActorRef[Any], restarts: bool) -> None:
        self.monitor(ref, restarts=restarts)

    def on_down(self, down: Down) -> None:
        self.notices.append(down)

    def on_restarted(self, restarted: Restarted) -> None:
        self.notices.append(restarted)


class HalfObserver(Actor):
    @handler(raises=ConfigError)
    def watch(self, ref: ActorRef[Any]) -> None:
        self.monitor(ref, restarts=True)

    def on_down(self, down: Down) -> None: ...


@virtual_time()
async def test_a_monitor_hears_of_restarts_on_request() -> None:
    async with ActorSystem() as system:
        target = await system.spawn(Recorder)
        curious: list[Restarted | Down] = []
        content: list[Restarted | Down] = []
        for notices, restarts in ((curious, True), (content, False)):
            await (await system.spawn(Observer, notices)).call.watch(target, restarts)
        target.cast.crash()
        await settle()
        target.kill()
        await settle()
        await target.stop()
        await settle()
        assert [type(notice) for notice in curious] == [Restarted, Restarted, Down]
        assert [notice.incarnation for notice in curious] == [1, 2, 2]
        assert isinstance(curious[1].reason, Killed)
        assert [type(notice) for notice in content] == [Down]


@virtual_time()
async def test_asking_for_restarts_needs_a_hook_for_them() -> None:
    async with ActorSystem() as system:
        target = await system.spawn(Recorder)
        with pytest.raises(ConfigError, match="on_restarted"):
            await (await system.spawn(HalfObserver)).call.watch(target)


# --- options ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "options", [{"casts": "burn"}, {"calls": "drop"}, {"children": "sell"}, {"carry": "not a name"}, {"carry": 3}]
)
def test_an_option_that_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        RestartPolicy(**options)


def test_a_supervisor_cannot_keep_its_children_and_a_policy_is_a_policy() -> None:
    class Keeping(Supervisor):
        restart_policy = RestartPolicy(children="keep")

    class Wrong(Actor):
        restart_policy: ClassVar[Any] = "keep"

    with pytest.raises(ConfigError, match="cannot keep them"):
        ChildSpec(Keeping)
    with pytest.raises(ConfigError, match="must be a RestartPolicy"):
        ChildSpec(Wrong)


class FastLinked(Fast):
    """Fails fast, and is told of the ends of those it is linked to."""

    @handler
    def tie(self, other: ActorRef[Any]) -> None:
        self.link(other)

    def on_exit(self, down: Down) -> None:
        self.journal.append(type(down.reason).__name__)


@virtual_time()
async def test_the_runtimes_own_messages_are_kept_while_it_fails_fast() -> None:
    journal: list[Any] = []
    async with ActorSystem() as system:
        top = await system.spawn(Supervisor, [ChildSpec(FastLinked, (journal,), name="a")], **BACKING_OFF)
        ref, other = top.child("a"), await system.spawn(Recorder)
        await ref.call.tie(other)
        ref.cast.crash_slowly()
        await asyncio.sleep(1.0)
        await settle()
        assert ref.statistics().state == "backing off"
        await other.stop(Killed("gone"))
        await asyncio.sleep(10.0)
        assert journal == ["Killed"]


@virtual_time()
async def test_an_answered_call_that_may_be_retried_is_not_kept_until_its_deadline() -> None:
    class Payload:
        pass

    class Reader(Actor):
        @handler(retry_once=True)
        def read(self, payload: Payload) -> None:
            """Look and forget."""

    async with ActorSystem() as system:
        reader = await system.spawn(Reader)
        payload = Payload()
        watched = weakref.ref(payload)
        await reader.within(1000.0).call.read(payload)
        del payload
        await asyncio.sleep(0)  # the loop holds the reply for the turn that it woke
        gc.collect()

        assert watched() is None
