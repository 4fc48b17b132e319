"""What the service is told about its own use: bounded, batched, and never in the way (protocol part 9)."""

from __future__ import annotations

import datetime
import itertools
import platform
import traceback
import uuid
from typing import TYPE_CHECKING, Any

import msgspec

from tinkex_actors.actors.desk import Desk
from tinkex_actors.config import SDK_VERSION
from tinkex_actors.errors import NotFoundError, RequestFailedError, TinkexError
from tinkex_actors.machines.batching import Batching
from tinkex_actors.machines.retry import NO_RETRY
from tinkex_actors.runtime import Actor, handler
from tinkex_actors.runtime.log import Logger
from tinkex_actors.types import (
    GenericEvent,
    SessionEndEvent,
    SessionStartEvent,
    TelemetryEvent,
    TelemetrySendRequest,
    UnhandledExceptionEvent,
)
from tinkex_actors.wire.routes import ROUTES

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from tinkex_actors.actors.link import Link
    from tinkex_actors.types import Severity

__all__ = ["Telemetry", "TelemetryDesk"]

_LOOK_EVERY = 1.0
_REQUEST_TIMEOUT = 408
# What is shorter is a placeholder for a server that asks for none, and too common a text to cut out.
_SHORTEST_SECRET = 8

_log = Logger("tinkex_actors.telemetry")


class TelemetryDesk(Desk):
    """The queue of events.

    Args:
        enabled: False drops everything (``TINKER_TELEMETRY=0``).
        now: the loop's clock, for the session's duration.
        secret: the credential, cut out of every text; None where there is none.
    """

    __slots__ = (
        "_begun_at",
        "_drained",
        "_indexes",
        "_now",
        "_secret",
        "batching",
        "enabled",
        "process_uuid",
        "session_id",
    )

    def __init__(self, *, enabled: bool, now: Callable[[], float], secret: str | None = None) -> None:
        super().__init__()
        self._secret = secret if secret is not None and len(secret) >= _SHORTEST_SECRET else None
        self.enabled = enabled
        self.session_id = f"sessionless-{uuid.uuid4()}"
        self.process_uuid = str(uuid.uuid4())
        self.batching: Batching[TelemetryEvent] = Batching()
        self._now = now
        self._begun_at: float | None = None
        self._indexes = itertools.count()
        self._drained: list[asyncio.Future[None]] = []

    def session_started(self, session_id: str) -> None:
        """Note the session's start; later events carry its id."""
        self.session_id = session_id
        self._begun_at = self._now()
        self._add(SessionStartEvent(**self._common()))

    def session_ended(self) -> None:
        """Note the session's end, if it had begun."""
        if self._begun_at is None:
            return
        duration = str(datetime.timedelta(seconds=self._now() - self._begun_at))
        self._add(SessionEndEvent(**self._common(), duration=duration))
        self._begun_at = None

    def log(self, event_name: str, event_data: Mapping[str, Any] | None = None, severity: Severity = "INFO") -> bool:
        """Queue an event of your own.

        Args:
            event_name: its name.
            event_data: JSON values; anything else is sent as its text.
            severity: ``DEBUG``, ``INFO``, ``WARNING``, ``ERROR`` or ``CRITICAL``.

        Returns:
            False where telemetry is off or the queue is full.
        """
        event = GenericEvent(
            **self._common(), event_name=event_name, event_data=self._plain(event_data or {}), severity=severity
        )
        return self._add(event)

    def log_exception(self, error: BaseException, severity: Severity = "ERROR") -> bool:
        """Queue an exception: a user's error as ``user_error``, any other as unhandled (protocol 9.5)."""
        if blamed := _user_error(error):
            data: dict[str, Any] = {"error_type": type(blamed).__name__, "message": str(blamed)}
            if (status := getattr(blamed, "status_code", None)) is not None:
                data["status_code"] = status
            queued = self.log("user_error", data, "WARNING")
        else:
            queued = self._add(
                UnhandledExceptionEvent(
                    **self._common(),
                    error_type=type(error).__name__,
                    error_message=self._clean(str(error)),
                    traceback=self._clean("".join(traceback.format_exception(error))),
                    severity=severity,
                )
            )
        self.flush()
        return queued

    def flush(self) -> None:
        """Ask for everything that is queued to be sent now."""
        self.batching.flush()
        self.ring()

    def unsupported(self) -> None:
        """The server takes no telemetry: forget what is queued and queue no more, so that nobody waits for it."""
        self.enabled = False
        self.batching = Batching()

    def drained(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """A future that ends when nothing is queued and nothing is on its way."""
        future: asyncio.Future[None] = loop.create_future()
        self._drained.append(future)
        self.flush()
        self.report_drained()
        return future

    def report_drained(self) -> None:
        """End the waits for a drained queue, if it is."""
        if self.batching.drained:
            waiting, self._drained = self._drained, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    def _add(self, event: TelemetryEvent) -> bool:
        if not self.enabled or not self.batching.add(event):
            return False
        self.ring()
        return True

    def _plain(self, data: Mapping[str, Any]) -> dict[str, Any]:
        # Now, not when it is sent: one event that cannot be encoded would take its whole batch with it.
        try:
            text = msgspec.json.encode(dict(data), enc_hook=str).decode()
        except (TypeError, ValueError, RecursionError):
            return {"text": self._clean(repr(data))}
        plain: dict[str, Any] = msgspec.json.decode(self._clean(text))
        return plain

    def _clean(self, text: str) -> str:
        return text.replace(self._secret, "***") if self._secret else text

    def _common(self) -> dict[str, Any]:
        return {
            "event_id": str(uuid.uuid4()),
            "event_session_index": next(self._indexes),
            "timestamp": datetime.datetime.now(datetime.UTC),
        }


class Telemetry(Actor):
    """Sends batches, one at a time.

    Args:
        desk: the queue; outlives this incarnation.
        link: the server.
    """

    def __init__(self, desk: TelemetryDesk, link: Link) -> None:
        self._desk = desk
        self._link = link

    async def init(self) -> None:
        """Send again the batch that was on its way, and look at the queue regularly."""
        self._desk.attend(self.ref.cast.wake)
        self._desk.batching.restarted()
        if self._desk.enabled:
            self.every(_LOOK_EVERY, self.ref.cast.wake)

    @handler
    def wake(self) -> None:
        """Send a batch if one is due."""
        self._desk.answered()
        if self._desk.batching.due(self.system.loop.time()) and (batch := self._desk.batching.take()):
            self.task(self._send(batch), name="telemetry")
        self._desk.report_drained()

    async def _send(self, batch: list[TelemetryEvent]) -> None:
        desk = self._desk
        request = TelemetrySendRequest(
            events=batch,
            platform=platform.system(),
            sdk_version=SDK_VERSION,
            session_id=desk.session_id,
            process_uuid=desk.process_uuid,
        )
        try:
            await self._link.exchange(ROUTES["telemetry"], request, policy=NO_RETRY)
        except NotFoundError:
            _log.info("telemetry.unsupported", reason="the server has no such route")
            desk.unsupported()
        except TinkexError:
            desk.batching.failed(len(batch))
        else:
            desk.batching.sent(len(batch))
        desk.report_drained()
        self.ref.cast.wake()


def _user_error(error: BaseException) -> BaseException | None:
    """The user's error along the chain of causes, if there is one (protocol 9.5)."""
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        if isinstance(at, RequestFailedError) and at.category == "user":
            return at
        status = getattr(at, "status_code", None)
        if isinstance(status, int) and 400 <= status < 500 and status != _REQUEST_TIMEOUT:
            return at
        at = at.__cause__ or at.__context__
    return None
