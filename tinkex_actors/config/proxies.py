"""Which proxy stands between us and a server, and what it is told."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import msgspec

from tinkex_actors.errors import ConfigError
from tinkex_actors.redaction import without_credentials

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ProxyAddress", "bypasses", "parse_proxy", "proxy_of_environment"]


class ProxyAddress(msgspec.Struct, frozen=True):
    """A proxy, taken apart.

    Attributes:
        url: scheme, host and port, without user and password.
        authorization: the value of ``Proxy-Authorization`` that its user and password make, or None.
    """

    url: str
    authorization: str | None = None

    def __repr__(self) -> str:
        return f"ProxyAddress({self.url!r}, authorization={'None' if self.authorization is None else '***'})"


def parse_proxy(text: str, name: str = "Config.proxy") -> ProxyAddress:
    """Take a proxy's URL apart; a user and a password in it are percent-decoded and become Basic credentials.

    Args:
        text: ``http://HOST:PORT`` or ``https://HOST:PORT``, with ``USER:PASSWORD@`` before the host or without.
        name: of the setting, for the message.

    Raises:
        ConfigError: another scheme, no host, or a port outside 1 to 65535.
    """
    shown = without_credentials(text)
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"{name}: {shown!r} is not a URL ({error}). Expected http://HOST:PORT.") from None
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise ConfigError(f"{name}: expected http://HOST:PORT or https://HOST:PORT, got {shown!r}.")
    port = port or (443 if parts.scheme == "https" else 80)
    authorization = None
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = "Basic " + base64.b64encode(user.encode()).decode()
    return ProxyAddress(f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}", authorization)


def proxy_of_environment(base_url: str, env: Mapping[str, str]) -> tuple[str, str | None]:
    """Return the name and value of the variable that has a proxy for a URL; the value is None where none has.

    ``TINKEX_PROXY``, then the one of the URL's scheme (``HTTPS_PROXY`` or ``HTTP_PROXY``), then ``ALL_PROXY``; the
    last three in either case.
    """
    if value := env.get("TINKEX_PROXY", "").strip():
        return "TINKEX_PROXY", value
    named = {name.lower(): (name, value) for name, value in env.items() if name.lower().endswith("_proxy") and value}
    scheme = base_url.partition("://")[0]
    if scheme not in ("http", "https"):
        return "", None
    return named.get(f"{scheme}_proxy") or named.get("all_proxy") or ("", None)


def bypasses(url: str, no_proxy: str) -> bool:
    """Return whether ``NO_PROXY`` says that a URL is reached directly: host suffixes, addresses, ``*``."""
    if not no_proxy:
        return False
    from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

    return bool(
        proxy_bypass_environment(url.partition("://")[2].partition("/")[0].rpartition("@")[2], {"no": no_proxy})
    )
