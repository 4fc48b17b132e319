"""Promises: settled once, kept within a budget, gone with their session."""

from __future__ import annotations

import asyncio

import pytest

from tinkex_actors.engine.service.state.promises import Promise, Promises
from tinkex_actors.errors import GoneError, NotFoundError
from tinkex_actors.testing import virtual_time

KIB = 1024


def made(promises: Promises, *request_ids: str, session_id: str = "s") -> list[Promise]:
    return [promises.add(Promise(request_id, "optim_step", session_id)) for request_id in request_ids]


async def test_a_result_wakes_every_waiter_and_stays_readable() -> None:
    promises = Promises()
    (promise,) = made(promises, "a")
    waiters = [asyncio.ensure_future(promise.wait(10.0)) for _ in range(3)]
    await asyncio.sleep(0)
    promises.resolve(promise, "result", 10)
    assert await asyncio.gather(*waiters) == [True] * 3
    promises.mark_read(promise)
    assert promises.get("a").result == "result"


@virtual_time()
async def test_a_wait_ends_with_its_time() -> None:
    (promise,) = made(Promises(), "a")
    assert await promise.wait(20.0) is False
    assert asyncio.get_running_loop().time() == 20.0


async def test_a_promise_is_settled_once() -> None:
    promises = Promises()
    (promise,) = made(promises, "a")
    promises.fail(promise, "no", "user")
    promises.resolve(promise, "late", 10)
    assert (promise.state, promise.error, promise.result) == ("failed", "no", None)


async def test_results_read_longest_ago_are_dropped_first_then_unread_ones() -> None:
    promises = Promises(retained_bytes=40 * KIB)
    a, b, c, d = made(promises, "a", "b", "c", "d")
    for promise in (a, b, c):
        promises.resolve(promise, promise.request_id, 10 * KIB)
    promises.mark_read(c)
    promises.mark_read(b)
    promises.resolve(d, "d", 10 * KIB)
    assert [promises.find(name) is not None for name in "abcd"] == [True, True, False, True]
    with pytest.raises(GoneError, match="'c' was dropped"):
        promises.get("c")
    assert promises.known("c")
    assert promises.held_bytes <= 40 * KIB


async def test_the_newest_result_is_kept_whatever_its_size() -> None:
    promises = Promises(retained_bytes=KIB)
    (promise,) = made(promises, "a")
    promises.resolve(promise, "large", 100 * KIB)
    assert promises.get("a").result == "large"


async def test_small_results_are_bounded_in_number() -> None:
    promises = Promises(retained_bytes=64 * KIB)
    for promise in made(promises, *map(str, range(1000))):
        promises.resolve(promise, None, 0)
    assert len(promises) <= 64


async def test_a_session_takes_its_promises_with_it_and_wakes_who_waits() -> None:
    promises = Promises()
    (mine,) = made(promises, "a", session_id="one")
    (other,) = made(promises, "b", session_id="two")
    waiter = asyncio.ensure_future(mine.wait(10.0))
    await asyncio.sleep(0)
    promises.end_session("one")
    assert await waiter
    assert mine.state == "dropped"
    assert promises.pending() == [other]
    with pytest.raises(NotFoundError):
        promises.get("a")
    promises.end_session("one")
