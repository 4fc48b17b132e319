"""Every operation a service has begun and not ended.

The ledger belongs to the service, not to an actor: a shell that crashes is rebuilt around it, and when nothing can be
rebuilt any more, one call fails everything that waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from tinkex_actors.actors.explanation import Explanation, OperationRecord, OperationStalled
from tinkex_actors.actors.futures import ApiFuture
from tinkex_actors.actors.telemetry import report_failure
from tinkex_actors.errors import ClosedError
from tinkex_actors.runtime.log import Logger

if TYPE_CHECKING:
    import asyncio

    from tinkex_actors.actors.telemetry import TelemetryDesk
    from tinkex_actors.runtime import ActorSystem

__all__ = ["Ledger", "OperationLost"]

_log = Logger("tinkex_actors.operations")


class OperationLost(msgspec.Struct, frozen=True, tag="operation.lost"):
    """Event: an operation failed and nobody ever looked."""

    operation: str
    ids: dict[str, Any]
    error: str


class Ledger:
    """Opens futures and knows which of them are pending.

    Args:
        system: takes the events.
        loop: the loop the futures belong to.
        stall_after: seconds after which a wait is reported, and again at each doubling.
        telemetry: is told of what has waited too long and of what has failed; None tells nobody.
    """

    def __init__(
        self,
        system: ActorSystem,
        *,
        loop: asyncio.AbstractEventLoop,
        stall_after: float,
        telemetry: TelemetryDesk | None = None,
    ) -> None:
        self._loop = loop
        self._system = system
        self._stall_after = stall_after
        self._telemetry = telemetry
        self._pending: dict[ApiFuture[Any], float] = {}

    def open(self, operation: str, **ids: object) -> ApiFuture[Any]:
        """Begin an operation: a pending future that this ledger knows."""
        future: ApiFuture[Any] = ApiFuture(operation, loop=self._loop, ids=ids, ledger=self)
        self._pending[future] = self._stall_after
        return future

    def explain(self, *notes: str) -> Explanation:
        """Records of everything pending, oldest first."""
        return Explanation(records=tuple(future.record() for future in self._pending), notes=notes)

    def fail_all(self, error: BaseException) -> None:
        """End everything pending with one error."""
        for future in list(self._pending):
            future.fail(error)

    def report_stalled(self) -> None:
        """Publish one event for each operation that has waited too long since the last look."""
        now = self._loop.time()
        for future, limit in list(self._pending.items()):
            if now - future.created_at < limit:
                continue
            while now - future.created_at >= limit:
                limit *= 2
            self._pending[future] = limit
            record: OperationRecord = future.record()
            self._system.events.publish(OperationStalled(record))
            if self._telemetry is not None:
                words = {"operation": record.operation, "age": record.age, "state": record.state, "ids": record.ids}
                self._telemetry.note("tinkex.operation.stalled", words, "WARNING")
            _log.warning(
                "operation.stalled", operation=record.operation, age=record.age, state=record.state, **record.ids
            )

    # --- for the futures ---------------------------------------------------------------------------------------------
    def ended(self, future: ApiFuture[Any]) -> None:
        """Forget it, and tell telemetry of its error."""
        self._pending.pop(future, None)
        if self._telemetry is not None and (error := future.peek()) is not None:
            self._loop.call_soon(report_failure, self._telemetry, future, error)

    def lost(self, future: ApiFuture[Any]) -> None:
        """Say aloud what nobody looked at."""
        error = future.peek()
        if isinstance(error, ClosedError):
            return  # whoever closed the service knew that something was pending
        event = OperationLost(
            operation=future.operation, ids=dict(future.ids), error=f"{type(error).__name__}: {error}"
        )
        self._system.events.publish(event)
        _log.error("operation.lost", operation=event.operation, error=event.error, **event.ids)
