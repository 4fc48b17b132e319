"""The generated protobuf module is what its ``.proto`` generates: nobody edited it by hand or forgot to regenerate."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_regenerating_the_protobuf_module_changes_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tinkex_actors.wire._proto.generate", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr + "\nRun `make generate` and commit the result."
