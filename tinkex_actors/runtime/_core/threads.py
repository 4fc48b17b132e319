"""How much of the processors a thread asks for."""

from __future__ import annotations

import contextlib
import os
import sys
import threading

__all__ = ["give_way"]


def give_way(niceness: int) -> None:
    """Lower the calling thread's priority, and that of threads it starts later, below the event loop's.

    On Linux alone: elsewhere niceness belongs to the process, and nothing is changed.

    Args:
        niceness: how much nicer than now, 0 or more; a difference of 5 leaves a third of a contended processor.
    """
    if not niceness or sys.platform != "linux":
        return
    own = threading.get_native_id()
    with contextlib.suppress(OSError):  # a sandbox may forbid it: slower wake-ups are no reason to fail
        os.setpriority(os.PRIO_PROCESS, own, os.getpriority(os.PRIO_PROCESS, own) + niceness)
