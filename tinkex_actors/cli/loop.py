"""How a command runs its coroutine: on uvloop where present, with signals that stop it in order."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["run_to_end", "stop_requested"]

T = TypeVar("T")


def run_to_end(main: Coroutine[object, object, T]) -> T:
    """Run ``main`` on a new loop and return its result.

    Ctrl-C cancels it, waits for its clean-up and raises ``KeyboardInterrupt``, which the command line turns into exit
    code 130, unless ``main`` took the signal over with :func:`stop_requested`.
    """
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(main)


def stop_requested() -> asyncio.Event:
    """Return an event that SIGINT and SIGTERM set from now on, in place of their usual effect."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, stop.set)
        except NotImplementedError:  # loops of Windows have no signal handlers; the main thread's do
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))
    return stop


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
