"""Training runs that come back: what a program holds of a run that is watched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinkex_actors.actors.recovery import Watch
from tinkex_actors.machines import recovery

if TYPE_CHECKING:
    from collections.abc import Callable

    from tinkex_actors.actors.futures import ApiFuture
    from tinkex_actors.clients.backbone import Backbone
    from tinkex_actors.clients.training import TrainingClient
    from tinkex_actors.machines.recovery import RecoveryPolicy

    OnRecovery = Callable[[TrainingClient, TrainingClient, str], object]
    OnFailure = Callable[[str, Exception], object]

__all__ = ["WatchedRun"]


class WatchedRun:
    """A training run that is restored from its newest checkpoint when the server loses it.

    Made by ``ServiceClient.watch``. A restored run is a run of its own on the server, with an id of its own; what was
    trained after the checkpoint is gone, and is for the program to do again.

    Attributes:
        training: the client to train with now.
        checkpoint: where the last recovery went back to; None before the first.
        recoveries: how often the run was restored.
        error: why it was given up, or None.
    """

    def __init__(
        self,
        core: Backbone,
        training: TrainingClient,
        policy: RecoveryPolicy,
        *,
        restore: Callable[[str, bool], ApiFuture[TrainingClient]],
        on_recovery: OnRecovery | None,
        on_failure: OnFailure | None,
    ) -> None:
        self._core = core
        self._policy = policy
        self._restore = restore
        self._on_recovery = on_recovery
        self._on_failure = on_failure
        self.training = training
        self.checkpoint: str | None = None
        self.recoveries = 0
        self.error: Exception | None = None
        self._watch()

    def report_lost(self) -> None:
        """Say that the server has lost the run, as an error told the program: nobody waits for the next look."""
        self._core.use().recovery.tell(recovery.Lost(self.training.model_id))

    def stop(self) -> None:
        """Watch it no more; a recovery under way is let go."""
        self._core.recovery.forget(self.training.model_id)

    def _watch(self) -> None:
        watch = Watch(
            restore=lambda path: self._restore(path, self._policy.restore_optimizer),
            completed=self._completed,
            exhausted=self._exhausted,
        )
        self._core.use().recovery.watch(self.training.model_id, watch, self._core.loop.time())

    def _completed(self, client: TrainingClient, path: str) -> None:
        old = self.training
        self.checkpoint = path
        self.recoveries += 1
        if self._policy.adopt:
            old.adopt(client)
        else:
            self.training = client
        if self._policy.watch_again:
            self._watch()
        if self._on_recovery is not None:
            self._on_recovery(old, client, path)

    def _exhausted(self, error: Exception) -> None:
        self.error = error
        if self._on_failure is not None:
            self._on_failure(self.training.model_id, error)

    def __repr__(self) -> str:
        state: Any = "given up" if self.error is not None else f"{self.recoveries} recoveries"
        return f"<WatchedRun {self.training.model_id}, {state}>"
