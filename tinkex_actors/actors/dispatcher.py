"""Samples: admitted by budget, held back by the back-off window, polled, and sent again when their promise is lost.

(Protocol part 7.) A call costs one small record until it is admitted; nothing of it passes through a mailbox.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import msgspec

from tinkex_actors.actors.desk import Desk
from tinkex_actors.actors.poller import Promise
from tinkex_actors.errors import APIConnectionError, APIStatusError, GoneError, RateLimitError, TinkexError
from tinkex_actors.machines.admission import Admission, AdmissionStatistics, Effect, Post, WakeAt
from tinkex_actors.machines.retry import NO_RETRY, Failure, RetryPolicy, decide
from tinkex_actors.runtime import Actor, Timer, handler
from tinkex_actors.runtime.log import Logger
from tinkex_actors.wire.routes import ROUTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from tinkex_actors.actors.futures import ApiFuture
    from tinkex_actors.actors.ledger import Ledger
    from tinkex_actors.actors.link import Link
    from tinkex_actors.actors.poller import PollerDesk
    from tinkex_actors.config import RetryConfig
    from tinkex_actors.types import SampleRequest

__all__ = ["BackoffWindowOpened", "Dispatcher", "DispatcherDesk", "SamplerSession"]

_log = Logger("tinkex_actors.sampling")


class BackoffWindowOpened(msgspec.Struct, frozen=True, tag="sampling.backoff_opened"):
    """Event: the server asked sampling to slow down."""

    since: float | None
    until: float | None
    cause: str | None
    waiting: int


class SamplerSession:
    """One sampling session: its id and its numbers (protocol 7.2).

    Args:
        sampling_session_id: the server's name for it.
        retry: how lost samples are sent again.
    """

    __slots__ = ("_numbers", "retry", "sampling_session_id")

    def __init__(self, sampling_session_id: str, retry: RetryConfig) -> None:
        self.sampling_session_id = sampling_session_id
        self.retry = retry
        self._numbers = itertools.count()

    def next_number(self) -> int:
        """The next ``seq_id``: one for each submission; a submission that is re-sent keeps its own."""
        return next(self._numbers)


class _Sample:
    __slots__ = ("attempt", "begun", "finish", "future", "request", "request_id", "session", "size_bytes")

    def __init__(
        self,
        session: SamplerSession,
        request: SampleRequest,
        size_bytes: int,
        finish: Callable[[Any], Any],
        future: ApiFuture[Any],
    ) -> None:
        self.session = session
        self.request = request
        self.size_bytes = size_bytes
        self.finish = finish
        self.future = future
        self.request_id: str | None = None
        self.attempt = 0
        self.begun = future.created_at


class DispatcherDesk(Desk):
    """Every sample of the service.

    Args:
        ledger: opens the futures.
        poller: turns promises into results.
        draw: jitter in [0, 1), from the system's seeded generator.
    """

    __slots__ = ("_draw", "_ids", "_ledger", "_poller", "_samples", "admission", "due", "later", "wake_at")

    def __init__(self, *, ledger: Ledger, poller: PollerDesk, draw: Callable[[], float]) -> None:
        super().__init__()
        self._draw = draw
        self.admission = Admission()
        self.due: list[int] = []
        self.later: dict[int, float] = {}
        self.wake_at: float | None = None
        self._samples: dict[int, _Sample] = {}
        self._ids = itertools.count(1)
        self._ledger = ledger
        self._poller = poller

    def submit(
        self,
        operation: str,
        session: SamplerSession,
        request: SampleRequest,
        *,
        size_bytes: int,
        finish: Callable[[Any], Any],
    ) -> ApiFuture[Any]:
        """Queue a sample.

        Args:
            operation: the client method's name.
            session: the sampling session.
            request: the request, without a number.
            size_bytes: its estimated size (protocol 6.4).
            finish: makes the call's result of the server's answer.
        """
        number = session.next_number()
        sample_id = next(self._ids)
        request = msgspec.structs.replace(request, sampling_session_id=session.sampling_session_id, seq_id=number)
        future = self._ledger.open(
            operation, sampling_session_id=session.sampling_session_id, seq_ids=[number], request_ids=[]
        )
        self._samples[sample_id] = _Sample(session, request, size_bytes, finish, future)
        future.waits_for(lambda: self._describe(sample_id))
        future.on_cancel(lambda: self._cancel(sample_id))
        self.note(self.admission.submit(sample_id, size_bytes))
        return future

    # --- for the actor -----------------------------------------------------------------------------------------------
    def note(self, effects: list[Effect]) -> None:
        """Put the machine's effects where the actor finds them, and ring."""
        for effect in effects:
            match effect:
                case Post(id=sample_id):
                    self.due.append(sample_id)
                case WakeAt(instant=instant):
                    self.wake_at = instant
        if effects:
            self.ring()

    def resume(self) -> None:
        """What a new incarnation has to do again: the posts without an answer, the timers."""
        self.due.clear()
        self.note(self.admission.outstanding())

    def sample(self, sample_id: int) -> _Sample | None:
        """The sample, unless it has ended."""
        return self._samples.get(sample_id)

    def accepted(
        self, sample_id: int, request_id: str, sequence_ids: list[str], *, now: float, roundtrip: float
    ) -> None:
        """The server has taken the request: poll for its result."""
        sample = self._samples.get(sample_id)
        self.note(self.admission.accepted(sample_id))
        if sample is None:
            self.note(self.admission.cancelled(sample_id))
            return
        sample.request_id = request_id
        sample.future.ids["request_ids"].append(request_id)
        promise = Promise(
            request_id,
            ROUTES["asample"],
            on_result=lambda result: self._result(sample_id, result, sequence_ids),
            on_error=lambda error: self.failed(sample_id, error, now=sample.future.loop.time()),
            now=now,
            roundtrip=roundtrip,
        )
        self._poller.watch(promise)

    def failed(self, sample_id: int, error: Exception, *, now: float) -> None:
        """The attempt has failed: send a lost sample again under a new number, else fail the call.

        Submission and promise both count: a promise that is gone (410) and a server that could not be reached are
        worth a new submission (protocol 7.5); what the server has refused or run and failed is not.
        """
        sample = self._samples.get(sample_id)
        self.note(self.admission.failed(sample_id))
        if sample is None:
            return
        delay = _retry_delay(sample, error, now, self._draw())
        if delay is None:
            del self._samples[sample_id]
            sample.future.fail(error)
            return
        sample.attempt += 1
        if sample.request_id is not None:
            # The server knows the old number by a promise it no longer has; only a new one makes it sample again.
            number = sample.session.next_number()
            sample.request_id = None
            sample.request = msgspec.structs.replace(sample.request, seq_id=number)
            sample.future.ids["seq_ids"].append(number)
        self.later[sample_id] = delay
        self.ring()

    def again(self, sample_id: int) -> None:
        """The delay before a new submission is over."""
        self.later.pop(sample_id, None)
        sample = self._samples.get(sample_id)
        if sample is not None:
            self.note(self.admission.submit(sample_id, sample.size_bytes))

    def statistics(self) -> AdmissionStatistics:
        """What stands where: waiting, being posted, in flight, and the back-off window."""
        return self.admission.statistics()

    # --- inside ------------------------------------------------------------------------------------------------------
    def _result(self, sample_id: int, result: Any, sequence_ids: list[str]) -> None:
        sample = self._samples.pop(sample_id, None)
        self.note(self.admission.finished(sample_id))
        if sample is None:
            return
        try:
            value = sample.finish(_name_sequences(result, sequence_ids))
        except Exception as error:
            sample.future.fail(error)
        else:
            sample.future.resolve(value)

    def _cancel(self, sample_id: int) -> bool:
        sample = self._samples.pop(sample_id, None)
        if sample is None:
            return False
        if sample.request_id is not None:
            self._poller.drop(sample.request_id)
        self.note(self.admission.cancelled(sample_id))
        return True

    def _describe(self, sample_id: int) -> str:
        sample = self._samples.get(sample_id)
        if sample is None:
            return "ending"
        now = sample.future.loop.time()
        stage = self.admission.stage(sample_id)
        view = self.admission.statistics()
        if stage == "in_flight" and sample.request_id is not None:
            return self._poller.describe(sample.request_id, now)
        if stage == "dispatching":
            return "being posted"
        if stage is None:
            return f"waiting to be sent again (attempt {sample.attempt + 1})"
        if view.phase == "backing_off" and view.window_until is not None:
            return f"in back-off for another {max(view.window_until - now, 0.0):.1f} s: {view.window_cause}"
        return f"waiting for room: {view.waiting} waiting, {view.dispatching} being posted, {view.in_flight} in flight"


