"""HTTP/2 by httpx2: one connection carries many long polls (extra ``http2``, ``Config.http2``)."""

from __future__ import annotations

import asyncio
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

from tinkex_actors.errors import APIConnectionError, ClosedError, ConfigError, TinkexError
from tinkex_actors.transport._limits import (
    MAX_REDIRECTS,
    REDIRECTS,
    Words,
    kept_headers,
    pool_limits,
    sample_slots,
    tls_context,
)
from tinkex_actors.transport.proxy import Proxy, proxy_refusal
from tinkex_actors.wire.exchange import Response

if TYPE_CHECKING:
    import httpx2

    from tinkex_actors.config import Config
    from tinkex_actors.wire.exchange import Request

__all__ = ["Http2Transport"]

# Where each exchange is a stream, the files of the process are no limit; the server's own flag is (protocol 5.2: 2000).
_SAMPLES_IN_FLIGHT = 2000
_PROXY_REFUSED = 407
_REDIRECTING_POOL = "rest_support_redirect"


class Http2Transport:
    """A server reached over HTTP/2, or over HTTP/1.1 where a TLS server does not offer it.

    To a server without TLS it speaks HTTP/2 from the first byte, which only such a server understands.

    Args:
        base_url: scheme, host and base path; request paths are appended to it.
        config: time-outs, limits, proxy, certificates.

    Raises:
        ConfigError: the extra ``http2`` is not installed, or a proxy's challenges would have to be answered.
    """

    def __init__(self, base_url: str, *, config: Config) -> None:
        try:
            import h2
            import httpx2
        except ImportError as error:
            raise ConfigError(
                "Config.http2: HTTP/2 needs another package. Install it (pip install 'tinkex-actors[http2]'), or leave "
                "http2 out (TINKEX_HTTP_CLIENT=aiohttp)."
            ) from error
        del h2, httpx2
        if config.proxy_authorize is not None and config.proxy_for(base_url) is not None:
            raise ConfigError(
                "Config.http2: the HTTP/2 client cannot answer a proxy's challenge (Config.proxy_authorize). Put Basic "
                "credentials into the proxy's URL, or leave http2 out."
            )
        self._base_url = base_url.rstrip("/")
        self._config = config
        self._words = Words(config, self._base_url)
        self._proxy = Proxy(config, self._base_url)
        self._limits = pool_limits(config)
        self._clients: dict[str, httpx2.AsyncClient] = {}
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
        client = self._client(request.pool)
        clock = asyncio.timeout(request.timeout)
        try:
            async with clock:
                return await self._exchange(client, request)
        except Exception as error:
            failure = self._failure(error, request, expired=clock.expired())
            if failure is error:
                raise
            raise failure from self._words.cause(error)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if not self._closed or (task is not None and task.cancelling()):
                raise
            raise APIConnectionError(
                f"{self._words.where(request)}: the transport was closed while this was under way."
            ) from error

    @property
    def sample_slots(self) -> int:
        """How many samples may be in flight: 2000 where ``pool_limits`` says nothing else."""
        chosen = dict(self._config.pool_limits).get("retrieve_promise")
        return _SAMPLES_IN_FLIGHT if chosen is None else sample_slots(chosen)

    async def close(self) -> None:
        """Close every connection; exchanges under way end with :class:`APIConnectionError`. Idempotent."""
        self._closed = True
        clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            await client.aclose()

    async def _exchange(self, client: httpx2.AsyncClient, request: Request) -> Response:
        url, headers = self._base_url + request.path, request.headers
        for _ in range(MAX_REDIRECTS + 1):
            asked = client.build_request(request.method, url, headers=headers, content=request.body or None)
            answer = await client.send(asked, stream=True)
            try:
                moved = answer.status_code in REDIRECTS and request.pool == _REDIRECTING_POOL
                if not moved or request.method != "GET" or "location" not in answer.headers:
                    return await self._read(answer, request)
                there = asked.url.join(answer.headers["location"])
                if there.scheme not in ("http", "https") or (asked.url.scheme, there.scheme) == ("https", "http"):
                    raise self._words.redirected(request, f"a redirect from {asked.url.scheme} to {there.scheme}")
                here = (asked.url.scheme, asked.url.netloc)
                url, headers = str(there), kept_headers(headers, same_origin=here == (there.scheme, there.netloc))
            finally:
                await answer.aclose()
        raise self._words.redirected(request, f"more than {MAX_REDIRECTS} redirects")

    async def _read(self, answer: httpx2.Response, request: Request) -> Response:
        budget = self._config.max_response_bytes
        headers = {name.lower(): value for name, value in answer.headers.items()}
        size = headers.get("content-length", "")
        if size.isdecimal() and int(size) > budget:
            raise self._words.too_large(request, int(size))
        body = bytearray()
        async for chunk in answer.aiter_bytes():
            body += chunk
            if len(body) > budget:
                raise self._words.too_large(request, None)
        if answer.status_code >= 400:
            headers.setdefault("date", formatdate(usegmt=True))
        if answer.status_code == _PROXY_REFUSED and self._proxy.url is not None:
            return proxy_refusal(self._proxy.url, tuple(answer.headers.get_list("proxy-authenticate")))
        return Response(answer.status_code, headers, bytes(body))

    def _failure(self, error: Exception, request: Request, *, expired: bool) -> Exception:
        import httpx2

        match error:
            case TinkexError():
                return error
            case TimeoutError() if expired:
                return self._words.too_slow(request)
            case httpx2.ConnectTimeout():
                return self._words.not_connected(request)
            case httpx2.ReadTimeout() | httpx2.WriteTimeout():
                return self._words.fell_silent(request)
            case httpx2.HTTPError() | httpx2.InvalidURL() | OSError():
                return self._words.broken(request, error)
            case RuntimeError() if self._closed:
                return self._words.broken(request, error)
            case _:
                return error

    def _client(self, pool: str) -> httpx2.AsyncClient:
        if self._closed:
            raise ClosedError(f"The transport to {self._words.shown_url} is closed. Make a new ServiceClient.")
        name = pool if pool in self._limits else "train"
        if name not in self._clients:
            self._clients[name] = self._open(self._limits[name])
        return self._clients[name]

    def _open(self, limit: int) -> httpx2.AsyncClient:
        import httpx2

        plain = not self._base_url.startswith("https://")
        tls: Any = True if plain else tls_context(self._config)
        proxy = None
        if self._proxy.url is not None:
            proxy = httpx2.Proxy(self._proxy.url, headers=self._proxy.headers)
        return httpx2.AsyncClient(
            http1=not plain,
            http2=True,
            verify=tls,
            proxy=proxy,
            trust_env=False,
            follow_redirects=False,
            # No header but ours: the client's own would tell another story of who asks.
            headers={},
            limits=httpx2.Limits(max_connections=limit),
            timeout=httpx2.Timeout(None, connect=self._config.connect_timeout, read=self._config.read_timeout),
        )
