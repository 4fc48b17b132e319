"""A proxy on the way: its credentials, and what to do when it asks for others."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import msgspec

from tinkex_actors.config.proxies import parse_proxy
from tinkex_actors.errors import ConfigError
from tinkex_actors.redaction import without_credentials
from tinkex_actors.wire.exchange import Response

if TYPE_CHECKING:
    from tinkex_actors.config import Config

__all__ = ["Proxy", "ProxyChallenge", "proxy_refusal"]


class ProxyChallenge(msgspec.Struct, frozen=True):
    """A proxy wants to know who we are.

    Attributes:
        proxy: its URL, without credentials.
        challenges: what it sent as ``Proxy-Authenticate``, one text for each header.
        schemes: the schemes these name, such as ``("Negotiate", "Basic")``.
    """

    proxy: str
    challenges: tuple[str, ...]

    @property
    def schemes(self) -> tuple[str, ...]:
        """The schemes the proxy takes, in its order."""
        return tuple(dict.fromkeys(text.split(None, 1)[0].rstrip(",") for text in self.challenges if text.strip()))


class Proxy:
    """The proxy between us and one server.

    Args:
        config: has its URL, its headers and the hook for its challenges.
        base_url: the server.
    """

    def __init__(self, config: Config, base_url: str) -> None:
        named = config.proxy_for(base_url)
        found = None if named is None else parse_proxy(named)
        self.url = None if found is None else found.url
        self.headers = dict(config.proxy_headers)
        self._authorize = config.proxy_authorize
        said = any(name.lower() == "proxy-authorization" for name in self.headers)
        if found is not None and found.authorization and not said:
            self.headers["Proxy-Authorization"] = found.authorization

    async def answer(self, challenges: tuple[str, ...]) -> bool:
        """Ask the program for an answer to a 407; afterwards ``headers`` has it.

        Returns:
            Whether there is a new answer, so that the request is worth sending again.

        Raises:
            ConfigError: the hook failed, or returned no text.
        """
        if self._authorize is None or self.url is None:
            return False
        try:
            value = self._authorize(ProxyChallenge(self.url, challenges))
            if inspect.isawaitable(value):
                value = await value
        except Exception as error:
            raise ConfigError(
                f"Config.proxy_authorize raised {type(error).__name__} for the proxy {self.url}. Correct the hook."
            ) from error
        if value is None:
            return False
        if not isinstance(value, str) or not value.isprintable() or not value.isascii():
            raise ConfigError(
                f"Config.proxy_authorize must return the text for Proxy-Authorization or None, got "
                f"{type(value).__name__} (or a text that no header can carry)."
            )
        if self.headers.get("Proxy-Authorization") == value:
            return False
        self.headers = {name: text for name, text in self.headers.items() if name.lower() != "proxy-authorization"}
        self.headers["Proxy-Authorization"] = value
        return True


def proxy_refusal(url: str, challenges: tuple[str, ...]) -> Response:
    """Return the answer for a proxy that did not let us through: a 407, which is final, in words."""
    asked = "; ".join(challenges) or "nothing named"
    detail = (
        f"the proxy {without_credentials(url)} asks for credentials ({asked}). Put them into the proxy's URL "
        "(http://USER:PASSWORD@HOST:PORT), or set Config.proxy_authorize for another scheme than Basic"
    )
    return Response(407, {"content-type": "application/json"}, msgspec.json.encode({"detail": detail}))
