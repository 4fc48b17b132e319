"""What outlives a sequencer: the model's calls, their numbers and payloads, and what the server said of each."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import msgspec

from tinkex_actors.actors.desk import Desk
from tinkex_actors.actors.promise import Promise
from tinkex_actors.actors.sequencer import wording
from tinkex_actors.actors.sequencer.calls import Call, Reservation
from tinkex_actors.actors.sequencer.events import QueuePaused, QueueResumed, SequenceBroken
from tinkex_actors.errors import GoneError
from tinkex_actors.machines import turns
from tinkex_actors.machines.retry import Failure, is_doubtful, verdict
from tinkex_actors.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tinkex_actors.actors.byte_gate import ByteGate
    from tinkex_actors.actors.futures import ApiFuture
    from tinkex_actors.actors.ledger import Ledger
    from tinkex_actors.actors.poller import PollerDesk
    from tinkex_actors.actors.sequencer.calls import Chunk
    from tinkex_actors.wire.routes import Route

__all__ = ["Discipline", "SequencerDesk"]

_KINDS: dict[str, turns.Kind] = {
    "forward_backward": "adds",
    "forward_backward_custom": "adds",
    "optim_step": "applies",
    "load_state": "clears",
    "load_state_with_optimizer": "clears",
}


class Discipline(msgspec.Struct, frozen=True):
    """How strictly a server is to be treated.

    Args:
        parallel_chunks: post the chunks of one call concurrently (protocol 6.3).
        awaits_results: post a request only when everything before it has its result.
        resends: send a request again under its number when its outcome is unknown: the server knows it again.
        pause_deadline: seconds for which the queue may be paused; None for as long as it takes.
    """

    parallel_chunks: bool = True
    awaits_results: bool = False
    resends: bool = True
    pause_deadline: float | None = None


class SequencerDesk(Desk):
    """One model's calls: the numbers, the payloads, the futures.

    Args:
        model_id: the model.
        ledger: opens the futures.
        poller: turns promises into results.
        gate: bytes being posted at once, shared by all models of the service (protocol 6.4).
        discipline: how strictly the server is to be treated.
        publish: takes the events.
        now: the loop's time.
    """

    __slots__ = (
        "_calls",
        "_delays",
        "_doubtful",
        "_failure_seen",
        "_gate",
        "_ids",
        "_ledger",
        "_now",
        "_paused",
        "_poller",
        "_publish",
        "_sent",
        "discipline",
        "effects",
        "model_id",
        "paused_since",
        "turns",
    )

    def __init__(
        self,
        model_id: str,
        *,
        ledger: Ledger,
        poller: PollerDesk,
        gate: ByteGate,
        discipline: Discipline,
        publish: Callable[[Any], None],
        now: Callable[[], float],
    ) -> None:
        super().__init__()
        self.model_id = model_id
        self.discipline = discipline
        self.turns = turns.Turns(model_id=model_id, awaits_results=discipline.awaits_results)
        self.effects: list[turns.Effect] = []
        self.paused_since: float | None = None
        self._paused: dict[str, str] = {}
        self._calls: dict[int, Call] = {}
        self._delays: dict[int, str] = {}
        self._sent: set[int] = set()
        self._doubtful: set[int] = set()
        self._failure_seen = False
        self._ids = itertools.count(1)
        self._ledger = ledger
        self._poller = poller
        self._gate = gate
        self._publish = publish
        self._now = now

    def submit(
        self, operation: str, route: Route, chunks: Sequence[Chunk], finish: Callable[[list[Any]], Any]
    ) -> ApiFuture[Any]:
        """Queue a call: one number a chunk, in the order of calls.

        Args:
            operation: the client method's name.
            route: where the chunks are posted.
            chunks: at least one.
            finish: makes the call's result of the chunks' results, in order.

        Raises:
            SequenceBrokenError: an earlier request of this model was lost.
        """
        return self._queue(operation, route, len(chunks), chunks, finish, held=False)[1]

    def reserve(self, operation: str, route: Route, count: int) -> Reservation:
        """Take ``count`` numbers for requests that are not known yet; see :class:`Reservation`.

        Raises:
            SequenceBrokenError: an earlier request of this model was lost.
        """
        op_id, future = self._queue(operation, route, count, (), lambda results: results, held=True)
        return Reservation(self, op_id, future, count)

    def supply(self, op_id: int, chunks: Sequence[Chunk], finish: Callable[[list[Any]], Any]) -> None:
        """Post what a reservation was for."""
        call = self._calls.get(op_id)
        if call is not None and not call.future.done():
            call.load(chunks, finish)
            call.future.waits_for(lambda: self._describe(op_id))
            self._note(turns.release(self.turns, op_id))

    def abandon(self, op_id: int, error: Exception) -> None:
        """Give a reservation up: its future fails, and its numbers are given back or filled."""
        call = self._calls.get(op_id)
        if call is None:
            return
        queued = self.turns.calls.get(op_id)
        if call.kind == "adds" and queued is not None and queued.held:
            self._spoil(call, queued.first_seq)
        call.future.fail(error)
        self._note(turns.abandoned(self.turns, op_id))
        self._forget_if_over(op_id)

    def pending(self) -> list[ApiFuture[Any]]:
        """The calls that have not ended, in call order."""
        return [call.future for call in self._calls.values() if not call.future.done()]

    # --- for the actor: posting --------------------------------------------------------------------------------------
    def take(self) -> list[turns.Post]:
        """What is to be posted now."""
        effects, self.effects = self.effects, []
        return [effect for effect in effects if isinstance(effect, turns.Post)]

    def resume(self) -> list[turns.Post]:
        """What a new incarnation has to post again: begun, not answered, under the same numbers.

        What the last one was sending may have been taken. A server that would take it twice is not sent it again.
        """
        self.effects.clear()
        for post in turns.outstanding(self.turns):
            if post.seq_id in self._sent and not post.fill:
                self._doubtful.add(post.seq_id)
                if not self.discipline.resends:
                    self._lose(post, wording.unknown(self._call_of(post), self.model_id, post.seq_id))
        return turns.outstanding(self.turns)

    def payload(self, post: turns.Post) -> tuple[Route, Any, int]:
        """The route, the numbered message and the size of a post."""
        call = self._calls[post.op_id]
        chunk = call.chunks[post.index]
        return call.route, msgspec.structs.replace(chunk.message, seq_id=post.seq_id), chunk.size_bytes

    def caller(self, post: turns.Post) -> str | None:
        """The public method that a post is sent for."""
        return self._calls[post.op_id].future.caller

    def passing(self, size_bytes: int) -> Any:
        """Wait for room among the bytes being posted."""
        return self._gate.passing(size_bytes)

    def sending(self, post: turns.Post) -> None:
        """The request leaves now, for the first time or again."""
        self._sent.add(post.seq_id)

    def may_retry(self, post: turns.Post, failure: Failure) -> bool:
        """Take note of a failed attempt; whether there may be another."""
        if not is_doubtful(failure):
            return True
        self._doubtful.add(post.seq_id)
        return self.discipline.resends

    def is_doubtful(self, post: turns.Post) -> bool:
        """Whether an attempt may have been taken although no answer said so."""
        return post.seq_id in self._doubtful

    def delayed(self, post: turns.Post, words: str) -> None:
        """The request is on its way for longer than it should be; ``explain()`` says why."""
        self._delays[post.seq_id] = words

    # --- for the actor: answers --------------------------------------------------------------------------------------
    def posted(self, post: turns.Post, request_id: str, *, now: float, roundtrip: float) -> None:
        """The server has taken the request: poll for its result, and let the next one go."""
        self._answered(post)
        call = self._calls[post.op_id]
        requests = call.future.ids["request_ids"]
        if request_id not in requests:
            requests.append(request_id)
        promise = Promise(
            request_id,
            call.route,
            on_result=lambda result: self._result(post, result),
            on_error=lambda error: self._failed(post, call, error),
            on_queue=lambda state, reason: self._queue_told(call, request_id, state, reason),
            now=now,
            roundtrip=roundtrip,
        )
        if self._is_wanted(call):
            self._poller.watch(promise)
        self._note(turns.posted(self.turns, post.seq_id))
        self._forget_if_over(post.op_id)

    def refused(self, post: turns.Post, error: Exception) -> None:
        """The server has refused the request for good: its call fails, later ones go on."""
        self._answered(post)
        call = self._calls[post.op_id]
        call.future.fail(error)
        effects = turns.rejected(self.turns, post.seq_id)
        if call.kind == "adds":
            self._spoiled(call, post.seq_id)
        self._note(effects)
        self._forget_if_over(post.op_id)

    def gave_up(self, post: turns.Post, error: Exception, failure: Failure) -> None:
        """The request is not sent again: refused, never taken, or of unknown outcome."""
        match verdict(failure, doubtful=self.is_doubtful(post)):
            case "refused":
                self.refused(post, error)
            case "open":
                self._lose(post, error)
            case "unknown":
                unknown = wording.unknown(self._call_of(post), self.model_id, post.seq_id, error)
                unknown.__cause__ = error
                self._lose(post, unknown)

    def filled(self, post: turns.Post) -> None:
        """A number without a request of its own is complete."""
        self._note(turns.posted(self.turns, post.seq_id))
        self._forget_if_over(post.op_id)

    def not_filled(self, post: turns.Post, error: Exception) -> None:
        """A number without a request of its own stays open, and nothing behind it can run."""
        self._lose(post, error)

    # --- pauses ------------------------------------------------------------------------------------------------------
    def pause_left(self) -> float | None:
        """Seconds for which the queue may stay paused; None where it is not, or may for ever."""
        if self.paused_since is None or self.discipline.pause_deadline is None:
            return None
        return max(0.0, self.paused_since + self.discipline.pause_deadline - self._now())

    def end_pause(self) -> None:
        """Give everything up, if the queue has been paused for as long as it may."""
        if self.pause_left() != 0.0 or self.paused_since is None:
            return
        seconds = self._now() - self.paused_since
        reason = next(iter(self._paused.values()), "")
        waiting = [call for call in self._calls.values() if not call.future.done()]
        first = min((call.future.ids["seq_ids"][0] for call in waiting), default=self.turns.next_seq)
        self._publish(SequenceBroken(self.model_id, first, f"the queue was paused for {seconds:.0f} s"))
        for call in waiting:
            for request_id in call.future.ids["request_ids"]:
                self._poller.drop(request_id)
            call.future.fail(wording.paused(call, self.model_id, reason, seconds))
        self._paused.clear()
        self.paused_since = None
        self._note(turns.broken(self.turns, first))
        for op_id in list(self._calls):
            self._forget_if_over(op_id)

    def _queue_told(self, call: Call, request_id: str, state: str, reason: str | None) -> None:
        if state == "active":
            self._unpause(request_id)
            return
        first = not self._paused
        self._paused[request_id] = reason or ""
        if first:
            self.paused_since = self._now()
            self._publish(QueuePaused(self.model_id, call.future.operation, state, redact(reason or "")))
            self.ring()

    def _unpause(self, request_id: str) -> None:
        if self._paused.pop(request_id, None) is not None and not self._paused and self.paused_since is not None:
            self._publish(QueueResumed(self.model_id, self._now() - self.paused_since))
            self.paused_since = None
            self.ring()

    # --- inside ------------------------------------------------------------------------------------------------------
    def _queue(
        self,
        operation: str,
        route: Route,
        count: int,
        chunks: Sequence[Chunk],
        finish: Callable[[list[Any]], Any],
        *,
        held: bool,
    ) -> tuple[int, ApiFuture[Any]]:
        op_id = next(self._ids)
        kind = _KINDS.get(operation, "other")
        numbers = turns.submit(
            self.turns,
            op_id,
            count,
            self.discipline.parallel_chunks,
            kind=kind,
            held=held,
            failure_seen=self._failure_seen,
        )
        future = self._ledger.open(operation, model_id=self.model_id, seq_ids=numbers, request_ids=[])
        self._calls[op_id] = Call(route, chunks, finish, future, kind)
        future.waits_for(lambda: self._describe(op_id))
        future.on_cancel(lambda: self._cancel(op_id))
        self._note(turns.advance(self.turns))
        return op_id, future

    def _note(self, effects: list[turns.Effect]) -> None:
        for effect in effects:
            match effect:
                case turns.Broken(op_ids=op_ids, first_failed_seq_id=number):
                    for op_id in op_ids:
                        self._end(op_id, wording.broken(self._calls[op_id], self.model_id, number))
                case turns.Skipped(op_id=op_id, failed_seq_id=number, leftover=leftover):
                    self._calls[op_id].future.on_seen(lambda seq_id=number: self._see(seq_id))  # type: ignore[misc]
                    self._end(op_id, wording.skipped(self._calls[op_id], self.model_id, number, leftover))
                case turns.Withdrawn(op_ids=op_ids):
                    for op_id in op_ids:
                        self._calls.pop(op_id, None)
                case turns.Post():
                    self.effects.append(effect)
        if self.effects:
            self.ring()

    def _end(self, op_id: int, error: Exception) -> None:
        self._calls[op_id].future.fail(error)
        self._forget_if_over(op_id)

    def _answered(self, post: turns.Post) -> None:
        self._delays.pop(post.seq_id, None)
        self._sent.discard(post.seq_id)
        self._doubtful.discard(post.seq_id)

    def _call_of(self, post: turns.Post) -> Call:
        return self._calls[post.op_id]

    def _lose(self, post: turns.Post, error: Exception) -> None:
        self._answered(post)
        self._publish(SequenceBroken(self.model_id, post.seq_id, redact(str(error))))
        call = self._calls.get(post.op_id)
        if call is not None:
            call.future.fail(error)
        self._note(turns.lost(self.turns, post.seq_id))
        self._forget_if_over(post.op_id)

    def _spoil(self, call: Call, seq_id: int, *, unknown: bool = False) -> None:
        effects = turns.failed(self.turns, seq_id, adds=True, unknown=unknown)
        self._spoiled(call, seq_id)
        self._note(effects)

    def _spoiled(self, call: Call, seq_id: int) -> None:
        """From here on it matters whether the caller has looked at the error of this call."""
        if self.turns.spoiled_by == seq_id:
            self._failure_seen = False
        call.future.on_seen(lambda: self._see(seq_id))

    def _see(self, seq_id: int) -> None:
        self._failure_seen = self._failure_seen or self.turns.spoiled_by == seq_id

    def _result(self, post: turns.Post, result: Any) -> None:
        self._unpause_all(post)
        call = self._calls.get(post.op_id)
        if call is not None and not call.future.done() and call.take(post.index, result):
            self._forget_if_over(post.op_id)
        self._note(turns.finished(self.turns, post.seq_id))
        self._forget_if_over(post.op_id)

    def _failed(self, post: turns.Post, call: Call, error: Exception) -> None:
        self._unpause_all(post)
        if self.turns.applied_at > post.seq_id and call.kind == "adds":
            error.add_note(f"optim_step {self.turns.applied_at} had been sent by then, and goes without this gradient.")
        call.future.fail(error)
        if call.kind == "adds":
            # A promise that is gone says nothing of what was done.
            self._spoil(call, post.seq_id, unknown=isinstance(error, GoneError))
        self._note(turns.finished(self.turns, post.seq_id))
        self._forget_if_over(post.op_id)

    def _unpause_all(self, post: turns.Post) -> None:
        # What is answered is not paused, nor is anything else of a queue that moves.
        for request_id in list(self._paused):
            self._unpause(request_id)

    def _is_wanted(self, call: Call) -> bool:
        # Where results are awaited, also that of a call which nobody waits for lets the next one go.
        return not call.future.done() or self.discipline.awaits_results

    def _forget_if_over(self, op_id: int) -> None:
        # A call that has ended stays on the desk while numbers of it are still to be posted: they must not become gaps.
        call = self._calls.get(op_id)
        if call is not None and call.future.done() and op_id not in self.turns.calls:
            del self._calls[op_id]

    def _cancel(self, op_id: int) -> bool:
        call = self._calls.get(op_id)
        if call is None:
            return False
        if not self.discipline.awaits_results:
            for request_id in call.future.ids["request_ids"]:
                self._poller.drop(request_id)
                self._unpause(request_id)
        queued = self.turns.calls.get(op_id)
        if call.kind == "adds" and queued is not None and queued.held:
            self._spoil(call, queued.first_seq)
        self._note(turns.cancelled(self.turns, op_id))
        if op_id not in self.turns.calls:
            self._calls.pop(op_id, None)
        return True

    def _describe(self, op_id: int) -> str:
        place = turns.position(self.turns, op_id)
        match place:
            case ("waiting", ahead, number) if ahead in self._calls:
                return f"waiting for its turn behind {self._calls[ahead].future.operation} {number}"
            case ("waiting", _, number):
                return f"waiting for its turn behind request {number}"
            case ("posting", numbers) if delays := [words for n in numbers if (words := self._delays.get(n))]:
                return f"being posted as {', '.join(map(str, numbers))}: {delays[0]}"
            case ("posting", numbers) if numbers:
                return f"being posted as {', '.join(map(str, numbers))}"
            case ("posting", _):
                return "its requests are being prepared" if self.turns.calls[op_id].held else "about to be posted"
        call = self._calls.get(op_id)
        if call is None:
            return "ending"
        requests = [r for r in call.future.ids["request_ids"] if r in self._poller.promises]
        if not requests:
            return "its result was received"
        more = f" ({len(requests)} parts left)" if len(requests) > 1 else ""
        return self._poller.describe(requests[0], self._now()) + more
