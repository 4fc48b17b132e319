"""The actor that drives an engine: works off its jobs, lets time pass for it, and stops with its last user."""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import TYPE_CHECKING, Any

from tinkex_actors.engine.service.cell import EngineCell
from tinkex_actors.engine.store.store import escape
from tinkex_actors.errors import ActorStoppedError, ClosedError, StartFailedError
from tinkex_actors.runtime import Actor, ActorRef, ActorSystem, ChildSpec, ExitReason, Supervisor, handler

if TYPE_CHECKING:
    from tinkex_actors.config import Config

__all__ = ["EngineHost", "EngineLease", "lease"]

# Holes and silent sessions have patiences of a minute and more; seconds do not matter to them.
_SWEEP_INTERVAL = 5.0

# A computation gives up between microbatches and decode chunks; this is for the longest of them on a slow machine.
_STOP_DEADLINE = 30.0

# Seconds that a training step waits for samples at most.
_LONGEST_TURN = 1.0

# The one thread that computes, for all engines of a system: two would only take each other's cores.
_COMPUTE = "engine"


class EngineHost(Actor):
    """Drives one :class:`EngineCell`.

    Args:
        cell: the state; it outlives the incarnation.
    """

    def __init__(self, cell: EngineCell) -> None:
        self._engine = cell

    async def init(self) -> None:
        """Start working."""
        self.task(self._work(), name="jobs")
        self.every(_SWEEP_INTERVAL, self.ref.cast.sweep)

    async def on_stop(self, reason: ExitReason) -> None:
        """End what waits, let the compute thread come to a safe place, and give the store back."""
        if not reason.abnormal:
            self._engine.stop()
            await self.blocking(self._engine.store.close, executor=_COMPUTE)

    @handler
    def state(self) -> EngineCell:
        """Return what it drives."""
        return self._engine

    @handler
    def sweep(self) -> None:
        """Let time pass for the state."""
        self._engine.sweep()

    async def _work(self) -> None:
        engine = self._engine
        if (interrupted := engine.jobs.running) is not None:
            # A crashed incarnation left it. The one compute thread runs first in, first out: when a task behind the job
            # has run, the job has finished, and it must not run twice.
            await self.blocking(_nothing, executor=_COMPUTE)
            if interrupted.finished:
                engine.settle(interrupted)
        elif engine.jobs.decoding:
            await self.blocking(_nothing, executor=_COMPUTE)
            engine.settle_samples()
        turn = 0.0
        while True:
            await engine.jobs.filled()
            # By turns: a step does not wait for the end of long samples, nor samples for the end of training.
            await self._decode(turn)
            if (job := engine.jobs.running or engine.jobs.next()) is not None:
                await self.blocking(job.run, engine.load_core, executor=_COMPUTE)
                engine.settle(job)
                turn = min(job.finished_at - job.started_at, _LONGEST_TURN)

    async def _decode(self, turn: float) -> None:
        """Decode samples for about ``turn`` seconds, a chunk at least; they get as much time as the job before them."""
        engine = self._engine
        until = perf_counter() + turn
        while (admitted := engine.admit()) or engine.jobs.decoding:
            await self.blocking(engine.decode, admitted, executor=_COMPUTE)
            engine.settle_samples()
            if perf_counter() >= until:
                break


class EngineLease:
    """One transport's share in an engine. Made by :func:`lease`.

    Attributes:
        cell: the engine's state.
    """

    def __init__(self, supervisor: ActorRef[Any], cell: EngineCell) -> None:
        self._supervisor = supervisor
        self._held = True
        self.cell = cell
        cell.leases += 1

    async def release(self) -> None:
        """Give the share back; with the last one the engine stops. Idempotent."""
        if self._held:
            self._held = False
            self.cell.leases -= 1
            if self.cell.leases == 0:
                self.cell.closing = True
                await self._supervisor.stop()
                # An engine that gave up had no orderly end: its claim on the store is still there.
                await _close_store(self.cell)


async def lease(name: str, *, system: ActorSystem, config: Config) -> EngineLease:
    """Return a share in the system's engine of that name, starting the engine if there is none.

    An engine that crashes too often ends alone: its pending promises fail, the system goes on.

    Raises:
        ClosedError: the system is stopping.
        StartFailedError: the engine could not be started.
    """
    key = f"engine-{escape(name)}"
    while True:
        supervisor = system.whereis(f"/{key}")
        try:
            if supervisor is None:
                supervisor = await _start(key, EngineCell(name, system=system, config=config))
            # The call waits for an engine that is being started by another request.
            children = await supervisor.call.which_children()
            cell = await children["host"].call.state()
            if not cell.closing:
                return EngineLease(supervisor, cell)
            await asyncio.shield(supervisor.stopped)
        except StartFailedError:
            # Another request may have taken the name in the meantime.
            if system.whereis(f"/{key}") is None:
                raise
        except ActorStoppedError:
            assert supervisor is not None
            await asyncio.shield(supervisor.stopped)


async def _start(key: str, cell: EngineCell) -> ActorRef[Supervisor]:
    spec = ChildSpec(EngineHost, (cell,), name="host", shutdown=_STOP_DEADLINE)
    supervisor = await cell.system.spawn(Supervisor, [spec], name=key, restart="temporary")
    supervisor.stopped.add_done_callback(lambda _: cell.stop())
    return supervisor


async def _close_store(cell: EngineCell) -> None:
    try:
        await cell.system.blocking(cell.store.close, executor=_COMPUTE)
    except ClosedError:
        # The system has stopped, and with it the thread that could be writing.
        cell.store.close()


def _nothing() -> None:
    """Occupy the compute thread for a moment."""
