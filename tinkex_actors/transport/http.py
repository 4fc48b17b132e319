"""HTTP by aiohttp: one connector per purpose, so that a thousand long polls never starve a training step."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tinkex_actors.config import without_credentials
from tinkex_actors.errors import APIConnectionError, APITimeoutError, ClosedError
from tinkex_actors.wire.exchange import Response

if TYPE_CHECKING:
    import aiohttp

    from tinkex_actors.config import Config
    from tinkex_actors.wire.exchange import Request

__all__ = ["HttpTransport"]

# Connections per purpose. HTTP/1.1 spends one connection on every long poll, so polls have their own connector, and
# training has one that nothing else can fill. The polls of training and of samples share one, which has room for all
# samples that `sample_slots` lets in and 32 more.
_POOL_LIMITS = {
    "session": 8,
    "train": 32,
    "sample": 400,
    "telemetry": 4,
}
_SAMPLE_POLLS = 1000
_TRAINING_POLLS = 32
_READ_CHUNK_BYTES = 1 << 16


class HttpTransport:
    """A server reached over HTTP/1.1.

    Args:
        base_url: scheme, host and base path; request paths are appended to it.
        config: gives the connect time-out.
    """

    def __init__(self, base_url: str, *, config: Config) -> None:
        self._base_url = base_url.rstrip("/")
        self._connect_timeout = config.connect_timeout
        self._proxy = config.proxy
        self._shown_url = without_credentials(self._base_url)
        # Then aiohttp's errors may name them too, and must not be seen as the cause of ours.
        self._private = self._shown_url != self._base_url or without_credentials(self._proxy or "") != (
            self._proxy or ""
        )
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        self._closed = False

    async def send(self, request: Request) -> Response:
        """Exchange one request for one response.

        Raises:
            APITimeoutError: no complete answer within ``request.timeout`` seconds, connecting included.
            APIConnectionError: the connection failed or broke.
            ClosedError: the transport was closed.
        """
        import aiohttp

        session = self._session(request.pool)
        where = f"{request.method} {self._shown_url}{request.path}"
        try:
            async with (
                asyncio.timeout(request.timeout),
                session.request(
                    request.method,
                    self._base_url + request.path,
                    data=request.body or None,
                    headers=request.headers,
                    # The key must not follow a redirect to somebody else.
                    allow_redirects=False,
                ) as answer,
            ):
                body = await answer.read()
                headers = {name.lower(): value for name, value in answer.headers.items()}
                return Response(status=answer.status, headers=headers, body=body)
        except aiohttp.ConnectionTimeoutError as error:
            raise APITimeoutError(
                f"{where}: no connection within {self._connect_timeout:g} s. Check the base URL and that the server is "
                "up."
            ) from (None if self._private else error)
        except TimeoutError as error:
            raise APITimeoutError(f"{where}: no answer within {request.timeout:g} s.") from error
        except (aiohttp.ClientError, OSError) as error:
            words = without_credentials(f"{type(error).__name__}: {error}").rstrip(".")
            raise APIConnectionError(f"{where}: {words}. Check the base URL and that the server is up.") from (
                None if self._private else error
            )
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if not self._closed or (task is not None and task.cancelling()):
                raise
            # A connector that is closed cancels those who wait for one of its connections.
            raise APIConnectionError(
                f"{where}: the transport was closed while this waited for a connection."
            ) from error

    @property
    def sample_slots(self) -> int:
        """How many samples may be in flight: each holds a connection while it is polled.

        At most 1000, and a quarter of the files that this process may open.
        """
        try:
            import resource
        except ImportError:  # Windows knows no such limit
            return _SAMPLE_POLLS
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return _SAMPLE_POLLS if files == resource.RLIM_INFINITY else max(1, min(_SAMPLE_POLLS, files // 4))

    async def close(self) -> None:
        """Close every connection; exchanges under way end with :class:`APIConnectionError`. Idempotent."""
        self._closed = True
        sessions, self._sessions = list(self._sessions.values()), {}
        for session in sessions:
            await session.close()

    def _session(self, pool: str) -> aiohttp.ClientSession:
        if self._closed:
            raise ClosedError(f"The transport to {self._shown_url} is closed. Make a new ServiceClient.")
        session = self._sessions.get(pool)
        if session is None:
            polls = pool == "retrieve_promise"
            limit = self.sample_slots + _TRAINING_POLLS if polls else _POOL_LIMITS.get(pool, _POOL_LIMITS["train"])
            session = self._sessions[pool] = self._open(limit)
        return session

    def _open(self, limit: int) -> aiohttp.ClientSession:
        import aiohttp

        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=limit),
            # The one clock on an exchange is asyncio.timeout above; aiohttp watches the connect phase only.
            timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=self._connect_timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=_READ_CHUNK_BYTES,
            # Our codec names its own media types; aiohttp must not invent one for an empty body.
            skip_auto_headers=("Content-Type", "User-Agent"),
            # Not trust_env: that looks for proxies and credentials on disk, in a thread, for every request.
            proxy=self._proxy,
        )
