"""Actors whose job is other actors: static, dynamic and partitioned supervisors, and one for tasks."""

from __future__ import annotations

import asyncio
import math
import zlib
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ClassVar, Literal

import msgspec

from tinkex_actors.errors import ConfigError, StartFailedError
from tinkex_actors.runtime._core.children import Children
from tinkex_actors.runtime._core.restarts import AutoShutdown, Backoff, Policy, Strategy
from tinkex_actors.runtime.actor import Actor, Reject, handler
from tinkex_actors.runtime.child_spec import ChildSpec
from tinkex_actors.runtime.exits import ExitReason, Shutdown
from tinkex_actors.runtime.ref import ActorRef

__all__ = ["DynamicSupervisor", "PartitionSupervisor", "Supervisor", "TaskSupervisor"]


class Supervisor(Actor):
    """Starts a fixed list of children left to right, restarts them by a strategy, stops them right to left.

    A child that fails to start undoes the earlier ones and fails the supervisor's own start. Over the limit the
    supervisor stops its children and exits ``Shutdown(RestartsExhaustedError)``; its own parent decides what follows.
    When a supervisor restarts, its children are new actors: look them up again with ``ref.child(name)``.

    Args:
        children: specs, in start order.
        strategy: ``one_for_one``, ``one_for_all`` or ``rest_for_one``.
        max_restarts: restarts of all children together allowed within ``max_seconds``.
        max_seconds: length of the window.
        backoff: None restarts at once.
        auto_shutdown: ``any_significant`` or ``all_significant`` ends the supervisor with its significant children.

    Raises:
        ConfigError: an option that cannot be, or two children of one name.
    """

    default_shutdown: ClassVar[float] = math.inf
    supervises: ClassVar[bool] = True

    def __init__(
        self,
        children: Sequence[ChildSpec] = (),
        *,
        strategy: Strategy = "one_for_one",
        max_restarts: int = 3,
        max_seconds: float = 5.0,
        backoff: Backoff | None = None,
        auto_shutdown: AutoShutdown = "never",
    ) -> None:
        self._specs = tuple(children)
        names = [spec.name for spec in self._specs if spec.name is not None]
        if len(set(names)) != len(names):
            raise ConfigError(f"Each child of a supervisor needs a name of its own, got {names}.")
        self._policy = Policy(
            strategy=strategy,
            max_restarts=max_restarts,
            max_seconds=max_seconds,
            backoff=backoff,
            auto_shutdown=auto_shutdown,
        )

    async def init(self) -> None:
        """Start the children."""
        family = self._cell.family = Children(self._cell, self._policy)
        for spec in self._specs:
            await family.start(spec)

    @handler
    def which_children(self) -> dict[str, ActorRef[Any]]:
        """Return the children by name, in start order."""
        family = self._cell.family
        return dict(family.cells) if family is not None else {}


class DynamicSupervisor(Actor):
    """Starts children on demand, each supervised alone; restarts are counted for each child alone.

    Args:
        max_children: children allowed at a time; None for no limit.
        max_restarts: restarts of one child allowed within ``max_seconds``.
        max_seconds: length of the window.
        backoff: None restarts at once.
        exhausted: what follows when a child is over the limit: ``escalate`` ends the supervisor (OTP), ``remove`` only
            the child, whose ``stopped`` future then has ``Shutdown(RestartsExhaustedError)``.
    """

    default_shutdown: ClassVar[float] = math.inf
    supervises: ClassVar[bool] = True

    def __init__(
        self,
        *,
        max_children: int | None = None,
        max_restarts: int = 3,
        max_seconds: float = 5.0,
        backoff: Backoff | None = None,
        exhausted: Literal["escalate", "remove"] = "escalate",
    ) -> None:
        if max_children is not None and max_children < 0:
            raise ConfigError(f"max_children= must be 0 or more, or None, got {max_children!r}.")
        if exhausted not in ("escalate", "remove"):
            raise ConfigError(f"exhausted= must be 'escalate' or 'remove', got {exhausted!r}.")
        self._max_children = max_children
        self._policy = Policy(
            max_restarts=max_restarts,
            max_seconds=max_seconds,
            backoff=backoff,
            per_child=True,
            remove_exhausted=exhausted == "remove",
        )

    async def init(self) -> None:
        """Make room for children."""
        self._cell.family = Children(self._cell, self._policy)

    @handler(raises=StartFailedError)
    async def start_child(self, spec: ChildSpec) -> ActorRef[Any]:
        """Start a child; return its ref once its ``init`` is done.

        Raises:
            StartFailedError: its start failed, its name is taken, or ``max_children`` are there already.
        """
        family = self._cell.family
        assert family is not None
        if self._max_children is not None and len(family.cells) >= self._max_children:
            raise StartFailedError(
                f"{self.ref.path} has {len(family.cells)} children and allows {self._max_children}; stop one first.",
                actor=self.ref.path,
            )
        return await family.start(spec)

    @handler
    async def stop_child(self, name: str, reason: ExitReason | None = None) -> bool:
        """Stop a child for good and wait for its end; return whether there was one."""
        family = self._cell.family
        child = family.cells.get(name) if family is not None else None
        if child is None:
            return False
        child.request_stop(reason if reason is not None else Shutdown("stopped"))
        await asyncio.shield(child.stopped)
        return True

    @handler
    def which_children(self) -> dict[str, ActorRef[Any]]:
        """Return the children by name, in start order."""
        family = self._cell.family
        return dict(family.cells) if family is not None else {}


