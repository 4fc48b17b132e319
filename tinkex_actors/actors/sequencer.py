"""One model's training requests, on the wire in the order of the calls (protocol part 6).

A call runs the machine at once: its numbers are allotted and its future is registered before it returns. The actor only
performs what the machine says.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import msgspec

from tinkex_actors.actors.desk import Desk
from tinkex_actors.actors.poller import Promise
from tinkex_actors.errors import APIStatusError, SequenceBrokenError, TinkexError, UnsupportedByServerError
from tinkex_actors.machines import turns
from tinkex_actors.machines.retry import Failure, is_refusal
from tinkex_actors.runtime import Actor, handler
from tinkex_actors.runtime.log import Logger
from tinkex_actors.types import Datum, ForwardBackwardInput, ForwardBackwardRequest, ModelInput
from tinkex_actors.wire.routes import ROUTES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tinkex_actors.actors.byte_gate import ByteGate
    from tinkex_actors.actors.futures import ApiFuture
    from tinkex_actors.actors.ledger import Ledger
    from tinkex_actors.actors.link import Link
    from tinkex_actors.actors.poller import PollerDesk
    from tinkex_actors.wire.routes import Route

__all__ = ["Chunk", "Sequencer", "SequencerDesk"]

_log = Logger("tinkex_actors.training")


class Chunk(msgspec.Struct, frozen=True):
    """One request of a call.

    Attributes:
        message: its body, without a number: ``seq_id`` is put in when it is posted.
        size_bytes: its estimated size, for the dispatch budget.
    """

    message: Any
    size_bytes: int = 0


class _Call:
    __slots__ = ("chunks", "finish", "future", "left", "results", "route")

    def __init__(
        self, route: Route, chunks: Sequence[Chunk], finish: Callable[[list[Any]], Any], future: ApiFuture[Any]
    ) -> None:
        self.route = route
        self.chunks = chunks
        self.finish = finish
        self.future = future
        self.results: list[Any] = [None] * len(chunks)
        self.left = len(chunks)


class SequencerDesk(Desk):
    """One model's calls: the numbers, the payloads, the futures.

    Args:
        model_id: the model.
        ledger: opens the futures.
        poller: turns promises into results.
        gate: bytes being posted at once, shared by all models of the service (protocol 6.4).
        parallel_chunks: post the chunks of one call concurrently (protocol 6.3).
    """

    __slots__ = (
        "_calls",
        "_delays",
        "_gate",
        "_ids",
        "_ledger",
        "_parallel",
        "_poller",
        "effects",
        "model_id",
        "turns",
    )

    def __init__(
        self, model_id: str, *, ledger: Ledger, poller: PollerDesk, gate: ByteGate, parallel_chunks: bool
    ) -> None:
        super().__init__()
        self.model_id = model_id
        self.turns = turns.Turns(model_id=model_id)
        self.effects: list[turns.Effect] = []
        self._calls: dict[int, _Call] = {}
        self._delays: dict[int, str] = {}
        self._ids = itertools.count(1)
        self._ledger = ledger
        self._poller = poller
        self._gate = gate
        self._parallel = parallel_chunks

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
        op_id = next(self._ids)
        numbers = turns.submit(self.turns, op_id, len(chunks), self._parallel)
        future = self._ledger.open(operation, model_id=self.model_id, seq_ids=numbers, request_ids=[])
        self._calls[op_id] = _Call(route, chunks, finish, future)
        future.waits_for(lambda: self._describe(op_id))
        future.on_cancel(lambda: self._cancel(op_id))
        self._note(turns.advance(self.turns))
        return future

    def pending(self) -> list[ApiFuture[Any]]:
        """The calls that have not ended, in call order."""
        return [call.future for call in self._calls.values() if not call.future.done()]

    # --- for the actor -----------------------------------------------------------------------------------------------
    def take(self) -> list[turns.Post]:
        """What is to be posted now."""
        effects, self.effects = self.effects, []
        return [effect for effect in effects if isinstance(effect, turns.Post)]

    def resume(self) -> list[turns.Post]:
        """What a new incarnation has to post again: begun, not answered, under the same numbers."""
        self.effects.clear()
        return turns.outstanding(self.turns)

    def payload(self, post: turns.Post) -> tuple[Route, Any, int]:
        """The route, the numbered message and the size of a post."""
        call = self._calls[post.op_id]
        chunk = call.chunks[post.index]
        return call.route, msgspec.structs.replace(chunk.message, seq_id=post.seq_id), chunk.size_bytes

    def passing(self, size_bytes: int) -> Any:
        """Wait for room among the bytes being posted."""
        return self._gate.passing(size_bytes)

    def posted(self, post: turns.Post, request_id: str, *, now: float, roundtrip: float) -> None:
        """The server has taken the request: poll for its result, and let the next one go."""
        self._delays.pop(post.seq_id, None)
        call = self._calls[post.op_id]
        requests = call.future.ids["request_ids"]
        if request_id not in requests:
            requests.append(request_id)
        promise = Promise(
            request_id,
            call.route,
            on_result=lambda result: self._result(post, result),
            on_error=lambda error: self._fail(post.op_id, error),
            now=now,
            roundtrip=roundtrip,
        )
        if not call.future.done():
            self._poller.watch(promise)
        self._note(turns.posted(self.turns, post.seq_id))
        self._forget_if_over(post.op_id)

    def delayed(self, post: turns.Post, words: str) -> None:
        """The request is on its way for longer than it should be; ``explain()`` says why."""
        self._delays[post.seq_id] = words

    def refused(self, post: turns.Post, error: Exception) -> None:
        """The server has refused the request for good: its call fails, later ones go on."""
        self._delays.pop(post.seq_id, None)
        self._calls[post.op_id].future.fail(error)
        self._note(turns.rejected(self.turns, post.seq_id))
        self._forget_if_over(post.op_id)

    def lost(self, post: turns.Post, error: Exception) -> None:
        """The request's outcome is unknown and will stay so: nothing after it can be applied in order."""
        self._delays.pop(post.seq_id, None)
        self._calls[post.op_id].future.fail(error)
        self._note(turns.lost(self.turns, post.seq_id))
        self._forget_if_over(post.op_id)

    # --- inside ------------------------------------------------------------------------------------------------------
    def _note(self, effects: list[turns.Effect]) -> None:
        for effect in effects:
            match effect:
                case turns.Broken(op_ids=op_ids, first_failed_seq_id=number):
                    for op_id in op_ids:
                        self._fail(op_id, self._broken(op_id, number))
                case turns.Withdrawn(op_ids=op_ids):
                    for op_id in op_ids:
                        self._calls.pop(op_id, None)
                case turns.Post():
                    self.effects.append(effect)
        if self.effects:
            self.ring()

    def _broken(self, op_id: int, number: int) -> SequenceBrokenError:
        operation = self._calls[op_id].future.operation
        return SequenceBrokenError(
            f"{operation} on {self.model_id}: training request {number} before it was lost, so it was not sent. Create "
            "a client from the last checkpoint (create_training_client_from_state_with_optimizer) and go on there.",
            model_id=self.model_id,
            first_failed_seq_id=number,
        )

    def _result(self, post: turns.Post, result: Any) -> None:
        call = self._calls.get(post.op_id)
        if call is None:
            return
        call.results[post.index] = result
        call.left -= 1
        if call.left:
            return
        del self._calls[post.op_id]
        try:
            value = call.finish(call.results)
        except Exception as error:
            call.future.fail(error)
        else:
            call.future.resolve(value)

    def _fail(self, op_id: int, error: Exception) -> None:
        call = self._calls.get(op_id)
        if call is not None:
            call.future.fail(error)
            self._forget_if_over(op_id)

    def _forget_if_over(self, op_id: int) -> None:
        # A call that has ended stays on the desk while numbers of it are still to be posted: they must not become gaps.
        call = self._calls.get(op_id)
        if call is not None and call.future.done() and op_id not in self.turns.calls:
            del self._calls[op_id]

    def _cancel(self, op_id: int) -> bool:
        call = self._calls.get(op_id)
        if call is None:
            return False
        for request_id in call.future.ids["request_ids"]:
            self._poller.drop(request_id)
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
            case ("posting", numbers):
                return f"being posted as {', '.join(map(str, numbers))}" if numbers else "about to be posted"
        call = self._calls.get(op_id)
        if call is None:
            return "ending"
        now = call.future.loop.time()
        requests = [r for r in call.future.ids["request_ids"] if r in self._poller.promises]
        if not requests:
            return "its result was received"
        more = f" ({len(requests)} parts left)" if len(requests) > 1 else ""
        return self._poller.describe(requests[0], now) + more


