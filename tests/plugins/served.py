"""``tinkex-actors serve`` in a process of its own, for as long as a test needs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["served"]


@contextmanager
def served(*arguments: str, store: Path, model: str = "tiny") -> Iterator[str]:
    """Serve a model on a free port of loopback; yields its URL, and stops it in order.

    Args:
        arguments: of ``serve``, after ``--model`` and ``--port``.
        store: the server's checkpoints, so that its listings are the test's alone.
        model: a model's name or folder.
    """
    with subprocess.Popen(
        [sys.executable, "-m", "tinkex_actors", "serve", "--model", model, "--port", "0", *arguments],
        env={**os.environ, "TINKEX_ENGINE_STORE": str(store)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            assert found, line
            yield found[0]
        finally:
            process.terminate()
            process.communicate(timeout=30)
    assert process.returncode == 0