class PartitionSupervisor(Actor):
    """Runs the same child several times and maps keys to them, always the same key to the same partition.

    Args:
        spec: the child; its name is replaced by the partition's number.
        partitions: how many, 1 or more.
        max_restarts: restarts of all partitions together allowed within ``max_seconds``.
        max_seconds: length of the window.
    """

    default_shutdown: ClassVar[float] = math.inf
    supervises: ClassVar[bool] = True

    def __init__(self, spec: ChildSpec, partitions: int, *, max_restarts: int = 3, max_seconds: float = 5.0) -> None:
        if partitions < 1:
            raise ConfigError(f"partitions= must be 1 or more, got {partitions!r}.")
        self._specs = [msgspec.structs.replace(spec, name=str(number)) for number in range(partitions)]
        self._policy = Policy(max_restarts=max_restarts, max_seconds=max_seconds)

    async def init(self) -> None:
        """Start the partitions."""
        family = self._cell.family = Children(self._cell, self._policy)
        for spec in self._specs:
            await family.start(spec)

    @handler(raises=ConfigError)
    def partition(self, key: str | int | bytes) -> ActorRef[Any]:
        """Return the partition of a key, the same in every process (integers modulo, the rest by CRC-32)."""
        number = key if isinstance(key, int) else zlib.crc32(key.encode() if isinstance(key, str) else key)
        return self.ref.child(str(number % len(self._specs)))


class TaskSupervisor(Actor):
    """Runs coroutine functions whose failures are their own: nothing restarts, nobody else crashes.

    Args:
        max_tasks: tasks allowed at a time; None for no limit.
    """

    default_shutdown: ClassVar[float] = 5.0

    def __init__(self, max_tasks: int | None = None) -> None:
        self._max_tasks = max_tasks
        self._running: dict[asyncio.Task[Any], None] = {}

    @handler
    def start_task(
        self, function: Callable[..., Coroutine[Any, Any, Any]], /, *args: Any, **kwargs: Any
    ) -> asyncio.Future[Any]:
        """Start ``function(*args, **kwargs)`` and return a future of its result or exception.

        The task is cancelled when the supervisor stops. Cancelling the future cancels the task.

        Raises:
            StartFailedError: ``max_tasks`` are running.
        """
        if self._max_tasks is not None and len(self._running) >= self._max_tasks:
            raise Reject(
                StartFailedError(f"{self.ref.path} runs {len(self._running)} tasks, its limit.", actor=self.ref.path)
            )
        outcome: asyncio.Future[Any] = self.system.loop.create_future()
        task = self.task(_into(outcome, function, args, kwargs), name=getattr(function, "__name__", "task"))
        self._running[task] = None

        def answered(future: asyncio.Future[Any]) -> None:
            self._running.pop(task, None)
            if future.cancelled():
                task.cancel()

        outcome.add_done_callback(answered)
        task.add_done_callback(lambda _: outcome.cancel())  # nothing happens if it has its result
        return outcome

    @handler
    def running(self) -> int:
        """Return how many tasks run."""
        return len(self._running)


async def _into(
    outcome: asyncio.Future[Any],
    function: Callable[..., Coroutine[Any, Any, Any]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    try:
        result = await function(*args, **kwargs)
    except Exception as error:
        if not outcome.done():
            outcome.set_exception(error)
    else:
        if not outcome.done():
            outcome.set_result(result)
