"""Where every setting comes from: arguments first, then the environment, then a default."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from tinkex_actors.config import environment
from tinkex_actors.config.breaker import BreakerConfig
from tinkex_actors.config.proxies import bypasses, parse_proxy
from tinkex_actors.config.redaction import is_secret_header, masked_key
from tinkex_actors.errors import ConfigError, CredentialsError
from tinkex_actors.log_levels import parse_log_levels
from tinkex_actors.redaction import MASK, without_credentials

__all__ = ["DEFAULT_BASE_URL", "SDK_VERSION", "Config", "pairs_of"]

# Protocol 1.1.
DEFAULT_BASE_URL = "https://tinker.thinkingmachines.dev/services/tinker-prod"
# The protocol generation we speak, as servers expect it in `sdk_version` and the version headers (protocol 1.2, 1.7.1).
SDK_VERSION = "0.38.0"

Pairs = tuple[tuple[str, str], ...]
Parity = Literal["python", "official", "beam"]

# Seconds for one exchange: the official client's 60 (protocol 1.1), the Elixir client's 120 in its own mode.
_TIMEOUTS = {"python": 60.0, "official": 60.0, "beam": 120.0}
_SECONDS = (
    *("timeout", "connect_timeout", "read_timeout", "poll_timeout", "stall_after"),
    *("last_good_max_age", "pause_deadline"),
)
_ORDERS = (None, "posts", "results")
_POOLS = ("session", "train", "sample", "retrieve_promise", "retrieve_futures", "rest_support_redirect", "telemetry")
_HEADER_NAME = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one :class:`~tinkex_actors.ServiceClient`, immutable.

    Headers and query entries may be given as a mapping or as pairs, and are kept as pairs.

    Attributes:
        base_url: ``https://...``, ``http://...`` or ``local://MODEL``; no trailing slash.
        api_key: the credential for ``X-API-Key``; None for local and loopback servers, or where another source is set.
        credential_command: a shell command that prints the credential; run whenever one is needed.
        credential_provider: called without arguments whenever a credential is needed, also after the server refused
            the last one: it returns the key, or an awaitable of it. Wins over ``api_key`` and the command.
        project_id: project for new sessions.
        tags: session tags.
        user_metadata: notes for sessions; those given to ``ServiceClient`` win.
        feature_gates: kept for programs that ask for them; no server is told (as in the official client).
        timeout: seconds one HTTP exchange may take; None is 60, or 120 with ``parity="beam"``.
        connect_timeout: seconds a connection may take, TLS included (protocol 1.1: 5).
        read_timeout: seconds a server may be silent while it answers; None leaves only ``timeout``.
        poll_timeout: seconds one long poll may take (protocol 4.2: 45).
        max_response_bytes: largest body of an answer, after decompression; a larger one is an error.
        stall_after: seconds after which a wait is reported as stalled, and again at each doubling.
        parity: which client's rules of trying again hold. ``python``: the official delays in one layer, for 300
            seconds. ``official``: its two layers, one inside the other, to the attempt. ``beam``: the Elixir client's.
        max_retries: how often a request is sent again at most; None as ``parity`` says.
        training_order: how training requests are posted. None: the chunks of one call concurrently, where the server's
            flags say so. ``posts``: each after the answer to the one before. ``results``: each after the result of the
            one before, for servers that do not order by number.
        resend_training: send a training request again, under its number, when no answer says whether it was taken. Off
            for servers that would apply it twice: then it fails with ``OutcomeUnknownError`` at once.
        pause_deadline: seconds for which the server may pause the queue of training before pending calls fail with
            ``QueuePausedError``; None waits as long as it takes.
        http2: speak HTTP/2 (extra ``http2``).
        pool_limits: connections by purpose, instead of the transport's own limits.
        proxy: an HTTP proxy's URL, or None. A user and password in it become Basic credentials.
        proxy_headers: headers for the proxy alone.
        proxy_authorize: called with a ``ProxyChallenge`` when the proxy answers 407; returns the value for
            ``Proxy-Authorization`` (or an awaitable of it), or None to give up.
        no_proxy: hosts that are reached directly, as ``NO_PROXY`` lists them.
        ca_file: a file of certificates to trust beside the system's.
        default_headers: headers of every request; they win over our own.
        default_query: query entries of every request.
        cf_access_client_id: for servers behind Cloudflare Access.
        cf_access_client_secret: its secret.
        dump_headers: log every request's headers, without the secret ones.
        otel_propagate: send the current OpenTelemetry context along.
        telemetry: whether telemetry is sent.
        log: which logger says how much: ``http=debug,telemetry=warning``; "" leaves the program's own setting.
        breaker: refuse requests to a server that keeps failing, by group; None never does. Training is never refused.
        coalesce: requests for the same reading under way at once become one.
        last_good_max_age: seconds for which capabilities and samplers that were once read may stand in for an answer
            that does not come; None never does.
        loss_device: where losses of your own are computed: ``cpu``, ``gpu``, ``gpu:1``; None leaves it to JAX.
        loss_float64: compute each loss once more with 64 bits, and warn (``loss.imprecise``) where the two differ.
        loss_workers: losses of your own that are computed at once, each on a thread.
        engine_store: where the local engine keeps checkpoints.
        cache_dir: where model weights and compiled code are kept.
        state_dir: where telemetry waits while the server is away.
    """

    base_url: str = DEFAULT_BASE_URL
    api_key: str | None = None
    credential_command: str | None = None
    credential_provider: Callable[[], str | Awaitable[str]] | None = None
    project_id: str | None = None
    tags: tuple[str, ...] = ()
    user_metadata: Pairs | Mapping[str, str] = ()
    feature_gates: tuple[str, ...] = ("async_sampling",)
    timeout: float | None = None
    connect_timeout: float = 5.0
    read_timeout: float | None = None
    poll_timeout: float = 45.0
    max_response_bytes: int = 1 << 30
    stall_after: float = 60.0
    parity: Parity = "python"
    max_retries: int | None = None
    training_order: Literal["posts", "results"] | None = None
    resend_training: bool = True
    pause_deadline: float | None = None
    http2: bool = False
    pool_limits: tuple[tuple[str, int], ...] | Mapping[str, int] = ()
    proxy: str | None = None
    proxy_headers: Pairs | Mapping[str, str] = ()
    proxy_authorize: Callable[[Any], str | Awaitable[str | None] | None] | None = None
    no_proxy: str = ""
    ca_file: Path | None = None
    default_headers: Pairs | Mapping[str, str] = ()
    default_query: Pairs | Mapping[str, str] = ()
    cf_access_client_id: str | None = None
    cf_access_client_secret: str | None = None
    dump_headers: bool = False
    otel_propagate: bool = False
    telemetry: bool = True
    log: str = ""
    breaker: BreakerConfig | None = None
    coalesce: bool = False
    last_good_max_age: float | None = None
    loss_device: str | None = None
    loss_float64: bool = False
    loss_workers: int = 4
    engine_store: Path = msgspec.field(default_factory=lambda: environment.default_store({}))
    cache_dir: Path = msgspec.field(default_factory=lambda: environment.default_cache({}))
    state_dir: Path = msgspec.field(default_factory=lambda: environment.default_state({}))

    def __post_init__(self) -> None:
        for name in _SECONDS:
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and 0 < value < math.inf):
                raise ConfigError(f"Config.{name}: expected finite seconds above 0, got {value!r}.")
        _check_count("max_response_bytes", self.max_response_bytes, 1)
        _check_count("loss_workers", self.loss_workers, 1)
        if self.max_retries is not None:
            _check_count("max_retries", self.max_retries, 0)
        if self.parity not in _TIMEOUTS:
            raise ConfigError(f"Config.parity: expected {', '.join(_TIMEOUTS)}, got {self.parity!r}.")
        if self.training_order not in _ORDERS:
            raise ConfigError(f"Config.training_order: expected None, posts or results, got {self.training_order!r}.")
        if self.project_id is not None and not self.project_id.strip():
            raise ConfigError("Config.project_id: expected None or an id, got a blank text.")
        for name in ("tags", "feature_gates"):
            self._set(name, _texts(name, getattr(self, name)))
        self._set("user_metadata", _pairs("user_metadata", self.user_metadata))
        for name in ("proxy_headers", "default_headers"):
            self._set(name, _headers(name, getattr(self, name)))
        self._set("default_query", _pairs("default_query", self.default_query))
        self._set("pool_limits", _pool_limits(self.pool_limits))
        if self.proxy is not None:
            parse_proxy(self.proxy)
        parse_log_levels(self.log, "Config.log")
        for name in ("engine_store", "cache_dir", "state_dir", "ca_file"):
            self._set(name, _place(name, getattr(self, name)))
        self._check_url()

    @classmethod
    def from_environment(cls, *, environ: Mapping[str, str] | None = None, **options: Any) -> Config:
        """Build a configuration from arguments, then the environment, then defaults.

        An argument that is None counts as absent, ``False`` and ``()`` do not; a blank variable counts as unset.

        Args:
            environ: the variables; default the process's own.
            options: any field of ``Config`` by name, such as ``base_url="local://tiny"``.

        Raises:
            ConfigError: an unknown field, or a malformed value; the message names the variable or the field.
        """
        found = os.environ if environ is None else environ
        env = {name: value for name, value in found.items() if value.strip()}
        given = {name: value for name, value in options.items() if value is not None and value != ""}
        for name in given.keys() - set(cls.__struct_fields__):
            close = difflib.get_close_matches(name, cls.__struct_fields__, 1)
            raise ConfigError(f"Config has no field {name!r}." + (f" Did you mean {close[0]!r}?" if close else ""))
        fields = environment.read(env) | given
        url = str(fields.get("base_url", DEFAULT_BASE_URL))
        if not url.endswith("://"):  # a scheme alone is for the transport to refuse, by its name
            url = url.rstrip("/")
        fields["base_url"] = url
        if "proxy" not in fields:
            fields = environment.proxies(url, env) | fields
        if "credential_provider" not in fields and "credential_command" not in fields:
            fields |= environment.credential(env, given=fields.get("api_key"), remote=_is_remote(url))
            if "api_key" in given and "credential_command" in fields and fields.get("api_key") != given["api_key"]:
                fields.pop("api_key", None)
        return cls(**fields)

    @property
    def shown_url(self) -> str:
        """The base URL as it may be printed: without a user and a password."""
        return without_credentials(self.base_url)

    @property
    def exchange_timeout(self) -> float:
        """``timeout`` in seconds, with the default of ``parity`` where none is set."""
        return _TIMEOUTS[self.parity] if self.timeout is None else self.timeout

    @property
    def needs_key(self) -> bool:
        """Whether the server is remote: anything but a scheme of our own and a loopback address."""
        return _is_remote(self.base_url)

    @property
    def has_credential(self) -> bool:
        """Whether there is a key, or a way to get one."""
        return bool(self.api_key or self.credential_command or self.credential_provider)

    def proxy_for(self, url: str) -> str | None:
        """Return the proxy on the way to ``url``; None where ``no_proxy`` has its host."""
        return None if self.proxy is None or bypasses(url, self.no_proxy) else self.proxy

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
        if not self.needs_key or self.credential_provider or (self.credential_command and not self.api_key):
            return
        if not self.api_key:
            raise CredentialsError(
                f"No API key for {self.shown_url}. Set TINKER_API_KEY or pass api_key=... to ServiceClient; or set "
                "TINKER_CREDENTIAL_CMD to a command that prints one, or log in with the official command line "
                '(~/.tinker/credentials.json); or use base_url="local://tiny", which needs no key.'
            )
        if not self.api_key.startswith(("tml-", "eyJ")):
            raise CredentialsError(
                f"The API key for {self.shown_url} has an unknown form: expected it to start with 'tml-' "
                f"(or 'eyJ' for a JWT), got {len(self.api_key)} characters that start otherwise. Check TINKER_API_KEY."
            )

    def show(self) -> str:
        """Return every setting, one a line, with nothing secret in it. For people and for bug reports."""
        return "\n".join(f"{name} = {self._shown(name)}" for name in self.__struct_fields__)

    def __repr__(self) -> str:
        ordinary = Config(engine_store=self.engine_store, cache_dir=self.cache_dir, state_dir=self.state_dir)
        changed = [name for name in self.__struct_fields__ if getattr(self, name) != getattr(ordinary, name)]
        names = dict.fromkeys(["base_url", "api_key", *changed])
        return f"Config({', '.join(f'{name}={self._shown(name)}' for name in names)})"

    def _shown(self, name: str) -> str:
        value = getattr(self, name)
        match name:
            case "api_key" | "cf_access_client_secret":
                return masked_key(value)
            case "credential_command":  # a command may have a password among its words
                return "None" if value is None else MASK
            case "credential_provider" | "proxy_authorize":
                return "None" if value is None else getattr(value, "__qualname__", type(value).__name__)
            case "proxy_headers":
                return repr({header: MASK for header, _ in value})
            case "default_headers" | "default_query" | "user_metadata":
                return repr({key: MASK if is_secret_header(key) else text for key, text in value})
            case _:
                return without_credentials(repr(value))

    def _set(self, name: str, value: object) -> None:
        msgspec.structs.force_setattr(self, name, value)

    def _check_url(self) -> None:
        scheme, separator, rest = self.base_url.partition("://")
        if separator and scheme in ("http", "https") and not _host(rest):
            raise ConfigError(f"Config.base_url: {self.shown_url!r} names no host. Expected {scheme}://HOST/PATH.")


