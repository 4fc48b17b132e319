"""HTTP/1.1 by aiohttp: one connector per purpose, so that a thousand long polls never starve a training step."""

from __future__ import annotations

import asyncio
from email.utils import formatdate
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from tinkex_actors.errors import APIConnectionError, ClosedError, TinkexError
from tinkex_actors.transport._limits import (
    MAX_REDIRECTS,
    REDIRECTS,
    Words,
    kept_headers,
    pool_limits,
    read_within,
    sample_slots,
    tls_context,
)
from tinkex_actors.transport.proxy import Proxy, proxy_refusal
from tinkex_actors.wire.classification import classify
from tinkex_actors.wire.exchange import Response

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    import aiohttp
    from aiohttp.client import _RequestContextManager
    from multidict import CIMultiDictProxy
    from yarl import URL

    from tinkex_actors.config import Config
    from tinkex_actors.transport._lane import Lane
    from tinkex_actors.wire.exchange import Request

__all__ = ["HttpTransport"]

_READ_CHUNK_BYTES = 1 << 16
# Idle connections are kept for longer than the ten seconds between two heartbeats.
_KEEP_ALIVE = 30.0
# Paths without a query are few and come again and again; those with ids in them are forgotten with the rest.
_KEPT_URLS = 512
# As often as the official client replaces its own (protocol 1.5); what is left behind closes with the transport.
_MOST_LEFT = 16
_REDIRECTING_POOL = "rest_support_redirect"
_PROXY_REFUSED = 407


