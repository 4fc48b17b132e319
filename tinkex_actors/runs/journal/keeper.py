"""The journal's actor: writes what lies on its desk, off the loop, everything that waits in one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinkex_actors.actors.desk import Desk
from tinkex_actors.errors import RunError
from tinkex_actors.runtime import Actor, Timer, handler

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from tinkex_actors.runs.journal.entries import Entry
    from tinkex_actors.runs.journal.file import JournalFile

__all__ = ["EXECUTOR", "JournalDesk", "JournalKeeper"]

# One thread for all journals of a system.
EXECUTOR = "journal"


class JournalDesk(Desk):
    """What is to be written, in order; outlives the actor.

    Args:
        file: the journal, open.
        loop: the run's loop.

    Attributes:
        waiting: entries that are not on disk yet.
        failure: why nothing can be written any more.
        copy_wanted: the journal is to be copied, after what waits.
        beat: called every ten seconds, for whatever has to be kept alive; None where there is nothing.
    """

    __slots__ = ("_loop", "_waiters", "_written", "beat", "copy_wanted", "failure", "file", "waiting")

    def __init__(self, file: JournalFile, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.file = file
        self.waiting: list[Entry] = []
        self.failure: RunError | None = None
        self.copy_wanted = False
        self.beat: Callable[[], object] | None = None
        self._loop = loop
        self._written = 0
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []

    @property
    def urgent(self) -> bool:
        """Whether something of what waits is to be on disk at once, and not only soon."""
        return bool(self._waiters) or self.copy_wanted or any(entry.synced for entry in self.waiting)

    def add(self, *entries: Entry) -> None:
        """Have entries written soon. Returns at once."""
        self.waiting += entries
        self.ring()

    async def flush(self) -> None:
        """Wait until everything added so far is on disk.

        Raises:
            RunError: it cannot be written.
        """
        goal = self._written + len(self.waiting)
        if self.failure is None and goal > self._written:
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._waiters.append((goal, waiter))
            self.ring()
            await waiter
        self.check()

    def check(self) -> None:
        """Refuse to go on where the journal cannot be written.

        Raises:
            RunError: it cannot.
        """
        if self.failure is not None:
            raise self.failure

    # --- for the actor -----------------------------------------------------------------------------------------------
    def written(self, count: int) -> None:
        """The first ``count`` entries are on disk."""
        del self.waiting[:count]
        self._written += count
        ready = [waiter for goal, waiter in self._waiters if goal <= self._written]
        self._waiters = [pair for pair in self._waiters if pair[0] > self._written]
        _wake(ready)

    def failed(self, error: RunError) -> None:
        """Nothing can be written any more."""
        self.failure = error
        waiters, self._waiters = self._waiters, []
        _wake([waiter for _, waiter in waiters])


class JournalKeeper(Actor):
    """Writes to one run's journal.

    Args:
        desk: what is to be written. An incarnation that finds entries there writes them, perhaps again: they are
            idempotent.
    """

    def __init__(self, desk: JournalDesk) -> None:
        self._desk = desk
        self._busy = False
        self._alarm: Timer | None = None

    async def init(self) -> None:
        """Write what lies there."""
        self._desk.attend(self.ref.cast.wake)
        self.every(_BEAT_EVERY, self.ref.cast.beat)
        self.continue_with(self.ref.cast.wake)

    @handler
    def wake(self) -> None:
        """Write what is new."""
        self._desk.answered()
        if self._busy or self._desk.failure is not None:
            return
        if self._desk.urgent:
            self._begin()
        elif self._desk.waiting and self._alarm is None:
            self._alarm = self.after(_LINGER, self.ref.cast.due)

    @handler
    def due(self) -> None:
        """What came a moment ago has waited for enough company."""
        self._alarm = None
        if not self._busy and self._desk.failure is None and self._desk.waiting:
            self._begin()

    @handler
    def beat(self) -> None:
        """Keep alive what has to be."""
        if self._desk.beat is not None:
            self._desk.beat()

    def _begin(self) -> None:
        self._busy = True
        self.task(self._write(), name="write")

    async def _write(self) -> None:
        desk = self._desk
        try:
            while desk.waiting:
                # A copy: more may be added while the thread writes.
                entries = list(desk.waiting)
                await self.blocking(desk.file.write, entries, executor=EXECUTOR)
                desk.written(len(entries))
                if not desk.urgent:
                    break
            if desk.copy_wanted:
                desk.copy_wanted = False
                await self.blocking(desk.file.copy, executor=EXECUTOR)
        except RunError as error:
            desk.failed(error)
        finally:
            self._busy = False
        self.ref.cast.wake()


# Servers end a session after minutes without a sign of life; the service's own beats as often.
_BEAT_EVERY = 10.0

# Seconds for which a line may wait for others: a transaction costs as much for ten as for one. A process that is killed
# meanwhile does again what the lines would have told, under the same numbers.
_LINGER = 0.05


def _wake(waiters: list[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
