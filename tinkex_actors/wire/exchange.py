"""One HTTP exchange as plain values: what the codec makes and reads, and what a transport carries."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from tinkex_actors.errors import LocalWireError

__all__ = ["Request", "Response", "header", "header_value"]


class Request(msgspec.Struct):
    """A request.

    Args:
        method: ``GET``, ``POST``, ``PUT`` or ``DELETE``.
        path: from ``/api/v1/`` on, percent-encoded, with the query.
        headers: as they will be sent.
        body: the bytes, empty when there is none.
        timeout: seconds to wait for the whole answer.
        pool: the connections to use (protocol 1.4): ``session``, ``train``, ``sample``, ``retrieve_promise``,
            ``retrieve_futures``, ``auth``, ``telemetry``, or ``rest_support_redirect``, where redirects are followed.
    """

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""
    timeout: float = 60.0
    pool: str = "train"

    def __repr__(self) -> str:
        # Headers hold the key and bodies hold the user's data: neither belongs in a log line.
        return f"Request({self.method} {self.path}, {len(self.body)} bytes, pool={self.pool!r})"


class Response(msgspec.Struct):
    """A response: the status, the headers under lower-case names, and the whole body."""

    status: int
    headers: dict[str, str]
    body: bytes = b""

    def __repr__(self) -> str:
        return f"Response({self.status}, {self.headers.get('content-type', 'no type')}, {len(self.body)} bytes)"


def header(headers: Mapping[str, str], name: str) -> str:
    """Return a header's value whatever the case of its name, or an empty string."""
    value = headers.get(name)
    if value is not None:
        return value
    wanted = name.lower()
    return next((value for key, value in headers.items() if key.lower() == wanted), "")


def header_value(name: str, value: str) -> str:
    """Return ``value``, once it is known to be one that a header can carry and that begins no other header.

    Raises:
        LocalWireError: it is empty or holds anything but visible ASCII and inner spaces; the text does not show it.
    """
    if not value or not value.isascii() or not value.isprintable() or value != value.strip():
        raise LocalWireError(
            f"The header {name} takes visible ASCII characters, and the {len(value)} characters given are not only "
            "that. Look for a line break or a quote that was copied along."
        )
    return value
