"""Sends what the telemetry desk holds: in batches, one at a time, and never in anybody's way."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

from tinkex_actors.errors import APIStatusError, TinkexError, UnsupportedByServerError, WireError
from tinkex_actors.machines.retry import NO_RETRY
from tinkex_actors.runtime import Actor, handler
from tinkex_actors.runtime.log import Logger
from tinkex_actors.wire.routes import ROUTES

if TYPE_CHECKING:
    from tinkex_actors.actors.link import Link
    from tinkex_actors.actors.telemetry.desk import TelemetryDesk
    from tinkex_actors.actors.telemetry.spool import Claim, Spool
    from tinkex_actors.types import TelemetryEvent, TelemetrySendRequest

__all__ = ["Telemetry"]

_LOOK_EVERY = 1.0
_EXECUTOR = "telemetry"
_UNSUPPORTED = (404, 405, 501)
# Of the user's statuses, those that pass with time; the others would be the same again.
_PASSING = (408, 409, 425, 429)

_log = Logger("tinkex_actors.telemetry")


class Telemetry(Actor):
    """Sends batches, one at a time; keeps them on disk while the server is away, and sends those when it is back.

    Args:
        desk: the queue; outlives this incarnation.
        link: the server.
    """

    def __init__(self, desk: TelemetryDesk, link: Link) -> None:
        self._desk = desk
        self._link = link

    async def init(self) -> None:
        """Take up again what was on its way, and look at the queue regularly."""
        self._desk.attend(self.ref.cast.wake)
        self._desk.batching.restarted()
        self._desk.reading = False
        if self._desk.enabled:
            self.continue_with(self.ref.cast.wake)
            self.every(_LOOK_EVERY, self.ref.cast.wake)
        if self._desk.unspooled:
            self.task(self._keep(), name="telemetry spool")

    @handler
    def wake(self) -> None:
        """Send a batch if one is due."""
        desk = self._desk
        desk.answered()
        if desk.batching.due(self.system.loop.time()) and (batch := desk.batching.take()):
            self.task(self._send(batch), name="telemetry")
        if desk.server_seen and not desk.reading and desk.spool is not None and desk.spool.exists:
            desk.reading, desk.server_seen = True, False
            self.task(self._catch_up(desk.spool), name="telemetry spool")
        desk.report_drained()

    async def _send(self, batch: list[TelemetryEvent]) -> None:
        desk = self._desk
        verdict = await self._post(desk.requests(batch)[0])
        if not desk.enabled:
            pass  # the server has no such route; the queue was cleared
        elif verdict == "sent":
            desk.batching.sent(len(batch))
            desk.server_seen = True
        elif verdict == "refused":
            desk.batching.refused(len(batch))
        else:
            desk.server_seen = False
            desk.unspooled += desk.batching.failed(len(batch))
            if desk.closing:
                desk.unspooled += desk.batching.give_up()
            await self._keep()
        desk.report_drained()
        self.ref.cast.wake()

    async def _post(self, request: TelemetrySendRequest) -> str:
        """Send a body once: ``sent``, ``refused`` or ``failed``."""
        try:
            await self._link.exchange(ROUTES["telemetry"], request, policy=NO_RETRY)
        except UnsupportedByServerError as error:
            _log.info("telemetry.unsupported", reason=str(error))
            self._desk.unsupported()
            return "failed"
        except APIStatusError as error:
            if error.status_code in _UNSUPPORTED:
                _log.info("telemetry.unsupported", reason=f"the server answers its route with {error.status_code}")
                self._desk.unsupported()
            elif error.status_code < 500 and error.status_code not in _PASSING:
                _log.warning("telemetry.refused", events=len(request.events), error=str(error))
                return "refused"
            return "failed"
        except WireError as error:
            _log.warning("telemetry.refused", events=len(request.events), error=str(error))
            return "refused"
        except TinkexError as error:
            _log.debug("telemetry.failed", events=len(request.events), error=str(error))
            return "failed"
        return "sent"

    async def _keep(self) -> None:
        """Put on disk what was given up. Until it is there it stays on the desk: after a crash it is written again."""
        desk = self._desk
        if events := list(desk.unspooled):
            await self.blocking(desk.write_to_spool, events, executor=_EXECUTOR)
            del desk.unspooled[: len(events)]

    async def _catch_up(self, spool: Spool) -> None:
        """Send what is on disk, oldest first, until it is empty or the server does not take it."""
        try:
            while self._desk.enabled and (claim := await self._claim(spool)) is not None:
                if not await self._settle(spool, claim):
                    break
        except OSError as error:
            _log.info("telemetry.spool_unreadable", error=str(error))
        # Not where it is cancelled: a thread may be claiming a batch, which `leave` gives back.
        self._desk.reading = False

    async def _claim(self, spool: Spool) -> Claim | None:
        now = datetime.datetime.now(datetime.UTC).timestamp()
        return await self.blocking(spool.claim, now, executor=_EXECUTOR)

    async def _settle(self, spool: Spool, claim: Claim) -> bool:
        settled = False
        try:
            settled = await self._post(claim.request) != "failed"
        finally:
            # One rename or removal, also when this task is cancelled, where no thread could be waited for any more.
            spool.remove(claim) if settled else spool.give_back(claim)
        return settled
