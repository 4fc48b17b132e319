"""Which logger says how much: ``http=debug,telemetry=warning``, read and checked; nothing is set here."""

from __future__ import annotations

from tinkex_actors.errors import ConfigError

__all__ = ["LEVELS", "LOGGERS", "parse_log_levels"]

# Below `tinkex_actors`; each is a branch: what it says goes for the names below it too.
LOGGERS = (
    "cli",
    "engine",
    "http",
    "losses",
    "operations",
    "recovery",
    "retry",
    "runs",
    "runtime",
    "sampling",
    "service",
    "session",
    "telemetry",
    "training",
)
LEVELS = ("debug", "info", "warning", "error", "critical")
_SHORT = {"warn": "warning"}


def parse_log_levels(text: str, source: str) -> dict[str, str]:
    """Read levels.

    Args:
        text: a level for everything (``info``), levels of single loggers (``http=debug,telemetry=warning``), or both
            (``warning,http=debug``), in any case. Blank says nothing.
        source: what to call it in an error: ``TINKEX_LOG``, ``Config.log``.

    Returns:
        The level of each logger that is named; ``""`` is the branch all of them stand on.

    Raises:
        ConfigError: an unknown logger or level, or a logger named twice.
    """
    levels: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, separator, level = (piece.strip().lower() for piece in part.rpartition("="))
        level = _SHORT.get(level, level)
        if level not in LEVELS:
            raise ConfigError(
                f"{source}: expected LEVEL or LOGGER=LEVEL with a level of {', '.join(LEVELS)}, got {part!r}. "
                f"For example {source}=http=debug,telemetry=warning."
            )
        if separator and name not in LOGGERS:
            raise ConfigError(f"{source}: no logger is called {name!r} (in {part!r}). Known: {', '.join(LOGGERS)}.")
        if name in levels:
            raise ConfigError(
                f"{source}: two levels for {name or 'all loggers'}: {levels[name]!r} and {level!r}. Keep one of them."
            )
        levels[name] = level
    return levels
