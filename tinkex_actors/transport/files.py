"""Files behind links: read in pieces, from any byte on. A link is its own permission, so nothing else is sent along."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urljoin

import msgspec

from tinkex_actors.errors import APIConnectionError, APITimeoutError, status_error
from tinkex_actors.transport._limits import MAX_REDIRECTS, REDIRECTS, tls_context
from tinkex_actors.transport.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import aiohttp

    from tinkex_actors.config import Config

__all__ = ["FileOnItsWay", "open_link"]

_SILENCE = 60.0
_PROXY_REFUSED = 407
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


class FileOnItsWay(msgspec.Struct):
    """The answer to a link.

    Attributes:
        first: the byte that the pieces begin with; 0 where the server sends all of it again.
        total: bytes of the whole file, None where the server does not say.
        tag: the server's name for this content (its ETag, else when it was last modified), empty where it has none.
        pieces: the bytes, once, as they are stored.
    """

    first: int
    total: int | None
    tag: str
    pieces: AsyncIterator[bytes]


@asynccontextmanager
async def open_link(url: str, *, config: Config, first: int = 0, tag: str = "") -> AsyncIterator[FileOnItsWay]:
    """Ask for a file, from the byte ``first`` on.

    Redirects are followed, each by the proxy that its own host has, and never from ``https`` to ``http``.

    Args:
        url: ``http`` or ``https``; shown in no error, since whoever has it has the file.
        config: proxy, certificates and time-outs.
        first: bytes that are there already.
        tag: the content they are of; another one is sent from its beginning.

    Raises:
        APIStatusError: the server refuses, or a proxy (407); its leaf by status.
        APITimeoutError: no connection, or a minute of silence.
        APIConnectionError: the connection failed or broke, here or between two pieces.
        ConfigError: ``ca_file`` or the hook for the proxy's challenges cannot be used.
    """
    headers = {"Accept-Encoding": "identity"}
    if first:
        headers["Range"] = f"bytes={first}-"
        if tag and not tag.startswith("W/"):
            headers["If-Range"] = tag
    async with AsyncExitStack() as stack:
        answer, host = await _followed(stack, url, config, headers)
        if answer.status >= 300:
            words = f"{host}: the file's link was answered {answer.status} {answer.reason or ''}".rstrip()
            raise status_error(answer.status)(f"{words}.", status_code=answer.status)
        # What fails in the caller's hands, such as its disk, is not the connection's.
        yield _described(answer, host)


async def _followed(
    stack: AsyncExitStack, url: str, config: Config, headers: dict[str, str]
) -> tuple[aiohttp.ClientResponse, str]:
    """Return the last answer, open until the stack is left, and the name of its host."""
    import aiohttp
    from yarl import URL

    there = URL(url, encoded=True)
    session = await stack.enter_async_context(
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=tls_context(config)),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=config.connect_timeout, sock_read=config.read_timeout or _SILENCE
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            # Pieces are counted, and gone on from, as the server counts them.
            auto_decompress=False,
        )
    )
    for _ in range(MAX_REDIRECTS + 1):
        host = there.host or "the link"
        with _in_words(host):
            answer = await stack.enter_async_context(await _ask(session, there, config, headers))
        if answer.status not in REDIRECTS or "location" not in answer.headers:
            return answer, host
        before, there = there, URL(urljoin(str(there), answer.headers["location"]), encoded=True)
        if there.scheme not in ("http", "https") or (before.scheme == "https" and there.scheme == "http"):
            raise APIConnectionError(f"{host}: the link leads from {before.scheme} to {there.scheme}; not followed.")
    raise APIConnectionError(f"{host}: the link leads on more than {MAX_REDIRECTS} times; not followed.")


async def _ask(
    session: aiohttp.ClientSession, url: object, config: Config, headers: dict[str, str]
) -> aiohttp.ClientResponse:
    """Send one request, and again where the program answers a proxy's challenge."""
    import aiohttp
    from yarl import URL

    assert isinstance(url, URL)
    proxy = Proxy(config, str(url))
    while True:
        # A plain request carries the proxy's headers itself; to a TLS server, CONNECT does.
        own, tunnel = (proxy.headers, None) if url.scheme == "http" else ({}, proxy.headers)
        try:
            answer = await session.get(
                url,
                headers=headers | own if proxy.url else headers,
                allow_redirects=False,
                proxy=proxy.url,
                proxy_headers=tunnel if proxy.url else None,
            )
            if answer.status != _PROXY_REFUSED or proxy.url is None:
                return answer
            asked = tuple(answer.headers.getall("proxy-authenticate", []))
            answer.close()
        except aiohttp.ClientHttpProxyError as error:  # the answer to CONNECT
            if error.status != _PROXY_REFUSED:
                raise
            asked = tuple(error.headers.getall("proxy-authenticate", [])) if error.headers else ()
        if not await proxy.answer(asked):
            raise status_error(_PROXY_REFUSED)(
                f"the proxy {proxy.url} asks for credentials ({'; '.join(asked) or 'nothing named'}). Put them into "
                "its URL, or set Config.proxy_authorize.",
                status_code=_PROXY_REFUSED,
            )


@contextmanager
def _in_words(host: str) -> Iterator[None]:
    """Turn the HTTP client's errors into ours; theirs may name the link."""
    import aiohttp

    try:
        yield
    except (aiohttp.ServerTimeoutError, TimeoutError) as error:
        raise APITimeoutError(f"{host}: the file's server does not answer: {type(error).__name__}.") from None
    except (aiohttp.ClientError, OSError) as error:
        raise APIConnectionError(f"{host}: the file's connection failed: {type(error).__name__}.") from None


def _described(answer: aiohttp.ClientResponse, host: str) -> FileOnItsWay:
    first, total = 0, answer.content_length
    if answer.status == 206:
        found = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", ""))
        if found is not None:
            first, total = int(found[1]), None if found[2] == "*" else int(found[2])

    async def pieces() -> AsyncIterator[bytes]:
        while True:
            with _in_words(host):
                piece = await answer.content.readany()
            if not piece:
                return
            yield piece

    tag = answer.headers.get("etag") or answer.headers.get("last-modified") or ""
    return FileOnItsWay(first, total, tag, pieces())
