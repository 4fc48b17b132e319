"""A run that goes on by itself when the server loses its model: what it asked since its last checkpoint, asked again.

The program's loop is behind the steps that have to be done again, and cannot be sent back. So their requests are kept
until a checkpoint stands behind them. When the model is lost, a new one is made of the last checkpoint, the requests
are submitted to it in the same order, and the futures that the program still waits for end with those results.

When, how often and how many at a time is the service's recovery, by the same machine as for every watched run; so no
run is restarted twice.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec

from tinkex_actors.actors.futures import ApiFuture
from tinkex_actors.actors.recovery import Watch
from tinkex_actors.clients.inside import is_broken, next_number
from tinkex_actors.errors import (
    ClosedError,
    GoneError,
    NotFoundError,
    QueuePausedError,
    RestartsExhaustedError,
    RunError,
    TinkexError,
)
from tinkex_actors.machines import recovery
from tinkex_actors.runs.logbook import clock, step_metrics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tinkex_actors.clients import TrainingClient
    from tinkex_actors.machines.recovery import RecoveryPolicy
    from tinkex_actors.runs.journal.record import HistoryRow
    from tinkex_actors.runs.logbook import Call, Logbook

__all__ = ["Replay"]

# Not the model's end, although its sequence may be broken: the service's own, or what the program asked for.
_NO_LOSS = (ClosedError, QueuePausedError, RestartsExhaustedError)


class _Asked:
    """One request: how to submit it, the future that the program has, and the one on the present model."""

    __slots__ = ("call", "content", "inner", "kind", "outer", "place", "step")

    def __init__(self, step: int, place: int, kind: str, content: Any, call: Call, outer: ApiFuture[Any]) -> None:
        self.step = step
        self.place = place
        self.kind = kind
        self.content = content
        self.call = call
        self.outer = outer
        self.inner: ApiFuture[Any] | None = None


class _Redone(msgspec.Struct):
    """A committed step that is being done again: its row as it was, and its requests on the new model."""

    row: HistoryRow
    asked: list[_Asked]
    next_seq: int


class Replay:
    """What a run needs to go on by itself.

    Args:
        book: the run.
        policy: attempts and waits.
        go_back: puts the model where the last checkpoint has it, in the book and in the journal.
        checkpoint: the newest checkpoint: its step and path.
    """

    def __init__(
        self,
        book: Logbook,
        policy: RecoveryPolicy,
        *,
        go_back: Callable[[], Awaitable[None]],
        checkpoint: Callable[[], tuple[int, str]],
    ) -> None:
        self._book = book
        self._policy = policy
        self._go_back = go_back
        self._checkpoint = checkpoint
        self._asked: list[_Asked] = []
        self._open: list[_Asked] = []
        self._rows: dict[int, HistoryRow] = {}
        self._redone: deque[_Redone] = deque()
        self._first = 0
        self._lost: TrainingClient | None = None
        self._cause: Exception | None = None
        self._losses = 0
        self._watched: str | None = None
        self._waiters: list[asyncio.Future[None]] = []
        book.core.recovery.follow(policy)

    def begin(self) -> None:
        """Keep what is asked from now on; the model stands where the history ends."""
        self._asked.clear()
        self._open.clear()
        self._rows.clear()
        self._redone.clear()
        self._first = len(self._book.history)
        self._watch()

    def stop(self) -> None:
        """Bring nothing back any more; what waits for it fails with the model's loss."""
        if self._watched is not None:
            self._book.core.recovery.forget(self._watched)
            self._watched = None
        if self._lost is not None and self._cause is not None:
            self._give_up(self._cause)

    def passed(self, step: int, path: str) -> None:
        """A checkpoint stands before ``step``: what was asked before it is not needed any more."""
        self._first = step
        self._asked = [one for one in self._asked if one.step >= step and not one.outer.done()]
        self._rows = {index: row for index, row in self._rows.items() if index >= step}
        if self._watched is not None:
            self._book.core.recovery.saved(self._watched, path)

    def submit(self, step: int, place: int, kind: str, content: Any, call: Call) -> ApiFuture[Any]:
        """Submit a request now, or when the model is back; arguments and errors as of ``Logbook.submit``."""
        outer: ApiFuture[Any] = ApiFuture(kind, loop=self._book.core.loop)
        one = _Asked(step, place, kind, content, call, outer)
        outer.waits_for("the run's model, which is being brought back")
        outer.on_cancel(lambda: one.inner is not None and one.inner.cancel())
        if self._lost is None:
            self._send(one)
        self._asked.append(one)
        self._open.append(one)
        return outer

    async def newest(self, outer: ApiFuture[Any]) -> Any:
        """The result of a request on the present model; of any other future its own."""
        await outer
        one = next((one for one in self._asked if one.outer is outer), None)
        return await (outer if one is None or one.inner is None else one.inner)

    async def came_back(self, error: Exception, epoch: int) -> bool:
        """Whether an error that a sampler of the ``epoch`` raised was the model's end, and the model is back."""
        if not isinstance(error, (NotFoundError, GoneError)):
            return False
        if epoch == self._book.epoch:
            self._lose(error)
        while self._lost is not None:
            waiter: asyncio.Future[None] = self._book.core.loop.create_future()
            self._waiters.append(waiter)
            await waiter
        return epoch != self._book.epoch

    # --- on the present model ----------------------------------------------------------------------------------------
    def _send(self, one: _Asked) -> None:
        try:
            inner = self._book.send(one.step, one.place, one.kind, one.content, one.call)
        except TinkexError as error:
            if not self._is_loss(error):
                raise
            self._lose(error)
            return
        one.inner = inner
        one.outer.ids = inner.ids
        one.outer.waits_for(lambda: inner.record().state)
        inner.add_done_callback(lambda _: self._ended(one, inner))

    def _ended(self, one: _Asked, inner: ApiFuture[Any]) -> None:
        error = inner.peek()
        if one.inner is not inner or self._lost is not None:
            if error is not None:
                inner.exception()  # another model's word: it counts as heard
            return
        if isinstance(error, Exception) and self._is_loss(error):
            inner.exception()
            self._lose(error)
            return
        self._advance()

    def _advance(self) -> None:
        """Commit again, in order, what has been done again; then tell the program what it waits for."""
        while self._redone:
            first = self._redone[0]
            inners = [one.inner for one in first.asked if one.inner is not None]
            if not all(inner.done() for inner in inners):
                return
            if (failed := next((error for inner in inners if (error := inner.peek())), None)) is not None:
                self._give_up(failed)
                return
            self._redone.popleft()
            self._book.commit(_recommitted(first, self._book.epoch))
        ended = [one for one in self._open if one.inner is not None and one.inner.done()]
        self._open = [one for one in self._open if one not in ended]
        for one in ended:
            self._losses = 0
            _pass_on(one)

    # --- on the way to another ---------------------------------------------------------------------------------------
    def _is_loss(self, error: Exception) -> bool:
        if isinstance(error, _NO_LOSS) or self._watched is None:
            return False
        return isinstance(error, (NotFoundError, GoneError)) or is_broken(self._book.training)

    def _lose(self, error: Exception) -> None:
        if self._lost is not None or self._watched is None:
            return
        self._fall_back(error)
        self._losses += 1
        covered = self._first <= self._checkpoint()[0]
        if covered and self._losses <= self._policy.max_attempts:
            self._book.core.recovery.tell(recovery.Lost(self._watched))
            return
        if not covered:
            error.add_note(
                "The run's recovery could not help: the steps since its last checkpoint were done in an earlier "
                "opening, whose data it does not have. Open the run again."
            )
        self._give_up(error)

    def _fall_back(self, error: Exception) -> None:
        self._lost = self._book.training
        self._cause = error
        self._rows.update((row.index, row) for row in self._book.history if row.index >= self._first)
        self._rows.update((step.row.index, step.row) for step in self._redone)
        self._redone.clear()
        self._book.note("model_lost", f"{type(error).__name__}: {error}", len(self._book.history))

    def _watch(self) -> None:
        core, model_id = self._book.core, self._book.training.model_id
        if self._watched is not None:
            core.recovery.forget(self._watched)
        self._watched = model_id
        watch = Watch(restore=self._restore, completed=self._completed, exhausted=self._exhausted)
        core.recovery.watch(
            model_id, watch, core.loop.time(), owner=self._book.folder, checkpoint=self._checkpoint()[1]
        )

    def _restore(self, path: str) -> ApiFuture[TrainingClient]:
        if self._lost is None:  # the server itself calls the model corrupted, or knows nothing of it
            self._fall_back(NotFoundError(f"the server has lost {self._watched}", status_code=404))
        if self._first > self._checkpoint()[0]:
            raise RunError("the steps since the last checkpoint were done in an earlier opening of the run")

        async def run(_: ApiFuture[Any]) -> TrainingClient:
            await self._go_back()
            if len(self._book.history) < self._first:
                raise RunError(f"the checkpoint before step {self._first} is gone; open the run again", path=path)
            return self._book.training

        return self._book.core.courier.send("restore run", run, folder=self._book.folder)

    def _completed(self, client: TrainingClient, path: str) -> None:
        old, self._lost, self._watched = self._lost, None, None
        if old is not None and self._policy.adopt:
            old.adopt(client)
            self._book.training = old
        if self._policy.watch_again:
            self._watch()
        by_step: dict[int, list[_Asked]] = {index: [] for index in sorted(self._rows)}
        for one in self._asked:
            # A checkpoint that was taken is there; whoever cancelled a request did without it.
            if not (one.outer.cancelled() or (one.kind == "save_state" and one.outer.done())):
                by_step.setdefault(one.step, []).append(one)
        for index, asked in sorted(by_step.items()):
            for one in asked:
                self._send_again(one)
            if self._lost is not None:
                return
            if index in self._rows:
                self._redone.append(_Redone(self._rows.pop(index), asked, next_number(self._book.training)))
        self._wake()
        self._advance()

    def _send_again(self, one: _Asked) -> None:
        one.inner = None
        if self._lost is not None:
            return
        try:
            self._send(one)
        except TinkexError as error:
            one.outer.fail(error)

    def _exhausted(self, error: Exception) -> None:
        cause = self._cause or error
        if error is not cause:
            cause.add_note(f"The run could not be brought back: {error}")
        self._give_up(cause)

    def _give_up(self, error: BaseException) -> None:
        """The program is told, as it would have been without a policy."""
        self._lost = None
        self._book.replay = None
        self.stop()
        self._redone.clear()
        waiting, self._open = self._open, []
        for one in waiting:
            one.outer.fail(error)
        self._wake()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


def _pass_on(one: _Asked) -> None:
    inner = one.inner
    assert inner is not None
    error = inner.peek()
    if inner.cancelled():
        one.outer.cancel()
    elif error is None:
        one.outer.resolve(inner.result())
    else:
        # Only when the program looks has it seen the failure: that decides on the optimizer step behind it.
        one.outer.on_seen(inner.exception)
        one.outer.fail(error)


def _recommitted(step: _Redone, epoch: int) -> HistoryRow:
    outputs = [one.inner.result() for one in step.asked if one.kind.startswith("forward_backward") and one.inner]
    update = next((one.inner.result() for one in step.asked if one.kind == "optim_step" and one.inner), None)
    return msgspec.structs.replace(
        step.row,
        metrics=step_metrics(outputs),
        optim_metrics=None if update is None else update.metrics,
        at=clock(),
        next_seq=step.next_seq,
        epoch=epoch,
    )
