"""Where a command's logs go: to stderr, so that stdout holds only what was asked for."""

from __future__ import annotations

import logging
import sys

__all__ = ["log_to_stderr"]


def log_to_stderr(*, verbose: bool = False) -> None:
    """Send logs to stderr: warnings and worse, or with ``verbose`` everything that informs.

    The stream is looked up at each line, because a live view replaces it while it draws. Tracebacks come as Python
    prints them: structlog's own would show the values of local variables, which may be anybody's secrets.
    """
    import structlog

    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False),
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO if verbose else logging.WARNING),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )
