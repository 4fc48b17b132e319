"""Posts samples as the desk's machine admits them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinkex_actors.actors.attribution import calling
from tinkex_actors.errors import BillingError, RateLimitError, TinkexError
from tinkex_actors.machines.retry import NO_RETRY
from tinkex_actors.runtime import Actor, Timer, handler
from tinkex_actors.runtime.log import Logger
from tinkex_actors.types import CancelFutureRequest
from tinkex_actors.wire.routes import ROUTES

if TYPE_CHECKING:
    from tinkex_actors.actors.dispatcher.desk import DispatcherDesk
    from tinkex_actors.actors.link import Link
    from tinkex_actors.types import SampleRequest

__all__ = ["Dispatcher"]

_log = Logger("tinkex_actors.sampling")

# Posts begun in one turn of the loop: answers then come as spread as the posts went out, and no turn is a long one.
_PER_TURN = 4
# Protocol 5.3, the default of `sample_cancel_max_batch_size`.
_CANCELS_AT_ONCE = 64


class Dispatcher(Actor):
    """Posts samples as the desk's machine admits them, and polls for each, in a task of its own.

    Args:
        desk: the samples; outlives this incarnation.
        link: the server.
    """

    def __init__(self, desk: DispatcherDesk, link: Link) -> None:
        self._desk = desk
        self._link = link
        self._delayed: set[int] = set()
        self._timer: Timer | None = None
        self._timer_at: float | None = None
        self._look: Timer | None = None
        self._telling = 0
        self._more = False

    async def init(self) -> None:
        """Post again, under the same numbers, what had no answer yet."""
        self._desk.attend(self.ref.cast.wake)
        self._desk.resume()
        self._perform()

    @handler
    def wake(self) -> None:
        """Perform what is new on the desk."""
        self._desk.answered()
        self._perform()

    @handler
    def tick(self) -> None:
        """The machine asked to be told the time."""
        self._timer = self._timer_at = None
        self._desk.tick()

    @handler
    def look(self) -> None:
        """Look for sessions that are stuck."""
        self._look = None
        self._watch()

    def _again(self, sample_id: int) -> None:
        self._delayed.discard(sample_id)
        self._desk.again(sample_id)

    def _go_on(self) -> None:
        self._more = False
        self._perform()

    def _perform(self) -> None:
        desk = self._desk
        due, desk.due = desk.due[:_PER_TURN], desk.due[_PER_TURN:]
        if desk.due and not self._more:
            self._more = True
            self.after(0.0, self._go_on)
        for sample_id in due:
            if desk.sample(sample_id) is not None:
                self.task(self._post(sample_id), name="sample")
        for sample_id, delay in desk.later.items():
            if sample_id not in self._delayed:
                self._delayed.add(sample_id)
                # Not a message: thousands of delays may end at once, and the mailbox has room for the bell only.
                self.after(delay, self._again, sample_id)
        while desk.cancels and self._telling < _CANCELS_AT_ONCE:
            self._telling += 1
            self.task(self._tell_cancelled(desk.cancels.pop()), name="cancel")
        if desk.wake_at is not None:
            self._arm(desk.wake_at)
        if self._look is None and desk.sessions:
            self._watch()

    def _arm(self, instant: float) -> None:
        self._desk.wake_at = None
        if instant == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = instant
        self._timer = self.after(max(0.0, instant - self.system.loop.time()), self.ref.cast.tick)

    def _watch(self) -> None:
        instant = self._desk.look_for_stuck()
        if instant is not None:
            self._look = self.after(max(1.0, instant - self.system.loop.time()), self.ref.cast.look)

    async def _post(self, sample_id: int) -> None:
        desk = self._desk
        sample = desk.sample(sample_id)
        if sample is None:
            return
        calling.set(sample.future.caller)
        loop = self.system.loop
        begun = loop.time()
        try:
            # A 429 is the admission machine's business and the rest `retry_delay`'s, so one attempt is all.
            answer = await self._link.exchange(
                ROUTES["asample"], sample.request, policy=NO_RETRY, idempotency_key=_key(sample.request)
            )
        except RateLimitError as error:
            desk.limited(sample_id, error.retry_after, "rate limited (429)")
        except BillingError as error:
            # Not admitted, as a 429, as long as the pause may last (protocol 4.6, 7.3).
            pause = self._link.billing.refused(loop.time())
            if pause is None:
                desk.failed(sample_id, error)
            else:
                desk.limited(sample_id, pause, "billing (402)")
        except TinkexError as error:
            desk.failed(sample_id, error)
        else:
            now = loop.time()
            names = answer.sample_sequence_ids or []
            promise = desk.accepted(sample_id, answer.request_id, names, now=now, roundtrip=now - begun)
            if promise is not None:
                await desk.carry(promise, self._link)

    async def _tell_cancelled(self, request_id: str) -> None:
        try:
            await self._link.exchange(ROUTES["cancel_future"], CancelFutureRequest(request_id=request_id))
        except TinkexError as error:
            _log.info("sampling.cancel_not_told", request_id=request_id, error=str(error))
        self._telling -= 1
        if self._desk.cancels:
            self._desk.ring()


def _key(request: SampleRequest) -> str:
    return f"{request.sampling_session_id}:{request.seq_id}"
