"""One step of a run: its requests, and the moment from which it counts."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import msgspec

from tinkex_actors.actors.futures import ApiFuture
from tinkex_actors.clients.inside import next_number
from tinkex_actors.errors import InputError, RunError, TinkexError
from tinkex_actors.runs.journal.digests import digest_of
from tinkex_actors.runs.journal.entries import json_text
from tinkex_actors.runs.journal.record import HistoryRow
from tinkex_actors.runs.logbook import Logbook, clock, step_metrics
from tinkex_actors.runs.spec import derived_seed
from tinkex_actors.types import SamplingParams
from tinkex_actors.wire.client import decode_poll
from tinkex_actors.wire.dialect import JSON
from tinkex_actors.wire.exchange import Response
from tinkex_actors.wire.routes import ROUTES
from tinkex_actors.wire.server import encode_result

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tinkex_actors.clients import SamplingClient
    from tinkex_actors.clients.custom_loss import CustomLoss
    from tinkex_actors.runs.logbook import Call
    from tinkex_actors.types import (
        Datum,
        ForwardBackwardOutput,
        ModelInput,
        OptimParams,
        OptimStepResponse,
        SampleResponse,
    )

__all__ = ["Step"]

_POLICY = "save_weights_and_get_sampling_client"


class Step:
    """One step. Its requests are those of the training client, and are journaled; ``optim_step`` commits it.

    What a step does must follow from its ``index``, its ``seed``, the ``cursor`` it finds, and what it sampled: then a
    step that is repeated after a crash is the same step.

    Attributes:
        index: its number in the run, from 0.
        seed: 63 bits, different for each step, the same in every repetition.
    """

    def __init__(self, book: Logbook, index: int, cursor: Any) -> None:
        self.index = index
        self.seed = derived_seed(book.seed, index)
        self._book = book
        self._cursor = cursor
        self._began = book.core.loop.time()
        self._places = 0
        self._draws = 0
        self._passes: list[ApiFuture[ForwardBackwardOutput]] = []
        self._policy: ApiFuture[SamplingClient] | None = None
        self._update: ApiFuture[OptimStepResponse] | None = None
        self._committed = False
        self._settled: asyncio.Future[None] = book.core.loop.create_future()

    # --- what the program finds ---------------------------------------------------------------------------------------
    @property
    def cursor(self) -> Any:
        """The program's own place in its data: what it was set to last, in this step or in one that is committed.

        Anything JSON can hold; None at the run's beginning. It is kept with the step, when the step commits.
        """
        return self._cursor

    @cursor.setter
    def cursor(self, value: Any) -> None:
        try:
            json_text(value)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"step {self.index}: cursor must be something JSON can hold, such as a number or a list ({error})."
            ) from None
        self._cursor = value

    @property
    def rng(self) -> random.Random:
        """A generator with this step's seed; each access gives a new one."""
        return random.Random(self.seed)

    @property
    def committed(self) -> bool:
        """Whether the step counts: its optimizer step is confirmed, or it was skipped."""
        return self._committed

    # --- what it does ------------------------------------------------------------------------------------------------
    def forward_backward(
        self, data: Iterable[Datum], loss_fn: str, loss_fn_config: Mapping[str, float | str] | None = None
    ) -> ApiFuture[ForwardBackwardOutput]:
        """As :meth:`TrainingClient.forward_backward`; more than one add up, as there."""
        batch = list(data)
        return self._pass(
            "forward_backward",
            [*batch, loss_fn, sorted((loss_fn_config or {}).items())],
            lambda training: training.forward_backward(batch, loss_fn, loss_fn_config),
        )

    def forward_backward_custom(self, data: Iterable[Datum], loss_fn: CustomLoss) -> ApiFuture[ForwardBackwardOutput]:
        """As :meth:`TrainingClient.forward_backward_custom`: with a loss of your own, the same in every repetition."""
        batch = list(data)
        name = getattr(loss_fn, "__qualname__", type(loss_fn).__name__)
        return self._pass(
            "forward_backward_custom",
            [*batch, name],
            lambda training: training.forward_backward_custom(batch, loss_fn),
        )

    def optim_step(self, optim_params: OptimParams) -> ApiFuture[OptimStepResponse]:
        """As :meth:`TrainingClient.optim_step`; when it is confirmed, the step is committed.

        Raises:
            RunError: the step has had its optimizer step, or was skipped.
        """
        self._open("optim_step")
        update = self._update = self._submit(
            "optim_step", [optim_params], lambda training: training.optim_step(optim_params)
        )
        # Of whichever model has done it in the end.
        self._when_settled([*self._passes, update], lambda: self._commit(max(update.ids.get("seq_ids", (0,))) + 1))
        return update

    def skip(self) -> None:
        """Commit the step without an optimizer step, where there was nothing to learn.

        Raises:
            RunError: it has had a ``forward_backward``, whose gradient would go into the next step.
        """
        self._open("skip")
        if self._passes:
            raise RunError(
                f"step {self.index}: skip() after forward_backward would leave its gradient to the next step. "
                "Call optim_step.",
                path=self._book.folder,
            )
        self._commit(next_number(self._book.training))

    def sample(
        self,
        prompt: ModelInput,
        num_samples: int = 1,
        sampling_params: SamplingParams | None = None,
        *,
        sampler: SamplingClient | None = None,
        **scoring: Any,
    ) -> ApiFuture[SampleResponse]:
        """Draw continuations, once: a step that is repeated is given what it drew the first time.

        Args:
            prompt: what to continue.
            num_samples: independent continuations.
            sampling_params: how. A seed of None becomes one that follows from the step.
            sampler: whom to ask; None asks the model as it is when the step first samples, before its update.
            scoring: the other arguments of :meth:`SamplingClient.sample`.
        """
        self._open("sample")
        place, self._draws = self._draws, self._draws + 1
        params = sampling_params or SamplingParams()
        if params.seed is None:
            params = msgspec.structs.replace(params, seed=derived_seed(self._book.seed, self.index, place) >> 32)
        digest = digest_of([prompt, params, num_samples, sorted(scoring.items())])
        found = self._recorded(place, digest)
        if sampler is None and (found is None or self._had_policy()):
            self._find_policy()
        if found is not None:
            future: ApiFuture[SampleResponse] = ApiFuture("sample", loop=self._book.core.loop)
            future.resolve(found)
            return future
        asked = self._policy if sampler is None else sampler

        async def draw(future: ApiFuture[Any]) -> SampleResponse:
            while True:
                epoch, replay = self._book.epoch, self._book.replay
                try:
                    client = await self._sampler(asked)
                    drawn = client.sample(prompt, num_samples, params, **scoring)
                    future.waits_for(lambda drawn=drawn: drawn.record().state)  # type: ignore[misc]
                    response = await drawn
                    break
                except TinkexError as error:
                    if sampler is not None or replay is None or not await replay.came_back(error, epoch):
                        raise
            self._book.drawn(self.index, place, digest, _packed(response))
            # Before the program can train on it: else a process that is killed now would draw again, and send other
            # data under a number that the server may have answered already.
            await self._book.desk.flush()
            return response

        return self._book.core.courier.send("sample", draw, step=self.index, place=place)

    async def settled(self) -> None:
        """Wait until the step is committed.

        Raises:
            RunError: it has had no ``optim_step``; and what its ``optim_step`` failed with.
        """
        if self._update is None and not self._committed:
            raise RunError(
                f"step {self.index} ended without optim_step, so it does not count. Call step.optim_step(...), or "
                "step.skip() where there was nothing to learn.",
                path=self._book.folder,
            )
        if not self._committed:
            await self._settled
        if self._update is not None:
            await self._update

    @property
    def touched(self) -> bool:
        """Whether the model was asked for anything that a commit has to conclude."""
        return bool(self._passes or self._update is not None) and not self._committed

    async def _sampler(self, asked: SamplingClient | ApiFuture[SamplingClient] | None) -> SamplingClient:
        assert asked is not None
        if not isinstance(asked, ApiFuture):
            return asked
        replay = self._book.replay
        return await asked if replay is None else await replay.newest(asked)

    # --- inside ------------------------------------------------------------------------------------------------------
    def _open(self, operation: str) -> None:
        if self._update is not None or self._committed:
            raise RunError(
                f"step {self.index}: {operation} after the step's optim_step. It belongs into the next step.",
                path=self._book.folder,
            )

    def _pass(self, kind: str, content: Any, call: Call) -> ApiFuture[ForwardBackwardOutput]:
        self._open(kind)
        future = self._submit(kind, content, call)
        self._passes.append(future)
        return future

    def _submit(self, kind: str, content: Any, call: Call) -> ApiFuture[Any]:
        place, self._places = self._places, self._places + 1
        return self._book.submit(self.index, place, kind, content, call)

    def _recorded(self, place: int, digest: str) -> SampleResponse | None:
        known = self._book.samples.get((self.index, place))
        if known is None:
            return None
        if known[0] != digest:
            self._book.note(
                "diverged",
                f"sample {place} of step {self.index} asks for something else than before, so it is drawn again",
                self.index,
            )
            return None
        return _unpacked(known[1])

    def _had_policy(self) -> bool:
        # A living model counts this request among those it has had, so it has to be sent again.
        return any(row.step == self.index and row.kind == _POLICY for row in self._book.repeats.values())

    def _find_policy(self) -> None:
        if self._policy is None:
            self._policy = self._submit(_POLICY, [], lambda training: training.save_weights_and_get_sampling_client())

    def _when_settled(self, futures: list[ApiFuture[Any]], then: Any) -> None:
        left = len(futures)

        def one(_: ApiFuture[Any]) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                then()

        for future in futures:
            future.add_done_callback(one)

    def _commit(self, next_seq: int) -> None:
        update = self._update
        if update is None or not (update.cancelled() or update.peek()):
            outputs = [done.result() for done in self._passes if not (done.cancelled() or done.peek())]
            self._committed = True
            self._book.commit(
                HistoryRow(
                    index=self.index,
                    metrics=step_metrics(outputs),
                    optim_metrics=None if update is None else update.result().metrics,
                    cursor=self._cursor,
                    seconds=self._book.core.loop.time() - self._began,
                    at=clock(),
                    next_seq=next_seq,
                    epoch=self._book.epoch,
                )
            )
        if not self._settled.done():
            self._settled.set_result(None)

    def __repr__(self) -> str:
        return f"<Step {self.index}{' committed' if self._committed else ''}>"


class _Drawn(msgspec.Struct):
    """An answer as it is kept: the wire's JSON, and the names of its sequences, which travel apart from it."""

    sequence_ids: list[str]
    answer: msgspec.Raw


def _packed(response: SampleResponse) -> bytes:
    body = encode_result(ROUTES["asample"], response, "").body
    return msgspec.json.encode(_Drawn([each.sequence_id for each in response.sequences], msgspec.Raw(body)))


def _unpacked(kept: bytes) -> SampleResponse:
    drawn = msgspec.json.decode(kept, type=_Drawn)
    answer: Any = decode_poll(ROUTES["asample"], Response(200, {}, bytes(drawn.answer)), JSON)
    response: SampleResponse = answer.result
    named = [
        msgspec.structs.replace(sequence, sequence_id=name)
        for sequence, name in zip(response.sequences, drawn.sequence_ids, strict=True)
    ]
    return msgspec.structs.replace(response, sequences=named)
