"""What went wrong in other actor libraries, by issue number, and what OTP's own suites insist on: none of it here."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest
import structlog

from tests.runtime.actors import Hooked, Recorder, Sleeper
from tinkex_actors.errors import ActorStoppedError, CallCycleError, CallTimeoutError, RestartsExhaustedError
from tinkex_actors.runtime import (
    Actor,
    ActorRef,
    ActorSystem,
    Backoff,
    ChildSpec,
    Crashed,
    DynamicSupervisor,
    ExitReason,
    Shutdown,
    Supervisor,
    handler,
)
from tinkex_actors.testing import seeds, settle, virtual_time


# --- kameo: messages around a restart --------------------------------------------------------------------------------
@seeds(200)
async def test_kameo_335_casts_sent_at_any_moment_of_a_restart_arrive_in_order() -> None:
    journal: list[Any] = []
    async with ActorSystem(seed=1) as system:
        spec = ChildSpec(SlowStarter, (journal,), name="a")
        top = await system.spawn(Supervisor, [spec], backoff=Backoff(base=1.0, cap=1.0))
        ref = top.child("a")
        ref.cast.crash()
        for item in range(40):  # crash, on_stop, back-off and init take some of these each
            ref.cast.put(item)
            await asyncio.sleep(0.05)
        await asyncio.sleep(5.0)
        assert journal == list(range(40))


class SlowStarter(Recorder):
    async def init(self) -> None:
        await asyncio.sleep(0.3)

    async def on_stop(self, reason: ExitReason) -> None:
        await asyncio.sleep(0.3)


class Parent(Actor):
    """Restarts while its child waits for its reply: each would wait for the other."""

    def __init__(self, answers: list[Any]) -> None:
        self.answers = answers

    async def init(self) -> None:
        await self.spawn(Child, self.ref, self.answers, name="child")

    @handler
    async def crash_slowly(self) -> None:
        await asyncio.sleep(1.0)
        raise ZeroDivisionError("planted")

    @handler
    def reply(self) -> str:
        return "reply"


class Child(Actor):
    def __init__(self, parent: ActorRef[Parent], answers: list[Any]) -> None:
        self.parent = parent
        self.answers = answers

    @handler
    async def ask_parent(self) -> None:
        self.answers.append(await self.parent.within(1000.0).call.reply())


@seeds(200)
async def test_kameo_345_a_parent_restarts_although_its_child_waits_for_its_reply() -> None:
    answers: list[Any] = []
    async with ActorSystem() as system:
        parent = await system.spawn(Parent, answers)
        parent.cast.crash_slowly()
        await asyncio.sleep(0.5)
        parent.child("child").cast.ask_parent()
        await asyncio.sleep(20.0)
        assert parent.statistics().incarnation == 1
        assert system.now() < 30.0
        assert await parent.call.reply() == "reply"


@virtual_time()
async def test_kameo_351_over_the_limit_no_queued_call_waits_for_ever_and_no_cast_vanishes() -> None:
    async with ActorSystem() as system:
        top = await system.spawn(Supervisor, [ChildSpec(Sleeper, name="a")], max_restarts=0, restart="temporary")
        ref = top.child("a")
        ref.cast.crash_after(1.0)
        await settle()
        ref.cast.put(1)
        call = asyncio.ensure_future(ref.within(1000.0).call.put(2))
        await asyncio.sleep(2.0)
        with pytest.raises(RestartsExhaustedError):
            await call
        assert system.dead_letters.counts == {("/supervisor-1/a", "put"): 1}


@seeds(200)
async def test_kameo_359_an_old_on_stop_never_overlaps_a_new_init() -> None:
    journal: list[str] = []

    class Overlap(Actor):
        async def init(self) -> None:
            journal.append("init")
            await asyncio.sleep(0.1)
            journal.append("started")

        async def on_stop(self, reason: ExitReason) -> None:
            journal.append("stopping")
            await asyncio.sleep(0.5)
            journal.append("stopped")

        @handler
        def crash(self) -> None:
            raise ZeroDivisionError("planted")

    async with ActorSystem() as system:
        ref = await system.spawn(Overlap)
        ref.cast.crash()
        ref.cast.crash()
        await asyncio.sleep(5.0)
    assert journal == ["init", "started", "stopping", "stopped"] * 3


@seeds(200)
async def test_kameo_364_a_call_that_crashes_the_actor_and_those_behind_it_are_all_answered() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Sleeper)
        calls = [ref.call.crash_after(0.1), ref.call.put(1), ref.call.nap(0.1)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(answers[0], ZeroDivisionError)
        assert answers[1:] == [None, "napped"]


@seeds(200)
async def test_kameo_a_supervisor_that_stops_while_its_children_call_it_does_not_hang() -> None:
    async with ActorSystem() as system:
        parent = await system.spawn(Parent, [])
        child = parent.child("child")
        parent.cast.crash_slowly()
        child.cast.ask_parent()
        await asyncio.sleep(0.1)
        await parent.stop()
        assert not child.alive


# --- pykka, xoscar, Ray: cycles and failures nobody sees -------------------------------------------------------------
class Selfish(Actor):
    @handler(raises=CallCycleError)
    async def ask_myself(self) -> None:
        await self.ref.call.ask_myself()


@virtual_time()
async def test_pykka_36_a_call_to_oneself_raises_instead_of_hanging() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Selfish)
        with pytest.raises(CallCycleError, match="/selfish-1 -> /selfish-1"):
            await ref.call.ask_myself()
        assert system.now() == 0.0


@virtual_time()
async def test_pykka_41_a_cast_that_fails_is_seen() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Recorder)
        with structlog.testing.capture_logs() as lines:
            ref.cast.crash()
            await settle()
        assert [(line["event"], line["where"]) for line in lines] == [("actor.crashed", "crash")]


class Leaver(Actor):
    @handler
    def leave(self) -> None:
        raise SystemExit(3)

    @handler
    async def leave_slowly(self) -> None:
        await asyncio.sleep(0)
        raise SystemExit(3)

    @handler
    async def leave_from_a_task(self) -> None:
        self.task(self.leaving())
        await asyncio.sleep(1.0)

    async def leaving(self) -> None:
        raise SystemExit(3)


class LeavesInInit(Actor):
    async def init(self) -> None:
        raise SystemExit(3)


@pytest.mark.parametrize("message", ["leave", "leave_slowly", "leave_from_a_task"])
@pytest.mark.parametrize("way", ["call", "cast"])
@pytest.mark.filterwarnings("ignore")
def test_xorbits_5005_system_exit_is_never_swallowed(message: str, way: str) -> None:
    async def main() -> None:
        async with ActorSystem() as system:
            ref = await system.spawn(Leaver)
            sent = getattr(getattr(ref, way), message)()
            if sent is not None:
                await sent
            await asyncio.sleep(5.0)

    with pytest.raises(SystemExit) as left, asyncio.Runner() as runner:
        runner.run(main())
    assert left.value.code == 3


@pytest.mark.filterwarnings("ignore")
def test_xorbits_5005_not_even_in_init() -> None:
    async def main() -> None:
        async with ActorSystem() as system:
            await system.spawn(LeavesInInit)

    with pytest.raises(SystemExit), asyncio.Runner() as runner:
        runner.run(main())


# --- shutdown --------------------------------------------------------------------------------------------------------
@virtual_time()
async def test_thespian_40_a_handler_that_never_ends_does_not_hold_up_the_end() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Sleeper)
        ref.cast.nap(1e9)
        await settle()
    assert asyncio.get_running_loop().time() == 5.0


@virtual_time()
async def test_ray_45656_cleanup_runs_at_the_end_in_order() -> None:
    journal: list[str] = []
    async with ActorSystem() as system:
        await system.spawn(Supervisor, [ChildSpec(Hooked, (name, journal), name=name) for name in "ab"])
        journal.clear()
    assert journal == ["b:stop:Shutdown", "a:stop:Shutdown"]


@virtual_time()
async def test_actor_ts_915_a_stopping_actor_with_queued_messages_does_not_spin() -> None:
    loop = asyncio.get_running_loop()
    async with ActorSystem() as system:
        ref = await system.spawn(Sleeper, shutdown=100.0)
        ref.cast.nap(50.0)
        await settle()
        for item in range(10):
            ref.cast.put(item)
        stopping = asyncio.ensure_future(ref.stop())
        await settle()
        before = loop.steps  # type: ignore[attr-defined]
        await stopping
        assert loop.steps - before < 20  # type: ignore[attr-defined]


@virtual_time()
async def test_actor_ts_914_a_constructor_that_fails_leaves_no_zombie() -> None:
    class Zombie(Actor):
        def __init__(self) -> None:
            raise OSError("planted")

    async with ActorSystem() as system:
        with pytest.raises(Exception, match="planted"):
            await system.spawn(Zombie, name="z")
        assert system.whereis("/z") is None
        await system.spawn(Recorder, name="z")


@virtual_time()
async def test_dramatiq_802_a_delivered_error_keeps_no_message_alive_beyond_its_deadline() -> None:
    class Payload:
        """Something large."""

    class Fails(Actor):
        @handler
        async def take(self, payload: Payload) -> None:
            raise ValueError("planted")

    async with ActorSystem() as system:
        ref = await system.spawn(Fails)
        payload = Payload()
        seen = weakref.ref(payload)
        with pytest.raises(ValueError, match="planted"):
            await ref.call.take(payload)
        await asyncio.sleep(5.0)
        del payload
        gc.collect()
        assert seen() is None


# --- OTP's supervisor_SUITE and gen_server_SUITE ---------------------------------------------------------------------
class FailsAgain(Actor):
    """Starts once; every later start takes its time and fails."""

    def __init__(self, starts: list[int]) -> None:
        starts.append(1)
        self.starts = starts

    async def init(self) -> None:
        if len(self.starts) > 1:
            await asyncio.sleep(0.1)
            raise OSError("planted")

    @handler
    def crash(self) -> None:
        raise ZeroDivisionError("planted")


@seeds(200)
async def test_otp_hanging_restart_loop_a_supervisor_can_be_stopped_while_a_child_keeps_failing_to_start() -> None:
    starts: list[int] = []
    async with ActorSystem() as system:
        top = await system.spawn(
            Supervisor, [ChildSpec(FailsAgain, (starts,), name="a")], max_restarts=1000, max_seconds=1000.0
        )
        top.child("a").cast.crash()
        await asyncio.sleep(1.05)
        assert len(starts) > 5
        assert await top.stop() == Shutdown("stopped")
        count = len(starts)
        await asyncio.sleep(10.0)
        assert len(starts) == count


@virtual_time()
async def test_otp_rest_for_one_escalation_ends_with_the_reason_of_the_last_crash() -> None:
    async with ActorSystem() as system:
        inner = ChildSpec(
            Supervisor,
            ([ChildSpec(Recorder, name="a"), ChildSpec(Recorder, name="b")],),
            {"strategy": "rest_for_one", "max_restarts": 0},
            name="inner",
        )
        outer = await system.spawn(Supervisor, [inner], max_restarts=0, restart="temporary")
        outer.child("inner").child("a").cast.crash()
        reason = await outer.stopped
        assert isinstance(reason, Shutdown)
        error = reason.why
        chain = []
        while error is not None:
            chain.append(type(error))
            error = error.__cause__
        assert chain == [RestartsExhaustedError, RestartsExhaustedError, ZeroDivisionError]


@virtual_time()
async def test_otp_scale_many_children_start_and_stop() -> None:
    async with ActorSystem() as system:
        top = await system.spawn(DynamicSupervisor)
        refs = [await top.call.start_child(ChildSpec(Recorder)) for _ in range(2000)]
        for ref in refs[::2]:
            assert await top.call.stop_child(ref.name)
        assert len(await top.call.which_children()) == 1000
        await top.stop()
        assert not any(ref.alive for ref in refs)


@virtual_time()
async def test_otp_call_with_a_late_reply_does_not_disturb_the_next_call() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Sleeper)
        with pytest.raises(CallTimeoutError):
            await ref.within(1.0).call.nap(2.0)
        assert await ref.call.seen() == ["napped"]


@virtual_time()
async def test_otp_a_stop_inside_a_handler_answers_the_caller_and_refuses_the_next() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Hooked, "a", [], restart="temporary")
        first, second = await asyncio.gather(ref.call.finish(), ref.call.ping(), return_exceptions=True)
        assert first is None
        assert isinstance(second, ActorStoppedError)


@virtual_time()
async def test_otp_a_temporary_child_that_crashes_is_forgotten_and_its_name_is_free() -> None:
    async with ActorSystem() as system:
        top = await system.spawn(DynamicSupervisor)
        ref = await top.call.start_child(ChildSpec(Recorder, name="a", restart="temporary"))
        ref.cast.crash()
        reason = await ref.stopped
        assert isinstance(reason, Crashed)
        again = await top.call.start_child(ChildSpec(Recorder, name="a", restart="temporary"))
        assert again is not ref
