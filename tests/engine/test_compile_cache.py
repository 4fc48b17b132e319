"""The persistent compile cache, in processes of its own: it is set once per process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = """
import sys
from pathlib import Path
import jax
from tinkex_actors.engine.core.compile_cache import enable_compile_cache
first = enable_compile_cache(Path(sys.argv[1]))
assert enable_compile_cache(Path(sys.argv[2])) == first
jax.jit(lambda x: x * 2 + 1)(1.0).block_until_ready()
print(first)
"""


def test_programs_are_kept_under_the_version_and_the_first_folder_stays(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "one"), str(tmp_path / "two")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    folder = Path(done.stdout.strip())
    assert folder.parent == tmp_path / "one" / "xla"
    assert folder.name[0].isdigit()
    assert list(folder.iterdir())
    assert not (tmp_path / "two").exists()


def test_a_program_that_was_left_half_written_is_compiled_and_kept_again(tmp_path: Path) -> None:
    """JAX alone would complain of it at every start, and never write it again."""
    command = [sys.executable, "-W", "error", "-c", SCRIPT, str(tmp_path / "one"), str(tmp_path / "two")]
    folder = Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    whole = {path: path.stat().st_size for path in folder.glob("*-cache")}
    assert whole
    for length in (0, 20):
        for path in whole:
            os.truncate(path, length)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert {path for path in whole if path.stat().st_size > 100} == whole.keys()
    before = {path: path.stat().st_mtime_ns for path in whole}
    subprocess.run(command, capture_output=True, check=True)
    assert {path: path.stat().st_mtime_ns for path in whole} == before


UNUSABLE = """
import sys
from pathlib import Path
import jax
from tinkex_actors.engine.core.compile_cache import enable_compile_cache
assert enable_compile_cache(Path(sys.argv[1])) is None
assert jax.jit(lambda x: x * 2 + 1)(1.0) == 3.0
"""


def test_a_folder_that_cannot_be_written_is_a_warning_and_nothing_worse(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    command = [sys.executable, "-c", UNUSABLE, str(tmp_path / "file")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = done.stdout + done.stderr
    assert "engine.compile_cache_unusable" in said
    assert "TINKEX_CACHE_DIR" in said
