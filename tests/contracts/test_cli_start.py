"""The command line answers at once: ``--help`` costs under 0.3 s of CPU time, start of the interpreter included."""

from __future__ import annotations

import os
import subprocess
import sys

LIMIT_SECONDS = 0.3
# The process's own CPU time at its end, so that other processes on the machine do not count.
PROBE = """
import atexit, sys, time
atexit.register(lambda: print("cpu", time.process_time(), file=sys.stderr))
sys.argv = ["tinkex-actors", *sys.argv[1:]]
from tinkex_actors.cli.main import main
main()
"""


def cpu_seconds(*arguments: str) -> float:
    # As users run it: compiled modules are kept, so only the first run pays for them.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return float(done.stderr.split()[-1])


def test_help_takes_under_300_ms() -> None:
    assert min(cpu_seconds("--help") for _ in range(5)) < LIMIT_SECONDS


def test_help_of_a_command_takes_under_300_ms() -> None:
    assert min(cpu_seconds("serve", "--help") for _ in range(5)) < LIMIT_SECONDS
