"""Sending: order, replies, signatures, deadlines, declared errors, what a cancelled caller means."""

from __future__ import annotations

import asyncio
import pickle

import pytest
import structlog

from tests.runtime.actors import Recorder, Sleeper
from tinkex_actors.errors import ActorStoppedError, CallTimeoutError, ConfigError
from tinkex_actors.runtime import Actor, ActorRef, ActorSystem, Reject, Rejected, handler
from tinkex_actors.testing import seeds, settle, virtual_time


class Desk(Actor):
    """Every shape of signature, every way to say no."""

    @handler
    def shapes(self, a: int, /, b: int, *rest: int, c: int = 3, **more: int) -> tuple[object, ...]:
        return (a, b, rest, c, more)

    @handler
    def keyword_only(self, *, flag: bool = False) -> bool:
        return flag

    @handler(raises=KeyError)
    def lookup(self, key: str) -> str:
        return {"a": "A"}[key]

    @handler
    async def refuse(self) -> None:
        raise Reject(PermissionError("not you"))

    @handler
    def stop_iteration(self) -> None:
        raise StopIteration

    def secret(self) -> None:
        """Not a message."""


@pytest.mark.parametrize("cls", [Recorder, Sleeper])
@virtual_time()
async def test_messages_of_one_sender_arrive_in_order(cls: type[Recorder]) -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(cls)
        for number in range(1000):
            ref.cast.put(number)
        assert await ref.call.seen() == list(range(1000))


@seeds(200)
async def test_no_order_of_execution_breaks_the_order_of_one_sender() -> None:
    async with ActorSystem() as system:
        receiver = await system.spawn(Sleeper)

        async def sender(name: str) -> None:
            for number in range(20):
                if number % 3 == 0:
                    await receiver.call.put((name, number))
                elif number % 3 == 1:
                    await receiver.send.put((name, number))
                else:
                    receiver.cast.put((name, number))

        await asyncio.gather(*(sender(name) for name in "abc"))
        seen = await receiver.call.seen()
        for name in "abc":
            assert [number for who, number in seen if who == name] == list(range(20))


@virtual_time()
async def test_proxies_have_the_handlers_signatures() -> None:
    async with ActorSystem() as system:
        desk = await system.spawn(Desk)
        assert await desk.call.shapes(1, 2) == (1, 2, (), 3, {})
        assert await desk.call.shapes(1, 2, 5, 6, c=7, d=8) == (1, 2, (5, 6), 7, {"d": 8})
        assert await desk.call.keyword_only(flag=True) is True
        with pytest.raises(TypeError, match="positional"):
            desk.call.keyword_only(True)  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="missing"):
            desk.cast.shapes()  # type: ignore[call-arg]
        with pytest.raises(AttributeError, match="has no message 'secret'; its messages: keyword_only, lookup"):
            desk.cast.secret()
        assert desk.statistics().incarnation == 0


@virtual_time()
async def test_a_kept_callable_sends() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Recorder)
        keep, ask = ref.cast.put, ref.call.seen
        keep("kept")
        assert await ask() == ["kept"]


@virtual_time()
async def test_a_call_is_sent_when_it_is_awaited() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Recorder)
        later = ref.call.put("second")
        ref.cast.put("first")
        await later
        assert await ref.call.seen() == ["first", "second"]


@virtual_time()
async def test_a_call_times_out_after_five_seconds_and_its_late_reply_is_dropped() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Sleeper)
        with pytest.raises(
            CallTimeoutError, match=r"/sleeper-1 did not answer nap within 5 s: it is running nap"
        ) as info:
            await ref.call.nap(6.0)
        assert system.now() == 5.0
        assert info.value.timeout == 5.0
        assert await ref.call.seen() == ["napped"]
        assert system.now() == 6.0


