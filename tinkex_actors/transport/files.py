"""Files behind links: read in pieces, from any byte on. A link is its own permission, so nothing else is sent along."""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec

from tinkex_actors.errors import APIConnectionError, APITimeoutError, status_error
from tinkex_actors.transport._limits import MAX_REDIRECTS, tls_context
from tinkex_actors.transport.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tinkex_actors.config import Config

__all__ = ["FileOnItsWay", "open_link"]

_SILENCE = 60.0
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


class FileOnItsWay(msgspec.Struct):
    """The answer to a link.

    Attributes:
        first: the byte that the pieces begin with; 0 where the server sends all of it again.
        total: bytes of the whole file, None where the server does not say.
        tag: the server's name for this content, empty where it has none.
        pieces: the bytes, once.
    """

    first: int
    total: int | None
    tag: str
    pieces: AsyncIterator[bytes]


@asynccontextmanager
async def open_link(url: str, *, config: Config, first: int = 0, tag: str = "") -> AsyncIterator[FileOnItsWay]:
    """Ask for a file, from the byte ``first`` on.

    Args:
        url: ``http`` or ``https``; shown in no error, since whoever has it has the file.
        config: proxy, certificates and time-outs.
        first: bytes that are there already.
        tag: the content they are of; another one is sent from its beginning.

    Raises:
        APIStatusError: the server refuses; its leaf by status.
        APITimeoutError: no connection, or a minute of silence.
        APIConnectionError: the connection failed or broke, here or between two pieces.
    """
    import aiohttp
    from yarl import URL

    host = URL(url).host
    proxy = Proxy(config, url)
    headers = {"Accept-Encoding": "identity"}
    if first:
        headers["Range"] = f"bytes={first}-"
        if tag and not tag.startswith("W/"):
            headers["If-Range"] = tag
    clear = url.startswith("http://")
    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=config.connect_timeout, sock_read=config.read_timeout or _SILENCE
    )
    try:
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=1, ssl=True if clear else tls_context(config)),
                timeout=timeout,
                cookie_jar=aiohttp.DummyCookieJar(),
                proxy=proxy.url,
            ) as session,
            session.get(
                URL(url, encoded=True),
                headers=headers | (proxy.headers if clear and proxy.url else {}),
                max_redirects=MAX_REDIRECTS,
                proxy_headers=proxy.headers if proxy.url and not clear else None,
            ) as answer,
        ):
            if not clear and answer.url.scheme != "https":
                raise APIConnectionError(f"{host}: the link leads from https to {answer.url.scheme}; not followed.")
            if answer.status >= 300:
                words = f"{host}: the file's link was answered {answer.status} {answer.reason or ''}".rstrip()
                raise status_error(answer.status)(f"{words}.", status_code=answer.status)
            yield _described(answer)
    except aiohttp.ServerTimeoutError as error:
        raise APITimeoutError(f"{host}: the file's server does not answer: {type(error).__name__}.") from None
    except (aiohttp.ClientError, OSError) as error:
        raise APIConnectionError(f"{host}: the file's connection failed: {type(error).__name__}.") from None


def _described(answer: object) -> FileOnItsWay:
    import aiohttp

    assert isinstance(answer, aiohttp.ClientResponse)
    first, total = 0, answer.content_length
    if answer.status == 206:
        found = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", ""))
        if found is not None:
            first, total = int(found[1]), None if found[2] == "*" else int(found[2])
    return FileOnItsWay(first, total, answer.headers.get("etag", ""), answer.content.iter_any())
