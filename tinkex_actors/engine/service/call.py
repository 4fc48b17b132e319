"""One decoded request on its way to its handler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from tinkex_actors.wire.dialect import HOSTED, Dialect

if TYPE_CHECKING:
    from tinkex_actors.wire.exchange import Request
    from tinkex_actors.wire.routes import Route

__all__ = ["LONG_POLL", "Call", "EngineOptions"]

# Protocol 4.2: below the client's 45 s.
LONG_POLL = 20.0


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How an engine answers the users of one transport.

    Attributes:
        dialect: what it speaks.
        strict: refuse what a careful server would: a request without an API key (401), and another request under a
            number that is taken (409), where a lenient engine answers the first one's promise.
        long_poll: seconds ``retrieve_future`` holds a request.
    """

    dialect: Dialect = HOSTED
    strict: bool = False
    long_poll: float = LONG_POLL


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