class Sequencer(Actor):
    """Posts what the desk's machine says, each post in a task of its own.

    Args:
        desk: the model's calls; outlives this incarnation.
        link: the server.
    """

    def __init__(self, desk: SequencerDesk, link: Link) -> None:
        self._desk = desk
        self._link = link

    async def init(self) -> None:
        """Post again, under the same numbers, what had no answer yet."""
        self._desk.attend(self.ref.cast.wake)
        for post in self._desk.resume():
            self._start(post)

    @handler
    def wake(self) -> None:
        """Perform what is new on the desk."""
        self._desk.answered()
        for post in self._desk.take():
            self._start(post)

    def _start(self, post: turns.Post) -> None:
        self.task(self._post(post), name=f"post {post.seq_id}")

    async def _post(self, post: turns.Post) -> None:
        route, message, size_bytes = self._desk.payload(post)
        loop = self.system.loop
        begun = loop.time()
        try:
            async with self._desk.passing(size_bytes):
                # One key per number: the server sees every attempt, of every incarnation, as one request.
                key = f"{self._desk.model_id}:{post.seq_id}"
                promise = await self._link.exchange(
                    route, message, idempotency_key=key, on_retry=lambda words: self._desk.delayed(post, words)
                )
        except UnsupportedByServerError as error:
            await self._fill(post)
            self._desk.refused(post, error)
        except APIStatusError as error:
            if is_refusal(Failure(status=error.status_code)):
                self._desk.refused(post, error)
            else:
                self._desk.lost(post, error)
        except TinkexError as error:
            self._desk.lost(post, error)
        else:
            self._desk.posted(post, promise.request_id, now=loop.time(), roundtrip=loop.time() - begun)

    async def _fill(self, post: turns.Post) -> None:
        """Give the server something harmless under a number that it has not taken, as a gap would stall what follows.

        A request of a form that the server does not know was turned away before anybody looked at its number. One
        token forward changes nothing, and where the number counts as taken after all, the answer does not matter.
        """
        token = Datum(model_input=ModelInput.from_ints([0]), loss_fn_inputs={"target_tokens": [0], "weights": [0.0]})
        message = ForwardBackwardRequest(
            forward_backward_input=ForwardBackwardInput(data=[token], loss_fn="cross_entropy"),
            model_id=self._desk.model_id,
            seq_id=post.seq_id,
            forward_only=True,
        )
        try:
            await self._link.exchange(
                ROUTES["forward"], message, idempotency_key=f"{self._desk.model_id}:{post.seq_id}:filled"
            )
        except TinkexError as error:
            _log.info("sequence.gap", model_id=self._desk.model_id, seq_id=post.seq_id, error=str(error))
