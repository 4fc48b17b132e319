"""The calls of a model: what is to be posted for each, and what has come back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tinkex_actors.actors.futures import ApiFuture
    from tinkex_actors.actors.sequencer.desk import SequencerDesk
    from tinkex_actors.machines.turns import Kind
    from tinkex_actors.wire.routes import Route

__all__ = ["Call", "Chunk", "Reservation"]


class Chunk(msgspec.Struct, frozen=True):
    """One request of a call.

    Attributes:
        message: its body, without a number: ``seq_id`` is put in when it is posted.
        size_bytes: its estimated size, for the dispatch budget.
    """

    message: Any
    size_bytes: int = 0


class Call:
    """One call: its requests, its future, and the results so far, by chunk."""

    __slots__ = ("chunks", "finish", "future", "kind", "left", "results", "route")

    def __init__(
        self,
        route: Route,
        chunks: Sequence[Chunk],
        finish: Callable[[list[Any]], Any],
        future: ApiFuture[Any],
        kind: Kind,
    ) -> None:
        self.route = route
        self.future = future
        self.kind = kind
        self.load(chunks, finish)

    def load(self, chunks: Sequence[Chunk], finish: Callable[[list[Any]], Any]) -> None:
        """Say what is posted, and what makes the call's result of the chunks' results."""
        self.chunks = chunks
        self.finish = finish
        self.results: list[Any] = [None] * len(chunks)
        self.left = len(chunks)

    def take(self, index: int, result: Any) -> bool:
        """Keep the result of a chunk; True where it was the last one, and the future has ended."""
        self.results[index] = result
        self.left -= 1
        if self.left:
            return False
        try:
            value = self.finish(self.results)
        except Exception as error:
            self.future.fail(error)
        else:
            self.future.resolve(value)
        return True


class Reservation:
    """Numbers in the order of calls for requests that are not known yet, such as the second half of a custom loss.

    Everything called later waits behind it, until it is supplied or abandoned. Made by ``SequencerDesk.reserve``.

    Attributes:
        future: the call's future; cancelling it abandons the reservation.
        count: how many requests it holds numbers for.
    """

    __slots__ = ("_desk", "_op_id", "count", "future")

    def __init__(self, desk: SequencerDesk, op_id: int, future: ApiFuture[Any], count: int) -> None:
        self._desk = desk
        self._op_id = op_id
        self.future = future
        self.count = count

    def supply(self, chunks: Sequence[Chunk], finish: Callable[[list[Any]], Any]) -> None:
        """Post these requests under the reserved numbers.

        Ignored where the future has ended meanwhile.

        Raises:
            ValueError: not as many as were reserved.
        """
        if len(chunks) != self.count:
            raise ValueError(f"{self.future.operation}: expected {self.count} requests, got {len(chunks)}")
        self._desk.supply(self._op_id, chunks, finish)

    def abandon(self, error: Exception) -> None:
        """Fail the future and give the numbers up: the calls behind go on, and no gap is left. Idempotent.

        As its gradient is missing, an ``optim_step`` that was called behind it is not sent.
        """
        self._desk.abandon(self._op_id, error)
