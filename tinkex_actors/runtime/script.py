"""Running a program: the loop, the signals, the exit code."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from tinkex_actors.errors import RestartsExhaustedError, StopTimeoutError

__all__ = ["run"]

T = TypeVar("T")

EXIT_FAILED = 1
EXIT_DID_NOT_STOP = 70  # EX_SOFTWARE of sysexits.h


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a program's main coroutine: uvloop if installed, signals handled, exit codes set.

    SIGINT and SIGTERM cancel ``main`` once, so that ``async with ActorSystem()`` stops in order; the second one ends
    the process. Exit code 1: the system failed (restarts exhausted). 70: something did not stop, such as a thread that
    cannot be cancelled; the process then ends at once.

    Args:
        main: the coroutine; its result is returned.

    Raises:
        SystemExit: 1, 70, or 128 + the signal's number.
    """
    received: list[int] = []
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(_with_signals(main, received))
    except RestartsExhaustedError as error:
        print(f"{error}", file=sys.stderr)  # noqa: T201
        raise SystemExit(EXIT_FAILED) from error
    except asyncio.CancelledError:
        if received:
            raise SystemExit(128 + received[0]) from None
        raise


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _with_signals(main: Coroutine[Any, Any, T], received: list[int]) -> T:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None

    def on_signal(number: int) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)
        task.cancel()

    handled = []
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, on_signal, number)
            handled.append(number)
        except (NotImplementedError, RuntimeError, ValueError):  # Windows, or not the main thread
            continue
    try:
        return await main
    except StopTimeoutError as error:
        # At once: closing the loop would wait for the task, and ending the interpreter for the thread.
        print(f"{error}", file=sys.stderr, flush=True)  # noqa: T201
        sys.stdout.flush()
        os._exit(EXIT_DID_NOT_STOP)
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
