"""``import tinkex_actors`` is cheap: it loads nothing heavy, and takes under 150 ms of CPU time."""

from __future__ import annotations

import json
import os
import subprocess
import sys

HEAVY = (
    "aiohttp",
    "google.protobuf",
    "jax",
    "jaxlib",
    "matplotlib",
    "sqlite3",
    "tinker",
    "tokenizers",
    "typer",
    "zstandard",
)
# numpy, asyncio, msgspec and structlog together cost about twice this: the root finds its names on first use (PEP 562).
LIMIT_SECONDS = 0.150
# CPU time of the importing thread: other processes do not count, nor do the threads that numpy starts for its BLAS.
PROBE = f"""
import json, sys, time
began = time.thread_time()
import tinkex_actors
print(json.dumps([time.thread_time() - began, [name for name in {HEAVY!r} if name in sys.modules]]))
"""


def probe(code: str = PROBE) -> tuple[float, list[str]]:
    # As users run it: compiled modules are kept, so only the first run pays for them.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=50, check=True)
    seconds, loaded = json.loads(done.stdout)
    return seconds, loaded


def test_import_loads_nothing_heavy() -> None:
    _, loaded = probe()

    assert loaded == []


def test_import_takes_under_150_ms() -> None:
    # The first run may compile bytecode; the least of five is what the import itself costs.
    assert min(probe()[0] for _ in range(5)) < LIMIT_SECONDS


def test_the_probe_sees_what_is_loaded() -> None:
    _, loaded = probe("import sqlite3\n" + PROBE)

    assert loaded == ["sqlite3"]
