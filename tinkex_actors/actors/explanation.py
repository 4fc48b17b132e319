"""What is waited for: plain records that print as text a person can read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Explanation", "OperationRecord", "OperationStalled"]


class OperationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One pending operation.

    Attributes:
        operation: the client method's name.
        ids: what identifies it, as far as known.
        state: what it waits for, in words.
        age: seconds since the call.
        deadline: seconds until it fails by itself; None if only its owner ends it.
    """

    operation: str
    ids: dict[str, Any]
    state: str
    age: float
    deadline: float | None = None

    def __str__(self) -> str:
        ids = " ".join(f"{name}={_short(value)}" for name, value in self.ids.items() if value not in (None, [], ()))
        limit = "" if self.deadline is None else f", fails in {self.deadline:.1f} s"
        return f"{self.operation:<34} {self.age:7.1f} s{limit}  {self.state}" + (f"  [{ids}]" if ids else "")


class Explanation(msgspec.Struct, frozen=True):
    """Everything that is pending, oldest first.

    Attributes:
        records: one record for each pending operation.
        notes: facts about the whole: the session, the back-off window, the queue.
    """

    records: tuple[OperationRecord, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        head = f"{len(self.records)} pending" if self.records else "nothing is pending"
        return "\n".join([head, *(f"  {record}" for record in self.records), *(f"  {note}" for note in self.notes)])

    def __iter__(self) -> Iterator[OperationRecord]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)


class OperationStalled(msgspec.Struct, frozen=True, tag="operation.stalled"):
    """Event: an operation has waited longer than ``Config.stall_after`` seconds, and again at each doubling."""

    record: OperationRecord


def _short(value: object) -> str:
    if isinstance(value, range):
        return str(value.start) if len(value) == 1 else f"{value.start}..{value.stop - 1}"
    if isinstance(value, list) and len(value) > 2:
        return f"{value[0]},...,{value[-1]} ({len(value)})"
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
