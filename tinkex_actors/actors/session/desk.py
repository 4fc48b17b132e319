"""What is known of the session; outlives the actor that keeps it."""

from __future__ import annotations

import itertools
import uuid
from typing import TYPE_CHECKING

from tinkex_actors.actors.desk import Desk
from tinkex_actors.machines import heartbeat
from tinkex_actors.types import ClientConfigResponse, ClientDynamicConfigResponse

if TYPE_CHECKING:
    from collections.abc import Callable

    from tinkex_actors.actors.futures import ApiFuture
    from tinkex_actors.actors.ledger import Ledger

__all__ = ["SessionDesk"]

# Above what a session's creator counts to, below what a 32-bit server can take.
_JOINED_FROM = 1 << 20
_JOINED_TO = (1 << 31) - (1 << 20)


class SessionDesk(Desk):
    """What is known of the session.

    Args:
        ledger: opens the futures.
        user_metadata: free notes for the session.
        display_name: what people see.
        on_flags: called with the server's flags when they are known, before the session exists.
        joins: a session that exists, to go on with; None creates one.

    Attributes:
        session_id: the server's name for it; None before it exists.
        flags: the server's flags (protocol 5.2), or their defaults.
        dynamic: those that are read again (protocol 5.3); look here for each use.
        joins: the session to join.
        kept: closing leaves it to the server's time-outs, because somebody will come back for one of its models.
        refreshes: the server has a dynamic config, which is to be read again.
        pulse: the heartbeat's machine state.
    """

    __slots__ = (
        "_ledger",
        "_on_flags",
        "_ready",
        "display_name",
        "dynamic",
        "flags",
        "joins",
        "kept",
        "key",
        "loss_numbers",
        "model_numbers",
        "pulse",
        "refreshes",
        "sampling_numbers",
        "session_id",
        "uploaded_losses",
        "user_metadata",
    )

    def __init__(
        self,
        *,
        ledger: Ledger,
        user_metadata: dict[str, str] | None,
        display_name: str | None,
        on_flags: Callable[[ClientConfigResponse], None],
        joins: str | None = None,
    ) -> None:
        super().__init__()
        self.user_metadata = dict(user_metadata or {})
        self.display_name = display_name
        self.joins = joins
        self.kept = False
        self.session_id: str | None = None
        self.flags = ClientConfigResponse()
        self.dynamic = ClientDynamicConfigResponse()
        self.pulse = heartbeat.Heartbeat()
        self.refreshes = False
        # The numbers of models, sampling sessions and losses, taken at the call (protocol 1.7.10, 1.7.18, 1.7.19).
        self.model_numbers = itertools.count()
        self.sampling_numbers = itertools.count()
        self.loss_numbers = itertools.count()
        # Digests of the losses that were made, and what they are called: a session takes each once (protocol 6.8).
        self.uploaded_losses: dict[str, str] = {}
        if joins is not None:
            self.count_far_from_others()
        # Stable over attempts and incarnations, so that a repeated create_session can be told from a second one.
        self.key = f"session-{uuid.uuid4()}"
        self._ledger = ledger
        self._on_flags = on_flags
        self._ready: ApiFuture[str] | None = None

    def count_far_from_others(self) -> None:
        """From here on give numbers that no other client of a session that is shared has given."""
        first = _far_from_others()
        self.model_numbers = itertools.count(first)
        self.sampling_numbers = itertools.count(first)
        self.loss_numbers = itertools.count(first)

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for the session to exist."""
        return self._ready is not None and not self._ready.done()

    def ready(self) -> ApiFuture[str]:
        """The session id, once there is a session; a failed start is tried again by the next caller."""
        if self._ready is None or (self._ready.done() and self.session_id is None):
            self._ready = self._ledger.open("create_session" if self.joins is None else "join_session")
            self._ready.waits_for(self._doing)
            self.ring()
        return self._ready

    def renew(self) -> None:
        """Begin another session at the next `ready`, because the server has ended this one or has forgotten it."""
        self.session_id = None
        self._ready = None
        self.pulse = heartbeat.Heartbeat()
        self.key = f"session-{uuid.uuid4()}"
        self.uploaded_losses.clear()

    def flagged(self, flags: ClientConfigResponse) -> None:
        """The server's flags are known."""
        self.flags = flags
        self._on_flags(flags)

    def delayed(self, words: str) -> None:
        """The start takes longer than it should; ``explain()`` says why."""
        if self._ready is not None:
            self._ready.waits_for(f"{self._doing}: {words}")

    def started(self, session_id: str) -> None:
        """The session exists."""
        self.session_id = session_id
        if self._ready is not None:
            self._ready.resolve(session_id)

    def failed(self, error: Exception) -> None:
        """The session could not be started."""
        if self._ready is not None:
            self._ready.fail(error)

    def note(self, now: float) -> str:
        """One line about the session, for ``explain()``."""
        if self.session_id is None:
            return "session: not started"
        silence = "" if self.pulse.last_ok_at is None else f", last heartbeat {now - self.pulse.last_ok_at:.0f} s ago"
        return f"session: {self.session_id} {self.pulse.status}{silence}"

    @property
    def _doing(self) -> str:
        return "starting a session" if self.joins is None else f"joining session {self.joins}"


def _far_from_others() -> int:
    """A number at which no other client of the same session counts: a repeated one would be given another's model."""
    return _JOINED_FROM + uuid.uuid4().int % (_JOINED_TO - _JOINED_FROM)
