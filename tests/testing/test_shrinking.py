"""A failing schedule is made small: only the choices that the failure needs are left."""

from __future__ import annotations

import asyncio
import random

import pytest

from tinkex_actors.testing import Schedule, VirtualLoop, run_virtual, seeds, shrink, virtual_time


async def racing(writers: int, losing: int) -> None:
    """Fails if writer number ``losing`` is the last: much else is permuted that does not matter."""
    order: list[int] = []

    async def write(number: int) -> None:
        await asyncio.sleep(0)
        order.append(number)
        await asyncio.sleep(0)

    await asyncio.gather(*(write(number) for number in range(writers)))
    assert order[-1] != losing


def failing_seed() -> int:
    for seed in range(1000):
        try:
            run_virtual(racing(5, 0), seed=seed)
        except AssertionError:
            return seed
    raise LookupError("no seed fails")


def test_a_failure_is_shrunk_to_few_choices_and_replays_with_them() -> None:
    seed = failing_seed()
    loop = VirtualLoop(seed)
    with asyncio.Runner(loop_factory=lambda: loop) as runner, pytest.raises(AssertionError):
        runner.run(racing(5, 0))
    assert loop.permutation is not None
    needed = shrink(lambda: racing(5, 0), seed, AssertionError, loop.permutation.deviations)
    assert 0 < len(needed) < len(loop.permutation.deviations)
    with pytest.raises(AssertionError):
        virtual_time(seed, only=needed)(racing)(5, 0)
    for left_out in needed:
        run_virtual(racing(5, 0), seed=seed, only=[number for number in needed if number != left_out])


def test_seeds_raises_the_smallest_failure_and_says_how_to_replay_it() -> None:
    with pytest.raises(AssertionError) as caught:
        seeds(1000)(racing)(5, 0)
    notes = "\n".join(caught.value.__notes__)
    assert f"replay: @virtual_time(seed={failing_seed()}, only=(" in notes
    assert "choices are enough to fail" in notes


def test_a_test_that_remembers_its_earlier_runs_fails_with_its_first_failure() -> None:
    runs: list[int] = []

    async def only_once() -> None:
        runs.append(1)
        assert len(runs) != 1

    with pytest.raises(AssertionError) as caught:
        seeds(1)(only_once)()
    assert "replay: @virtual_time(seed=0)" in caught.value.__notes__[0]


def test_runs_that_hang_or_fail_otherwise_do_not_count() -> None:
    async def otherwise() -> None:
        schedule = asyncio.get_running_loop().permutation  # type: ignore[attr-defined]
        if schedule.randrange(1000) == 0:
            raise KeyError("another failure")
        if schedule.randrange(1000) == 0:
            await asyncio.get_running_loop().create_future()
        raise ValueError("the failure")

    loop = VirtualLoop(1)
    with asyncio.Runner(loop_factory=lambda: loop) as runner, pytest.raises(ValueError, match="the failure"):
        runner.run(otherwise())
    assert loop.permutation is not None
    assert shrink(otherwise, 1, ValueError, loop.permutation.deviations) == (0, 1)


def test_the_budget_of_runs_is_kept() -> None:
    runs: list[int] = []

    async def always() -> None:
        runs.append(1)
        schedule = asyncio.get_running_loop().permutation  # type: ignore[attr-defined]
        drawn = [schedule.random() for _ in range(64)]
        assert sum(number < 0.9999 for number in drawn) < 40

    shrink(always, 5, AssertionError, range(64), max_runs=7)
    assert len(runs) == 7


def test_a_schedule_answers_plainly_what_it_leaves_out() -> None:
    plain, seeded = Schedule(1, only=()), Schedule(1)
    assert [plain.randrange(10), plain.randrange(3, 9), plain.randint(1, 6), plain.choice("abc")] == [0, 3, 6, "c"]
    assert plain.random() > 0.999
    assert not plain.chance(1.0)
    items = [3, 1, 2]
    plain.shuffle(items)
    assert items == [3, 1, 2]
    assert (plain.drawn, plain.deviations) == (7, [])
    reference = random.Random(1)
    assert [seeded.randint(1, 100) for _ in range(5)] == [reference.randint(1, 100) for _ in range(5)]
    assert Schedule(1, only=(1,)).randint(1, 6) == 6
