"""Every sample of a service; outlives the actor that posts them."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import msgspec

from tinkex_actors.actors.desk import Desk
from tinkex_actors.actors.dispatcher.events import (
    BackoffWindowClosed,
    BackoffWindowOpened,
    SamplingQueuePaused,
    SamplingQueueResumed,
)
from tinkex_actors.actors.dispatcher.sample import Priority, Sample, SamplerSession, retry_delay
from tinkex_actors.actors.dispatcher.words import described, stuck, why_paused
from tinkex_actors.actors.promise import Promise
from tinkex_actors.errors import RemoteWireError
from tinkex_actors.machines.admission import Admission, AdmissionStatistics, Effect, Post, WakeAt
from tinkex_actors.runtime.log import Logger
from tinkex_actors.wire.routes import ROUTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from tinkex_actors.actors.futures import ApiFuture
    from tinkex_actors.actors.ledger import Ledger
    from tinkex_actors.actors.link import Link
    from tinkex_actors.actors.poller import PollerDesk
    from tinkex_actors.machines.admission.backoff import Backoff
    from tinkex_actors.types import SampleRequest

__all__ = ["DispatcherDesk", "Peers"]

_log = Logger("tinkex_actors.sampling")

_ASAMPLE = ROUTES["asample"]
# Protocol 4.11.
_DEBOUNCE = 60.0


class Peers(list["DispatcherDesk"]):
    """The desks that share a window, in the order of their making."""


class DispatcherDesk(Desk):
    """Every sample of the service.

    Args:
        ledger: opens the futures.
        poller: turns promises into results.
        backoff: the server's window, shared with the system's other services for the same server and credential.
        peers: the desks of those services; this one joins them.
        draw: jitter in [0, 1), from the system's seeded generator.
        publish: takes the events.
        now: the system's clock.

    Attributes:
        admission: which samples may be posted.
        due: what is to be posted.
        later: what is to be submitted again, and after how many seconds.
        wake_at: when the machine wants to be told the time.
        cancels: promises whose samples nobody wants any more, to be told to a server that has asked for it.
        tells_cancels: whether this server has (``sample_cancel_enabled``).
        by_session: ask for the completions of a whole sampling session at once (``sample_use_retrieve_futures``).
    """

    __slots__ = (
        "_draw",
        "_ids",
        "_ledger",
        "_now",
        "_peers",
        "_poller",
        "_publish",
        "_samples",
        "admission",
        "by_session",
        "cancels",
        "due",
        "later",
        "sessions",
        "tells_cancels",
        "wake_at",
    )

    def __init__(
        self,
        *,
        ledger: Ledger,
        poller: PollerDesk,
        backoff: Backoff,
        peers: Peers,
        draw: Callable[[], float],
        publish: Callable[[object], None],
        now: Callable[[], float],
    ) -> None:
        super().__init__()
        self.admission = Admission(backoff=backoff)
        self.due: list[int] = []
        self.later: dict[int, float] = {}
        self.wake_at: float | None = None
        self.cancels: list[str] = []
        self.tells_cancels: Callable[[], bool] = lambda: False
        self.by_session = False
        self.sessions: set[SamplerSession] = set()
        self._samples: dict[int, Sample] = {}
        self._ids = itertools.count(1)
        self._ledger = ledger
        self._poller = poller
        self._draw = draw
        self._publish = publish
        self._peers = peers
        peers.append(self)
        self._now = now

    def submit(
        self,
        operation: str,
        session: SamplerSession,
        request: SampleRequest,
        *,
        size_bytes: int,
        finish: Callable[[Any], Any],
        priority: Priority = "normal",
    ) -> ApiFuture[Any]:
        """Queue a sample.

        Args:
            operation: the client method's name.
            session: the sampling session.
            request: the request, without a number; it is the desk's from now on.
            size_bytes: its estimated size (protocol 6.4).
            finish: makes the call's result of the server's answer.
            priority: before or behind the session's other samples, as a weight.
        """
        sample_id = next(self._ids)
        number = session.next_number()
        session_id = session.sampling_session_id
        # The request is ours since it was handed in, so what only the desk knows is put into it, not into a copy.
        msgspec.structs.force_setattr(request, "sampling_session_id", session_id)
        msgspec.structs.force_setattr(request, "seq_id", number)
        future = self._ledger.open(operation, sampling_session_id=session_id, seq_ids=[number], request_ids=[])
        sample = self._samples[sample_id] = Sample(
            self, sample_id, session, request, size_bytes, finish, future, priority
        )
        if not session.live:
            session.progress_at = future.created_at
            self.sessions.add(session)
        session.live += 1
        future.waits_for(sample.describe)
        future.on_cancel(sample.cancel)
        self._admit(sample_id)
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

    def sample(self, sample_id: int) -> Sample | None:
        """The sample, unless it has ended."""
        return self._samples.get(sample_id)

    def accepted(
        self, sample_id: int, request_id: str, sequence_ids: list[str], *, now: float, roundtrip: float
    ) -> Promise | None:
        """The server has taken the request; returns its promise, or None where nobody wants it now."""
        since = self.admission.backoff.since
        self.note(self.admission.accepted(sample_id))
        self._tell_of_window(since)
        sample = self._samples.get(sample_id)  # now: whoever was told may have cancelled it
        if sample is None:
            self.note(self.admission.cancelled(sample_id))
            self._give_up(request_id)
            return None
        if (known := self._poller.promises.get(request_id)) is not None and known.on_result != sample.result:
            self.failed(sample_id, _taken(request_id))
            return None
        sample.request_id = request_id
        sample.sequence_ids = sequence_ids
        sample.future.ids["request_ids"].append(request_id)
        session = sample.session
        return Promise(
            request_id,
            _ASAMPLE,
            on_result=sample.result,
            on_error=sample.lost,
            on_queue=sample.queue,
            now=now,
            roundtrip=roundtrip,
            group=(session.sampling_session_id, session.clone) if self.by_session else None,
        )

    async def carry(self, promise: Promise, link: Link) -> None:
        """Poll a sample in the task that calls; the poller goes on if that ends."""
        await self._poller.carry(promise, link)

    def limited(self, sample_id: int, retry_after: float | None, cause: str) -> None:
        """The server did not take the request: everything waits for the back-off window."""
        since = self.admission.backoff.since
        self.note(self.admission.limited(sample_id, self._now(), retry_after, self._draw(), cause))
        self._tell_of_window(since)

    def failed(self, sample_id: int, error: Exception) -> None:
        """The attempt has failed: send a lost sample again under a new number, else fail the call."""
        sample = self._samples.get(sample_id)
        self.note(self.admission.failed(sample_id))
        if sample is None:
            return
        delay = retry_delay(sample, error, self._now(), self._draw())
        if delay is None:
            self._end(sample_id)
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
        if sample_id in self._samples and self.admission.stage(sample_id) is None:
            self._admit(sample_id)

    def tick(self) -> None:
        """Tell the machine the time."""
        since = self.admission.backoff.since
        self.note(self.admission.tick(self._now()))
        self._tell_of_window(since)

    def look_for_stuck(self) -> float | None:
        """Fail the samples of sessions in which nothing has ended for too long (protocol 7.5).

        Returns:
            The instant of the next look, or None where nothing is pending or nobody wants to know.
        """
        now = self._now()
        due: list[float] = []
        for session in list(self.sessions):
            retry = session.retry
            if not retry.enable_stuck_detection:
                continue
            until = session.progress_at + retry.progress_timeout
            if now < until:
                due.append(until)
                continue
            error = stuck(session, self.statistics(), self._poller.promises, self._of(session), now)
            _log.error("sampling.stuck", sampling_session_id=session.sampling_session_id, error=str(error))
            for sample_id, sample in self._of(session).items():
                self.cancel(sample_id)
                sample.future.fail(error)
        return min(due, default=None)

    def give_back(self) -> None:
        """The service has ended: give back what its samples hold of a window that other services go on to share."""
        for sample_id in self._samples:
            self.admission.cancelled(sample_id)  # what this lets go is cancelled in its turn
        for held in (self._samples, self.sessions, self.due, self.later):
            held.clear()
        if self in self._peers:
            self._peers.remove(self)

    # --- for the samples ---------------------------------------------------------------------------------------------
    def result(self, sample_id: int, result: Any) -> None:
        """The server's answer to a sample."""
        sample = self._end(sample_id)
        self.note(self.admission.finished(sample_id))
        if sample is None:
            return
        session = sample.session
        session.progress_at = self._now()
        if session.queue_state != "active":
            self.queue(session, "active", None)
        try:
            value = sample.finish(_name_sequences(result, sample.sequence_ids))
        except Exception as error:
            sample.future.fail(error)
        else:
            sample.future.resolve(value)

    def cancel(self, sample_id: int) -> bool:
        """Give a sample up, and back what it had taken."""
        sample = self._end(sample_id)
        if sample is None:
            return False
        if sample.request_id is not None:
            self._poller.drop(sample.request_id)
            self._give_up(sample.request_id)
        self.note(self.admission.cancelled(sample_id))
        return True

    def describe(self, sample_id: int) -> str:
        """What a sample waits for, in words."""
        sample = self._samples.get(sample_id)
        if sample is None:
            return "ending"
        now = self._now()
        stage = self.admission.stage(sample_id)
        if stage == "in_flight" and sample.request_id is not None:
            return self._poller.describe(sample.request_id, now)
        return described(stage, self.statistics(), sample.attempt, now)

    def statistics(self) -> AdmissionStatistics:
        """What stands where: waiting, being posted, in flight, and the back-off window."""
        return self.admission.statistics()

    # --- inside ------------------------------------------------------------------------------------------------------
    def _admit(self, sample_id: int) -> None:
        sample = self._samples[sample_id]
        session = sample.session
        self.note(
            self.admission.submit(
                sample_id,
                sample.size_bytes,
                session=session.sampling_session_id,
                weight=session.weight,
                priority=sample.priority,
            )
        )

    def _of(self, session: SamplerSession) -> dict[int, Sample]:
        return {sample_id: sample for sample_id, sample in self._samples.items() if sample.session is session}

    def _end(self, sample_id: int) -> Sample | None:
        sample = self._samples.pop(sample_id, None)
        if sample is not None:
            self.later.pop(sample_id, None)
            sample.session.live -= 1
            if not sample.session.live:
                self.sessions.discard(sample.session)
                self.queue(sample.session, "active", None)
        return sample

    def _give_up(self, request_id: str) -> None:
        if self.tells_cancels():
            self.cancels.append(request_id)
            self.ring()

    def queue(self, session: SamplerSession, state: str, reason: str | None) -> None:
        """The server says how its queue takes a session's samples; a pause opens the window."""
        now = self._now()
        before, since = session.queue_state, session.queue_since
        session.queue_state, session.queue_reason = state, reason
        if state == before:
            return
        session.queue_since = now
        if state == "active":
            if since is not None and before != "active":
                self._publish(SamplingQueueResumed(session.sampling_session_id, now - since))
            return
        words = why_paused(state, reason)
        opened = self.admission.backoff.since
        pause = self.admission.backoff.policy.large_backoff
        self.note(self.admission.paused(now, pause, self._draw(), f"queue {state}: {words}"))
        self._tell_of_window(opened)
        if session.told_at is None or now - session.told_at >= _DEBOUNCE:
            session.told_at = now
            self._publish(SamplingQueuePaused(session.sampling_session_id, state, words))
            _log.warning(
                "sampling.paused", sampling_session_id=session.sampling_session_id, queue_state=state, reason=words
            )

    def _tell_of_window(self, since: float | None) -> None:
        """Publish that the window has opened or closed, if it has since a machine's step began."""
        window = self.admission.backoff
        if window.since == since:
            return
        waiting = self.statistics().waiting
        if window.since is not None and window.until is not None:
            self._publish(BackoffWindowOpened(window.since, window.until, window.cause, waiting))
            seconds = round(window.until - window.since, 3)
            _log.info("sampling.backoff", cause=window.cause, seconds=seconds, waiting=waiting)
        elif since is not None:
            seconds = self._now() - since
            for desk in self._peers:
                if desk is not self:
                    desk.tick()  # it waits for a probe of ours, and would give us up only after ten seconds
            self._publish(BackoffWindowClosed(seconds, waiting))
            _log.info("sampling.resumed", seconds=round(seconds, 3), waiting=waiting)


def _taken(request_id: str) -> RemoteWireError:
    return RemoteWireError(
        f"asample: the promise {request_id} has been given to another sample, which still waits for it. One answer "
        "cannot be both; the server, or a cache before it, takes different requests for the same."
    )


def _name_sequences(result: Any, sequence_ids: list[str]) -> Any:
    """Put the promise's sequence ids on the sequences; a server of an older dialect names none."""
    if len(sequence_ids) != len(result.sequences):
        return result
    # They were decoded for this call alone, so nobody has seen them without.
    for sequence, name in zip(result.sequences, sequence_ids, strict=True):
        msgspec.structs.force_setattr(sequence, "sequence_id", name)
    return result
