"""The session: found, kept alive, finished (protocol part 5)."""

from __future__ import annotations

import itertools
import uuid
from typing import TYPE_CHECKING, Any

from tinkex_actors.actors.desk import Desk
from tinkex_actors.config import SDK_VERSION
from tinkex_actors.errors import APIStatusError, NotFoundError, TinkexError
from tinkex_actors.machines import heartbeat
from tinkex_actors.machines.retry import NO_RETRY, RetryPolicy
from tinkex_actors.runtime import Actor, handler
from tinkex_actors.runtime.log import Logger
from tinkex_actors.types import (
    ClientConfigRequest,
    ClientConfigResponse,
    ClientDynamicConfigResponse,
    CreateSessionRequest,
    FinishReason,
    FinishSessionRequest,
    SessionHeartbeatRequest,
)
from tinkex_actors.wire import dialect as dialects
from tinkex_actors.wire.routes import ROUTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from tinkex_actors.actors.futures import ApiFuture
    from tinkex_actors.actors.ledger import Ledger
    from tinkex_actors.actors.link import Link
    from tinkex_actors.actors.telemetry import TelemetryDesk
    from tinkex_actors.types import FinishStatus

__all__ = ["Session", "SessionDesk"]

# Someone waits at a prompt: a server that is not there is reported in seconds, not after the five minutes that a
# running training is given.
_START = RetryPolicy(window=20.0)
_FINISH = RetryPolicy(window=5.0)
_LOOK_EVERY = 10.0

_log = Logger("tinkex_actors.session")


class SessionDesk(Desk):
    """What is known of the session.

    Args:
        ledger: opens the futures.
        user_metadata: free notes for the session.
        display_name: what people see.
        on_flags: called with the server's flags when they are known, before the session exists.

    Attributes:
        session_id: the server's name for it; None before it exists.
        flags: the server's flags (protocol 5.2), or their defaults.
        pulse: the heartbeat's machine state.
    """

    __slots__ = (
        "_ledger",
        "_on_flags",
        "_ready",
        "display_name",
        "dynamic",
        "flags",
        "key",
        "model_numbers",
        "pulse",
        "sampling_numbers",
        "session_id",
        "user_metadata",
    )

    def __init__(
        self,
        *,
        ledger: Ledger,
        user_metadata: dict[str, str] | None,
        display_name: str | None,
        on_flags: Callable[[ClientConfigResponse], None],
    ) -> None:
        super().__init__()
        self.user_metadata = dict(user_metadata or {})
        self.display_name = display_name
        self.session_id: str | None = None
        self.flags = ClientConfigResponse()
        self.dynamic = ClientDynamicConfigResponse()
        self.pulse = heartbeat.Heartbeat()
        # The numbers of models and of sampling sessions, taken at the call (protocol 1.7.10, 1.7.19).
        self.model_numbers = itertools.count()
        self.sampling_numbers = itertools.count()
        # Stable over attempts and incarnations, so that a repeated create_session can be told from a second one.
        self.key = f"session-{uuid.uuid4()}"
        self._ledger = ledger
        self._on_flags = on_flags
        self._ready: ApiFuture[str] | None = None

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for the session to exist."""
        return self._ready is not None and not self._ready.done()

    def ready(self) -> ApiFuture[str]:
        """The session id, once there is a session; a failed start is tried again by the next caller."""
        if self._ready is None or (self._ready.done() and self.session_id is None):
            self._ready = self._ledger.open("create_session")
            self._ready.waits_for("starting a session")
            self.ring()
        return self._ready

    def flagged(self, flags: ClientConfigResponse) -> None:
        """The server's flags are known."""
        self.flags = flags
        self._on_flags(flags)

    def delayed(self, words: str) -> None:
        """The start takes longer than it should; ``explain()`` says why."""
        if self._ready is not None:
            self._ready.waits_for(f"starting a session: {words}")

    def started(self, session_id: str) -> None:
        """The session exists."""
        self.session_id = session_id
        if self._ready is not None:
            self._ready.resolve(session_id)

    def failed(self, error: Exception) -> None:
        """The session could not be started."""
        if self._ready is not None:
            self._ready.fail(error)

    def note(self, now: float) -> str:
        """One line about the session, for ``explain()``."""
        if self.session_id is None:
            return "session: not started"
        silence = "" if self.pulse.last_ok_at is None else f", last heartbeat {now - self.pulse.last_ok_at:.0f} s ago"
        return f"session: {self.session_id} {self.pulse.status}{silence}"


