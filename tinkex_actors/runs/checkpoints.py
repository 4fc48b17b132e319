"""A run's checkpoints: taken, kept, and the old ones deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from tinkex_actors.clients.rest import RestClient
from tinkex_actors.errors import GoneError, NotFoundError, TinkexError, UnsupportedByServerError
from tinkex_actors.runs.journal.entries import CheckpointState
from tinkex_actors.runs.journal.record import CheckpointRow
from tinkex_actors.runs.logbook import clock

if TYPE_CHECKING:
    from tinkex_actors.actors.futures import ApiFuture
    from tinkex_actors.runs.logbook import Logbook

__all__ = ["Checkpoints"]


class Checkpoints:
    """The checkpoints of one run.

    Args:
        book: the run.
        rows: those that the journal knows, oldest first.
        keep_last: how many to keep.
    """

    def __init__(self, book: Logbook, rows: list[CheckpointRow], *, keep_last: int) -> None:
        self._book = book
        self._rows = {row.path: row for row in rows}
        self._keep_last = keep_last
        self._tidying: ApiFuture[None] | None = None

    @property
    def kept(self) -> list[CheckpointRow]:
        """Those to go back to, oldest first."""
        return [row for row in self._rows.values() if row.state == "kept"]

    @property
    def step(self) -> int:
        """The step that the newest one stands before; 0 where there is none."""
        return self.kept[-1].step if self.kept else 0

    @property
    def cursor(self) -> Any:
        """The program's place in its data at the newest one."""
        return self.kept[-1].cursor if self.kept else None

    async def take(self) -> None:
        """Take one after the steps so far, unless it is there already; return when the journal has it on disk.

        Raises:
            TinkerError: the server did not save it.
            RunError: the journal cannot be written.
        """
        book = self._book
        step = len(book.history)
        if step <= self.step:
            return
        name = f"step-{step:06d}"
        saving = book.submit(step, -1, "save_state", [name], lambda training: training.save_state(name))
        saved = await saving
        row = CheckpointRow(
            path=saved.path,
            step=step,
            epoch=book.epoch,
            next_seq=max(saving.ids["seq_ids"]) + 1,
            cursor=book.history[-1].cursor,
            state="kept",
            at=clock(),
        )
        self._put(row)
        book.desk.copy_wanted = True
        await book.desk.flush()
        if book.replay is not None:
            book.replay.passed(step, saved.path)
        self._tidy()

    def lost(self, row: CheckpointRow, why: str) -> None:
        """The server does not have it any more."""
        self._put(msgspec.structs.replace(row, state="lost"))
        self._book.note("checkpoint_lost", f"{row.path}, after step {row.step}: {why}", row.step)

    async def tidied(self) -> None:
        """Wait until the deletions under way have ended."""
        if self._tidying is not None:
            await self._tidying.wait()

    def _tidy(self) -> None:
        """Delete, beside the training, those that are older than the ones to keep."""
        for row in self.kept[: -self._keep_last]:
            self._put(msgspec.structs.replace(row, state="dropping"))
        old = [row for row in self._rows.values() if row.state == "dropping"]
        if old and (self._tidying is None or self._tidying.done()):
            rest = RestClient(self._book.core)

            async def delete(_: ApiFuture[Any]) -> None:
                for row in old:
                    await self._delete(rest, row)

            self._tidying = self._book.core.courier.send("delete old checkpoints", delete)

    async def _delete(self, rest: RestClient, row: CheckpointRow) -> None:
        try:
            await rest.delete_checkpoint_from_tinker_path(row.path)
        except (NotFoundError, GoneError):
            pass
        except UnsupportedByServerError:
            self._book.note("checkpoint_stays", f"{row.path}: this server deletes none", row.step)
        except TinkexError:
            return  # with the next one that is taken
        self._put(msgspec.structs.replace(row, state="dropped"))

    def _put(self, row: CheckpointRow) -> None:
        self._rows[row.path] = row
        self._book.desk.add(CheckpointState(**msgspec.structs.asdict(row)))
