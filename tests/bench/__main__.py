"""Every bench, one table after the other: ``python -m tests.bench [--quick]``.

Each runs in a process of its own, so that none measures what another left behind.
"""

from __future__ import annotations

import subprocess
import sys

BENCHES = ("actors", "wire", "client", "sampling", "training", "engine", "losses")


def main() -> int:
    """Run them all; returns how many failed."""
    failed = 0
    for name in BENCHES:
        failed += (
            subprocess.run([sys.executable, "-m", f"tests.bench.{name}", *sys.argv[1:]], check=False).returncode != 0
        )
        sys.stdout.write("\n")
        sys.stdout.flush()
    return failed


if __name__ == "__main__":
    sys.exit(main())
