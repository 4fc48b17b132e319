"""JAX's persistent compile cache, so that a second process starts in a third of the time."""

from __future__ import annotations

import tempfile
from importlib.metadata import version
from pathlib import Path

import jax
import zstandard

from tinkex_actors.runtime.log import Logger

__all__ = ["enable_compile_cache"]

_log = Logger("tinkex_actors.engine")

# Its time of change is the beginning of the last look for torn programs.
_LOOKED = "looked"
# Of clocks of file systems, in seconds.
_GRAIN = 2.0


def enable_compile_cache(cache_dir: Path) -> Path | None:
    """Let JAX keep compiled programs under ``cache_dir``, whatever their size and compile time. Process-wide.

    A folder that is set already, by an earlier call or by the user of JAX, stays: moving it would lose what it holds.

    Args:
        cache_dir: the engine's cache folder; programs go to a folder named by jaxlib's version, so that an upgrade
            never reads an older one's.

    Returns:
        The folder in use; None where ``cache_dir`` cannot be written, which costs time at the next start and is said
        once, as the event ``engine.compile_cache_unusable``.
    """
    held: str | None = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if held:
        return Path(held)
    folder = cache_dir / "xla" / version("jaxlib")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A folder that is there may still refuse files; JAX would say so for every program.
        with tempfile.TemporaryFile(dir=folder):
            pass
        _drop_torn(folder)
    except OSError as error:
        _log.warning(
            "engine.compile_cache_unusable",
            folder=str(folder),
            error=str(error),
            remedy="programs are compiled anew at every start; make it writable, or set TINKEX_CACHE_DIR",
        )
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))  # type: ignore[no-untyped-call]
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # type: ignore[no-untyped-call]
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)  # type: ignore[no-untyped-call]
    return folder


def _drop_torn(folder: Path) -> None:
    """Delete programs that a process left half written when it was killed.

    JAX writes them in place and never again, so that it would refuse and complain of such a one at every start, for
    ever. Only those are read that are newer than the last look. One that another process writes at this moment is
    lost at worst, and compiled once more.
    """
    looked = folder / _LOOKED
    since = looked.stat().st_mtime - _GRAIN if looked.exists() else 0.0
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as now:
        pass
    for program in folder.glob("*-cache"):
        try:
            if program.stat().st_mtime >= since:
                zstandard.ZstdDecompressor().decompress(program.read_bytes())
        except FileNotFoundError:  # another process was quicker
            pass
        except zstandard.ZstdError:
            program.unlink(missing_ok=True)
            _log.info("engine.torn_program_dropped", file=str(program))
    Path(now.name).replace(looked)
