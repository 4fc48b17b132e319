"""Virtual time: the clock jumps, threads hold it, hangs are found, the same seed gives the same run."""

from __future__ import annotations

import asyncio
import time

import pytest

from tinkex_actors.testing import SimDeadlock, VirtualLoop, run_virtual, seeds, settle, virtual_time


def test_a_day_takes_no_time() -> None:
    async def main() -> float:
        await asyncio.sleep(86_400.0)
        return asyncio.get_running_loop().time()

    began = time.perf_counter()
    assert run_virtual(main()) == 86_400.0
    assert time.perf_counter() - began < 5.0


def test_timers_fire_in_order_of_their_instants() -> None:
    async def main() -> list[tuple[float, str]]:
        loop = asyncio.get_running_loop()
        fired: list[tuple[float, str]] = []
        for seconds, name in ((3.0, "c"), (1.0, "a"), (2.0, "b")):
            loop.call_later(seconds, lambda name=name: fired.append((loop.time(), name)))  # type: ignore[misc]
        loop.call_later(1.5, fired.append, (0.0, "never")).cancel()
        await asyncio.sleep(4.0)
        return fired

    assert run_virtual(main()) == [(1.0, "a"), (2.0, "b"), (3.0, "c")]


def test_a_hang_is_said_at_once_and_names_who_waits() -> None:
    async def waits_for_nobody() -> None:
        await asyncio.get_running_loop().create_future()

    async def main() -> None:
        await asyncio.gather(waits_for_nobody(), waits_for_nobody())

    with pytest.raises(SimDeadlock, match=r"3 tasks wait(.|\n)*waits_for_nobody, at .*test_virtual_time.py"):
        run_virtual(main())


def test_a_thread_holds_the_clock() -> None:
    async def main() -> tuple[str, float]:
        loop = asyncio.get_running_loop()
        late = asyncio.create_task(asyncio.sleep(0.001, "timer"))
        job = loop.run_in_executor(None, lambda: time.sleep(0.05) or "thread")
        done, _ = await asyncio.wait({late, job}, return_when=asyncio.FIRST_COMPLETED)
        first = done.pop().result()
        await late
        return first, loop.time()

    assert run_virtual(main()) == ("thread", 0.001)


@virtual_time()
async def test_settle_runs_everything_but_the_clock() -> None:
    loop = asyncio.get_running_loop()
    seen: list[int] = []

    async def chain(depth: int) -> None:
        seen.append(depth)
        if depth:
            await asyncio.sleep(0)
            await asyncio.create_task(chain(depth - 1))

    late = asyncio.create_task(asyncio.sleep(1.0))
    task = asyncio.create_task(chain(100))
    await settle()
    assert task.done()
    assert len(seen) == 101
    assert loop.time() == 0.0
    assert not late.done()
    await late


async def test_settle_needs_a_virtual_loop() -> None:
    with pytest.raises(RuntimeError, match="virtual_time"):
        await settle()


def _race(seed: int | None) -> tuple[list[int], str]:
    order: list[int] = []

    async def racer(number: int) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        order.append(number)

    async def main() -> str:
        await asyncio.gather(*(racer(number) for number in range(6)))
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        return loop.trace()

    return order, run_virtual(main(), seed=seed)


def test_without_a_seed_the_order_is_asyncios() -> None:
    assert all(_race(None)[0] == [0, 1, 2, 3, 4, 5] for _ in range(3))


def test_seeds_permute_and_each_seed_replays() -> None:
    runs = [_race(seed) for seed in range(20)]
    assert len({tuple(order) for order, _ in runs}) > 5
    assert runs == [_race(seed) for seed in range(20)]


def test_a_planted_race_is_found_by_seeds_and_not_by_plain_order() -> None:
    async def lost_update() -> None:
        total = 0

        async def deposit(pause: int) -> None:
            nonlocal total
            read = total
            for _ in range(pause):
                await asyncio.sleep(0)
            total = read + 1

        async def careful(pause: int) -> None:
            for _ in range(5):
                await asyncio.sleep(0)
            await deposit(pause)

        await asyncio.gather(deposit(1), careful(0))
        assert total == 2

    run_virtual(lost_update())
    failing = []
    for seed in range(200):
        try:
            run_virtual(lost_update(), seed=seed)
        except AssertionError:
            failing.append(seed)
    assert 0 < len(failing) < 200


def test_a_failure_under_a_seed_says_how_to_replay_it() -> None:
    @seeds(3)
    async def fails_under_seed_2() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        assert loop.seed != 2

    with pytest.raises(AssertionError) as caught:
        fails_under_seed_2()
    assert "replay: @virtual_time(seed=2, only=())" in caught.value.__notes__[0]


def test_the_variable_overrides_the_number_of_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKEX_TEST_SEEDS", "4")
    seen: list[int | None] = []

    @seeds(2)
    async def look() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        seen.append(loop.seed)

    look()
    assert seen == [0, 1, 2, 3]


def test_a_livelock_is_found() -> None:
    async def spin() -> None:
        while True:  # noqa: ASYNC110
            await asyncio.sleep(0)

    loop = VirtualLoop(max_steps=1000)
    try:
        task = loop.create_task(spin())
        with pytest.raises(RuntimeError, match="livelock"):
            loop.run_until_complete(task)
    finally:
        loop.close()