class Dispatcher(Actor):
    """Posts samples as the desk's machine admits them, each in a task of its own.

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
        self._desk.note(self._desk.admission.tick(self.system.loop.time()))

    def _again(self, sample_id: int) -> None:
        self._delayed.discard(sample_id)
        self._desk.again(sample_id)

    def _perform(self) -> None:
        due, self._desk.due = self._desk.due, []
        for sample_id in due:
            if self._desk.sample(sample_id) is not None:
                self.task(self._post(sample_id), name=f"sample {sample_id}")
        for sample_id, delay in self._desk.later.items():
            if sample_id not in self._delayed:
                self._delayed.add(sample_id)
                # Not a message: thousands of delays may end at once, and the mailbox has room for the bell only.
                self.after(delay, self._again, sample_id)
        self._arm()

    def _arm(self) -> None:
        instant = self._desk.wake_at
        if instant is None or instant == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = instant
        self._desk.wake_at = None
        self._timer = self.after(max(0.0, instant - self.system.loop.time()), self.ref.cast.tick)

    async def _post(self, sample_id: int) -> None:
        sample = self._desk.sample(sample_id)
        if sample is None:
            return
        loop, desk = self.system.loop, self._desk
        begun = loop.time()
        try:
            # A 429 is the admission machine's business and the rest `_retry_delay`'s, so one attempt is all.
            promise = await self._link.exchange(
                ROUTES["asample"], sample.request, policy=NO_RETRY, idempotency_key=_key(sample.request)
            )
        except RateLimitError as error:
            desk.note(desk.admission.limited(sample_id, loop.time(), error.retry_after, self.system.rng.random()))
            view = desk.statistics()
            self.system.events.publish(
                BackoffWindowOpened(view.window_since, view.window_until, view.window_cause, view.waiting)
            )
            pause = None if view.window_until is None else round(view.window_until - loop.time(), 3)
            _log.info("sampling.backoff", cause=view.window_cause, seconds=pause, waiting=view.waiting)
        except TinkexError as error:
            desk.failed(sample_id, error, now=loop.time())
        else:
            desk.accepted(
                sample_id,
                promise.request_id,
                promise.sample_sequence_ids or [],
                now=loop.time(),
                roundtrip=loop.time() - begun,
            )


def _key(request: SampleRequest) -> str:
    return f"{request.sampling_session_id}:{request.seq_id}"


def _retry_delay(sample: _Sample, error: Exception, now: float, u: float) -> float | None:
    """Seconds until a new submission, or None to fail (protocol 7.5)."""
    retry = sample.session.retry
    match error:
        case GoneError():
            failure = Failure(status=None)
        case APIStatusError():
            failure = Failure(status=error.status_code, retry_after=error.retry_after, should_retry=error.should_retry)
        case APIConnectionError():
            failure = Failure(status=None)
        case _:
            return None
    if not retry.enable_retry_logic:
        return None
    policy = RetryPolicy(
        window=retry.progress_timeout,
        base=retry.retry_delay_base,
        cap=retry.retry_delay_max,
        jitter=retry.jitter_factor,
    )
    return decide(policy, sample.attempt, now - sample.begun, failure, u)


def _name_sequences(result: Any, sequence_ids: list[str]) -> Any:
    """Put the promise's sequence ids on the sequences; a server of an older dialect names none."""
    if len(sequence_ids) != len(result.sequences):
        return result
    named = [
        msgspec.structs.replace(sequence, sequence_id=name)
        for sequence, name in zip(result.sequences, sequence_ids, strict=True)
    ]
    return msgspec.structs.replace(result, sequences=named)
