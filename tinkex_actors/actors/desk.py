"""What outlives a crash: the part of an actor that is not its shell.

A desk holds machine state, user futures and payloads. It is handed to the actor as an argument, so the supervisor
hands the same desk to the next incarnation, which goes on where the last one stood. Clients write to the desk and
ring; they never send payloads through a mailbox.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Desk"]


class Desk:
    """A bell: many rings between two looks are one message in the mailbox."""

    __slots__ = ("_bell", "_rung")

    def __init__(self) -> None:
        self._bell: Callable[[], object] | None = None
        self._rung = False

    def attend(self, bell: Callable[[], object]) -> None:
        """Let an incarnation listen: ``bell`` casts its wake message. It looks at everything on the desk first."""
        self._bell = bell
        self._rung = False

    def ring(self) -> None:
        """Say that something new lies on the desk."""
        if not self._rung and self._bell is not None:
            self._rung = True
            self._bell()

    def answered(self) -> None:
        """The actor is about to look; the next ring counts again."""
        self._rung = False
