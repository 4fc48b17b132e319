"""Running coroutines and tests in virtual time, once or under many seeds. No test framework needed."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from tinkex_actors.testing.virtual_loop import SimDeadlock, VirtualLoop

__all__ = ["run_virtual", "seeds", "virtual_time"]

P = ParamSpec("P")
T = TypeVar("T")

SEEDS_VARIABLE = "TINKEX_TEST_SEEDS"


def run_virtual(main: Coroutine[Any, Any, T], *, seed: int | None = None) -> T:
    """Run a coroutine to its end on a fresh ``VirtualLoop`` and return its result.

    Args:
        main: the coroutine.
        seed: None for asyncio's own order, or the seed of a permuted one.

    Raises:
        SimDeadlock: it can never end. Any other exception of ``main`` gets a note with the seed and the last callbacks.
    """
    loop = VirtualLoop(seed)
    runner = asyncio.Runner(loop_factory=lambda: loop)
    try:
        result = runner.run(main)
    except BaseException as error:
        error.add_note(_replay_note(loop))
        try:
            runner.close()
        except SimDeadlock:
            error.add_note("Cancelling what was left did not end either.")
        raise
    runner.close()
    return result


def _replay_note(loop: VirtualLoop) -> str:
    last = "\n".join(f"  {entry}" for entry in loop.recent())
    how = (
        "in asyncio's own order"
        if loop.seed is None
        else f"with seed {loop.seed}; replay: @virtual_time(seed={loop.seed})"
    )
    return f"Ran {loop.steps} callbacks {how}. The last ones:\n{last}"


def virtual_time(
    seed: int | None = None,
) -> Callable[[Callable[P, Coroutine[Any, Any, T]]], Callable[P, T]]:
    """Make an ``async def`` test a plain function that runs in virtual time.

    Args:
        seed: None for asyncio's own order, or the seed of a permuted one (to replay a failure of ``seeds``).
    """

    def decorate(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
        @functools.wraps(function)
        def test(*args: P.args, **kwargs: P.kwargs) -> T:
            return run_virtual(function(*args, **kwargs), seed=seed)

        return test

    return decorate


def seeds(count: int) -> Callable[[Callable[P, Coroutine[Any, Any, None]]], Callable[P, None]]:
    """Make an ``async def`` test a plain function that runs in virtual time once per seed, 0 to ``count - 1``.

    Args:
        count: how many; the variable ``TINKEX_TEST_SEEDS`` overrides it.
    """

    def decorate(function: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
        @functools.wraps(function)
        def test(*args: P.args, **kwargs: P.kwargs) -> None:
            for seed in range(int(os.environ.get(SEEDS_VARIABLE) or count)):
                run_virtual(function(*args, **kwargs), seed=seed)

        return test

    return decorate
