"""Circuit breakers by group of requests: opt-in, never before training, polls, sessions or credentials (G-16)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinkex_actors.actors.link.events import BreakerChanged
from tinkex_actors.errors import CircuitOpenError
from tinkex_actors.machines import breaker
from tinkex_actors.runtime.log import Logger

if TYPE_CHECKING:
    from tinkex_actors.config import BreakerConfig
    from tinkex_actors.runtime import ActorSystem
    from tinkex_actors.transport import Transport
    from tinkex_actors.wire.exchange import Request, Response

__all__ = ["Breakers"]

_GROUPS = frozenset({"sample", "telemetry", "rest_support_redirect"})
_log = Logger("tinkex_actors.http")


class Breakers:
    """A breaker for each group.

    Args:
        config: when they open and close; None switches all of them off.
        system: clock and events.
    """

    def __init__(self, config: BreakerConfig | None, *, system: ActorSystem) -> None:
        self._config = config
        self._system = system
        self._breakers: dict[str, breaker.Breaker] = {}
        self.on = config is not None

    async def send(self, request: Request, transport: Transport) -> Response:
        """Exchange a request if its group's breaker lets it through.

        Raises:
            CircuitOpenError: it does not; nothing was sent.
        """
        group = self._group(request)
        if group is None:
            return await transport.send(request)
        found = self._breaker(group)
        before = found.state
        wait = breaker.admit(found, self._system.loop.time())
        self._report(group, found, before)
        if wait is not None:
            raise CircuitOpenError(
                f"{request.method} {request.path}: not sent, because the last {found.failures} requests of the group "
                f"{group!r} failed (Config.breaker). Another try may go in {wait:.1f} s.",
                group=group,
                retry_after=wait,
            )
        under = found.openings
        outcome: breaker.Outcome = "neither"  # a cancellation says nothing about the server
        try:
            response = await transport.send(request)
            outcome = breaker.judge(response.status)
            return response
        except Exception:
            outcome = "failure"
            raise
        finally:
            before = found.state
            breaker.record(found, under, outcome, self._system.loop.time())
            self._report(group, found, before)

    def states(self) -> dict[str, str]:
        """Return each group's state: ``closed``, ``open`` or ``half_open``; groups that sent nothing are left out."""
        return {group: found.state for group, found in self._breakers.items()}

    def reset(self, group: str | None = None) -> None:
        """Close a group's breaker by hand, or all of them."""
        for name, found in self._breakers.items():
            if group in (None, name):
                before = found.state
                breaker.reset(found)
                self._report(name, found, before)

    def _group(self, request: Request) -> str | None:
        if request.pool in _GROUPS:
            return request.pool
        return "rest" if request.pool == "train" and request.method != "POST" else None

    def _breaker(self, group: str) -> breaker.Breaker:
        found = self._breakers.get(group)
        if found is None:
            assert self._config is not None
            found = self._breakers[group] = breaker.Breaker(
                self._config.failure_threshold, self._config.reset_timeout, self._config.half_open_max_calls
            )
        return found

    def _report(self, group: str, found: breaker.Breaker, before: str) -> None:
        if found.state == before:
            return
        log = _log.warning if found.state == "open" else _log.info
        log("breaker.changed", group=group, state=found.state, failures=found.failures)
        if self._system.events.active:
            self._system.events.publish(BreakerChanged(group, found.state, found.failures, self._system.loop.time()))
