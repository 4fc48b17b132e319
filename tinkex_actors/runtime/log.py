"""Loggers that cost nothing until they are used, and that never surprise a program they are embedded in.

structlog is imported with the first line that is logged. A program that has configured structlog gets the events as
it wants them; in any other they go to the standard library's logger of that name, which shows warnings and errors on
standard error.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any

__all__ = ["Logger"]


class Logger:
    """A structlog logger by name, such as ``tinkex_actors.session``; users set levels by it.

    Args:
        name: the hierarchical name.
        values: bound to every event.
    """

    __slots__ = ("_name", "_values")

    def __init__(self, name: str, **values: object) -> None:
        self._name = name
        self._values = values

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
        import structlog

        if structlog.is_configured():
            return structlog.get_logger(self._name).bind(**self._values)
        import logging

        return structlog.wrap_logger(
            logging.getLogger(self._name),
            wrapper_class=structlog.stdlib.BoundLogger,
            processors=[
                structlog.stdlib.filter_by_level,
                structlog.processors.format_exc_info,
                _traceback_last(structlog.processors.KeyValueRenderer(key_order=["event"])),
            ],
        ).bind(**self._values)


def _traceback_last(render: Callable[..., Any]) -> Callable[..., str]:
    """Print a traceback as lines after the event, not as one long escaped value."""

    def processor(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
        trace = event.pop("exception", None)
        line = str(render(logger, method, event))
        return line if trace is None else f"{line}\n{str(trace).rstrip()}"

    return processor
