"""Telemetry, as a user of the service sees it."""

from __future__ import annotations

import asyncio
import functools
import inspect
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from tinkex_actors.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from tinkex_actors.actors.telemetry import TelemetryDesk, TelemetryStatistics
    from tinkex_actors.types import Severity

__all__ = ["Capture", "Telemetry"]

P = ParamSpec("P")
R = TypeVar("R")

# Protocol 9.1.
_DRAIN_SECONDS = 30.0
_SEVERITIES = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


class Telemetry:
    """Tells the service about events of your own. ``TINKER_TELEMETRY=0`` turns all of it off.

    Nothing here waits, except where its name says so, and credentials are cut out of every event before it is queued.
    Every method may be called from any thread; another thread's events are queued in the loop's next turn.

    Args:
        desk: the queue.
        loop: the event loop of the service.
    """

    def __init__(self, desk: TelemetryDesk, loop: asyncio.AbstractEventLoop) -> None:
        self._desk = desk
        self._loop = loop

    def log(self, event_name: str, event_data: Mapping[str, Any] | None = None, severity: Severity = "INFO") -> bool:
        """Queue an event; never waits.

        Args:
            event_name: its name.
            event_data: JSON values; anything else is sent as its text.
            severity: ``DEBUG``, ``INFO``, ``WARNING``, ``ERROR`` or ``CRITICAL``, in any case.

        Returns:
            False where telemetry is off or 10,000 events are waiting: the event was dropped.

        Raises:
            InputError: no name, data that is no mapping, or another severity.
        """
        if not isinstance(event_name, str) or not event_name:
            raise InputError(f"telemetry.log: the event's name must be a text, got {event_name!r}.")
        if event_data is not None and not hasattr(event_data, "keys"):
            raise InputError(f"telemetry.log: event_data must be a mapping, got {type(event_data).__name__}.")
        level = _severity("telemetry.log", severity)
        return self._on_loop(lambda: self._desk.log(event_name, event_data, level))

    def log_exception(self, error: BaseException, severity: Severity = "ERROR") -> bool:
        """Queue an exception with its traceback, and have it sent now; never waits.

        A user's error (protocol 9.5: along the chain of causes, a status of 400 to 499 except 408, an operation that
        failed by the user's fault, or wrong use of this package) goes as ``user_error``, without a traceback. An
        exception is reported once, however many captures it passes.

        Args:
            error: the exception.
            severity: of an error that is not the user's.

        Returns:
            False where telemetry is off, the queue is full, or the exception has been reported.

        Raises:
            InputError: another severity.
        """
        level = _severity("telemetry.log_exception", severity)
        return self._on_loop(lambda: self._desk.log_exception(error, level))

    def flush(self) -> None:
        """Ask for everything that is queued to be sent now; never waits."""
        self._on_loop(self._desk.flush)

    async def wait_until_drained(self, timeout: float = _DRAIN_SECONDS) -> bool:
        """Flush, and wait until everything has been sent, or was put on disk because the server is away.

        Args:
            timeout: seconds.

        Returns:
            False if something was still waiting after ``timeout``.
        """
        if asyncio.get_running_loop() is not self._loop:
            waiting = asyncio.run_coroutine_threadsafe(self.wait_until_drained(timeout), self._loop)
            return await asyncio.wrap_future(waiting)
        try:
            async with asyncio.timeout(timeout):
                await self._desk.drained(self._loop)
        except TimeoutError:
            return False
        return True

    def capture(self, *, fatal: bool = False, severity: Severity = "ERROR") -> Capture:
        """Report an exception that leaves a block or a function, and let it go on.

        A decorator (``@service.telemetry.capture()``) for plain functions and coroutine functions, and a context
        manager for ``with`` and ``async with``::

            with service.telemetry.capture():
                prepare()

        Args:
            fatal: the program ends with this exception: wait up to 30 s until it has been sent (or, where the server
                is away, put on disk) before it goes on. In plain code on the loop's own thread nothing can wait; there
                leaving the service's ``async with`` sends it.
            severity: of an error that is not the user's.

        Raises:
            InputError: another severity.
        """
        return Capture(self, fatal=fatal, severity=_severity("telemetry.capture", severity))

    def statistics(self) -> TelemetryStatistics:
        """How many events wait, were sent, were dropped, and are kept on disk."""
        return self._desk.statistics()

    def _wait_in_thread(self) -> None:
        """Wait for the queue, unless this is the loop's own thread or a loop runs here: it would block it."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            if self._loop.is_running():
                waiting = asyncio.run_coroutine_threadsafe(self.wait_until_drained(), self._loop)
                waiting.exception(_DRAIN_SECONDS + 1.0)

    def _on_loop(self, work: Callable[[], object]) -> bool:
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is self._loop:
            return bool(work())
        if self._loop.is_closed():
            return False
        self._loop.call_soon_threadsafe(work)
        return True


class Capture:
    """What :meth:`Telemetry.capture` returns: a decorator and a context manager, good for many uses, also nested."""

    def __init__(self, telemetry: Telemetry, *, fatal: bool, severity: Severity) -> None:
        self._telemetry = telemetry
        self._fatal = fatal
        self._severity = severity

    def __enter__(self) -> Capture:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):
            self._telemetry.log_exception(error, self._severity)
            if self._fatal:
                self._telemetry._wait_in_thread()

    async def __aenter__(self) -> Capture:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):
            self._telemetry.log_exception(error, self._severity)
            if self._fatal:
                await self._telemetry.wait_until_drained()

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Wrap a function.

        Raises:
            InputError: no function, or a generator function, whose body runs only later: capture inside it.
        """
        name = getattr(function, "__qualname__", repr(function))
        if not callable(function) or inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise InputError(
                f"telemetry.capture: {name} is not a function whose exceptions a wrapper can see. Write "
                "`with service.telemetry.capture():` inside it."
            )
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def waited(*args: P.args, **kwargs: P.kwargs) -> Any:
                async with self:
                    return await function(*args, **kwargs)

            return cast("Callable[P, R]", waited)

        @functools.wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            with self:
                return function(*args, **kwargs)

        return called


def _severity(where: str, severity: str) -> Severity:
    level = severity.upper() if isinstance(severity, str) else severity
    if level not in _SEVERITIES:
        raise InputError(f"{where}: severity must be one of {', '.join(_SEVERITIES)}, got {severity!r}.")
    return cast("Severity", level)
