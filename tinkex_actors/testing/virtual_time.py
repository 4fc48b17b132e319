"""Running coroutines and tests in virtual time, once or under many seeds. No test framework needed."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable, Collection, Coroutine
from typing import Any, ParamSpec, TypeVar

from tinkex_actors.testing.shrinking import shrink
from tinkex_actors.testing.virtual_loop import SimDeadlock, VirtualLoop

__all__ = ["run_virtual", "seeds", "virtual_time"]

P = ParamSpec("P")
T = TypeVar("T")

SEEDS_VARIABLE = "TINKEX_TEST_SEEDS"


def run_virtual(main: Coroutine[Any, Any, T], *, seed: int | None = None, only: Collection[int] | None = None) -> T:
    """Run a coroutine to its end on a fresh ``VirtualLoop`` and return its result.

    Args:
        main: the coroutine.
        seed: None for asyncio's own order, or the seed of a permuted one.
        only: numbers of the choices the seed may make (to replay a shrunk failure of ``seeds``); None for all.

    Raises:
        SimDeadlock: it can never end. Any other exception of ``main`` gets a note with the seed and the last callbacks.
    """
    return _run(main, VirtualLoop(seed, only=only), only)


def _run(main: Coroutine[Any, Any, T], loop: VirtualLoop, only: Collection[int] | None) -> T:
    runner = asyncio.Runner(loop_factory=lambda: loop)
    try:
        result = runner.run(main)
    except BaseException as error:
        error.add_note(_replay_note(loop, only))
        try:
            runner.close()
        except SimDeadlock:
            error.add_note("Cancelling what was left did not end either.")
        raise
    runner.close()
    return result


def _replay_note(loop: VirtualLoop, only: Collection[int] | None) -> str:
    last = "\n".join(f"  {entry}" for entry in loop.recent())
    if loop.permutation is None:
        how = "in asyncio's own order"
    else:
        choices = "" if only is None else f", only={tuple(only)}"
        how = f"with seed {loop.seed}; replay: @virtual_time(seed={loop.seed}{choices})"
    return f"Ran {loop.steps} callbacks {how}. The last ones:\n{last}"


def virtual_time(
    seed: int | None = None, *, only: Collection[int] | None = None
) -> Callable[[Callable[P, Coroutine[Any, Any, T]]], Callable[P, T]]:
    """Make an ``async def`` test a plain function that runs in virtual time.

    Args:
        seed: None for asyncio's own order, or the seed of a permuted one (to replay a failure of ``seeds``).
        only: as the note of a shrunk failure says; None for every choice of the seed.
    """

    def decorate(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
        @functools.wraps(function)
        def test(*args: P.args, **kwargs: P.kwargs) -> T:
            return run_virtual(function(*args, **kwargs), seed=seed, only=only)

        return test

    return decorate


def seeds(count: int) -> Callable[[Callable[P, Coroutine[Any, Any, None]]], Callable[P, None]]:
    """Make an ``async def`` test a plain function that runs in virtual time once per seed, 0 to ``count - 1``.

    The first failure is shrunk: the test runs again, up to 100 times, with fewer and fewer of the seed's choices, and
    what is raised is the failure that needs the fewest. So the test must not remember its earlier runs.

    Args:
        count: how many; the variable ``TINKEX_TEST_SEEDS`` overrides it.
    """

    def decorate(function: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
        @functools.wraps(function)
        def test(*args: P.args, **kwargs: P.kwargs) -> None:
            for seed in range(int(os.environ.get(SEEDS_VARIABLE) or count)):
                _run_seed(lambda: function(*args, **kwargs), seed)

        return test

    return decorate


def _run_seed(main: Callable[[], Coroutine[Any, Any, None]], seed: int) -> None:
    loop = VirtualLoop(seed)
    try:
        _run(main(), loop, None)
    except Exception as error:
        assert loop.permutation is not None
        needed = shrink(main, seed, type(error), loop.permutation.deviations)
        again = VirtualLoop(seed, only=needed)
        try:
            _run(main(), again, needed)
        except type(error) as smallest:
            smallest.add_note(f"{len(needed)} of the seed's {loop.permutation.drawn} choices are enough to fail.")
            raise smallest from error.__cause__
        raise  # it remembers earlier runs: the first failure is all there is
