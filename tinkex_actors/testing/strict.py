"""A system that fails the test which loses messages."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from types import TracebackType
from typing import Any

from tinkex_actors.runtime import ActorSystem

__all__ = ["MessagesLost", "StrictSystem"]


class MessagesLost(AssertionError):  # a finding of a test
    """Messages became dead letters that the test did not allow to be lost, or an event subscriber failed."""


class StrictSystem(ActorSystem):
    """An ``ActorSystem`` whose ``async with`` block raises ``MessagesLost`` if it leaves dead letters behind.

    Messages still queued when the block ends count: ``await settle()`` first, or stop with ``drain=True``. A block that
    fails by itself fails with its own error.

    Args:
        name: as for ``ActorSystem``.
        seed: as for ``ActorSystem``.
        may_lose: pairs of path and message that may be lost, both with ``fnmatch`` wildcards: ``("/pool/*", "*")``.
        **options: as for ``ActorSystem``.
    """

    def __init__(
        self, name: str = "system", seed: int = 0, *, may_lose: Iterable[tuple[str, str]] = (), **options: Any
    ) -> None:
        super().__init__(name, seed, **options)
        self._may_lose = tuple(may_lose)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await super().__aexit__(kind, error, traceback)
        if error is None:
            self.check()

    def check(self) -> None:
        """Look now.

        Raises:
            MessagesLost: naming actor, message and count of what was lost.
        """
        lost = {
            letter: count
            for letter, count in self.dead_letters.counts.items()
            if not any(fnmatchcase(letter[0], path) and fnmatchcase(letter[1], name) for path, name in self._may_lose)
        }
        if lost:
            text = ", ".join(f"{path} lost {count} of {name}" for (path, name), count in lost.items())
            why = sorted({letter.why for letter in self.dead_letters.recent if (letter.path, letter.message) in lost})
            raise MessagesLost(f"The system {self.name!r} lost messages: {text} ({', '.join(why)}).")
        if self.events.failures:
            raise MessagesLost(
                f"{self.events.failures} events did not reach a subscriber that failed: {self.events.last_failure!r}."
            )
