"""Making a failing schedule small: which of a seed's choices does the failure need?

Technique: delta debugging (Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002) over the
numbers of the choices that were not asyncio's own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from tinkex_actors.testing.virtual_loop import SimDeadlock, VirtualLoop

__all__ = ["shrink"]

MAX_RUNS = 100


def shrink(
    main: Callable[[], Coroutine[Any, Any, Any]],
    seed: int,
    failure: type[Exception],
    deviations: Sequence[int],
    *,
    max_runs: int = MAX_RUNS,
) -> tuple[int, ...]:
    """Return choices of a seed that are enough for a failure; leaving out any part that was tried ends it.

    Args:
        main: makes the coroutine, anew for each run.
        seed: under which it fails.
        failure: type of the exception that counts as the same failure.
        deviations: choices of the failing run that were not asyncio's own (``loop.permutation.deviations``).
        max_runs: runs to spend; the best so far is returned when they are used up.
    """
    needed = tuple(deviations)
    runs, parts = 0, 1
    while needed and runs < max_runs:
        for part in range(parts):
            first, last = len(needed) * part // parts, len(needed) * (part + 1) // parts
            runs += 1
            smaller = _deviations_of_failure(main, seed, failure, needed[:first] + needed[last:])
            if smaller is not None:
                needed = smaller
                parts = max(parts - 1, 2)
                break
            if runs >= max_runs:
                break
        else:
            if parts >= len(needed):
                break
            parts = min(parts * 2, len(needed))
    return needed


def _deviations_of_failure(
    main: Callable[[], Coroutine[Any, Any, Any]], seed: int, failure: type[Exception], only: tuple[int, ...]
) -> tuple[int, ...] | None:
    """Run with some choices; return which of them mattered, if it still fails in the same way."""
    loop = VirtualLoop(seed, only=frozenset(only))
    runner = asyncio.Runner(loop_factory=lambda: loop)
    try:
        runner.run(main())
    except failure:
        assert loop.permutation is not None
        return tuple(loop.permutation.deviations)
    except Exception:
        return None
    finally:
        with contextlib.suppress(SimDeadlock):
            runner.close()
    return None
