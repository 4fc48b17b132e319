"""The session: found or joined, kept alive, finished, and what became of it, as events (protocol part 5)."""

from tinkex_actors.actors.session.desk import SessionDesk
from tinkex_actors.actors.session.events import (
    ConfigRefreshed,
    HeartbeatDelayed,
    SessionDegraded,
    SessionEnded,
    SessionFinished,
    SessionLost,
    SessionRecovered,
    SessionStarted,
)
from tinkex_actors.actors.session.keeper import Session, finish

__all__ = [
    "ConfigRefreshed",
    "HeartbeatDelayed",
    "Session",
    "SessionDegraded",
    "SessionDesk",
    "SessionEnded",
    "SessionFinished",
    "SessionLost",
    "SessionRecovered",
    "SessionStarted",
    "finish",
]
