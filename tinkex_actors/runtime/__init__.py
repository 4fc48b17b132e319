"""Supervised actors on one asyncio loop: OTP's semantics in Python's idiom. Knows nothing of Tinker.

::

    class Counter(Actor):
        def __init__(self) -> None:
            self.total = 0

        @handler
        def add(self, amount: int) -> int:
            self.total += amount
            return self.total

    async with ActorSystem() as system:
        counter = await system.spawn(Counter, restart="transient")
        counter.cast.add(1)
        print(await counter.call.add(2))

``docs/explanation/runtime-semantics.md`` lists what is guaranteed and what is not.
"""

from __future__ import annotations

from tinkex_actors.runtime._core.restarts import Backoff
from tinkex_actors.runtime.actor import Actor, Reject, handler
from tinkex_actors.runtime.child_spec import ChildSpec, Mailbox, RestartPolicy
from tinkex_actors.runtime.debugging import StrayTask
from tinkex_actors.runtime.events import (
    ActorCrashed,
    ActorRestarted,
    ActorStarted,
    ActorStopped,
    DeadLetter,
    DidNotStop,
    Event,
    EventHub,
    HandlerBlocked,
    Poisoned,
    Rejected,
    SupervisorGaveUp,
)
from tinkex_actors.runtime.exits import (
    Abandoned,
    Crashed,
    Down,
    ExitReason,
    Killed,
    NoActor,
    Normal,
    Restarted,
    Shutdown,
    StopReport,
)
from tinkex_actors.runtime.introspection import ActorLoad, Explanation, Situation, Top
from tinkex_actors.runtime.ref import ActorRef
from tinkex_actors.runtime.registry import Registry
from tinkex_actors.runtime.script import run
from tinkex_actors.runtime.statistics import ActorStatistics, ActorTree
from tinkex_actors.runtime.supervisor import DynamicSupervisor, PartitionSupervisor, Supervisor, TaskSupervisor
from tinkex_actors.runtime.system import ActorSystem, DeadLetters, LostMessage
from tinkex_actors.runtime.timers import Timer

__all__ = [
    "Abandoned",
    "Actor",
    "ActorCrashed",
    "ActorLoad",
    "ActorRef",
    "ActorRestarted",
    "ActorStarted",
    "ActorStatistics",
    "ActorStopped",
    "ActorSystem",
    "ActorTree",
    "Backoff",
    "ChildSpec",
    "Crashed",
    "DeadLetter",
    "DeadLetters",
    "DidNotStop",
    "Down",
    "DynamicSupervisor",
    "Event",
    "EventHub",
    "ExitReason",
    "Explanation",
    "HandlerBlocked",
    "Killed",
    "LostMessage",
    "Mailbox",
    "NoActor",
    "Normal",
    "PartitionSupervisor",
    "Poisoned",
    "Registry",
    "Reject",
    "Rejected",
    "RestartPolicy",
    "Restarted",
    "Shutdown",
    "Situation",
    "StopReport",
    "StrayTask",
    "Supervisor",
    "SupervisorGaveUp",
    "TaskSupervisor",
    "Timer",
    "Top",
    "handler",
    "run",
]
