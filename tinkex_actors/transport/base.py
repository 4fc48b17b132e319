"""The one seam between the client and a server: a request goes in, a response comes out.

Implementations: :mod:`tinkex_actors.transport.http` (a server somewhere), the local engine (a server in this
process), and whatever a user's test writes in ten lines.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from tinkex_actors.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from tinkex_actors.config import Config
    from tinkex_actors.runtime import ActorSystem
    from tinkex_actors.tokenizers import Tokenizer
    from tinkex_actors.wire.exchange import Request, Response

__all__ = ["SampleSlots", "Streaming", "TokenizerSource", "Transport", "open_transport"]

ENTRY_POINT_GROUP = "tinkex_actors.transports"


class Transport(Protocol):
    """Carries requests to one server.

    Every status is a response, also 500. What is raised is only the absence of an answer:
    :class:`~tinkex_actors.errors.APIConnectionError`, or its child :class:`~tinkex_actors.errors.APITimeoutError` when
    ``request.timeout`` seconds passed; and :class:`~tinkex_actors.errors.APIResponseValidationError` for an answer
    that is larger than the transport may hold. Cancelling ``send`` gives up the exchange; whether the server saw the
    request is then unknown.
    """

    async def send(self, request: Request) -> Response:
        """Exchange one request for one response, within ``request.timeout`` seconds."""
        ...

    async def close(self) -> None:
        """Give back connections and memory; waiting exchanges end with an error. Idempotent."""
        ...


@runtime_checkable
class TokenizerSource(Protocol):
    """A transport whose server is in this process, and so has the model's tokenizer at hand."""

    async def tokenizer(self, base_model: str) -> Tokenizer:
        """The tokenizer of one of its models."""
        ...


@runtime_checkable
class SampleSlots(Protocol):
    """A transport that has room for so many samples at once, such as one whose polls hold a connection each."""

    @property
    def sample_slots(self) -> int:
        """How many samples may be in flight."""
        ...


@runtime_checkable
class Streaming(Protocol):
    """A transport that hands an answer over as it comes, for the routes that are ``streamed``."""

    def stream(self, request: Request) -> AsyncGenerator[bytes, None]:
        """Yield the pieces of the answer's body, cut anywhere.

        ``request.timeout`` is the longest silence before the first piece and between two. Closing the generator
        (``contextlib.aclosing``), or cancelling who waits for it, gives up the exchange.

        Raises:
            APIStatusError: the server refused, before the first piece; its ``body`` is what the server said.
            APITimeoutError: it was silent for too long.
            APIConnectionError: the connection failed or broke.
        """
        ...


def open_transport(base_url: str, *, system: ActorSystem, config: Config) -> Transport:
    """Return the transport for a base URL, by its scheme.

    ``http`` and ``https`` are served by aiohttp, or in HTTP/2 where ``Config.http2`` says so; every other scheme
    (``local://tiny``) by the entry point of that name in the group ``tinkex_actors.transports``, called as
    ``factory(base_url, system=system, config=config)``.

    Raises:
        ConfigError: no such scheme, or the extra it needs is not installed.
    """
    scheme, separator, _ = base_url.partition("://")
    if not separator:
        raise ConfigError(
            f"base_url {base_url!r} has no scheme. Expected https://HOST/PATH, http://HOST:PORT or local://MODEL "
            "(for example local://tiny)."
        )
    if scheme in ("http", "https"):
        if config.http2:
            from tinkex_actors.transport.http2 import Http2Transport

            return Http2Transport(base_url, config=config)
        from tinkex_actors.transport.http import HttpTransport

        return HttpTransport(base_url, config=config)
    found = entry_points(group=ENTRY_POINT_GROUP, name=scheme)
    if not found:
        raise ConfigError(
            f"base_url {base_url!r}: no transport for scheme {scheme!r}. Known: http, https"
            + "".join(f", {point.name}" for point in entry_points(group=ENTRY_POINT_GROUP))
            + ". If you run from a checkout, install it first (pip install -e .)."
        )
    factory: Callable[..., Transport] = next(iter(found)).load()
    return factory(base_url, system=system, config=config)
