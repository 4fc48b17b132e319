"""HTTP/2 by pyqwest (hyper): one connection carries many long polls (extra ``http2``, ``Config.http2``).

The clients of the httpx family will not do here: their streams read by turns from one socket, so that an answer which
is there waits until every poll before it has been answered.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from email.utils import formatdate
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from tinkex_actors.errors import APIConnectionError, ClosedError, ConfigError, TinkexError
from tinkex_actors.transport._limits import (
    MAX_REDIRECTS,
    REDIRECTS,
    Words,
    kept_headers,
    sample_slots,
    tls_context,
)
from tinkex_actors.transport.proxy import Proxy, proxy_refusal
from tinkex_actors.wire.classification import classify
from tinkex_actors.wire.exchange import Response

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    import pyqwest

    from tinkex_actors.config import Config
    from tinkex_actors.wire.exchange import Request

__all__ = ["Http2Transport"]

# Where each exchange is a stream, the files of the process are no limit; the server's own flag is (protocol 5.2: 2000).
_SAMPLES_IN_FLIGHT = 2000
# Servers take a hundred streams on a connection or more; the official client sends 50 (protocol 1.4) and then opens
# another one.
_STREAMS = 50
_PROXY_REFUSED = 407
_REDIRECTING_POOL = "rest_support_redirect"
# Keeps the client from looking for proxies in the environment: what is used is what the configuration says.
_NO_PROXY_AT_ALL = ("http://127.0.0.1:9", "*,0.0.0.0/0,::/0")


class _Connection:
    __slots__ = ("client", "under_way")

    def __init__(self, client: pyqwest.HTTPTransport) -> None:
        self.client = client
        self.under_way = 0


class Http2Transport:
    """A server reached over HTTP/2, and over nothing else: one that does not speak it is a failed connection.

    To a server without TLS it speaks HTTP/2 from the first byte.

    Args:
        base_url: scheme, host and base path; request paths are appended to it.
        config: time-outs, limits, proxy, certificates.

    Raises:
        ConfigError: the extra ``http2`` is not installed, or a proxy's challenges would have to be answered.
    """

    def __init__(self, base_url: str, *, config: Config) -> None:
        try:
            import pyqwest
        except ImportError as error:
            raise ConfigError(
                "Config.http2: HTTP/2 needs another package. Install it (pip install 'tinkex-actors[http2]'), or leave "
                "http2 out (TINKEX_HTTP_CLIENT=aiohttp)."
            ) from error
        del pyqwest
        if config.proxy_authorize is not None and config.proxy_for(base_url) is not None:
            raise ConfigError(
                "Config.http2: the HTTP/2 client cannot answer a proxy's challenge (Config.proxy_authorize). Put Basic "
                "credentials into the proxy's URL, or leave http2 out."
            )
        self._base_url = base_url.rstrip("/")
        self._config = config
        self._words = Words(config, self._base_url)
        self._proxy = Proxy(config, self._base_url)
        self._pools: dict[str, list[_Connection]] = {}
        self._clocks: set[asyncio.Timeout] = set()
        self._closed = False

    async def send(self, request: Request) -> Response:
        """Exchange one request for one response.

        Redirects are followed for the pool ``rest_support_redirect`` alone, and the key stays behind when they lead
        elsewhere. A proxy's refusal is a response with the status 407.

        Raises:
            APITimeoutError: no complete answer within ``request.timeout`` seconds, connecting included.
            APIConnectionError: the connection failed or broke.
            APIResponseValidationError: the body is larger than ``Config.max_response_bytes``.
            ClosedError: the transport was closed.
        """
        connection = self._connection(request.pool)
        connection.under_way += 1
        try:
            async with self._within_time(request):
                return await self._exchange(connection.client, request)
        finally:
            connection.under_way -= 1

    async def stream(self, request: Request) -> AsyncGenerator[bytes, None]:
        """Yield the pieces of an answer as they come.

        Raises:
            APIStatusError: the server, or a proxy, refused.
            APITimeoutError: nothing came for ``request.timeout`` seconds.
            APIConnectionError: the connection failed or broke.
            ClosedError: the transport was closed.
        """
        import pyqwest

        connection = self._connection(request.pool)
        url, headers = self._base_url + request.path, pyqwest.Headers(request.headers.items())
        asked = pyqwest.Request(request.method, url, headers, request.body or None)
        connection.under_way += 1
        try:
            async with self._within_time(request):
                begun = await connection.client.execute(asked)
            async with begun as answer:
                if not 200 <= answer.status < 300:
                    async with self._within_time(request):
                        refusal = await self._read(answer, request)
                    raise classify(refusal, self._words.where(request))
                pieces = aiter(answer.content)
                while True:
                    # Each wait by itself: the reader may take its time between two pieces.
                    async with self._within_time(request):
                        piece = await anext(pieces, None)
                    if piece is None:
                        return
                    yield bytes(piece)
        finally:
            connection.under_way -= 1

    @property
    def sample_slots(self) -> int:
        """How many samples may be in flight: 2000 where ``pool_limits`` says nothing else."""
        chosen = dict(self._config.pool_limits).get("retrieve_promise")
        return _SAMPLES_IN_FLIGHT if chosen is None else sample_slots(chosen)

    async def close(self) -> None:
        """Close every connection; exchanges under way end with :class:`APIConnectionError`. Idempotent."""
        self._closed = True
        for clock in list(self._clocks):
            clock.reschedule(0.0)
        pools, self._pools = list(self._pools.values()), {}
        for connections in pools:
            for connection in connections:
                await connection.client.aclose()

    @asynccontextmanager
    async def _within_time(self, request: Request) -> AsyncIterator[None]:
        """Give what is awaited inside the request's time, and its failures our words."""
        clock = asyncio.timeout(request.timeout)
        self._clocks.add(clock)
        try:
            async with clock:
                yield
        except Exception as error:
            failure = self._failure(error, request, expired=clock.expired())
            if failure is error:
                raise
            raise failure from self._words.cause(error)
        finally:
            self._clocks.discard(clock)

    async def _exchange(self, client: pyqwest.HTTPTransport, request: Request) -> Response:
        import pyqwest

        url, headers = self._base_url + request.path, request.headers
        for _ in range(MAX_REDIRECTS + 1):
            asked = pyqwest.Request(request.method, url, pyqwest.Headers(headers.items()), request.body or None)
            async with await client.execute(asked) as answer:
                location = answer.headers.get("location", "")
                moved = answer.status in REDIRECTS and request.pool == _REDIRECTING_POOL
                if not moved or request.method != "GET" or not location:
                    return await self._read(answer, request)
                url, headers = self._redirected(url, location, request, headers)
        raise self._words.redirected(request, f"more than {MAX_REDIRECTS} redirects")

    def _redirected(
        self, url: str, location: str, request: Request, headers: dict[str, str]
    ) -> tuple[str, dict[str, str]]:
        there = urljoin(url, location)
        here_parts, there_parts = urlsplit(url), urlsplit(there)
        schemes = (here_parts.scheme, there_parts.scheme)
        if there_parts.scheme not in ("http", "https") or schemes == ("https", "http"):
            raise self._words.redirected(request, f"a redirect from {schemes[0]} to {schemes[1] or 'nowhere'}")
        return there, kept_headers(headers, same_origin=here_parts[:2] == there_parts[:2])

    async def _read(self, answer: pyqwest.Response, request: Request) -> Response:
        budget = self._config.max_response_bytes
        headers = {name.lower(): value for name, value in answer.headers.items()}
        size = headers.get("content-length", "")
        if size.isdecimal() and int(size) > budget:
            raise self._words.too_large(request, int(size))
        body = bytearray()
        async for chunk in answer.content:
            body += chunk
            if len(body) > budget:
                raise self._words.too_large(request, None)
        if answer.status >= 400:
            headers.setdefault("date", formatdate(usegmt=True))
        if answer.status == _PROXY_REFUSED and self._proxy.url is not None:
            return proxy_refusal(self._proxy.url, tuple(answer.headers.getall("proxy-authenticate")))
        return Response(answer.status, headers, bytes(body))

    def _failure(self, error: Exception, request: Request, *, expired: bool) -> Exception:
        import pyqwest

        match error:
            case TinkexError():
                return error
            case TimeoutError() if expired and self._closed:
                return APIConnectionError(
                    f"{self._words.where(request)}: the transport was closed while this was under way."
                )
            case TimeoutError() if expired:
                return self._words.too_slow(request)
            case pyqwest.ConnectTimeout():
                return self._words.not_connected(request)
            case TimeoutError():
                return self._words.fell_silent(request)
            case OSError() | pyqwest.ReadError() | pyqwest.WriteError() | pyqwest.RemoteProtocolError():
                return self._words.broken(request, error)
            case _:
                return error

    def _connection(self, pool: str) -> _Connection:
        if self._closed:
            raise ClosedError(f"The transport to {self._words.shown_url} is closed. Make a new ServiceClient.")
        connections = self._pools.setdefault(pool, [])
        for connection in connections:
            if connection.under_way < _STREAMS:
                return connection
        connections.append(_Connection(self._open()))
        return connections[-1]

    def _open(self) -> pyqwest.HTTPTransport:
        import pyqwest

        tls: dict[str, Any] = {}
        if self._base_url.startswith("https://"):
            tls_context(self._config)  # refuses a file that is none, in words
            extra = self._config.ca_file
            tls = {
                "tls_include_system_certs": True,
                "tls_ca_cert": None if extra is None else extra.read_bytes(),
            }
        if self._proxy.url is None:
            address, direct = _NO_PROXY_AT_ALL
            proxy = pyqwest.Proxy(address, no_proxy=direct)
        else:
            proxy = pyqwest.Proxy(self._proxy.url, headers=self._proxy.headers)
        return pyqwest.HTTPTransport(
            **tls,
            # Not left to negotiation: until that has ended, each request would open a connection of its own.
            http_version=pyqwest.HTTPVersion.HTTP2,
            proxy=proxy,
            connect_timeout=self._config.connect_timeout,
            read_timeout=self._config.read_timeout,
            follow_redirects=False,
            enable_otel=False,
        )