def pairs_of(entries: Pairs | Mapping[str, str]) -> Pairs:
    """Return entries as a configuration keeps them: pairs, whatever they were given as."""
    return tuple(entries.items() if isinstance(entries, Mapping) else entries)


def _is_remote(url: str) -> bool:
    scheme, _, rest = url.partition("://")
    if scheme not in ("http", "https"):
        return False
    name = _host(rest)
    return name not in ("localhost", "::1") and not name.startswith("127.")


def _host(rest: str) -> str:
    host = rest.partition("/")[0].rpartition("@")[2]
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_count(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"Config.{name}: expected a whole number of at least {least}, got {value!r}.")


def _place(name: str, value: object) -> Path | None:
    """Return a path, also where its text was given; only ``ca_file`` may be None."""
    if isinstance(value, (str, os.PathLike)) and str(value):
        return Path(value).expanduser()
    if value is None and name == "ca_file":
        return None
    raise ConfigError(
        f"Config.{name}: expected the path of a {'file' if name == 'ca_file' else 'folder'}, got {value!r}."
    )


def _texts(name: str, value: Iterable[str]) -> tuple[str, ...]:
    found = tuple(value) if not isinstance(value, str) else None
    if found is None or not all(isinstance(text, str) for text in found):
        raise ConfigError(f"Config.{name}: expected several texts such as ('a', 'b'), got {value!r}.")
    return found