@virtual_time()
async def test_deadlines_of_different_length_expire_each_at_its_own_time() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Sleeper)
        expired: list[tuple[float, float]] = []

        async def caller(seconds: float) -> None:
            with pytest.raises(CallTimeoutError):
                await ref.within(seconds).call.nap(100.0)
            expired.append((seconds, system.now()))

        await asyncio.gather(*(caller(seconds) for seconds in (3.0, 0.5, 3.0, 7.0, 0.25)))
        assert sorted(expired) == [(0.25, 0.25), (0.5, 0.5), (3.0, 3.0), (3.0, 3.0), (7.0, 7.0)]
        ref.kill()


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("inf"), float("nan")])
@virtual_time()
async def test_a_call_without_an_end_is_refused(seconds: float) -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Recorder)
        with pytest.raises(ConfigError, match="finite number above 0"):
            ref.within(seconds)


@virtual_time()
async def test_cancelling_a_caller_abandons_the_reply_not_the_handler() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Sleeper)
        caller = asyncio.ensure_future(ref.call.nap(1.0))
        await settle()
        caller.cancel()
        await asyncio.sleep(2.0)
        assert await ref.call.seen() == ["napped"]
        assert ref.statistics().incarnation == 0


@virtual_time()
async def test_within_and_asyncio_timeout_are_equal_for_the_actor() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Sleeper)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await ref.call.nap(1.0)
        with pytest.raises(TimeoutError):
            await ref.within(0.5).call.nap(1.0)
        assert await ref.call.seen() == ["napped", "napped"]


@virtual_time()
async def test_a_declared_error_is_an_answer() -> None:
    async with ActorSystem() as system:
        rejected: list[str] = []
        system.events.subscribe(lambda event: rejected.append(event.message), Rejected)
        desk = await system.spawn(Desk)
        assert await desk.call.lookup("a") == "A"
        with pytest.raises(KeyError, match="b"):
            await desk.call.lookup("b")
        with pytest.raises(PermissionError, match="not you"):
            await desk.call.refuse()
        desk.cast.lookup("c")
        await settle()
        assert rejected == ["lookup", "refuse", "lookup"]
        assert desk.statistics().incarnation == 0


@virtual_time()
async def test_an_undeclared_error_reaches_the_caller_as_it_is_and_crashes_the_actor() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Recorder)
        with structlog.testing.capture_logs() as logs:
            with pytest.raises(ZeroDivisionError):
                await ref.call.crash()
            await settle()
        assert ref.statistics().incarnation == 1
        crashes = [entry for entry in logs if entry["event"] == "actor.crashed"]
        assert [(entry["actor"], entry["where"], entry["incarnation"]) for entry in crashes] == [
            ("/recorder-1", "crash", 0)
        ]


@pytest.mark.parametrize("queued", [False, True])
@virtual_time()
async def test_stop_iteration_in_a_handler_does_not_break_the_reply(queued: bool) -> None:
    async with ActorSystem() as system:
        desk = await system.spawn(Desk)
        if queued:
            desk.cast.keyword_only()
        with pytest.raises(RuntimeError, match="StopIteration"):
            await desk.call.stop_iteration()


@virtual_time()
async def test_messages_to_a_stopped_actor() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Recorder)
        await ref.stop()
        ref.cast.put(1)
        assert system.dead_letters.counts["/recorder-1", "put"] == 1
        with pytest.raises(ActorStoppedError, match="has stopped"):
            await ref.call.put(2)
        await ref.send.put(3)
        assert system.dead_letters.counts["/recorder-1", "put"] == 2


class Mirror(Actor):
    @handler
    def unpickled(self, data: bytes) -> ActorRef[Recorder]:
        found: ActorRef[Recorder] = pickle.loads(data)
        return found


@virtual_time()
async def test_a_ref_pickles_by_name() -> None:
    async with ActorSystem(name="one") as system, ActorSystem(name="two") as other:
        ref = await system.spawn(Recorder, name="target")
        data = pickle.dumps(ref)
        mirror = await system.spawn(Mirror)
        assert await mirror.call.unpickled(data) is ref
        with pytest.raises(ActorStoppedError, match="system 'one'"):
            pickle.loads(data)
        stranger = await other.spawn(Mirror)
        with pytest.raises(ActorStoppedError, match="system 'one'"):
            await stranger.call.unpickled(data)
