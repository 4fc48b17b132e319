"""The queue of telemetry: what happened, as events that hold no secret (protocol part 9)."""

from __future__ import annotations

import datetime
import itertools
import os
import platform
import traceback
import uuid
from typing import TYPE_CHECKING, Any

import msgspec

from tinkex_actors.actors.desk import Desk
from tinkex_actors.actors.telemetry.blame import user_error
from tinkex_actors.config import SDK_VERSION
from tinkex_actors.machines.batching import Batching
from tinkex_actors.redaction import redact, redact_value
from tinkex_actors.runtime.log import Logger
from tinkex_actors.types import (
    GenericEvent,
    SessionEndEvent,
    SessionStartEvent,
    TelemetryEvent,
    TelemetrySendRequest,
    UnhandledExceptionEvent,
)

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping, Sequence

    from tinkex_actors.actors.telemetry.spool import Spool
    from tinkex_actors.types import Severity

__all__ = ["TelemetryDesk", "TelemetryStatistics"]

# Longer texts are cut: 10,000 events that wait must not be a gigabyte. The end of a traceback says more than its start.
_LONGEST_TEXT = 16_384
# Events that the client makes of its own troubles; one call in ten thousand failing says as much as all of them.
_OWN_PER_INTERVAL = 100
_REPORTED = "_tinkex_reported_to"

_log = Logger("tinkex_actors.telemetry")


class TelemetryStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the events.

    Attributes:
        queued: events that wait, those on their way included.
        sent: events the server has taken.
        overflowed: events dropped because 10,000 were waiting.
        refused: events of batches that the server would not have.
        spooled: events written to disk while the server was away.
        lost: events that could not be written there either.
    """

    queued: int
    sent: int
    overflowed: int
    refused: int
    spooled: int
    lost: int


class TelemetryDesk(Desk):
    """The queue of events.

    Args:
        enabled: False drops everything (``TINKER_TELEMETRY=0``).
        now: the loop's clock, for the session's duration.
        spool: where batches go while the server is away; None drops them.

    Attributes:
        batching: what waits, and what is on its way.
        unspooled: given up, and not yet on disk.
        closing: the service ends, and waits for the queue: the first failure gives up.
        server_seen: the server has answered, so that what the spool holds may be tried.
        reading: a batch of the spool is being sent, or looked for.
    """

    __slots__ = (
        "_begun_at",
        "_drained",
        "_full_since",
        "_indexes",
        "_now",
        "_own",
        "batching",
        "closing",
        "enabled",
        "lost",
        "reading",
        "server_seen",
        "session_id",
        "spool",
        "spooled",
        "unspooled",
    )

    def __init__(self, *, enabled: bool, now: Callable[[], float], spool: Spool | None = None) -> None:
        super().__init__()
        self.enabled = enabled
        self.session_id = f"sessionless-{uuid.uuid4()}"
        self.batching: Batching[TelemetryEvent] = Batching()
        self.spool = spool if enabled else None
        self.unspooled: list[TelemetryEvent] = []
        self.spooled = 0
        self.lost = 0
        self.closing = False
        self.server_seen = False
        self.reading = False
        self._now = now
        self._begun_at: float | None = None
        self._indexes = itertools.count()
        self._drained: list[asyncio.Future[None]] = []
        self._own = _Allowance(now)
        self._full_since: float | None = None

    # --- what happened -----------------------------------------------------------------------------------------------
    def session_started(self, session_id: str) -> None:
        """Note the session's start; later events carry its id."""
        self.session_id = session_id
        self.server_seen = True
        self._begun_at = self._now()
        self._add(SessionStartEvent(**self._common()))

    def session_ended(self) -> None:
        """Note the session's end, if it had begun. Only an exit ends a session: an exception does not."""
        if self._begun_at is None:
            return
        duration = str(datetime.timedelta(seconds=self._now() - self._begun_at))
        self._add(SessionEndEvent(**self._common(), duration=duration))
        self._begun_at = None

    def log(self, event_name: str, event_data: Mapping[str, Any] | None = None, severity: Severity = "INFO") -> bool:
        """Queue an event of the user's.

        Args:
            event_name: its name.
            event_data: JSON values; anything else is sent as its text.
            severity: ``DEBUG``, ``INFO``, ``WARNING``, ``ERROR`` or ``CRITICAL``.

        Returns:
            False where telemetry is off or the queue is full.
        """
        if not self.enabled:
            return False
        data = _plain(event_data or {})
        return self._add(
            GenericEvent(**self._common(), event_name=redact(event_name), event_data=data, severity=severity)
        )

    def log_exception(self, error: BaseException, severity: Severity = "ERROR") -> bool:
        """Queue an exception: a user's error as ``user_error``, any other as unhandled (protocol 9.5); once each."""
        if not self.enabled or not self._first_time(error):
            return False
        if blamed := user_error(error):
            data: dict[str, Any] = {"error_type": type(blamed).__name__, "message": str(blamed)}
            for name, attribute in (("status_code", "status_code"), ("body", "body")):
                if (value := getattr(blamed, attribute, None)) is not None:
                    data[name] = value
            queued = self.log("user_error", data, "WARNING")
        else:
            queued = self._add(
                UnhandledExceptionEvent(
                    **self._common(),
                    error_type=type(error).__name__,
                    error_message=_short(redact(_text_of(error))),
                    traceback=_short(redact("".join(traceback.format_exception(error))), keep_end=True),
                    severity=severity,
                )
            )
        self.flush()
        return queued

    def note(self, event_name: str, event_data: Mapping[str, Any], severity: Severity) -> None:
        """Queue an event of the client's own; beyond a hundred in ten seconds they are only counted."""
        if self.enabled and (suppressed := self._own.take()) is not None:
            self.log(event_name, {**event_data, "suppressed": suppressed} if suppressed else event_data, severity)

    # --- on its way --------------------------------------------------------------------------------------------------
    def flush(self) -> None:
        """Ask for everything that is queued to be sent now."""
        self.batching.flush()
        self.ring()

    def unsupported(self) -> None:
        """The server takes no telemetry: forget what is queued and queue no more, so that nobody waits for it."""
        self.enabled = False
        self.spool = None
        self.batching = Batching()
        self.unspooled.clear()

    def requests(self, events: Sequence[TelemetryEvent]) -> list[TelemetrySendRequest]:
        """The bodies for events, in batches."""
        size = self.batching.limits.batch
        return [
            TelemetrySendRequest(
                events=list(events[start : start + size]),
                platform=platform.system(),
                sdk_version=SDK_VERSION,
                session_id=self.session_id,
                process_uuid=_process.uuid,
            )
            for start in range(0, len(events), size)
        ]

    def leave(self) -> None:
        """The service has ended, its actors too: put what is left on disk, with what was taken from there; blocks."""
        self.unspooled += self.batching.give_up()
        if self.unspooled:
            self.write_to_spool(self.unspooled)
            self.unspooled = []
        if self.spool is not None:
            self.spool.give_back_all()

    def write_to_spool(self, events: Sequence[TelemetryEvent]) -> None:
        """Keep events on disk; blocks. What cannot be kept is counted as lost."""
        now = datetime.datetime.now(datetime.UTC).timestamp()
        try:
            if self.spool is None:
                raise OSError("telemetry has no spool")
            self.spool.write(self.requests(events), now)
        except OSError as error:
            self.lost += len(events)
            _log.info("telemetry.lost", events=len(events), error=str(error))
        else:
            self.spooled += len(events)

    @property
    def has_remains(self) -> bool:
        """Whether `leave` has anything to do."""
        return self.reading or not self.batching.drained or bool(self.unspooled)

    def drained(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """A future that ends when nothing is queued and nothing is on its way."""
        future: asyncio.Future[None] = loop.create_future()
        self._drained.append(future)
        self.flush()
        self.report_drained()
        return future

    def report_drained(self) -> None:
        """End the waits for a drained queue, if it is."""
        if self.batching.drained and not self.unspooled:
            waiting, self._drained = self._drained, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    def statistics(self) -> TelemetryStatistics:
        """Return what became of the events so far."""
        counts = self.batching.statistics()
        return TelemetryStatistics(
            queued=counts.queued + counts.sending + len(self.unspooled),
            sent=counts.sent,
            overflowed=counts.overflowed,
            refused=counts.refused,
            spooled=self.spooled,
            lost=self.lost,
        )

    # --- inside ------------------------------------------------------------------------------------------------------
    def _add(self, event: TelemetryEvent) -> bool:
        if not self.enabled:
            return False
        if not self.batching.add(event):
            self._overflowed()
            return False
        self.ring()
        return True

    def _overflowed(self) -> None:
        # Each event dropped would be a line; one in a minute says it too.
        now = self._now()
        if self._full_since is None or now - self._full_since >= 60.0:
            self._full_since = now
            _log.warning(
                "telemetry.overflow",
                waiting=self.batching.limits.capacity,
                dropped=self.batching.statistics().overflowed,
            )

    def _first_time(self, error: BaseException) -> bool:
        # Captures may be nested, and the end of the service's `async with` reports what leaves it too.
        told: frozenset[str] = getattr(error, _REPORTED, frozenset())
        if self.session_id in told:
            return False
        try:
            setattr(error, _REPORTED, told | {self.session_id})
        except AttributeError:
            return True  # an exception that takes no attributes: better twice than never
        return True

    def _common(self) -> dict[str, Any]:
        return {
            "event_id": str(uuid.uuid4()),
            "event_session_index": next(self._indexes),
            "timestamp": datetime.datetime.now(datetime.UTC),
        }


class _Allowance:
    """So many in ten seconds; the rest is counted."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._until = -1.0
        self._left = 0
        self._suppressed = 0

    def take(self) -> int | None:
        """The number suppressed since the last one that went; None to suppress this one."""
        now = self._now()
        if now >= self._until:
            self._until, self._left = now + 10.0, _OWN_PER_INTERVAL
        if not self._left:
            self._suppressed += 1
            return None
        self._left -= 1
        suppressed, self._suppressed = self._suppressed, 0
        return suppressed


class _Process:
    """One id for each process, another one after a fork (protocol 9.2)."""

    def __init__(self) -> None:
        self._pid, self._uuid = -1, ""

    @property
    def uuid(self) -> str:
        """The id of the process that asks."""
        if self._pid != os.getpid():
            self._pid, self._uuid = os.getpid(), str(uuid.uuid4())
        return self._uuid


_process = _Process()


def _plain(data: Mapping[str, Any]) -> dict[str, Any]:
    # Now, not when it is sent: one event that cannot be encoded would take its whole batch with it.
    try:
        try:
            built = msgspec.to_builtins(dict(data), enc_hook=str, str_keys=True)
        except RecursionError:  # something that holds itself, which redaction cuts short
            built = msgspec.to_builtins(redact_value(data), enc_hook=str, str_keys=True)
        # After the conversion, as objects have become mappings whose names may say what is secret.
        plain: dict[str, Any] = redact_value(built)
        encoded = msgspec.json.encode(plain)
    except Exception:  # whatever the text of a user's object raises
        return {"text": _short(redact(_text_of(data)))}
    return plain if len(encoded) <= _LONGEST_TEXT else {"text": _short(encoded.decode())}


def _text_of(value: object) -> str:
    try:
        return str(value)
    except Exception as error:
        return f"<{type(value).__name__} whose text raises {type(error).__name__}>"


def _short(text: str, *, keep_end: bool = False) -> str:
    if len(text) <= _LONGEST_TEXT:
        return text
    cut = f"[{len(text) - _LONGEST_TEXT} characters cut]"
    return f"{cut}\n{text[-_LONGEST_TEXT:]}" if keep_end else f"{text[:_LONGEST_TEXT]}\n{cut}"