class Session(Actor):
    """Starts the session when it is wanted and keeps it alive.

    Args:
        desk: what is known; outlives this incarnation.
        link: the server.
        telemetry: is told of the start.
        ledger: is asked every ten seconds, session or not, for what has waited too long.
    """

    def __init__(self, desk: SessionDesk, link: Link, telemetry: TelemetryDesk, ledger: Ledger) -> None:
        self._desk = desk
        self._link = link
        self._telemetry = telemetry
        self._ledger = ledger
        self._starting = False

    async def init(self) -> None:
        """Go on where the last incarnation stood."""
        self._desk.attend(self.ref.cast.wake)
        self.every(_LOOK_EVERY, self.ref.cast.look)
        if self._desk.session_id is not None:
            self._beat(heartbeat.Started())
        elif self._desk.wanted:
            self.continue_with(self.ref.cast.wake)

    @handler
    def wake(self) -> None:
        """Start the session if it is wanted."""
        self._desk.answered()
        if self._desk.wanted and self._desk.session_id is None and not self._starting:
            self._starting = True
            self.task(self._start(), name="start session")

    @handler
    def beat(self) -> None:
        """A heartbeat may be due."""
        self._beat(heartbeat.BeatDue())

    @handler
    def look(self) -> None:
        """Report what has waited too long."""
        self._ledger.report_stalled()

    async def _start(self) -> None:
        try:
            await self._discover()
            answer = await self._link.exchange(
                ROUTES["create_session"],
                CreateSessionRequest(
                    tags=list(self._link.config.tags),
                    user_metadata=self._desk.user_metadata,
                    sdk_version=SDK_VERSION,
                    project_id=self._link.config.project_id,
                    display_name=self._desk.display_name,
                ),
                policy=_START,
                idempotency_key=self._desk.key,
                on_retry=self._desk.delayed,
            )
        except TinkexError as error:
            self._desk.failed(error)
            return
        finally:
            self._starting = False
        for level, text in (
            ("info", answer.info_message),
            ("warning", answer.warning_message),
            ("error", answer.error_message),
        ):
            if text:
                getattr(_log, level)("session.message", text=text, session_id=answer.session_id)
        self._desk.started(answer.session_id)
        self._telemetry.session_started(answer.session_id)
        self._beat(heartbeat.Started())

    async def _discover(self) -> None:
        """Find the dialect: a server with a config route speaks the hosted one; one without is spoken to in JSON."""
        request = ClientConfigRequest(sdk_version=SDK_VERSION)
        hurried: dict[str, Any] = {"policy": _START, "on_retry": self._desk.delayed}
        try:
            self._desk.flagged(await self._link.exchange(ROUTES["client_config"], request, **hurried))
        except NotFoundError:
            self._link.dialect = dialects.JSON
            return
        self._link.dialect = dialects.HOSTED
        try:
            self._desk.dynamic = await self._link.exchange(ROUTES["dynamic_config"], request, **hurried)
        except NotFoundError:
            _log.debug("session.no_dynamic_config")

    def _beat(self, event: heartbeat.Event) -> None:
        for effect in heartbeat.step(self._desk.pulse, event, self.system.loop.time()):
            match effect:
                case heartbeat.Beat():
                    self.task(self._send_beat(), name="heartbeat")
                case heartbeat.WakeAt(instant=instant):
                    self.after(max(0.0, instant - self.system.loop.time()), self.ref.cast.beat)
                case heartbeat.Warn(elapsed=elapsed):
                    _log.warning("session.silent", session_id=self._desk.session_id, seconds=round(elapsed))
                case heartbeat.Ended():
                    _log.info("session.ended", session_id=self._desk.session_id, reason="the server says it is over")

    async def _send_beat(self) -> None:
        session_id = self._desk.session_id
        if session_id is None:
            return
        event: heartbeat.Event
        try:
            await self._link.exchange(
                ROUTES["session_heartbeat"], SessionHeartbeatRequest(session_id=session_id), policy=NO_RETRY
            )
            event = heartbeat.BeatOk()
        except APIStatusError as error:
            event = heartbeat.BeatFailed(error.status_code)
        except TinkexError:
            event = heartbeat.BeatFailed(None)
        self._beat(event)


async def finish(desk: SessionDesk, link: Link, status: FinishStatus, detail: str | None) -> None:
    """Tell the server how the session ended; a server that cannot be told is left to its time-outs."""
    if desk.session_id is None:
        return
    try:
        await link.exchange(
            ROUTES["finish_session"],
            FinishSessionRequest(reason=FinishReason(type=status), detail=detail),
            path={"session_id": desk.session_id},
            policy=_FINISH,
        )
    except TinkexError as error:
        _log.info("session.finish_failed", session_id=desk.session_id, error=str(error))
