"""Bounds and policies of mailboxes, waiting senders, dead letters."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.runtime.actors import Recorder, Sleeper, Watcher
from tinkex_actors.errors import ActorStoppedError, CallTimeoutError, ConfigError, MailboxFullError
from tinkex_actors.runtime import ActorRef, ActorSystem, DeadLetter, Mailbox
from tinkex_actors.testing import seeds, settle, virtual_time


async def busy(system: ActorSystem, mailbox: Mailbox) -> ActorRef[Sleeper]:
    """A sleeper inside a long message, with an empty mailbox."""
    ref = await system.spawn(Sleeper, mailbox=mailbox)
    ref.cast.nap(10.0)
    await settle()
    return ref


@virtual_time()
async def test_raise_names_the_receiver_and_the_way_out() -> None:
    async with ActorSystem() as system:
        ref = await busy(system, Mailbox(2, "raise"))
        ref.cast.put(1)
        ref.cast.put(2)
        with pytest.raises(MailboxFullError, match=r"/sleeper-1 is full \(2 messages\).*ref.send") as info:
            ref.cast.put(3)
        assert info.value.capacity == 2
        with pytest.raises(MailboxFullError):
            await ref.call.put(3)
        await asyncio.sleep(11.0)
        assert await ref.call.seen() == ["napped", 1, 2]


@virtual_time()
async def test_the_default_is_bounded() -> None:
    async with ActorSystem() as system:
        ref = await busy(system, Mailbox())
        for number in range(1024):
            ref.cast.put(number)
        with pytest.raises(MailboxFullError):
            ref.cast.put(1024)


@pytest.mark.parametrize(("policy", "kept"), [("drop_oldest", [2, 3]), ("drop_new", [1, 2])])
@virtual_time()
async def test_dropping_policies_make_dead_letters(policy: Any, kept: list[int]) -> None:
    async with ActorSystem() as system:
        letters: list[DeadLetter] = []
        system.events.subscribe(letters.append, DeadLetter)
        ref = await busy(system, Mailbox(2, policy))
        for number in (1, 2, 3):
            ref.cast.put(number)
        await asyncio.sleep(11.0)
        assert await ref.call.seen() == ["napped", *kept]
        assert [(letter.path, letter.message) for letter in letters] == [("/sleeper-1", "put")]
        assert system.dead_letters.counts["/sleeper-1", "put"] == 1
        assert "dropped" in next(iter(system.dead_letters)).why


@pytest.mark.parametrize(("policy", "victim"), [("drop_oldest", 0), ("drop_new", 1)])
@virtual_time()
async def test_a_dropped_call_fails_at_once(policy: Any, victim: int) -> None:
    async with ActorSystem() as system:
        ref = await busy(system, Mailbox(1, policy))
        calls = [asyncio.ensure_future(ref.within(60.0).call.put(number)) for number in (0, 1)]
        await settle()
        assert isinstance(calls[victim].exception(), MailboxFullError)
        assert not calls[1 - victim].done()
        await calls[1 - victim]


@pytest.mark.parametrize("policy", ["raise", "wait", "drop_oldest", "drop_new"])
@virtual_time()
async def test_send_waits_for_room_under_every_policy_and_keeps_the_order(policy: Any) -> None:
    async with ActorSystem() as system:
        ref = await busy(system, Mailbox(2, policy))

        async def sender() -> None:
            for number in range(20):
                await ref.send.put(number)

        sending = asyncio.create_task(sender())
        await settle()
        assert not sending.done()
        assert ref.statistics().blocked_senders == 1
        await sending
        assert await ref.call.seen() == ["napped", *range(20)]
        assert len(system.dead_letters) == 0


@virtual_time()
async def test_under_wait_a_call_waits_for_room_within_its_deadline() -> None:
    async with ActorSystem() as system:
        ref = await busy(system, Mailbox(1, "wait"))
        ref.cast.put("first")
        with pytest.raises(MailboxFullError):
            ref.cast.put("no room")
        with pytest.raises(CallTimeoutError):
            await ref.within(1.0).call.put("too late")
        await ref.within(60.0).call.put("second")
        assert await ref.call.seen() == ["napped", "first", "second"]


@virtual_time()
async def test_a_cancelled_sender_sends_nothing_and_loses_nobody_elses_message() -> None:
    async with ActorSystem() as system:
        ref = await busy(system, Mailbox(1))
        ref.cast.put("queued")
        waiting = [asyncio.ensure_future(ref.send.put(name)) for name in ("a", "b", "c")]
        await settle()
        waiting[0].cancel()
        waiting[2].cancel()
        await waiting[1]
        await asyncio.sleep(20.0)
        assert await ref.call.seen() == ["napped", "queued", "b"]


@virtual_time()
async def test_stopping_wakes_waiting_senders_and_fails_queued_calls_at_once() -> None:
    async with ActorSystem() as system:
        ref = await busy(system, Mailbox(2, "wait"))
        ref.cast.put("cast")
        queued = asyncio.ensure_future(ref.call.put("queued"))
        sender = asyncio.ensure_future(ref.send.put("waiting"))
        caller = asyncio.ensure_future(ref.call.put("waiting too"))
        await settle()
        stopping = asyncio.ensure_future(ref.stop())
        await settle()
        for future in (queued, sender, caller):
            assert isinstance(future.exception(), ActorStoppedError)
        assert system.dead_letters.counts["/sleeper-1", "put"] == 1
        assert not stopping.done()  # the nap goes on to its end or its deadline
        await stopping
        assert system.now() == 5.0


@virtual_time()
async def test_stop_and_kill_do_not_queue_behind_a_full_mailbox() -> None:
    async with ActorSystem(max_restarts=10) as system:
        ref = await busy(system, Mailbox(1))
        ref.cast.put(1)
        ref.kill()
        await settle()
        assert ref.statistics().incarnation == 1
        await ref.stop()
        assert system.now() == 0.0


@virtual_time()
async def test_dead_letters_keep_the_last_thousand_and_count_all() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Recorder)
        await ref.stop()
        for number in range(1500):
            ref.cast.put(number)
        assert len(list(system.dead_letters)) == 1000
        assert len(system.dead_letters) == 1500


@seeds(200)
async def test_no_order_overfills_a_mailbox_or_loses_a_waiting_send() -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Sleeper, mailbox=Mailbox(3, "wait"))

        async def sender(name: int) -> None:
            for number in range(10):
                await ref.send.put((name, number))
                assert ref.statistics().queued <= 3

        await asyncio.gather(*(sender(name) for name in range(5)))
        await settle()
        assert len(await ref.call.seen()) == 50


@virtual_time()
async def test_drop_oldest_never_drops_a_down() -> None:
    async with ActorSystem() as system:
        watcher = await system.spawn(Watcher, mailbox=Mailbox(1, "drop_oldest"))
        target = await system.spawn(Recorder)
        await watcher.call.watch(target)
        watcher.cast.busy(1.0)
        await settle()
        await target.stop()
        for _ in range(5):
            watcher.cast.busy(0.0)
        await asyncio.sleep(2.0)
        assert len(await watcher.call.seen()) == 1
        assert len(system.dead_letters) == 4


def test_wrong_mailboxes_are_refused() -> None:
    with pytest.raises(ConfigError, match="1 or more, got 0"):
        Mailbox(0)
    with pytest.raises(ConfigError, match="'drop_new', got 'panic'"):
        Mailbox(1, "panic")  # type: ignore[arg-type]


@virtual_time()
async def test_idle_actors_give_their_mailboxes_back_and_lose_nothing() -> None:
    async with ActorSystem() as system:
        refs = [await system.spawn(Recorder) for _ in range(3000)]
        for number in range(3):
            for ref in refs:
                ref.cast.put(number)
            assert all(ref.statistics().queued == 1 for ref in refs)
            await settle()
        for ref in refs[:1500]:
            ref.cast.put(3)
            await settle()
        assert sum(ref.box is not None for ref in refs) < 1100
        assert [await ref.call.seen() for ref in refs[:1500]] == [[0, 1, 2, 3]] * 1500
        assert [await ref.call.seen() for ref in refs[1500:]] == [[0, 1, 2]] * 1500
        refs[0].cast.put(4)
        await refs[0].stop()
        assert system.dead_letters.counts == {(refs[0].path, "put"): 1}
