"""Loggers that cost nothing until they are used, and that never surprise a program they are embedded in.

structlog is imported with the first line that is logged. A program that has configured structlog gets the events as
it wants them; in any other they go to the standard library's logger of that name, which shows warnings and errors on
standard error. In both, levels are the standard library's (``logging.getLogger("tinkex_actors.http").setLevel(...)``),
and no line leaves before credentials are cut out of it. Neither structlog nor the root logger is ever configured here.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from tinkex_actors.redaction import redact_event

__all__ = ["Logger", "set_log_levels"]

_ROOT = "tinkex_actors"


class Logger:
    """A structlog logger by name, such as ``tinkex_actors.session``; users set levels by it.

    Args:
        name: the hierarchical name.
        values: bound to every event.
    """

    __slots__ = ("_name", "_standard", "_values")

    def __init__(self, name: str, **values: object) -> None:
        self._name = name
        self._values = values
        self._standard = logging.getLogger(name)

    def debug(self, event: str, **values: object) -> None:
        """Log for whoever looks closely. Events are named ``noun.verb``."""
        self._write(logging.DEBUG, "debug", event, values)

    def info(self, event: str, **values: object) -> None:
        """Log what a user may want to know."""
        self._write(logging.INFO, "info", event, values)

    def warning(self, event: str, **values: object) -> None:
        """Log what may need a hand."""
        self._write(logging.WARNING, "warning", event, values)

    def error(self, event: str, **values: object) -> None:
        """Log what went wrong. ``exc_info=error`` adds its traceback, as text, and without local variables."""
        self._write(logging.ERROR, "error", event, values)

    def _write(self, level: int, method: str, event: str, values: dict[str, object]) -> None:
        standard = self._standard
        # A line that nobody wants must cost no more than this: debug lines stand on the way of every request.
        loaded = sys.modules.get("structlog")
        if loaded is None or not loaded.is_configured():
            if not standard.isEnabledFor(level):
                return
            import structlog

            log = structlog.wrap_logger(
                standard,
                wrapper_class=structlog.stdlib.BoundLogger,
                processors=[_traceback_last(structlog.processors.KeyValueRenderer(key_order=["event"]))],
            )
        elif level < _own_level(standard):
            return
        else:
            log = loaded.get_logger(self._name)
        getattr(log, method)(**redact_event(log, method, {"event": event, **self._values, **values}))


def set_log_levels(levels: Mapping[str, str]) -> None:
    """Set levels of this package's loggers, and show what they let through.

    Args:
        levels: ``debug``, ``info``, ``warning``, ``error`` or ``critical`` by the logger's name below
            ``tinkex_actors``; the name ``""`` is the branch all of them stand on.

    Who asks for debug lines wants to see them: in a program that has configured neither logging nor structlog they are
    written to standard error. As soon as the program's root logger has a handler, ours is silent.
    """
    for name, level in levels.items():
        logging.getLogger(f"{_ROOT}.{name}" if name else _ROOT).setLevel(level.upper())
    branch = logging.getLogger(_ROOT)
    if levels and not any(isinstance(handler, _WhereNobodyListens) for handler in branch.handlers):
        branch.addHandler(_WhereNobodyListens())


class _WhereNobodyListens(logging.Handler):
    """Writes to standard error, as Python's own last resort does, but below warnings too."""

    def emit(self, record: logging.LogRecord) -> None:
        branch = logging.getLogger(_ROOT)
        others = [handler for handler in branch.handlers if handler is not self]
        if branch.propagate:
            others += logging.getLogger().handlers
        if not others:
            # Looked up at each line: a live view replaces the stream while it draws.
            sys.stderr.write(f"{record.levelname.lower():<8} {record.name}: {record.getMessage()}\n")


def _own_level(logger: logging.Logger) -> int:
    """The level somebody gave this package's loggers; the root logger's is not meant for structlog's lines."""
    at: logging.Logger | None = logger
    while at is not None and at.parent is not None:
        if at.level:
            return at.level
        at = at.parent
    return logging.NOTSET


def _traceback_last(render: Callable[..., Any]) -> Callable[..., str]:
    """Print a traceback as lines after the event, not as one long escaped value."""

    def processor(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
        trace = event.pop("exception", None)
        line = str(render(logger, method, event))
        return line if trace is None else f"{line}\n{str(trace).rstrip()}"

    return processor
