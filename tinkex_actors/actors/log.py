"""Loggers that cost nothing until they are used: structlog is imported with the first line that is logged."""

from __future__ import annotations

from typing import Any

__all__ = ["Logger"]


class Logger:
    """A structlog logger by name.

    Args:
        name: such as ``tinkex_actors.session``; users set levels by it.
    """

    __slots__ = ("_bound", "_name")

    def __init__(self, name: str) -> None:
        self._name = name
        self._bound: Any = None

    def debug(self, event: str, **values: object) -> None:
        """Log for whoever looks closely. Events are named ``noun.verb``."""
        self._logger().debug(event, **values)

    def info(self, event: str, **values: object) -> None:
        """Log what a user may want to know."""
        self._logger().info(event, **values)

    def warning(self, event: str, **values: object) -> None:
        """Log what may need a hand."""
        self._logger().warning(event, **values)

    def error(self, event: str, **values: object) -> None:
        """Log what went wrong."""
        self._logger().error(event, **values)

    def _logger(self) -> Any:
        if self._bound is None:
            import structlog

            self._bound = structlog.get_logger(self._name)
        return self._bound
