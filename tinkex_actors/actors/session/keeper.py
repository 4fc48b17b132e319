"""The session's actor: starts it or joins it, keeps it alive, keeps its settings fresh (protocol part 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from tinkex_actors.actors.session import events
from tinkex_actors.config import SDK_VERSION
from tinkex_actors.errors import APIStatusError, NotFoundError, TinkexError, UnsupportedByServerError
from tinkex_actors.machines import heartbeat
from tinkex_actors.machines.retry import NO_RETRY, RetryPolicy
from tinkex_actors.runtime import Actor, Timer, handler
from tinkex_actors.runtime.log import Logger
from tinkex_actors.types import (
    ClientConfigRequest,
    CreateSessionRequest,
    CreateSessionResponse,
    FinishReason,
    FinishSessionRequest,
    SessionHeartbeatRequest,
)
from tinkex_actors.wire.routes import ROUTES

if TYPE_CHECKING:
    from tinkex_actors.actors.ledger import Ledger
    from tinkex_actors.actors.link import Link
    from tinkex_actors.actors.session.desk import SessionDesk
    from tinkex_actors.actors.telemetry import TelemetryDesk
    from tinkex_actors.types import FinishStatus

__all__ = ["Session", "finish"]

# Someone waits at a prompt: a server that is not there is reported in seconds, not after the five minutes that a
# running training is given.
_START = RetryPolicy(window=20.0)
_FINISH = RetryPolicy(window=5.0)
_LOOK_EVERY = 10.0
# Protocol 5.3: the server chooses the interval, but not below this.
_REFRESH_FLOOR = 10.0

_log = Logger("tinkex_actors.session")


class Session(Actor):
    """Starts the session when it is wanted and keeps it alive.

    Every exchange is a task of its own, so none of them delays a beat, and neither does a handler of another actor:
    only what holds the event loop itself does (`HeartbeatDelayed`).

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
        self._alarm: Timer | None = None

    async def init(self) -> None:
        """Go on where the last incarnation stood."""
        self._desk.attend(self.ref.cast.wake)
        self.every(_LOOK_EVERY, self.ref.cast.look)
        if self._desk.session_id is not None:
            self._beat(heartbeat.Started())
            self._refresh_later()
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
        self._alarm = None
        if self._desk.session_id is not None:
            self._beat(heartbeat.BeatDue())

    @handler
    def refresh(self) -> None:
        """The dynamic config may have changed."""
        self.task(self._refresh(), name="refresh config")

    @handler
    def look(self) -> None:
        """Report what has waited too long."""
        self._ledger.report_stalled()

    # --- the start ---------------------------------------------------------------------------------------------------
    async def _start(self) -> None:
        desk = self._desk
        try:
            await self._discover()
            session_id = await (self._create() if desk.joins is None else self._join(desk.joins))
        except TinkexError as error:
            desk.failed(error)
            return
        finally:
            self._starting = False
        desk.started(session_id)
        self._telemetry.session_started(session_id)
        self.system.events.publish(events.SessionStarted(session_id, desk.joins is not None))
        self._beat(heartbeat.Started())
        self._refresh_later()

    async def _discover(self) -> None:
        """Find the dialect to begin with: a server with a client config speaks the hosted one, one without JSON."""
        speech, request = self._link.speech, ClientConfigRequest(sdk_version=SDK_VERSION)
        hurried: dict[str, Any] = {"policy": _START, "on_retry": self._desk.delayed}
        if speech.settled:
            return
        try:
            flags = await self._link.exchange(ROUTES["client_config"], request, **hurried)
        except (NotFoundError, UnsupportedByServerError):
            speech.settle(hosted=False)
            return
        self._desk.flagged(flags)
        try:
            self._desk.dynamic = await self._link.exchange(ROUTES["dynamic_config"], request, **hurried)
            self._desk.refreshes = True
        except (NotFoundError, UnsupportedByServerError):
            _log.debug("session.no_dynamic_config")
        speech.settle(hosted=True)

    async def _create(self) -> str:
        config = self._link.config
        answer: CreateSessionResponse = await self._link.exchange(
            ROUTES["create_session"],
            CreateSessionRequest(
                tags=list(config.tags),
                user_metadata=self._desk.user_metadata,
                sdk_version=SDK_VERSION,
                project_id=config.project_id,
                display_name=self._desk.display_name,
            ),
            policy=_START,
            idempotency_key=self._desk.key,
            on_retry=self._desk.delayed,
        )
        for level, text in (
            ("info", answer.info_message),
            ("warning", answer.warning_message),
            ("error", answer.error_message),
        ):
            if text:
                getattr(_log, level)("session.message", text=text, session_id=answer.session_id)
        return answer.session_id

    async def _join(self, session_id: str) -> str:
        """Go on with a session that exists; one that has ended fails here, and not in the middle of a training."""
        try:
            await self._link.exchange(
                ROUTES["session_heartbeat"],
                SessionHeartbeatRequest(session_id=session_id),
                policy=_START,
                on_retry=self._desk.delayed,
            )
        except UnsupportedByServerError:
            _log.debug("session.not_checked", session_id=session_id, reason="the server has no heartbeats")
        return session_id

    # --- its life ----------------------------------------------------------------------------------------------------
    def _beat(self, event: heartbeat.Event) -> None:
        loop, session_id = self.system.loop, str(self._desk.session_id)
        for effect in heartbeat.step(self._desk.pulse, event, loop.time()):
            match effect:
                case heartbeat.Beat():
                    self.task(self._send_beat(session_id), name="heartbeat")
                case heartbeat.WakeAt(instant=instant):
                    if self._alarm is not None:
                        self._alarm.cancel()
                    self._alarm = self.after(max(0.0, instant - loop.time()), self.ref.cast.beat)
                case heartbeat.Warn(elapsed=elapsed):
                    _log.warning("session.silent", session_id=session_id, seconds=round(elapsed))
                case heartbeat.Late(seconds=seconds):
                    _log.warning("session.heartbeat_delayed", session_id=session_id, seconds=round(seconds, 1))
                    self.system.events.publish(events.HeartbeatDelayed(session_id, seconds))
                case heartbeat.Changed():
                    self._tell(session_id, effect)

    def _tell(self, session_id: str, change: heartbeat.Changed) -> None:
        publish = self.system.events.publish
        match change.after:
            case "degraded":
                status = self._desk.pulse.last_failure
                publish(events.SessionDegraded(session_id, status))
                self._telemetry.note("tinkex.session.degraded", {"status": status}, "WARNING")
            case "lost":
                publish(events.SessionLost(session_id, change.silence))
                self._telemetry.note("tinkex.session.lost", {"silence_seconds": change.silence}, "WARNING")
            case "alive":
                _log.info("session.recovered", session_id=session_id, seconds=round(change.silence))
                publish(events.SessionRecovered(session_id, change.silence))
            case "ended":
                _log.warning("session.ended", session_id=session_id, reason="the server says it is over")
                publish(events.SessionEnded(session_id))
            case "unwatched":
                _log.info("session.unwatched", session_id=session_id, reason="the server has no heartbeats")

    async def _send_beat(self, session_id: str) -> None:
        event: heartbeat.Event
        try:
            await self._link.exchange(
                ROUTES["session_heartbeat"], SessionHeartbeatRequest(session_id=session_id), policy=NO_RETRY
            )
            event = heartbeat.BeatOk()
        except UnsupportedByServerError:
            event = heartbeat.BeatFailed(unsupported=True)
        except APIStatusError as error:
            event = heartbeat.BeatFailed(error.status_code)
        except TinkexError:
            event = heartbeat.BeatFailed(None)
        if session_id == self._desk.session_id:  # not renewed meanwhile
            self._beat(event)

    def _refresh_later(self) -> None:
        if self._desk.refreshes:
            interval = max(_REFRESH_FLOOR, self._desk.dynamic.refresh_interval_sec)
            self.after(interval, self.ref.cast.refresh)

    async def _refresh(self) -> None:
        """Ask once; whatever goes wrong, the flags stay as they are (protocol 1.7.2)."""
        request = ClientConfigRequest(sdk_version=SDK_VERSION)
        try:
            fresh = await self._link.exchange(ROUTES["dynamic_config"], request, policy=NO_RETRY)
        except TinkexError as error:
            _log.debug("session.refresh_failed", error=str(error))
        else:
            before, after = msgspec.structs.asdict(self._desk.dynamic), msgspec.structs.asdict(fresh)
            self._desk.dynamic = fresh
            if changed := tuple(name for name in after if after[name] != before[name]):
                _log.info("session.config_refreshed", changed=changed)
                self.system.events.publish(events.ConfigRefreshed(changed))
        self._refresh_later()


async def finish(desk: SessionDesk, link: Link, status: FinishStatus, detail: str | None) -> None:
    """Tell the server how the session ended; a server that cannot be told is left to its time-outs."""
    session_id = desk.session_id
    if session_id is None:
        return
    told = False
    try:
        await link.exchange(
            ROUTES["finish_session"],
            FinishSessionRequest(reason=FinishReason(type=status), detail=detail),
            path={"session_id": session_id},
            policy=_FINISH,
        )
        told = True
    except TinkexError as error:
        _log.info("session.finish_failed", session_id=session_id, error=str(error))
    link.system.events.publish(events.SessionFinished(session_id, status, told))
