"""A training run that outlives its processes.

What has happened stands in a journal beside the run; the weights stand in checkpoints on the server. A run that is
opened again goes on where it was: with the model that still lives, or with the last checkpoint and the steps after it
once more, from the same data and seeds. Its history has each step once.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinkex_actors.actors.sequencer.events import QueuePaused, QueueResumed
from tinkex_actors.clients.inside import backbone_of, living_session, next_number
from tinkex_actors.errors import ClosedError, ConfigError, RunError
from tinkex_actors.runs.checkpoints import Checkpoints
from tinkex_actors.runs.command import own_command
from tinkex_actors.runs.interruptions import leaves_the_model
from tinkex_actors.runs.journal.entries import RunClosed, RunOpened
from tinkex_actors.runs.journal.file import JournalFile
from tinkex_actors.runs.journal.keeper import EXECUTOR, JournalDesk, JournalKeeper
from tinkex_actors.runs.lease import Lease
from tinkex_actors.runs.logbook import Logbook, clock
from tinkex_actors.runs.model import Way, attach, begin, keep_alive, restore
from tinkex_actors.runs.replay import Replay
from tinkex_actors.runs.spec import RunSpec, agreed_spec
from tinkex_actors.runs.step import Step
from tinkex_actors.runtime import ActorRef, ChildSpec, Supervisor
from tinkex_actors.runtime.log import Logger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from types import TracebackType

    from tinkex_actors.clients import ServiceClient, TrainingClient
    from tinkex_actors.clients.backbone import Backbone
    from tinkex_actors.machines.recovery import RecoveryPolicy
    from tinkex_actors.runs.journal.record import HistoryRow, Record
    from tinkex_actors.types import LoraConfig

__all__ = ["DurableRun"]

_log = Logger("tinkex_actors.runs")


class DurableRun:
    """A run in a folder. Made by :meth:`open`; an async context manager.

    Leaving the block in order takes a last checkpoint, so that nothing has to be repeated; leaving it by an exception,
    or not at all, loses nothing either: the steps after the last checkpoint are done again.

    Attributes:
        path: the run's folder.
        way: how the run came by its model: ``created``, ``attached`` to the living one, or ``restored``.
    """

    def __init__(
        self,
        path: Path,
        service: ServiceClient,
        asked: RunSpec,
        *,
        keep_last: int,
        reattach: bool,
        recovery: RecoveryPolicy | None,
    ) -> None:
        self.path = path
        self.way: Way = "created"
        self._service = service
        self._asked = asked
        self._keep_last = keep_last
        self._reattach = reattach
        self._recovery = recovery
        self._owned: str | None = None
        self._core: Backbone
        self._lease: Lease | None = None
        self._file = JournalFile(path)
        self._record: Record
        self._spec: RunSpec
        self._desk: JournalDesk | None = None
        self._keeper: ActorRef[Any] | None = None
        self._book: Logbook | None = None
        self._checkpoints: Checkpoints
        self._step: Step | None = None
        self._unsubscribe: Callable[[], None] | None = None

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        service: ServiceClient,
        *,
        model: str | None = None,
        lora: LoraConfig | None = None,
        from_checkpoint: str | None = None,
        keep_last: int = 3,
        seed: int = 0,
        reattach: bool = True,
        recovery: RecoveryPolicy | None = None,
    ) -> DurableRun:
        """Return a run to enter with ``async with``; nothing is read or sent before.

        Args:
            path: the run's folder: a new one begins a run, a known one goes on with it.
            service: where to train.
            model: the base model of a new run; for a known one None, or the same.
            lora: its adapter; default rank 32. A seed of None follows from ``seed``.
            from_checkpoint: begin with this checkpoint's weights and optimizer state instead.
            keep_last: so many checkpoints are kept, 1 or more; older ones are deleted on the server.
            seed: of everything random in a new run; a known run keeps its own.
            reattach: go on with a model that still lives, where the server answers a repeated request with the result
                of the first one, as the hosted service does. False always goes back to the last checkpoint.
            recovery: go on by itself when the server loses the model (404, 410, corrupted, session ended, a request
                lost): a new one is made of the last checkpoint, the requests since then are made again, and the
                program's futures end with those results. It takes memory for the data of the steps since the last
                checkpoint. None: the call fails, and the run goes on when it is opened again.

        Raises:
            ConfigError: ``keep_last`` below 1, or a policy that would go back to anything but the run's own last
                checkpoint with its optimizer.
            RunLockedError: (entering) another living process has the run open.
            JournalDamagedError: (entering) the journal is damaged; the message has the way back.
            RunError: (entering) the folder has another run, or its checkpoints are gone.
        """
        if keep_last < 1:
            raise ConfigError(f"DurableRun.open: keep_last must be 1 or more, got {keep_last}.")
        if recovery is not None and (recovery.checkpoint != "latest" or not recovery.restore_optimizer):
            raise ConfigError(
                "DurableRun.open: recovery must have checkpoint='latest' and restore_optimizer=True: a run goes "
                f"back to its own last checkpoint, whole; got {recovery!r}."
            )
        asked = RunSpec(model=model, lora=lora, from_checkpoint=from_checkpoint, seed=seed)
        return cls(Path(path), service, asked, keep_last=keep_last, reattach=reattach, recovery=recovery)

    # --- what there is -----------------------------------------------------------------------------------------------
    @property
    def training(self) -> TrainingClient:
        """The model's client: for its tokenizer, for saving, for sampling. Train through steps only.

        Raises:
            RunError: the run is not open.
        """
        return self._opened().training

    @property
    def next_index(self) -> int:
        """The number of the step that comes next."""
        return len(self._opened().history)

    @property
    def seed(self) -> int:
        """The run's seed; each step has one of its own, ``step.seed``."""
        return self._opened().seed

    def history(self) -> list[HistoryRow]:
        """The committed steps, each once, in order."""
        return list(self._opened().history)

    # --- its steps ---------------------------------------------------------------------------------------------------
    async def steps(self, total: int, checkpoint_every: int = 50) -> AsyncIterator[Step]:
        """Give the steps that are not committed yet, one after the other.

        Args:
            total: how many steps the run shall have, from its beginning.
            checkpoint_every: a checkpoint is taken after so many steps, and after the last one.

        Raises:
            ConfigError: a number below 1.
            RunError: a step ended without ``optim_step``, or the journal cannot be written.
        """
        if total < 1 or checkpoint_every < 1:
            raise ConfigError(
                f"run.steps: expected total and checkpoint_every of 1 or more, got {total} and {checkpoint_every}."
            )
        book = self._opened()
        await self._prepare(book, checkpoint_every)
        while len(book.history) < total:
            index = len(book.history)
            if index % checkpoint_every == 0:
                await self._checkpoints.take()
            self._step = Step(book, index, book.history[-1].cursor if book.history else self._checkpoints.cursor)
            yield self._step
            await self._step.settled()
            book.desk.check()
        await self._checkpoints.take()

    async def _prepare(self, book: Logbook, checkpoint_every: int) -> None:
        """See that the model stands where the history ends."""
        torn = book.diverged or (self._step is not None and self._step.touched)
        # Requests behind the last commit are sent again in the same order, and checkpoints are among them.
        moved = bool(book.repeats) and self._record.checkpoint_every != checkpoint_every
        if torn or moved:
            self._step = None
            await self._restore(book)
        if self._record.checkpoint_every != checkpoint_every:
            self._record.checkpoint_every = checkpoint_every
            await self._core.system.blocking(self._file.begin, self._spec, checkpoint_every, executor=EXECUTOR)

    # --- opening -----------------------------------------------------------------------------------------------------
    async def __aenter__(self) -> DurableRun:
        if self._lease is not None:
            raise RunError(f"The run {self.path} is open already in this program.", path=str(self.path))
        self._core = backbone_of(self._service)
        await self._core.session.ready()
        try:
            await self._enter()
        except BaseException as error:
            await self._leave(type(error).__name__)
            raise
        return self

    async def _enter(self) -> None:
        system = self._core.system
        self._lease = await system.blocking(Lease, self.path, executor=EXECUTOR)
        record = self._record = await system.blocking(self._file.open, executor=EXECUTOR)
        known = record.spec
        spec = self._spec = agreed_spec(self._asked, known, str(self.path))
        if known is None:
            await system.blocking(self._file.begin, spec, None, executor=EXECUTOR)
        desk = self._desk = JournalDesk(self._file, self._core.loop)
        await self._start_keeper(desk)
        book = Logbook(self._core, desk, record, seed=spec.seed, folder=str(self.path))
        self._checkpoints = Checkpoints(book, record.checkpoints, keep_last=self._keep_last)
        if (dead := self._lease.predecessor) is not None:
            _log.info("run.taken_over", run=str(self.path), owner=str(dead))
        if self._recovery is not None:
            book.replay = Replay(
                book, self._recovery, go_back=lambda: self._go_back(book), checkpoint=lambda: self._newest(spec)
            )
        living = await attach(book, record, allowed=self._reattach)
        if living is not None:
            book.training, self.way = living, "attached"
            self._opening(book, record.openings[-1].session_id)
            self._begin_replay(book)
        else:
            await self._restore(book)
        self._unsubscribe = self._core.system.events.subscribe(self._queue_told, QueuePaused, QueueResumed)
        self._book = book

    def _queue_told(self, event: QueuePaused | QueueResumed) -> None:
        """Put the server's pauses into the run's notes."""
        book = self._book
        if book is not None and event.model_id == book.training.model_id:
            paused = isinstance(event, QueuePaused)
            text = (
                f"{event.queue_state}: {event.reason}"
                if isinstance(event, QueuePaused)
                else f"after {event.seconds:.0f} s"
            )
            book.note("queue_paused" if paused else "queue_resumed", text, len(book.history))

    def _newest(self, spec: RunSpec) -> tuple[int, str]:
        """The step and the path of the newest checkpoint; those of the beginning where there is none."""
        kept = self._checkpoints.kept
        return (kept[-1].step, kept[-1].path) if kept else (0, spec.from_checkpoint or "the run's beginning")

    def _begin_replay(self, book: Logbook) -> None:
        if book.replay is not None:
            book.replay.begin()

    async def _restore(self, book: Logbook) -> None:
        """Put the model where the last checkpoint, or the beginning, has it; the program does the steps after it."""
        await self._go_back(book)
        self._begin_replay(book)

    async def _go_back(self, book: Logbook) -> None:
        await living_session(self._core)
        book.repeats.clear()
        book.diverged = False
        found = await restore(book, self._checkpoints)
        if found is None:
            book.training, self.way = await begin(book, self._spec), "created"
        else:
            book.training, self.way = found, "restored"
        book.withdraw(self._checkpoints.step)
        self._opening(book, str(self._core.session.session_id))

    def _opening(self, book: Logbook, session_id: str) -> None:
        command, folder = own_command()
        book.epoch += 1
        self._own(book.training.model_id)
        book.desk.beat = keep_alive(self._core, session_id)
        _log.info("run.opened", run=str(self.path), way=self.way, step=len(book.history), epoch=book.epoch)
        book.desk.add(
            RunOpened(
                epoch=book.epoch,
                at=clock(),
                pid=os.getpid(),
                host=socket.gethostname(),
                command=command,
                folder=folder,
                way=self.way,
                base_url=self._core.config.shown_url,
                session_id=session_id,
                model_id=book.training.model_id,
                first_step=len(book.history),
                next_seq=next_number(book.training),
            )
        )

    def _own(self, model_id: str | None) -> None:
        """Let nobody else bring this model back, and whoever wants the one before."""
        if self._owned is not None:
            self._core.recovery.disown(self._owned)
        self._owned = model_id
        if model_id is not None:
            self._core.recovery.own(model_id, str(self.path))

    async def _start_keeper(self, desk: JournalDesk) -> None:
        spec = ChildSpec(JournalKeeper, (desk,), name="journal")
        # Temporary, under a supervisor of its own: a keeper that keeps crashing ends this run, and nothing else.
        keeper = await self._core.system.spawn(Supervisor, [spec], restart="temporary")
        keeper.stopped.add_done_callback(
            lambda _: desk.failed(RunError(f"The journal's actor of {self.path} has ended.", path=str(self.path)))
        )
        self._keeper = keeper

    # --- closing -----------------------------------------------------------------------------------------------------
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ending = "closed" if kind is None else kind.__name__
        if error is not None and leaves_the_model(error):
            self._core.session.kept = True
        try:
            if kind is None and self._stands_at_a_commit():
                await self._checkpoints.take()
        finally:
            await self._leave("diverged" if self._book is not None and self._book.diverged else ending)

    def _stands_at_a_commit(self) -> bool:
        """Whether the model is what the history says: nothing was done to it behind the last commit."""
        book = self._opened()
        return not (book.diverged or book.repeats or (self._step is not None and self._step.touched))

    async def _leave(self, ending: str) -> None:
        """Give everything back; what is missing was never taken."""
        book, self._book = self._book, None
        desk, self._desk = self._desk, None
        try:
            if desk is not None and book is not None and desk.failure is None:
                await self._checkpoints.tidied()
                desk.add(RunClosed(epoch=book.epoch, at=clock(), ending=ending))
                await desk.flush()
        finally:
            if book is not None and book.replay is not None:
                book.replay.stop()
            self._own(None)
            if self._unsubscribe is not None:
                self._unsubscribe()
            if self._keeper is not None:
                await self._keeper.stop()
            await self._close_file()
            if self._lease is not None:
                self._lease.release()
                self._lease = None

    async def _close_file(self) -> None:
        try:
            await self._core.system.blocking(self._file.close, executor=EXECUTOR)
        except ClosedError:  # the system was stopped under the run
            self._file.close()

    def _opened(self) -> Logbook:
        if self._book is None:
            raise RunError(
                f"The run {self.path} is not open. Use it inside `async with DurableRun.open(...) as run:`.",
                path=str(self.path),
            )
        return self._book

    def __repr__(self) -> str:
        state = "closed" if self._book is None else f"{self.way}, step {len(self._book.history)}"
        return f"<DurableRun {self.path} {state}>"
