"""``models list`` and ``models pull``: what the local engine can run, and what of it is on this machine."""

from __future__ import annotations

from collections.abc import Callable

from tinkex_actors.config import Config
from tinkex_actors.errors import ConfigError

__all__ = ["listing", "pull"]


def listing() -> list[str]:
    """Return the table of local models, one line each under a heading. Loads no JAX."""
    from tinkex_actors.engine.models.catalog import model_names

    records = model_names(cache_dir=Config.from_environment().cache_dir)
    rows = [("NAME", "PARAMETERS", "CONTEXT", "WEIGHTS")]
    rows += [
        (one.name, "?" if one.parameters is None else f"{one.parameters:,}", f"{one.context_length:,}", one.where)
        for one in records
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return [
        f"{name:<{widths[0]}}  {parameters:>{widths[1]}}  {context:>{widths[2]}}  {where}"
        for name, parameters, context, where in rows
    ]


def pull(name: str, say: Callable[[str], None]) -> None:
    """Put a model's weights on this machine, unless they are here or need none.

    Args:
        name: a name of the catalogue.
        say: called with one line at each stage.

    Raises:
        ConfigError: no model of that name (the message lists those there are), or the cache cannot be written.
        ModelNotInstalledError: the download failed; the message has the line to run again.
    """
    from tinkex_actors.engine.models import catalog, fetch

    cache_dir = Config.from_environment().cache_dir
    known = [record.name for record in catalog.model_names(cache_dir=cache_dir)]
    if name not in known:
        raise ConfigError(f"model {name!r}: no such local model; there are {', '.join(sorted(known))}")
    if name != fetch.SMOLLM2.model:
        say(f"{name}: built in, nothing to fetch")
        return
    try:
        fetch.pull(fetch.SMOLLM2, cache_dir, say)
    except OSError as error:
        raise ConfigError(
            f"model {name}: the cache {cache_dir} cannot be written ({error.strerror or error}). Make it writable, "
            "or set TINKEX_CACHE_DIR to another folder."
        ) from error
