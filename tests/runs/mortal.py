"""Run a program that dies at one of its writes: ``mortal.py AT FOLDER PROGRAM [ARGUMENT...]``.

Counted are the files below FOLDER that are opened, made, renamed and removed, and the statements given to SQLite; the
``AT``-th is not done, as the process is killed with SIGKILL just before. 0 lets it live. PROGRAM is a file, or a
module's name. So a moment between two writes, which a clock meets once in a thousand tries, can be met at will, and
again.
"""

from __future__ import annotations

import os
import runpy
import signal
import sqlite3
import sys
from functools import partial
from typing import Any

# Raised by Python before it does what they say, with a path first (docs.python.org, "Audit events table").
_ON_FILES = {"open", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate"}


def die_at(moment: int, folder: str) -> None:
    """Have this process killed just before its ``moment``-th write."""
    passed = 0

    def count(*_: Any) -> None:
        nonlocal passed
        passed += 1
        if passed == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _ON_FILES and str(arguments[0]).startswith(folder):
            count()

    class Counted(sqlite3.Connection):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.set_trace_callback(count)

    sys.addaudithook(hook)
    sqlite3.connect = partial(sqlite3.connect, factory=Counted)  # type: ignore[assignment]


if __name__ == "__main__":
    at, where, program, *_ = sys.argv[1:]
    die_at(int(at), where)
    sys.argv = sys.argv[3:]
    if program.endswith(".py"):
        sys.path[0] = os.path.dirname(program)
        runpy.run_path(program, run_name="__main__")
    else:
        runpy.run_module(program, run_name="__main__", alter_sys=True)
