"""One decoded request on its way to its handler, and how the engine that gets it answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from tinkex_actors.engine.service.provocations import Provocations
from tinkex_actors.wire.dialect import HOSTED, Dialect
from tinkex_actors.wire.quirks import NO_QUIRKS, Quirks

if TYPE_CHECKING:
    from tinkex_actors.wire.exchange import Request
    from tinkex_actors.wire.routes import Route

__all__ = ["LONG_POLL", "Call", "EngineOptions"]

# Protocol 4.2: below the client's 45 s.
LONG_POLL = 20.0

# Older and independent servers have no configuration (protocol appendix B).
_NO_CONFIGURATION = frozenset({"client_config", "dynamic_config"})


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How an engine answers the users of one transport.

    Attributes:
        dialect: what it speaks.
        strict: refuse what a careful server would: a request without an API key (401), another request under a
            number that is taken (409), where a lenient engine answers the first one's promise, and fields that nobody
            knows (422).
        quirks: what else is different about it.
        provocations: what it was asked to do wrong for a while.
        long_poll: seconds ``retrieve_future`` holds a request.
    """

    dialect: Dialect = HOSTED
    strict: bool = False
    quirks: Quirks = NO_QUIRKS
    provocations: Provocations = msgspec.field(default_factory=Provocations)
    long_poll: float = LONG_POLL

    def lacks(self, name: str) -> bool:
        """Whether a route, or a feature of ``wire.quirks.FEATURES``, is missing."""
        if self.quirks.lacks(name):
            return True
        if name in _NO_CONFIGURATION:
            return self.dialect.name == "json"
        return not getattr(self.dialect, name, True)


class Call(msgspec.Struct, frozen=True):
    """What a handler gets.

    Attributes:
        request: as it came.
        route: where it goes.
        path: the path's parameters.
        message: the decoded body, or None for a route without one.
        options: how to answer.
        digest: tells this body from others.
    """

    request: Request
    route: Route
    path: dict[str, str]
    message: Any
    options: EngineOptions
    digest: bytes = b""
