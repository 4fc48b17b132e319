"""What happens to a session, for whoever subscribes to ``service.system.events``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from tinkex_actors.types import FinishStatus

__all__ = [
    "ConfigRefreshed",
    "HeartbeatDelayed",
    "SessionDegraded",
    "SessionEnded",
    "SessionFinished",
    "SessionLost",
    "SessionRecovered",
    "SessionStarted",
]


class SessionStarted(msgspec.Struct, frozen=True, tag="session.started"):
    """The session exists; ``joined``: it did before this client."""

    session_id: str
    joined: bool


class SessionDegraded(msgspec.Struct, frozen=True, tag="session.degraded"):
    """A heartbeat failed with this HTTP status, or, None, without an answer. The session most likely lives on."""

    session_id: str
    status: int | None


class SessionLost(msgspec.Struct, frozen=True, tag="session.lost"):
    """No heartbeat has succeeded for ``silence`` seconds: the server may end the session (protocol 5.4)."""

    session_id: str
    silence: float


class SessionRecovered(msgspec.Struct, frozen=True, tag="session.recovered"):
    """A heartbeat has succeeded again, after ``silence`` seconds without one."""

    session_id: str
    silence: float


class SessionEnded(msgspec.Struct, frozen=True, tag="session.ended"):
    """The server says that the session is over (410), and this client has not ended it."""

    session_id: str


class SessionFinished(msgspec.Struct, frozen=True, tag="session.finished"):
    """This client has ended the session; ``told``: the server knows."""

    session_id: str
    status: FinishStatus
    told: bool


class HeartbeatDelayed(msgspec.Struct, frozen=True, tag="session.heartbeat_delayed"):
    """A heartbeat went out ``seconds`` late, because something held the event loop (see ``HandlerBlocked``)."""

    session_id: str
    seconds: float


class ConfigRefreshed(msgspec.Struct, frozen=True, tag="session.config_refreshed"):
    """The server has changed these of its dynamic flags (protocol 5.3)."""

    changed: tuple[str, ...]
