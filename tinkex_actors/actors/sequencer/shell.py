"""The actor of one model's sequence: posts what the desk's machine says, each post in a task of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinkex_actors.actors.attribution import calling
from tinkex_actors.errors import (
    APIConnectionError,
    APIStatusError,
    ClosedError,
    ConfigError,
    LocalWireError,
    TinkexError,
    UnsupportedByServerError,
)
from tinkex_actors.machines.retry import Failure, verdict
from tinkex_actors.runtime import Actor, Timer, handler
from tinkex_actors.runtime.log import Logger
from tinkex_actors.types import Datum, ForwardBackwardInput, ForwardBackwardRequest, ModelInput
from tinkex_actors.wire.routes import ROUTES

if TYPE_CHECKING:
    from tinkex_actors.actors.link import Link
    from tinkex_actors.actors.sequencer.desk import SequencerDesk
    from tinkex_actors.machines.turns import Post

__all__ = ["Sequencer"]

_log = Logger("tinkex_actors.training")


class Sequencer(Actor):
    """Posts what the desk's machine says, each post in a task of its own.

    Args:
        desk: the model's calls; outlives this incarnation.
        link: the server.
    """

    def __init__(self, desk: SequencerDesk, link: Link) -> None:
        self._desk = desk
        self._link = link
        self._deadline: Timer | None = None

    async def init(self) -> None:
        """Post again, under the same numbers, what had no answer yet."""
        self._desk.attend(self.ref.cast.wake)
        for post in self._desk.resume():
            self._start(post)
        self._watch_pause()

    @handler
    def wake(self) -> None:
        """Perform what is new on the desk."""
        self._desk.answered()
        for post in self._desk.take():
            self._start(post)
        self._watch_pause()

    @handler
    def pause_is_long(self) -> None:
        """The queue may have been paused for as long as the user allows."""
        self._deadline = None
        self._desk.end_pause()
        self._watch_pause()

    def _watch_pause(self) -> None:
        left = self._desk.pause_left()
        if left is None and self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        elif left is not None and self._deadline is None:
            self._deadline = self.after(left, self.ref.cast.pause_is_long)

    def _start(self, post: Post) -> None:
        self.task(self._fill(post) if post.fill else self._post(post), name=f"post {post.seq_id}")

    async def _post(self, post: Post) -> None:
        desk, loop = self._desk, self.system.loop
        route, message, size_bytes = desk.payload(post)
        calling.set(desk.caller(post))
        begun = loop.time()
        try:
            async with desk.passing(size_bytes):
                desk.sending(post)
                # One key per number: the server sees every attempt, of every incarnation, as one request.
                promise = await self._link.exchange(
                    route,
                    message,
                    idempotency_key=f"{desk.model_id}:{post.seq_id}",
                    on_retry=lambda words: desk.delayed(post, words),
                    may_retry=lambda failure: desk.may_retry(post, failure),
                )
        except (UnsupportedByServerError, LocalWireError) as error:
            if not desk.is_doubtful(post):
                await self._close_gap(post)
            desk.refused(post, error)
        except APIStatusError as error:
            desk.gave_up(post, error, Failure(status=error.status_code))
        except (APIConnectionError, ClosedError, ConfigError) as error:
            desk.gave_up(post, error, Failure(status=None, sent=getattr(error, "sent", False)))
        except TinkexError as error:
            desk.gave_up(post, error, Failure(status=None))
        else:
            desk.posted(post, promise.request_id, now=loop.time(), roundtrip=loop.time() - begun)

    async def _fill(self, post: Post) -> None:
        """Complete a number that has nothing of its own to post."""
        try:
            await self._exchange_filling(post)
        except APIStatusError as error:
            failure = Failure(status=error.status_code)
            # Any refusal completes the number, and whether the filling was computed does not matter.
            if error.status_code == 404 or verdict(failure, doubtful=False) == "refused":
                self._desk.filled(post)
            else:
                self._desk.not_filled(post, error)
        except UnsupportedByServerError:
            self._desk.filled(post)
        except TinkexError as error:
            self._desk.not_filled(post, error)
        else:
            self._desk.filled(post)

    async def _close_gap(self, post: Post) -> None:
        """Give the server something harmless under a number that it has not taken, as a gap would stall what follows.

        A request of a form that the server does not know was turned away before anybody looked at its number; where
        the number counts as taken after all, the answer does not matter.
        """
        try:
            await self._exchange_filling(post)
        except TinkexError as error:
            _log.info("sequence.gap", model_id=self._desk.model_id, seq_id=post.seq_id, error=str(error))

    async def _exchange_filling(self, post: Post) -> None:
        # One token forward changes nothing.
        token = Datum(model_input=ModelInput.from_ints([0]), loss_fn_inputs={"target_tokens": [0], "weights": [0.0]})
        message = ForwardBackwardRequest(
            forward_backward_input=ForwardBackwardInput(data=[token], loss_fn="cross_entropy"),
            model_id=self._desk.model_id,
            seq_id=post.seq_id,
            forward_only=True,
        )
        key = f"{self._desk.model_id}:{post.seq_id}:filled"
        await self._link.exchange(ROUTES["forward"], message, idempotency_key=key)
