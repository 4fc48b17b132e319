"""Watches training runs and brings back those that the server has lost. Asks and acts; what to do is the machine's.

An attempt's future lies on the desk, so that a restarted shell waits for the attempt that is under way instead of
making a second one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from tinkex_actors.actors.desk import Desk
from tinkex_actors.errors import APIStatusError, ConfigError, InputError, TinkexError
from tinkex_actors.machines import recovery
from tinkex_actors.redaction import redact
from tinkex_actors.runtime import Actor, handler
from tinkex_actors.runtime.log import Logger
from tinkex_actors.types import GetTrainingRunRequest
from tinkex_actors.wire.routes import ROUTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from tinkex_actors.actors.futures import ApiFuture
    from tinkex_actors.actors.link import Link

__all__ = [
    "Recovery",
    "RecoveryCompleted",
    "RecoveryDesk",
    "RecoveryDetected",
    "RecoveryExhausted",
    "RecoveryFailed",
    "RecoveryLookFailed",
    "RecoveryStarted",
    "Watch",
]

_log = Logger("tinkex_actors.recovery")


class RecoveryDetected(msgspec.Struct, frozen=True, tag="recovery.detected"):
    """A watched run was found to be lost: ``corrupted``, ``404``, ``410``, or ``reported`` by whoever noticed."""

    run_id: str
    reason: str


class RecoveryLookFailed(msgspec.Struct, frozen=True, tag="recovery.look_failed"):
    """The server could not be asked how a run is; it is asked again."""

    run_id: str
    error: str


class RecoveryStarted(msgspec.Struct, frozen=True, tag="recovery.started"):
    """A lost run is being restored from ``checkpoint``, for the ``attempt``-th time."""

    run_id: str
    checkpoint: str
    attempt: int


class RecoveryCompleted(msgspec.Struct, frozen=True, tag="recovery.completed"):
    """A lost run goes on from ``checkpoint`` as ``new_run_id``."""

    run_id: str
    new_run_id: str
    checkpoint: str


class RecoveryFailed(msgspec.Struct, frozen=True, tag="recovery.failed"):
    """An attempt has failed; there may be another."""

    run_id: str
    attempt: int
    error: str


class RecoveryExhausted(msgspec.Struct, frozen=True, tag="recovery.exhausted"):
    """A run stays lost."""

    run_id: str
    attempts: int
    error: str


class Watch:
    """One watched run, as its owner sees it.

    Args:
        restore: makes a new training client of a checkpoint.
        completed: called with the new client and the checkpoint's path.
        exhausted: called with the last error.
    """

    __slots__ = ("attempt", "completed", "error", "exhausted", "path", "pending", "restore")

    def __init__(
        self,
        restore: Callable[[str], ApiFuture[Any]],
        completed: Callable[[Any, str], object],
        exhausted: Callable[[Exception], object],
    ) -> None:
        self.restore = restore
        self.completed = completed
        self.exhausted = exhausted
        self.pending: ApiFuture[Any] | None = None
        self.path = ""
        self.attempt = 0
        self.error: Exception = TinkexError(
            "The run was lost, and no checkpoint of it is known. Save one with save_state."
        )


class RecoveryDesk(Desk):
    """Every watched run, under one policy.

    Attributes:
        state: the machine's.
        watches: the owners, by run.
        news: events that the actor has not taken yet.
    """

    __slots__ = ("_owners", "news", "state", "watches")

    def __init__(self) -> None:
        super().__init__()
        self.state = recovery.Recovery()
        self.watches: dict[str, Watch] = {}
        self.news: list[recovery.Event] = []
        self._owners: dict[str, str] = {}

    def own(self, run_id: str, owner: str) -> None:
        """Have a run watched by its owner alone, who keeps account of its steps."""
        self._owners[run_id] = owner

    def disown(self, run_id: str) -> None:
        """The run belongs to nobody any more."""
        self._owners.pop(run_id, None)

    def follow(self, policy: recovery.RecoveryPolicy) -> None:
        """Set the policy, which is one for all runs of a service.

        Raises:
            ConfigError: runs are watched under another one.
        """
        if self.watches and policy != self.state.policy:
            raise ConfigError(
                f"This service's runs are watched under {self.state.policy!r}, and there can be no second policy: got "
                f"{policy!r}."
            )
        self.state.policy = policy

    def watch(
        self, run_id: str, watch: Watch, now: float, *, owner: str | None = None, checkpoint: str | None = None
    ) -> None:
        """Watch a run from now on.

        Args:
            run_id: the run.
            watch: what its owner wants of it.
            now: the loop's time.
            owner: who watches.
            checkpoint: the newest one, where it is known before the server is asked.

        Raises:
            InputError: it is watched already, or belongs to somebody else.
        """
        belongs = self._owners.get(run_id)
        if belongs not in (None, owner):
            raise InputError(
                f"{run_id} is the model of the durable run {belongs}, which restores it itself and knows which steps "
                "to do again. Pass the policy to DurableRun.open(recovery=...)."
            )
        if run_id in self.watches:
            raise InputError(f"{run_id} is watched already; stop() its WatchedRun first.")
        self.watches[run_id] = watch
        self.state.watch(run_id, now, checkpoint)
        self.ring()

    def saved(self, run_id: str, path: str) -> None:
        """A newer checkpoint of a run is there."""
        run = self.state.runs.get(run_id)
        if run is not None:
            run.checkpoint = path

    def forget(self, run_id: str) -> None:
        """Watch a run no more; an attempt under way is let go."""
        self.watches.pop(run_id, None)
        self.state.forget(run_id)

    def tell(self, event: recovery.Event) -> None:
        """Bring news of a run."""
        self.news.append(event)
        self.ring()


class Recovery(Actor):
    """The shell.

    Args:
        desk: outlives it.
        link: to ask the server.
    """

    def __init__(self, desk: RecoveryDesk, link: Link) -> None:
        self._desk = desk
        self._link = link
        self._alarm: Any = None

    async def init(self) -> None:
        """Go on where the last incarnation stood: looks are asked again, attempts waited for."""
        self._desk.attend(self.ref.cast.wake)
        runs = self._desk.state.runs
        for run_id, watch in list(self._desk.watches.items()):
            run = runs.get(run_id)
            if run is None:
                self._give_up(run_id, watch.attempt)
                continue
            run.looking = False
            if watch.pending is not None:
                self.task(self._wait(run_id, watch, watch.pending), name=f"recovery of {run_id}")
            elif run.phase == "restoring":
                self._desk.tell(recovery.NotRestored(run_id))
        self.ref.cast.wake()

    @handler
    def wake(self) -> None:
        """Take the news, and whatever is due."""
        self._desk.answered()
        news = self._desk.news
        while news:
            self._take(news[0])
            del news[0]
        self._take(recovery.Due())

    def _take(self, event: recovery.Event) -> None:
        runs = self._desk.state.runs
        watched = [run_id for run_id in (_reported(event),) if run_id in runs and runs[run_id].phase == "watched"]
        effects = recovery.step(self._desk.state, event, self.system.now())
        for run_id in watched:
            if run_id not in runs or runs[run_id].phase != "watched":
                self.system.events.publish(RecoveryDetected(run_id, _reason(event)))
        for effect in effects:
            self._perform(effect)

    def _perform(self, effect: recovery.Effect) -> None:
        match effect:
            case recovery.Look(run_id=run_id):
                self.task(self._look(run_id), name=f"look at {run_id}")
            case recovery.Restore():
                self._restore(effect)
            case recovery.GaveUp(run_id=run_id, attempts=attempts):
                self._give_up(run_id, attempts)
            case recovery.WakeAt(instant=instant):
                if self._alarm is not None:
                    self._alarm.cancel()
                self._alarm = self.after(max(0.0, instant - self.system.now()), self.ref.cast.wake)

    async def _look(self, run_id: str) -> None:
        path = {"training_run_id": run_id}
        try:
            run = await self._link.exchange(ROUTES["get_training_run"], GetTrainingRunRequest(), path=path)
        except APIStatusError as error:
            _log.info("run.not_seen", run_id=run_id, status=error.status_code)
            if error.status_code not in (404, 410):
                self.system.events.publish(RecoveryLookFailed(run_id, redact(str(error))))
            self._desk.tell(recovery.Looked(run_id, status=error.status_code))
        except TinkexError as error:
            _log.info("run.not_seen", run_id=run_id, error=str(error))
            self.system.events.publish(RecoveryLookFailed(run_id, redact(str(error))))
            self._desk.tell(recovery.Looked(run_id))
        else:
            newest = run.last_checkpoint.tinker_path if run.last_checkpoint is not None else None
            self._desk.tell(recovery.Looked(run_id, corrupted=run.corrupted, checkpoint=newest))

    def _restore(self, effect: recovery.Restore) -> None:
        run_id, watch = effect.run_id, self._desk.watches[effect.run_id]
        watch.path, watch.attempt = effect.path, effect.attempt
        _log.warning("run.lost", run_id=run_id, checkpoint=effect.path, attempt=effect.attempt)
        self.system.events.publish(RecoveryStarted(run_id, effect.path, effect.attempt))
        try:
            watch.pending = watch.restore(effect.path)
        except TinkexError as error:
            self._failed(run_id, watch, error)
        else:
            self.task(self._wait(run_id, watch, watch.pending), name=f"recovery of {run_id}")

    async def _wait(self, run_id: str, watch: Watch, pending: ApiFuture[Any]) -> None:
        try:
            client = await pending
        except TinkexError as error:
            watch.pending = None
            self._failed(run_id, watch, error)
            return
        watch.pending = None
        if self._desk.watches.get(run_id) is not watch:
            return
        self._desk.watches.pop(run_id)
        self._desk.tell(recovery.Restored(run_id))
        _log.warning("run.restored", run_id=run_id, new_run_id=client.model_id, checkpoint=watch.path)
        self.system.events.publish(RecoveryCompleted(run_id, client.model_id, watch.path))
        _call(watch.completed, client, watch.path)

    def _failed(self, run_id: str, watch: Watch, error: Exception) -> None:
        if self._desk.watches.get(run_id) is not watch:
            return
        watch.error = error
        _log.warning("run.not_restored", run_id=run_id, attempt=watch.attempt, error=str(error))
        self.system.events.publish(RecoveryFailed(run_id, watch.attempt, str(error)))
        self._desk.tell(recovery.NotRestored(run_id))

    def _give_up(self, run_id: str, attempts: int) -> None:
        watch = self._desk.watches.pop(run_id)
        _log.error("run.given_up", run_id=run_id, attempts=attempts, error=str(watch.error))
        self.system.events.publish(RecoveryExhausted(run_id, attempts, str(watch.error)))
        _call(watch.exhausted, watch.error)


def _reported(event: recovery.Event) -> str:
    return event.run_id if isinstance(event, (recovery.Looked, recovery.Lost)) else ""


def _reason(event: recovery.Event) -> str:
    if not isinstance(event, recovery.Looked):
        return "reported"
    return "corrupted" if event.corrupted else str(event.status)


def _call(callback: Callable[..., object], *args: object) -> None:
    """Call the program back; what it raises is its own, and is told to it in the log."""
    try:
        callback(*args)
    except Exception as error:
        _log.error("callback.failed", error=repr(error), exc_info=error)
