"""Imports go downwards only: the contracts in ``pyproject.toml`` hold, and they are able to fail."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")


def lint(config: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [str(LINT_IMPORTS), "--no-cache"]
    if config is not None:
        command += ["--config", str(config)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)


def test_every_import_contract_is_kept() -> None:
    done = lint()

    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_a_layer_order_turned_round_is_caught(tmp_path: Path) -> None:
    """The checker sees our imports at all: with errors on top instead of at the bottom, the contract breaks."""
    config = tmp_path / "upside_down.ini"
    config.write_text(
        "[importlinter]\nroot_package = tinkex_actors\n"
        "[importlinter:contract:turned]\nname = Turned round\ntype = layers\ncontainers = tinkex_actors\n"
        "layers =\n    errors\n    config\n",
        encoding="utf-8",
    )

    done = lint(config)

    assert done.returncode == 1, done.stdout + done.stderr
    assert "tinkex_actors.config.settings -> tinkex_actors.errors" in done.stdout
