"""Files behind links that need no key: unguessable, and good for an hour.

A link is ``{origin}/api/v1/files/{token}/{name}``. The origin is the host that the client asked; in one process, where
there is none, it is ``local://NAME``, and whoever has the transport sends a ``GET`` of the link's path through it.
"""

from __future__ import annotations

import re
import secrets
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, unquote

from tinkex_actors.errors import APIStatusError, NotFoundError
from tinkex_actors.wire.exchange import Response, header
from tinkex_actors.wire.routes import PREFIX

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tinkex_actors.wire.exchange import Request

__all__ = ["LINK_LIFETIME", "Downloads"]

LINK_LIFETIME = timedelta(hours=1)
"""How long a link works."""

# Beyond it the oldest links end early; a listing of a checkpoint's files makes a few.
_MAX_LINKS = 10_000

_PATH = re.compile(rf"{PREFIX}/files/([\w-]+)/([^?]+)")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class _Offer(NamedTuple):
    name: str
    expires: datetime
    read: Callable[[], bytes]


class Downloads:
    """The links of one engine.

    Args:
        base: what an origin is made of where the client asked no host.
        wall_clock: the time of day, UTC.
        on_disk: runs a function on the thread that reads the disk.
    """

    def __init__(
        self,
        base: str,
        wall_clock: Callable[[], datetime],
        on_disk: Callable[[Callable[[], bytes]], Awaitable[bytes]],
    ) -> None:
        self._base = base
        self._wall_clock = wall_clock
        self._on_disk = on_disk
        self._offers: dict[str, _Offer] = {}

    def offer(self, request: Request, name: str, read: Callable[[], bytes]) -> str:
        """Return a link to what ``read`` returns, for the client that sent ``request``.

        Args:
            request: says how the client reaches this engine.
            name: the file's path, as the client will save it.
            read: called on the disk's thread at each download; must return the same bytes each time.
        """
        now = self._wall_clock()
        self._offers = {token: offer for token, offer in self._offers.items() if offer.expires > now}
        while len(self._offers) >= _MAX_LINKS:
            del self._offers[next(iter(self._offers))]
        token = secrets.token_urlsafe(24)
        self._offers[token] = _Offer(name, now + LINK_LIFETIME, read)
        host = header(request.headers, "host")
        scheme = header(request.headers, "x-forwarded-proto") or "http"
        prefix = request.path.partition(PREFIX)[0]
        origin = f"{scheme}://{host}{prefix}" if host else self._base
        return f"{origin}{PREFIX}/files/{token}/{quote(name)}"

    async def answer(self, request: Request) -> Response | None:
        """Return the file that a request asks for, whole or from a byte on; None when it asks for none.

        Raises:
            NotFoundError: the link is unknown, or its hour has passed.
            APIStatusError: 416 for a range that begins behind the end.
        """
        found = _PATH.search(request.path)
        if found is None or request.method != "GET":
            return None
        offer = self._offers.get(found[1])
        if offer is None or offer.expires <= self._wall_clock() or offer.name != unquote(found[2]):
            raise NotFoundError("No such link here, or its hour has passed. Ask for a new one.", status_code=404)
        body = await self._on_disk(offer.read)
        headers = {"content-type": "application/octet-stream", "accept-ranges": "bytes"}
        part = _RANGE.fullmatch(header(request.headers, "range"))
        if part is None:
            return Response(200, headers | {"content-length": str(len(body))}, body)
        first = int(part[1])
        last = min(int(part[2] or len(body) - 1), len(body) - 1)
        if first > last:
            raise APIStatusError(f"The file has {len(body)} bytes; it cannot be read from {first} on.", status_code=416)
        cut = body[first : last + 1]
        headers |= {"content-range": f"bytes {first}-{last}/{len(body)}", "content-length": str(len(cut))}
        return Response(206, headers, cut)
