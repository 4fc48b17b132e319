"""Telemetry, as a user of the service sees it."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tinkex_actors.actors.telemetry import TelemetryDesk
    from tinkex_actors.types import Severity

__all__ = ["Telemetry"]


class Telemetry:
    """Tells the service about events of your own. ``TINKER_TELEMETRY=0`` turns all of it off."""

    def __init__(self, desk: TelemetryDesk) -> None:
        self._desk = desk

    def log(self, event_name: str, event_data: Mapping[str, Any] | None = None, severity: Severity = "INFO") -> bool:
        """Queue an event; never waits.

        Args:
            event_name: its name.
            event_data: JSON values; anything else is sent as its text. The service's key is cut out of it.
            severity: ``DEBUG``, ``INFO``, ``WARNING``, ``ERROR`` or ``CRITICAL``.

        Returns:
            False where telemetry is off or 10,000 events are waiting: the event was dropped.
        """
        return self._desk.log(event_name, event_data, severity)

    def log_exception(self, error: BaseException, severity: Severity = "ERROR") -> bool:
        """Queue an exception with its traceback; a user's error (protocol 9.5) goes without one."""
        return self._desk.log_exception(error, severity)

    def flush(self) -> None:
        """Ask for everything that is queued to be sent now; never waits."""
        self._desk.flush()

    async def wait_until_drained(self, timeout: float = 30.0) -> bool:
        """Wait until everything has been sent or given up.

        Args:
            timeout: seconds.

        Returns:
            False if something was still waiting after ``timeout``.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._desk.drained(asyncio.get_running_loop())
        except TimeoutError:
            return False
        return True

    @contextmanager
    def capture(self) -> Iterator[None]:
        """Report an exception that leaves the block, and let it go on."""
        try:
            yield
        except Exception as error:
            self.log_exception(error)
            raise