def _pairs(name: str, value: Any) -> Pairs:
    # The values may be secret, so a message has the name of an entry alone.
    found = list(value.items() if isinstance(value, Mapping) else value)
    for pair in found:
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[0], str) or not pair[0].strip():
            raise ConfigError(f"Config.{name}: expected a mapping or pairs of texts, each with a name.")
        if not isinstance(pair[1], str | int | float | None):
            raise ConfigError(f"Config.{name}[{pair[0]!r}]: expected a text or a number, got {type(pair[1]).__name__}.")
    return tuple((key.strip(), str(text)) for key, text in found if text is not None)


def _headers(name: str, value: Any) -> Pairs:
    pairs = _pairs(name, value)
    for key, text in pairs:
        if not set(key) <= _HEADER_NAME or not text.isprintable() or not text.isascii():
            raise ConfigError(f"Config.{name}[{key!r}]: this name or its value cannot stand in an HTTP header.")
    return pairs


def _pool_limits(value: Any) -> tuple[tuple[str, int], ...]:
    found = tuple(value.items() if isinstance(value, Mapping) else value)
    for pool, limit in found:
        if pool not in _POOLS:
            raise ConfigError(f"Config.pool_limits: no pool is called {pool!r}. Known: {', '.join(_POOLS)}.")
        _check_count(f"pool_limits[{pool!r}]", limit, 1)
    return found