class HttpTransport:
    """A server reached over HTTP/1.1.

    Args:
        base_url: scheme, host and base path; request paths are appended to it.
        config: time-outs, limits, proxy, certificates.
    """

    def __init__(self, base_url: str, *, config: Config) -> None:
        self._base_url = base_url.rstrip("/")
        self._config = config
        self._words = Words(config, self._base_url)
        self._proxy = Proxy(config, self._base_url)
        # A request to a plain server carries the proxy's headers itself; to a TLS server, CONNECT does.
        self._tunnel = self._base_url.startswith("https://")
        self._limits = pool_limits(config)
        self._budget = config.max_response_bytes
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        self._lanes: dict[str, Lane] = {}
        self._left: list[aiohttp.ClientSession] = []
        self._under_way: dict[str, int] = {}
        self._urls: dict[str, URL] = {}
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
        pool = request.pool
        session = self._sessions.get(pool) or self._session(pool)
        self._under_way[pool] = self._under_way.get(pool, 0) + 1
        # The one clock on an exchange is ours; aiohttp watches the connect phase, and silence where it is told to.
        clock = asyncio.timeout(request.timeout)
        try:
            async with clock:
                if request.method == "POST" and (lane := self._lanes.get(pool)) is not None:
                    return await self._post(lane, request)
                if self._proxy.url is None:
                    return await self._exchange(session, request)
                return await self._through_proxy(session, request, self._proxy.url)
        except Exception as error:
            failure = self._failure(error, request, expired=clock.expired())
            if failure is error:
                raise
            raise failure from self._words.cause(error)
        except asyncio.CancelledError as error:
            self._cut_off(request, error)
            raise
        finally:
            self._under_way[pool] -= 1

    async def stream(self, request: Request) -> AsyncGenerator[bytes, None]:
        """Yield the pieces of an answer as they come.

        Raises:
            APIStatusError: the server, or a proxy, refused.
            APITimeoutError: nothing came for ``request.timeout`` seconds.
            APIConnectionError: the connection failed or broke.
            ClosedError: the transport was closed.
        """
        pool = request.pool
        session = self._sessions.get(pool) or self._session(pool)
        self._under_way[pool] = self._under_way.get(pool, 0) + 1
        # One clock for each wait: the reader may take its time between two pieces.
        clock = asyncio.timeout(request.timeout)
        try:
            async with clock:
                answer = await self._begin(session, request, self._url(request.path), request.headers)
            async with answer:
                if not 200 <= answer.status < 300:
                    async with asyncio.timeout(request.timeout) as clock:
                        refusal = await self._read(answer, request)
                    raise classify(refusal, self._words.where(request))
                while True:
                    async with asyncio.timeout(request.timeout) as clock:
                        piece = await answer.content.readany()
                    if not piece:
                        return
                    yield piece
        except Exception as error:
            failure = self._failure(error, request, expired=clock.expired())
            if failure is error:
                raise
            raise failure from self._words.cause(error)
        except asyncio.CancelledError as error:
            self._cut_off(request, error)
            raise
        finally:
            self._under_way[pool] -= 1

    @property
    def sample_slots(self) -> int:
        """How many samples may be in flight: each holds a connection while it is polled.

        At most 1000, and a quarter of the files that this process may open, where ``pool_limits`` says nothing else.
        """
        return sample_slots(dict(self._config.pool_limits).get("retrieve_promise"))

    async def close(self) -> None:
        """Close every connection; exchanges under way end with :class:`APIConnectionError`. Idempotent."""
        self._closed = True
        sessions, self._sessions = [*self._sessions.values(), *self._left], {}
        self._left.clear()
        self._lanes.clear()
        for session in sessions:
            await session.close()

    async def _exchange(self, session: aiohttp.ClientSession, request: Request) -> Response:
        url: URL | str = self._urls.get(request.path) or self._url(request.path)
        headers = request.headers
        for _ in range(MAX_REDIRECTS + 1):
            async with self._begin(session, request, url, headers) as answer:
                moved = answer.status in REDIRECTS and request.pool == _REDIRECTING_POOL
                if not moved or request.method != "GET" or "location" not in answer.headers:
                    return await self._read(answer, request)
                url, headers = self._redirected(str(url), answer.headers["location"], request, headers)
        raise self._words.redirected(request, f"more than {MAX_REDIRECTS} redirects")

    async def _post(self, lane: Lane, request: Request) -> Response:
        status, found, body = await lane.post(request)
        if body is None:
            size = int(found.get("content-length", 0))
            raise self._words.too_large(request, size if size > self._budget else None)
        return await self._response(status, found, body, request)

    def _begin(
        self, session: aiohttp.ClientSession, request: Request, url: URL | str, headers: dict[str, str]
    ) -> _RequestContextManager:
        proxy_headers = None
        if self._proxy.url is not None:
            if self._tunnel:
                proxy_headers = self._proxy.headers
            else:
                headers = headers | self._proxy.headers
        return session.request(
            request.method,
            url,
            data=request.body or None,
            headers=headers,
            allow_redirects=False,
            proxy_headers=proxy_headers,
        )

    async def _read(self, answer: aiohttp.ClientResponse, request: Request) -> Response:
        size = answer.content_length
        if size is not None and size > self._budget:
            answer.close()
            raise self._words.too_large(request, size)
        if size is not None and "content-encoding" not in answer.headers:
            body = await answer.read()
        else:
            # Without a length, or compressed: only the reading shows how much it is.
            found = await read_within(answer.content, self._budget)
            if found is None:
                answer.close()
                raise self._words.too_large(request, None)
            body = found
        return await self._response(answer.status, answer.headers, body, request)

    async def _response(self, status: int, found: CIMultiDictProxy[str], body: bytes, request: Request) -> Response:
        headers = {name.lower(): value for name, value in found.items()}
        if status >= 400:
            # By what clock a date in `retry-after` is meant.
            headers.setdefault("date", formatdate(usegmt=True))
            if status == _PROXY_REFUSED:
                headers["proxy-authenticate"] = "\n".join(found.getall("proxy-authenticate", []))
            if status == 400 and not body:
                await self._leave_connections(request.pool)
        return Response(status, headers, body)

    async def _leave_connections(self, pool: str) -> None:
        """A proxy's refusal belongs to a connection (protocol 1.5): the next attempt shall have another."""
        if len(self._left) >= _MOST_LEFT:
            return
        old = self._sessions.pop(pool, None)
        self._lanes.pop(pool, None)
        if old is not None and self._under_way[pool] > 1:
            self._left.append(old)  # others are still being answered there
        elif old is not None:
            await old.close()

    def _redirected(
        self, url: str, location: str, request: Request, headers: dict[str, str]
    ) -> tuple[str, dict[str, str]]:
        from yarl import URL

        here, there = URL(url), URL(urljoin(url, location))
        if there.scheme not in ("http", "https") or (here.scheme == "https" and there.scheme == "http"):
            raise self._words.redirected(request, f"a redirect from {here.scheme} to {there.scheme or 'nowhere'}")
        return str(there), kept_headers(headers, same_origin=here.origin() == there.origin())

    async def _through_proxy(self, session: aiohttp.ClientSession, request: Request, proxy: str) -> Response:
        import aiohttp

        for last in (False, True):
            try:
                answer = await self._exchange(session, request)
                if answer.status != _PROXY_REFUSED:
                    return answer
                asked = tuple(filter(None, answer.headers.get("proxy-authenticate", "").split("\n")))
            except aiohttp.ClientHttpProxyError as error:  # the answer to CONNECT
                if error.status != _PROXY_REFUSED:
                    raise
                asked = tuple(error.headers.getall("proxy-authenticate", [])) if error.headers else ()
            if last or not await self._proxy.answer(asked):
                break
        return proxy_refusal(proxy, asked)

    def _cut_off(self, request: Request, error: asyncio.CancelledError) -> None:
        """Raise the transport's own end as what it is; a caller's cancellation is not ours to tell."""
        task = asyncio.current_task()
        if self._closed and (task is None or not task.cancelling()):
            # A connector that is closed cancels those who wait for one of its connections.
            raise APIConnectionError(
                f"{self._words.where(request)}: the transport was closed while this waited for a connection."
            ) from error

    def _failure(self, error: Exception, request: Request, *, expired: bool) -> Exception:
        import aiohttp

        match error:
            case TinkexError():
                return error
            case TimeoutError() if expired:
                return self._words.too_slow(request, self._business(request.pool))
            case aiohttp.ConnectionTimeoutError():
                return self._words.not_connected(request)
            case aiohttp.SocketTimeoutError():
                return self._words.fell_silent(request)
            case aiohttp.ClientConnectorError():
                return self._words.broken(request, error, sent=False)
            case aiohttp.ClientError() | OSError():
                return self._words.broken(request, error)
            case _:
                return error

    def _business(self, pool: str) -> str:
        waiting = self._under_way[pool] - self._limits.get(pool, self._limits["train"])
        return f"; all connections of the pool {pool!r} are busy, {waiting} requests wait" if waiting > 0 else ""

    def _url(self, path: str) -> URL:
        from yarl import URL

        url = URL(self._base_url + path, encoded=True)
        if "?" not in path:
            if len(self._urls) >= _KEPT_URLS:
                self._urls.clear()
            self._urls[path] = url
        return url

    def _session(self, pool: str) -> aiohttp.ClientSession:
        if self._closed:
            raise ClosedError(f"The transport to {self._words.shown_url} is closed. Make a new ServiceClient.")
        session = self._sessions[pool] = self._open(self._limits.get(pool, self._limits["train"]))
        if pool != _REDIRECTING_POOL and self._proxy.url is None:
            from tinkex_actors.transport import _lane

            if _lane.usable(self._base_url):
                self._lanes[pool] = _lane.Lane(
                    session, self._base_url, budget_bytes=self._budget, buffer_bytes=_READ_CHUNK_BYTES
                )
        return session

    def _open(self, limit: int) -> aiohttp.ClientSession:
        import aiohttp

        tls = tls_context(self._config) if self._tunnel or (self._proxy.url or "").startswith("https") else True
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=limit, ssl=tls, keepalive_timeout=_KEEP_ALIVE),
            timeout=aiohttp.ClientTimeout(
                total=None,
                connect=None,
                sock_connect=self._config.connect_timeout,
                sock_read=self._config.read_timeout,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=_READ_CHUNK_BYTES,
            # Our codec names its own media types; aiohttp must not invent one for an empty body.
            skip_auto_headers=("Content-Type", "User-Agent"),
            # Not trust_env: that looks for proxies and credentials on disk, in a thread, for every request.
            proxy=self._proxy.url,
        )
