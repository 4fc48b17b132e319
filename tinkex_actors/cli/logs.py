"""Where a command's logs go: to stderr, so that stdout holds only what was asked for."""

from __future__ import annotations

import logging
import sys

from tinkex_actors.config import Config
from tinkex_actors.log_levels import parse_log_levels
from tinkex_actors.redaction import redact_event
from tinkex_actors.runtime.log import set_log_levels

__all__ = ["log_to_stderr"]


def log_to_stderr(*, verbose: bool = False) -> None:
    """Send logs to stderr: warnings and worse, or with ``verbose`` all that informs, or as ``TINKEX_LOG`` says.

    The stream is looked up at each line, because a live view replaces it while it draws. Tracebacks come as Python
    prints them: structlog's own would show the values of local variables, which may be anybody's secrets.

    Raises:
        ConfigError: ``TINKEX_LOG`` (or another variable) is malformed.
    """
    import structlog

    # Without a remote server nothing but the variables is read: no credential is looked for.
    asked = Config.from_environment(base_url="local://tiny").log
    set_log_levels({"": "info" if verbose else "warning"} | parse_log_levels(asked, "TINKEX_LOG"))
    structlog.configure(
        processors=[
            redact_event,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False),
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        ],
        # The levels are the loggers' own, so that one logger can say more than the others.
        wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )
