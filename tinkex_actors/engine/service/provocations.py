"""Misfortune on request: what a server can be asked to do wrong, so that a test sees what its clients make of it.

A provocation is a text ``NAME=HOW``. ``NAME`` is one of :data:`STATES`, or ``ROUTE-STATUS`` such as ``asample-429``:
that route answers that HTTP status before it looks at the request. ``HOW`` is how often (``3``) or how long, from the
first time on (``5s``); without it, always.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tinkex_actors.errors import ConfigError
from tinkex_actors.wire.routes import ROUTES

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["STATES", "Provocations"]

STATES: Final[dict[str, str]] = {
    "queue_paused": "polls answer at once that the queue is paused for want of capacity",
    "queue_limited": "polls answer at once that the queue is paused by a rate limit",
    "metadata_only": "every result, however small, announces its size first",
}
"""Every state by name, with what the server then does."""


class _Rule:
    __slots__ = ("seconds", "since", "times")

    def __init__(self, times: int | None, seconds: float | None) -> None:
        self.times = times
        self.seconds = seconds
        self.since: float | None = None

    def holds(self, now: float) -> bool:
        """Whether it is still on; counts the use."""
        if self.seconds is not None:
            self.since = now if self.since is None else self.since
            return now - self.since < self.seconds
        if self.times is None:
            return True
        self.times -= 1
        return self.times >= 0


class Provocations:
    """What one server was asked to do wrong. Without arguments: nothing.

    Args:
        given: texts as the module describes them.

    Raises:
        ConfigError: no such route, status or state, or a measure that is neither a count nor seconds.
    """

    def __init__(self, given: Sequence[str] = ()) -> None:
        self._states: dict[str, _Rule] = {}
        self._statuses: dict[str, list[tuple[int, _Rule]]] = {}
        for text in given:
            self._add(text)

    def state(self, name: str, now: float) -> bool:
        """Whether a state of :data:`STATES` is on; a counted one is used up by being asked for."""
        rule = self._states.get(name)
        return rule is not None and rule.holds(now)

    def status(self, route: str, now: float) -> int | None:
        """Return the status that a route shall answer instead of working, or None."""
        for status, rule in self._statuses.get(route, ()):
            if rule.holds(now):
                return status
        return None

    def _add(self, text: str) -> None:
        name, _, how = text.partition("=")
        rule = _rule(text, how)
        state = name.replace("-", "_")
        if state in STATES:
            self._states[state] = rule
            return
        route, _, status = name.rpartition("-")
        if route not in ROUTES or not (status.isdecimal() and 400 <= int(status) <= 599):
            raise ConfigError(
                f"provoke {text!r}: expected {', '.join(STATES)}, or ROUTE-STATUS with a route such as asample and a "
                "status of 400 to 599, then optionally =TIMES or =SECONDSs. For example asample-429=3."
            )
        self._statuses.setdefault(route, []).append((int(status), rule))


def _rule(text: str, how: str) -> _Rule:
    if not how:
        return _Rule(None, None)
    try:
        if how.endswith("s"):
            seconds = float(how[:-1])
            if 0 < seconds < float("inf"):
                return _Rule(None, seconds)
        elif int(how) > 0:
            return _Rule(int(how), None)
    except ValueError:
        pass
    raise ConfigError(f"provoke {text!r}: expected =TIMES (such as =3) or =SECONDSs (such as =5s), got {how!r}.")
