"""What the link does beside carrying requests, as events of the system (``system.events.subscribe``)."""

from __future__ import annotations

import msgspec

__all__ = ["BreakerChanged", "CredentialReplaced", "RequestCoalesced", "StaleAnswerUsed"]


class BreakerChanged(msgspec.Struct, frozen=True, tag="breaker.changed"):
    """A circuit breaker opened, let a probe through, or closed.

    Attributes:
        group: the requests it stands before: ``sample``, ``telemetry``, ``rest_support_redirect`` or ``rest``.
        state: ``open``, ``half_open`` or ``closed``.
        failures: in a row, when it opened.
        at: the loop's time, in seconds.
    """

    group: str
    state: str
    failures: int
    at: float


class RequestCoalesced(msgspec.Struct, frozen=True, tag="request.coalesced"):
    """A reading shares the answer of the same request under way.

    Attributes:
        route: the endpoint.
        at: the loop's time, in seconds.
    """

    route: str
    at: float


class StaleAnswerUsed(msgspec.Struct, frozen=True, tag="answer.stale"):
    """The server could not be read, and an earlier answer stands in.

    Attributes:
        route: the endpoint.
        age: of the answer, in seconds.
        error: why there is no fresh one, in words.
        at: the loop's time, in seconds.
    """

    route: str
    age: float
    error: str
    at: float


class CredentialReplaced(msgspec.Struct, frozen=True, tag="credential.replaced"):
    """Requests carry another credential from now on; it is not in here.

    Attributes:
        why: ``rotated``, ``renewed`` or ``refused``.
        at: the loop's time, in seconds.
    """

    why: str
    at: float
