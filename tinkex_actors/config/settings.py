"""Where every setting comes from: arguments first, then the environment, then a default. The only reader of the
environment."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from tinkex_actors.errors import ConfigError, CredentialsError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DEFAULT_BASE_URL", "SDK_VERSION", "Config", "RetryConfig", "without_credentials"]

# Protocol 1.1.
DEFAULT_BASE_URL = "https://tinker.thinkingmachines.dev/services/tinker-prod"
# The protocol generation we speak, as servers expect it in `sdk_version` and the version headers (protocol 1.2, 1.7.1).
SDK_VERSION = "0.38.0"

_TRUE = frozenset({"1", "true", "yes", "on"})
_URL_CREDENTIALS = re.compile(r"(?<=://)[^/?#@\s'\"]*(?:@[^/?#@\s'\"]*)*@")


def without_credentials(text: str) -> str:
    """Return a text with ``***`` for the user and password of every URL in it (``https://user:password@host``)."""
    return _URL_CREDENTIALS.sub("***@", text)


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one :class:`~tinkex_actors.ServiceClient`, immutable.

    Attributes:
        base_url: ``https://...``, ``http://...`` or ``local://MODEL``; no trailing slash.
        api_key: the credential for ``X-API-Key``; None only for local and loopback servers.
        proxy: an HTTP proxy's URL, or None.
        project_id: project for new sessions.
        tags: session tags.
        timeout: seconds one HTTP exchange may take (protocol 1.1: 60).
        connect_timeout: seconds a connection may take (protocol 1.1: 5).
        poll_timeout: seconds one long poll may take (protocol 4.2: 45).
        stall_after: seconds after which a wait is reported as stalled, and again at each doubling.
        telemetry: whether telemetry is sent.
        engine_store: where the local engine keeps checkpoints.
        cache_dir: where model weights and compiled code are kept.
    """

    base_url: str = DEFAULT_BASE_URL
    api_key: str | None = None
    proxy: str | None = None
    project_id: str | None = None
    tags: tuple[str, ...] = ()
    timeout: float = 60.0
    connect_timeout: float = 5.0
    poll_timeout: float = 45.0
    stall_after: float = 60.0
    telemetry: bool = True
    engine_store: Path = msgspec.field(default_factory=lambda: _default_store({}))
    cache_dir: Path = msgspec.field(default_factory=lambda: _default_cache({}))

    def __post_init__(self) -> None:
        for name in ("timeout", "connect_timeout", "poll_timeout", "stall_after"):
            value = getattr(self, name)
            if not value > 0:
                raise ConfigError(f"Config.{name}: expected seconds above 0, got {value!r}.")

    @classmethod
    def from_environment(
        cls,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        project_id: str | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Config:
        """Build a configuration from arguments, then ``environ`` (default: the process's), then defaults.

        An empty variable counts as unset (protocol 1.1).

        Raises:
            ConfigError: a malformed value; the message names the variable.
        """
        env = os.environ if environ is None else environ
        tags = tuple(dict.fromkeys(tag for tag in env.get("TINKER_TAGS", "").split(",") if tag))
        url = base_url or env.get("TINKER_BASE_URL") or DEFAULT_BASE_URL
        if not url.endswith("://"):  # a scheme alone is for the transport to refuse, by its name
            url = url.rstrip("/")
        return cls(
            base_url=url,
            proxy=_proxy(url, env),
            api_key=api_key or env.get("TINKER_API_KEY") or None,
            project_id=project_id or env.get("TINKER_PROJECT_ID") or None,
            tags=tags,
            telemetry=env.get("TINKER_TELEMETRY", "1").lower() in _TRUE,
            engine_store=_default_store(env),
            cache_dir=_default_cache(env),
        )

    @property
    def shown_url(self) -> str:
        """The base URL as it may be printed: without a user and a password."""
        return without_credentials(self.base_url)

    @property
    def needs_key(self) -> bool:
        """Whether the server is remote: anything but a scheme of our own and a loopback address."""
        scheme, _, rest = self.base_url.partition("://")
        if scheme not in ("http", "https"):
            return False
        host = rest.partition("/")[0].rpartition("@")[2]
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        return name not in ("localhost", "::1") and not name.startswith("127.")

    def require_key(self) -> None:
        """Refuse a remote server without a usable key, before anything is sent.

        Raises:
            CredentialsError: no key, or one that starts neither with ``tml-`` nor ``eyJ`` (protocol 0.3); for any
                server, one with characters that no header can carry.
        """
        if self.api_key and not (self.api_key.isascii() and self.api_key.isprintable() and " " not in self.api_key):
            raise CredentialsError(
                f"The API key for {self.shown_url} holds a space, a line break or another character that no key has. "
                "If it was read from a file, strip it; check TINKER_API_KEY."
            )
        if not self.needs_key:
            return
        if not self.api_key:
            raise CredentialsError(
                f"No API key for {self.shown_url}. Set TINKER_API_KEY or pass api_key=... to ServiceClient; "
                'or use base_url="local://tiny", which needs no key.'
            )
        if not self.api_key.startswith(("tml-", "eyJ")):
            raise CredentialsError(
                f"The API key for {self.shown_url} has an unknown form: expected it to start with 'tml-' "
                f"(or 'eyJ' for a JWT), got {len(self.api_key)} characters that start otherwise. Check TINKER_API_KEY."
            )

    def __repr__(self) -> str:
        key = "None" if self.api_key is None else "'***'"
        return (
            f"Config(base_url={self.shown_url!r}, api_key={key}, project_id={self.project_id!r}, "
            f"timeout={self.timeout})"
        )


class RetryConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a sampling client sends lost samples again (official names; protocol 7.5).

    Attributes:
        progress_timeout: seconds since the call after which nothing is sent again.
        retry_delay_base: seconds before the first new submission; doubles with each one.
        retry_delay_max: longest delay in seconds.
        jitter_factor: share of the delay, in [0, 1], that chance may take away.
        enable_retry_logic: False fails at the first loss.
    """

    progress_timeout: float = 7200.0
    retry_delay_base: float = 0.5
    retry_delay_max: float = 10.0
    jitter_factor: float = 0.25
    enable_retry_logic: bool = True

    def __post_init__(self) -> None:
        for name in ("progress_timeout", "retry_delay_base", "retry_delay_max"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"RetryConfig.{name}: expected finite seconds above 0, got {getattr(self, name)!r}.")
        if not 0.0 <= self.jitter_factor <= 1.0:
            raise ConfigError(f"RetryConfig.jitter_factor: expected a share in [0, 1], got {self.jitter_factor!r}.")


def _proxy(base_url: str, env: Mapping[str, str]) -> str | None:
    """The proxy that HTTP_PROXY, HTTPS_PROXY and NO_PROXY name for a URL; looked up once, not for each request."""
    scheme, _, rest = base_url.partition("://")
    named = {name.lower(): value for name, value in env.items() if name.lower().endswith("_proxy") and value}
    proxy = named.get(f"{scheme}_proxy")
    if proxy is None:
        return None
    from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

    bypass = {"no": named["no_proxy"]} if "no_proxy" in named else {}
    return None if bypass and proxy_bypass_environment(rest.partition("/")[0], bypass) else proxy


def _default_store(env: Mapping[str, str]) -> Path:
    if given := env.get("TINKEX_ENGINE_STORE"):
        return Path(given).expanduser()
    import platformdirs

    return Path(platformdirs.user_data_dir("tinkex_actors", appauthor=False)) / "engine"


def _default_cache(env: Mapping[str, str]) -> Path:
    if given := env.get("TINKEX_CACHE_DIR"):
        return Path(given).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("tinkex_actors", appauthor=False))
