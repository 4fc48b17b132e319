"""How long the oldest queued message waits: exactly where that is known, else a bound that says so; never too much."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runtime.actors import Recorder, Sleeper
from tinkex_actors.errors import MailboxFullError
from tinkex_actors.runtime import Actor, ActorRef, ActorSystem, Mailbox, RestartPolicy, handler
from tinkex_actors.testing import VirtualLoop, settle, virtual_time


def age_of(ref: ActorRef[Any]) -> tuple[float | None, bool]:
    statistics = ref.statistics()
    age = statistics.oldest_seconds
    return (None if age is None else round(age, 6)), statistics.oldest_is_bound


@virtual_time()
async def test_the_age_of_a_queued_call_is_exact() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Sleeper, name="s")
        assert age_of(ref) == (None, False)
        ref.cast.nap(10.0)
        await settle()
        calls = [asyncio.ensure_future(ref.within(60.0).call.nap(1.0))]
        await asyncio.sleep(2.0)
        calls.append(asyncio.ensure_future(ref.within(60.0).call.nap(1.0)))
        await asyncio.sleep(3.0)
        assert age_of(ref) == (5.0, False)
        assert "· 2 queued, oldest 5.0 s ·" in str(system.tree())
        await asyncio.gather(*calls)
        assert age_of(ref) == (None, False)


@virtual_time()
async def test_the_age_of_a_cast_is_bounded_by_what_earlier_looks_saw_waiting() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Sleeper, name="s")
        for _ in range(3):
            ref.cast.nap(10.0)  # at 0, 10 and 20
        await settle()
        await asyncio.sleep(1.0)
        assert age_of(ref) == (0.0, True)  # nobody has looked before
        assert "oldest" not in str(system.tree())
        await asyncio.sleep(3.1)
        ref.cast.put(1)
        assert age_of(ref) == (3.1, True)
        assert "· 3 queued, oldest at least 3.1 s ·" in str(system.tree())
        await asyncio.sleep(10.0)  # the second nap runs; the third waits since the beginning
        assert age_of(ref) == (13.1, True)
        await asyncio.sleep(10.0)  # what was there at the first look is handled: the put was first seen at 4.1
        assert age_of(ref) == (20.0, True)
        await asyncio.sleep(10.0)
        assert age_of(ref) == (None, False)


@virtual_time()
async def test_a_call_behind_casts_bounds_their_age() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Sleeper, name="s")
        ref.cast.nap(10.0)
        ref.cast.nap(1.0)
        await asyncio.sleep(2.0)
        call = asyncio.ensure_future(ref.within(60.0).call.nap(1.0))
        await asyncio.sleep(3.0)
        assert age_of(ref) == (3.0, True)
        await call


@virtual_time()
async def test_a_call_whose_caller_gave_up_has_no_known_age() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Sleeper, name="s")
        ref.cast.nap(10.0)
        await settle()
        call = asyncio.ensure_future(ref.within(60.0).call.nap(1.0))
        await asyncio.sleep(1.0)
        call.cancel()
        await settle()
        assert age_of(ref) == (0.0, True)


class Dropping(Sleeper):
    restart_policy = RestartPolicy(casts="drop")


@virtual_time()
async def test_where_messages_leave_unhandled_earlier_looks_say_nothing() -> None:
    async with ActorSystem() as system:
        drops = await system.spawn(Sleeper, name="full", mailbox=Mailbox(1, "drop_oldest"))
        loses = await system.spawn(Dropping, name="loses")
        for ref in (drops, loses):
            ref.cast.nap(10.0)
        await settle()
        for ref in (drops, loses):
            ref.cast.put(1)
            assert age_of(ref) == (0.0, True)
        await asyncio.sleep(3.0)
        drops.cast.put(2)
        assert [age_of(ref) for ref in (drops, loses)] == [(0.0, True), (0.0, True)]


@virtual_time()
async def test_an_actor_whose_messages_never_run_out_is_looked_at_as_often_as_one_likes() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Sleeper, name="s")
        ref.cast.nap(1000.0)
        await settle()
        for _ in range(500):
            ref.cast.put(1)
            ref.statistics()
            await asyncio.sleep(1.0)
        assert age_of(ref) == (500.0, True)
        assert len(system.sightings._looks[ref].kept) <= 64


class Witness(Actor):
    """Knows the true instant at which each of its messages was sent, and looks at itself while it handles one."""

    def __init__(self, truth: deque[float], slack: list[float]) -> None:
        self.truth = truth
        self.slack = slack

    @handler
    def quick(self) -> None:
        self._took()

    @handler
    async def slow(self, seconds: float) -> None:
        self._took()
        await asyncio.sleep(seconds)
        look(self.ref, self.truth, self.slack)

    @handler
    def crash(self) -> None:
        self._took()
        raise ValueError("planted")

    def _took(self) -> None:
        self.truth.popleft()
        look(self.ref, self.truth, self.slack)


class QuickWitness(Witness):
    """The same with ``def`` handlers only."""

    @handler
    def slow(self, seconds: float) -> None:  # type: ignore[override]
        self._took()


def look(ref: ActorRef[Any], truth: deque[float], slack: list[float]) -> None:
    statistics = ref.statistics()
    assert statistics.queued == len(truth)
    if not truth:
        assert statistics.oldest_seconds is None
        return
    assert statistics.oldest_seconds is not None
    slack.append((ref.system.now() - truth[0]) - statistics.oldest_seconds)


@pytest.mark.filterwarnings("ignore")
@given(st.integers(0, 2**32), st.booleans(), st.booleans())
@settings(deadline=None, max_examples=60)
def test_no_history_makes_an_age_too_high(seed: int, tasked: bool, permuted: bool) -> None:
    slack: list[float] = []

    async def history() -> None:
        rng = random.Random(seed)
        truth: deque[float] = deque()
        async with ActorSystem(max_restarts=10_000) as system:
            system.report = lambda *args, **values: None  # type: ignore[method-assign]
            ref = await system.spawn(Witness if tasked else QuickWitness, truth, slack, mailbox=Mailbox(20))
            for _ in range(80):
                choice = rng.random()
                try:
                    if choice < 0.5:
                        send(ref, rng, truth, system)
                    elif choice < 0.8:
                        await asyncio.sleep(rng.choice((0.0, 0.1, 1.0)))
                    else:
                        look(ref, truth, slack)
                except MailboxFullError:
                    truth.pop()
            await asyncio.sleep(1000.0)
            assert not truth

    with asyncio.Runner(loop_factory=lambda: VirtualLoop(seed=seed if permuted else None)) as runner:
        runner.run(history())
    assert min(slack, default=0.0) > -1e-9


def send(ref: ActorRef[Any], rng: random.Random, truth: deque[float], system: ActorSystem) -> None:
    truth.append(system.now())
    choice = rng.random()
    if choice < 0.5:
        ref.cast.quick()
    elif choice < 0.9:
        ref.cast.slow(rng.choice((0.0, 0.5, 3.0)))
    else:
        ref.cast.crash()


@virtual_time()
async def test_what_was_seen_is_forgotten_with_the_last_message() -> None:
    async with ActorSystem() as system:
        handled, stopped = await system.spawn(Recorder), await system.spawn(Recorder)
        for ref in (handled, stopped):
            ref.cast.put(1)
            ref.statistics()
        assert len(system.sightings._looks) == 2
        await stopped.stop()
        await settle()
        system.tree()
        assert (stopped.statistics().oldest_seconds, len(system.sightings._looks)) == (None, 0)


class Slow(Recorder):
    """Holds the loop, and then sends itself a message within the burst that its ``def`` handlers run in."""

    @handler
    def hold_the_loop(self, seconds: float) -> None:
        self.system.loop._now += seconds  # type: ignore[attr-defined]  # what the clock does meanwhile

    @handler
    def put_another(self) -> None:
        self.ref.cast.put("another")
        self.journal.append(self.ref.statistics().oldest_seconds)


@virtual_time()
async def test_a_message_is_not_as_old_as_those_handled_before_it_in_the_same_burst() -> None:
    async with ActorSystem() as system:
        journal: list[Any] = []
        ref = await system.spawn(Slow, journal)
        ref.cast.hold_the_loop(10.0)
        ref.cast.put_another()
        assert age_of(ref) == (0.0, True)
        await settle()
        assert journal == [0.0, "another"]


class Stubborn(Sleeper):
    @handler
    async def stay(self, seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            await asyncio.sleep(seconds)


@virtual_time()
async def test_ages_hold_for_one_incarnation_whatever_ended_it() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Stubborn, name="s")
        for _ in range(2):
            ref.cast.put(1)
        ref.cast.stay(100.0)
        ref.cast.nap(10.0)
        assert age_of(ref) == (0.0, True)
        await asyncio.sleep(5.0)
        assert (age_of(ref), ref.statistics().processed) == ((5.0, True), 3)
        ref.kill()
        await asyncio.sleep(8.0)  # given up on after a second, with what its burst had counted
        ref.cast.nap(1.0)
        assert (ref.statistics().handling, age_of(ref)) == ("nap", (0.0, True))
        await asyncio.sleep(2.0)
        assert age_of(ref) == (2.0, True)
        await asyncio.sleep(200.0)
