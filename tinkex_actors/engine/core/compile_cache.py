"""JAX's persistent compile cache, so that a second process starts in a third of the time."""

from __future__ import annotations

import tempfile
from importlib.metadata import version
from pathlib import Path

import jax

from tinkex_actors.runtime.log import Logger

__all__ = ["enable_compile_cache"]

_log = Logger("tinkex_actors.engine")


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
