"""The tree of one service.

::

    service (one_for_one)
    ├─ core (rest_for_one)
    │  ├─ session       creates, heartbeats
    │  ├─ poller        turns request ids into results
    │  ├─ courier       errands of a few requests
    │  ├─ dispatcher    samples: admission and back-off window
    │  └─ trainers      a sequencer for each model
    ├─ telemetry        under a supervisor of its own: gives up alone
    └─ recovery         the same: watches runs, where the program asks for it
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinkex_actors.actors.courier import Courier, CourierDesk
from tinkex_actors.actors.desk import Desk
from tinkex_actors.actors.dispatcher import Dispatcher, DispatcherDesk
from tinkex_actors.actors.poller import Poller, PollerDesk
from tinkex_actors.actors.recovery import Recovery, RecoveryDesk
from tinkex_actors.actors.sequencer import Sequencer, SequencerDesk
from tinkex_actors.actors.session import Session, SessionDesk
from tinkex_actors.actors.telemetry import Telemetry, TelemetryDesk
from tinkex_actors.runtime import ActorRef, ActorSystem, ChildSpec, DynamicSupervisor, Supervisor, handler

if TYPE_CHECKING:
    from tinkex_actors.actors.ledger import Ledger
    from tinkex_actors.actors.link import Link

__all__ = ["ServiceTree"]


class _TrainersDesk(Desk):
    __slots__ = ("sequencers",)

    def __init__(self) -> None:
        super().__init__()
        self.sequencers: dict[str, SequencerDesk] = {}


def _name(model_id: str) -> str:
    return model_id.replace("/", "_")


class Trainers(DynamicSupervisor):
    """Has a sequencer for every model on its desk, also after its own restart."""

    def __init__(self, desk: _TrainersDesk, link: Link) -> None:
        super().__init__()
        self._desk = desk
        self._link = link

    async def init(self) -> None:
        """Start a sequencer for each model that is known."""
        await super().init()
        self._desk.attend(self.ref.cast.wake)
        await self._start_missing()

    @handler
    async def wake(self) -> None:
        """Start a sequencer for each new model, and stop those of models that are gone."""
        self._desk.answered()
        await self._start_missing()
        names = {_name(model_id) for model_id in self._desk.sequencers}
        for child in list(self.ref.children):
            if child.name not in names:
                await self.stop_child(child.name)

    async def _start_missing(self) -> None:
        for model_id, desk in list(self._desk.sequencers.items()):
            name = _name(model_id)
            if all(child.name != name for child in self.ref.children):
                await self.start_child_of(ChildSpec(Sequencer, (desk, self._link), name=name))


class ServiceTree:
    """Builds the tree around the desks, and takes it down."""

    def __init__(
        self,
        *,
        session: SessionDesk,
        poller: PollerDesk,
        courier: CourierDesk,
        dispatcher: DispatcherDesk,
        telemetry: TelemetryDesk,
        recovery: RecoveryDesk,
        ledger: Ledger,
        link: Link,
    ) -> None:
        self._trainers = _TrainersDesk()
        self._root: ActorRef[Any] | None = None
        core = [
            ChildSpec(Session, (session, link, telemetry, ledger), name="session"),
            ChildSpec(Poller, (poller, link), name="poller"),
            ChildSpec(Courier, (courier,), name="courier"),
            ChildSpec(Dispatcher, (dispatcher, link), name="dispatcher"),
            ChildSpec(Trainers, (self._trainers, link), name="trainers"),
        ]
        self._children = [
            ChildSpec(Supervisor, (core,), {"strategy": "rest_for_one"}, name="core"),
            # Temporary: a telemetry that keeps crashing ends, and nothing else does.
            ChildSpec(
                Supervisor,
                ([ChildSpec(Telemetry, (telemetry, link), name="batcher")],),
                name="telemetry",
                restart="temporary",
            ),
            ChildSpec(
                Supervisor,
                ([ChildSpec(Recovery, (recovery, link), name="monitor")],),
                name="recovery",
                restart="temporary",
            ),
        ]

    async def start(self, system: ActorSystem) -> ActorRef[Any]:
        """Start the tree at the top of a system; several services of one system are numbered."""
        name, number = "service", 1
        while system.whereis(f"/{name}") is not None:
            number += 1
            name = f"service-{number}"
        # Temporary: a service that gives up fails its futures; the system and its other actors live on.
        self._root = await system.spawn(Supervisor, self._children, name=name, restart="temporary")
        return self._root

    async def stop(self) -> None:
        """Stop every actor, right to left."""
        if self._root is not None:
            await self._root.stop()

    @property
    def running(self) -> bool:
        """Whether the tree was started and has not ended."""
        return self._root is not None and self._root.alive

    def trainer(self, model_id: str) -> SequencerDesk | None:
        """The desk of a model that has a sequencer."""
        return self._trainers.sequencers.get(model_id)

    def add_trainer(self, desk: SequencerDesk) -> None:
        """Have a sequencer started for a model."""
        self._trainers.sequencers[desk.model_id] = desk
        self._trainers.ring()

    def remove_trainer(self, model_id: str) -> None:
        """Have the sequencer of a model stopped that is no more; it must have nothing pending."""
        if self._trainers.sequencers.pop(model_id, None) is not None:
            self._trainers.ring()
