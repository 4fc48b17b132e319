"""Finding the handler that holds the event loop: a thread that asks the loop to answer, and looks at its stack if not.

It costs the actors nothing: who is running is read from the loop thread's own frames, not written by anybody.
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

from tinkex_actors.runtime._core.stacks import runner_in, stack_of
from tinkex_actors.runtime.events import HandlerBlocked

if TYPE_CHECKING:
    from tinkex_actors.runtime.system import ActorSystem

__all__ = ["Watchdog"]

STACK_LINES = 20


class Watchdog:
    """Watches one system's loop from a daemon thread.

    Args:
        system: whose loop to watch; start from that loop's thread.
        seconds: how long the loop may be held.
    """

    def __init__(self, system: ActorSystem, seconds: float) -> None:
        self._system = system
        self._seconds = seconds
        self._loop_thread = threading.get_ident()
        self._answered = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"{system.name}.watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and wait for it; it is never busy for long."""
        self._stopped.set()
        self._answered.set()
        self._thread.join()

    def _watch(self) -> None:
        try:
            self._ask_again_and_again()
        except RuntimeError:  # the loop was closed under the system
            return

    def _ask_again_and_again(self) -> None:
        loop = self._system.loop
        while not self._stopped.wait(self._seconds):
            self._answered.clear()
            asked = loop.time()
            loop.call_soon_threadsafe(self._answered.set)
            if self._answered.wait(self._seconds) or self._stopped.is_set():
                continue
            frame = sys._current_frames().get(self._loop_thread)
            cell, handler = runner_in(frame)
            path = cell.path if cell is not None else ""
            message = handler.name if handler is not None else ""
            stack = tuple(stack_of(frame)[-STACK_LINES:])
            self._answered.wait()
            if not self._stopped.is_set():
                loop.call_soon_threadsafe(self._tell, path, message, loop.time() - asked, stack)

    def _tell(self, path: str, message: str, seconds: float, stack: tuple[str, ...]) -> None:
        system = self._system
        system.report("loop.blocked", actor=path, message=message, seconds=round(seconds, 3), frames=stack)
        if system.events.active:
            event = HandlerBlocked(path=path, at=system.now(), message=message, seconds=seconds, stack=stack)
            system.events.publish(event)
