"""What a run knows while it is open: its history, and what it has the journal write."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tinkex_actors.clients.inside import next_number
from tinkex_actors.errors import RemoteWireError, RunDivergedError
from tinkex_actors.machines.combining import combine
from tinkex_actors.runs.journal.digests import digest_of
from tinkex_actors.runs.journal.entries import (
    Note,
    OperationEnded,
    OperationSent,
    SampleDrawn,
    StepCommitted,
    StepsWithdrawn,
)
from tinkex_actors.runs.journal.record import HistoryRow
from tinkex_actors.runtime.log import Logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from tinkex_actors.actors.futures import ApiFuture
    from tinkex_actors.clients import TrainingClient
    from tinkex_actors.clients.backbone import Backbone
    from tinkex_actors.runs.journal.keeper import JournalDesk
    from tinkex_actors.runs.journal.record import Record, SentRow
    from tinkex_actors.runs.replay import Replay
    from tinkex_actors.types import ForwardBackwardOutput

    Call = Callable[[TrainingClient], ApiFuture[Any]]

__all__ = ["Logbook", "clock", "step_metrics"]

_log = Logger("tinkex_actors.runs")


def clock() -> str:
    """Return the time of day, as it stands in journals."""
    return datetime.now(UTC).isoformat()


_DIVERGED = (
    "The living model is not what the history says, as the run's last note tells. Open the run again: it goes back to "
    "its last checkpoint."
)


def step_metrics(outputs: list[ForwardBackwardOutput]) -> dict[str, float]:
    """Return the metrics of a step's passes as one; of names that do not say how to add them up, the last ones."""
    if len(outputs) < 2:
        return dict(outputs[0].metrics) if outputs else {}
    try:
        return combine(outputs).metrics
    except RemoteWireError:
        return dict(outputs[-1].metrics)


class Logbook:
    """One opening's view of the journal.

    Args:
        core: the service.
        desk: has entries written.
        record: what the journal said at the opening.
        seed: the run's.
        folder: the run's folder, for messages.

    Attributes:
        epoch: which opening this is; each change of model is another one.
        training: the model's client.
        history: the committed steps.
        samples: what was drawn: by (step, place), its digest and the answer as JSON.
        repeats: requests that the living model may have had before, by their number; each is sent once more.
        diverged: whether a repeated request turned out to differ.
        replay: brings the model back when the server loses it; None where that ends the opening.
    """

    training: TrainingClient

    def __init__(self, core: Backbone, desk: JournalDesk, record: Record, *, seed: int, folder: str) -> None:
        self.core = core
        self.desk = desk
        self.seed = seed
        self.folder = folder
        self.epoch = record.openings[-1].epoch if record.openings else 0
        self.history = record.history
        self.samples = record.samples
        self.repeats: dict[int, SentRow] = {}
        self.diverged = False
        self.replay: Replay | None = None
        self._numbers = itertools.count(1)

    def submit(self, step: int, place: int, kind: str, content: Any, call: Call) -> ApiFuture[Any]:
        """Submit a training request and have the journal know it, its ids and its outcome.

        With a replay, the future outlives the model: should that be lost, it ends with the next one's answer.

        Args:
            step: the step it belongs to.
            place: which one of the step.
            kind: the client method's name.
            content: what it carries.
            call: calls the client that it is given.

        Raises:
            RunDivergedError: the living model had another request under this number.
            RunError: the journal cannot be written.
        """
        if self.replay is not None:
            return self.replay.submit(step, place, kind, content, call)
        return self.send(step, place, kind, content, call)

    def send(self, step: int, place: int, kind: str, content: Any, call: Call) -> ApiFuture[Any]:
        """Submit a training request to the model that there is now; arguments and errors as of :meth:`submit`."""
        self.desk.check()
        repeated = self._repeated(step, kind, content)
        first = next_number(self.training)
        future = call(self.training)
        number = next(self._numbers)
        self.desk.add(
            OperationSent(
                epoch=self.epoch,
                number=number,
                model_id=self.training.model_id,
                step=step,
                place=place,
                kind=kind,
                first_seq=first,
                count=next_number(self.training) - first,
                content=content,
                at=clock(),
            )
        )
        future.add_done_callback(lambda ended: self._ended(number, ended, repeated))
        return future

    def commit(self, row: HistoryRow) -> None:
        """Put a step into the history, and have it written."""
        self.history.append(row)
        self.desk.add(
            StepCommitted(
                step=row.index,
                epoch=row.epoch,
                next_seq=row.next_seq,
                metrics=row.metrics,
                optim_metrics=row.optim_metrics,
                cursor=row.cursor,
                seconds=row.seconds,
                at=row.at,
            )
        )

    def withdraw(self, first: int) -> None:
        """Take the steps from ``first`` on out of the history: they will be done again."""
        if len(self.history) > first:
            del self.history[first:]
            self.desk.add(StepsWithdrawn(first=first))

    def drawn(self, step: int, place: int, digest: str, response: bytes) -> None:
        """Remember what a step drew."""
        self.samples[step, place] = (digest, response)
        self.desk.add(SampleDrawn(step=step, place=place, digest=digest, response=response))

    def note(self, kind: str, text: str, step: int | None = None) -> None:
        """Tell a person something, in the journal and in the log."""
        _log.warning(f"run.{kind}", run=self.folder, step=step, text=text)
        self.desk.add(Note(at=clock(), kind=kind, text=text, step=step))

    def _repeated(self, step: int, kind: str, content: Any) -> SentRow | None:
        """The request that the living model has had under the next number, and is now sent again."""
        if self.diverged:
            raise RunDivergedError(_DIVERGED, path=self.folder)
        expected = self.repeats.pop(next_number(self.training), None) if self.repeats else None
        if expected is None:
            return None
        if (expected.step, expected.kind, expected.digest) != (step, kind, digest_of(content)):
            self.diverged = True
            text = (
                f"{kind} of step {step} is not the request that was sent under number {expected.first_seq} before: "
                f"{expected.kind} of step {expected.step}. A step's data must follow from its index, its seed, the "
                "cursor and what it sampled. Open the run again: it goes back to its last checkpoint."
            )
            self.note("diverged", text, step)
            raise RunDivergedError(text, path=self.folder)
        return expected

    def _ended(self, number: int, future: ApiFuture[Any], repeated: SentRow | None) -> None:
        state, outcome = "cancelled", None
        if not future.cancelled():
            error = future.peek()
            state = "done" if error is None else "failed"
            outcome = getattr(future.result(), "metrics", None) if error is None else str(error)
        requests = list(future.ids.get("request_ids", ()))
        if repeated is not None and repeated.promises and requests and set(repeated.promises) != set(requests):
            self.diverged = True
            text = (
                f"{repeated.kind} of step {repeated.step} was sent again under number {repeated.first_seq}, and the "
                "server took it for another request: it was applied twice. Open the run with reattach=False on this "
                "server, or set Config(resend_training=False)."
            )
            self.note("diverged", text, repeated.step)
        self.desk.add(
            OperationEnded(epoch=self.epoch, number=number, state=state, request_ids=requests, outcome=outcome)
        )
