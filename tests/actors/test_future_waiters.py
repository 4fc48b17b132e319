"""Who waits for a future: many at once, cancelled at any point, each woken once."""

from __future__ import annotations

import asyncio
import traceback

import pytest

from tinkex_actors.actors.futures import ApiFuture
from tinkex_actors.testing import seeds, settle, virtual_time


def pending() -> ApiFuture[int]:
    return ApiFuture("sample", loop=asyncio.get_running_loop())


@virtual_time()
async def test_everybody_who_waits_is_woken_and_whoever_left_is_not() -> None:
    future = pending()
    waiting = [asyncio.ensure_future(future.wait()) for _ in range(5)]
    await settle()
    for task in waiting[1:3]:
        task.cancel()
    await settle()
    assert not future.done(), "cancelling who waits leaves the operation alone"
    future.resolve(7)
    found = await asyncio.gather(*waiting, return_exceptions=True)

    assert [isinstance(one, asyncio.CancelledError) for one in found] == [False, True, True, False, False]
    assert future._waiters is None


@virtual_time()
async def test_a_waiter_cancelled_in_the_turn_of_the_result_is_cancelled_and_the_others_are_not() -> None:
    future = pending()

    async def value() -> int:
        return await future

    early, late, kept = [asyncio.ensure_future(value()) for _ in range(3)]
    await settle()
    early.cancel()
    future.resolve(7)
    late.cancel()
    found = await asyncio.gather(early, late, kept, return_exceptions=True)

    assert [type(one) for one in found] == [asyncio.CancelledError, asyncio.CancelledError, int]
    assert await future == 7


@seeds(50)
async def test_in_every_order_each_waiter_ends_once() -> None:
    future = pending()
    ended: list[int] = []

    async def wait(number: int) -> None:
        try:
            async with asyncio.timeout(number % 3 or None):
                await future
        except (TimeoutError, ValueError):
            pass
        finally:
            ended.append(number)

    loop = asyncio.get_running_loop()
    waiting = [asyncio.ensure_future(wait(number)) for number in range(9)]
    loop.call_later(2.0, future.fail, ValueError("no"))
    loop.call_later(1.0, waiting[0].cancel)
    await asyncio.gather(*waiting, return_exceptions=True)

    assert sorted(ended) == list(range(9))
    assert future._waiters is None
    assert isinstance(future.peek(), ValueError)


@virtual_time()
async def test_waiting_again_from_inside_a_callback_sees_the_end() -> None:
    future, seen = pending(), []

    async def again() -> None:
        seen.append(await future)

    future.add_done_callback(lambda _: seen.append(asyncio.ensure_future(again())))  # type: ignore[func-returns-value]
    future.resolve(7)
    await settle()

    assert seen[1:] == [7]


@virtual_time()
async def test_a_failure_that_many_have_waited_for_keeps_the_traceback_it_had() -> None:
    future = pending()
    try:
        raise ValueError("no")
    except ValueError as error:
        future.fail(error)
    depths = []
    for _ in range(3):
        with pytest.raises(ValueError, match="no") as caught:
            await future
        depths.append(len(traceback.extract_tb(caught.value.__traceback__)))

    assert len(set(depths)) == 1


@virtual_time()
async def test_given_up_while_many_wait_it_is_given_up_for_all() -> None:
    future, hooked = pending(), []
    future.on_cancel(lambda: hooked.append(1) is None)
    waiting = [asyncio.ensure_future(future.wait()) for _ in range(3)]
    await settle()
    assert future.cancel()
    assert not future.cancel()
    await asyncio.gather(*waiting)

    assert hooked == [1]
    assert future.cancelled()
    with pytest.raises(asyncio.CancelledError):
        await future
