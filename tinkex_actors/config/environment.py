"""The variables: how each is read, and what it refuses. Nothing else in the package reads the environment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tinkex_actors.config.credentials_file import CREDENTIALS_FILE, default_key
from tinkex_actors.config.proxies import parse_proxy, proxy_of_environment
from tinkex_actors.errors import ConfigError
from tinkex_actors.log_levels import parse_log_levels

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["VARIABLES", "credential", "default_cache", "default_state", "default_store", "proxies", "read"]

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


def _text(name: str, value: str) -> str:
    return value


def _words(name: str, value: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word for part in value.split(",") if (word := part.strip())))


def _flag(name: str, value: str) -> bool:
    word = value.lower()
    if word not in _TRUE and word not in _FALSE:
        raise ConfigError(f"{name}: expected 1, true, yes, on, 0, false, no or off, got {value!r}.")
    return word in _TRUE


def _path(name: str, value: str) -> Path:
    return Path(value).expanduser()


def _levels(name: str, value: str) -> str:
    parse_log_levels(value, name)
    return value


def _parity(name: str, value: str) -> str:
    known = {"python": "python", "official": "official", "beam": "beam", "elixir": "beam"}
    if value.lower() not in known:
        raise ConfigError(f"{name}: expected python, official or beam (elixir), got {value!r}.")
    return known[value.lower()]


def _http_client(name: str, value: str) -> bool:
    known = {"aiohttp": False, "http2": True}
    if value.lower() not in known:
        raise ConfigError(f"{name}: expected aiohttp or http2, got {value!r}.")
    return known[value.lower()]


def _object(name: str, value: str) -> tuple[tuple[str, str], ...]:
    # Values may be secret, so the message has none of them.
    try:
        found = msgspec.json.decode(value, type=dict[str, str | int | float | None])
    except msgspec.DecodeError as error:
        raise ConfigError(f'{name}: expected a JSON object of texts such as {{"name": "value"}}: {error}.') from None
    return tuple((key, str(item)) for key, item in found.items() if item is not None)


def _pairs(name: str, value: str) -> tuple[tuple[str, str], ...]:
    try:
        return tuple(msgspec.json.decode(value, type=list[tuple[str, str]]))
    except msgspec.DecodeError as error:
        raise ConfigError(f'{name}: expected a JSON array of pairs such as [["name", "value"]]: {error}.') from None


# Only what becomes a field as it is; the credential, proxies, pools and folders are read by functions of their own.
_FIELDS: dict[str, tuple[str, Callable[[str, str], Any]]] = {
    "TINKER_BASE_URL": ("base_url", _text),
    "TINKER_PROJECT_ID": ("project_id", _text),
    "TINKER_TAGS": ("tags", _words),
    "TINKER_FEATURE_GATES": ("feature_gates", _words),
    "TINKER_TELEMETRY": ("telemetry", _flag),
    "CLOUDFLARE_ACCESS_CLIENT_ID": ("cf_access_client_id", _text),
    "CLOUDFLARE_ACCESS_CLIENT_SECRET": ("cf_access_client_secret", _text),
    "TINKEX_PARITY": ("parity", _parity),
    "TINKEX_HTTP_CLIENT": ("http2", _http_client),
    "TINKEX_CA_FILE": ("ca_file", _path),
    "TINKEX_PROXY_HEADERS": ("proxy_headers", _pairs),
    "TINKEX_DEFAULT_HEADERS": ("default_headers", _object),
    "TINKEX_DEFAULT_QUERY": ("default_query", _object),
    "TINKEX_DUMP_HEADERS": ("dump_headers", _flag),
    "TINKEX_OTEL_PROPAGATE": ("otel_propagate", _flag),
    "TINKEX_LOSS_DEVICE": ("loss_device", _text),
    "TINKEX_LOSS_FLOAT64": ("loss_float64", _flag),
    # The official client's variable for everything; ours, which can tell loggers apart, comes last and wins.
    "TINKER_LOG": ("log", _levels),
    "TINKEX_LOG": ("log", _levels),
}

VARIABLES = (
    *_FIELDS,
    "TINKER_API_KEY",
    "TINKER_CREDENTIAL_CMD",
    "TINKEX_POLL_BACKOFF",
    "TINKEX_POOL_SIZE",
    "TINKEX_POOL_COUNT",
    "TINKEX_PROXY",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "TINKEX_ENGINE_STORE",
    "TINKEX_CACHE_DIR",
    "TINKEX_STATE_DIR",
)
"""Every variable that is read."""


def read(env: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields of ``Config`` that the environment sets. A variable that is empty or blank counts as unset.

    Raises:
        ConfigError: a malformed value; the message begins with the variable's name.
    """
    found: dict[str, Any] = {}
    for name, (field, parse) in _FIELDS.items():
        if value := env.get(name, "").strip():
            found[field] = parse(name, value)
    _check_poll_backoff(env)
    if (connections := _sampling_connections(env)) is not None:
        found["pool_limits"] = (("sample", connections),)
    found["engine_store"] = default_store(env)
    found["cache_dir"] = default_cache(env)
    found["state_dir"] = default_state(env)
    return found


def proxies(base_url: str, env: Mapping[str, str]) -> dict[str, Any]:
    """Return ``proxy`` and ``no_proxy`` for a URL, as far as the environment sets them.

    Raises:
        ConfigError: a variable that holds no proxy's URL.
    """
    found: dict[str, Any] = {}
    name, value = proxy_of_environment(base_url, env)
    if value:
        value = value if "://" in value else f"http://{value}"
        parse_proxy(value, name)
        found["proxy"] = value
    if direct := env.get("NO_PROXY") or env.get("no_proxy"):
        found["no_proxy"] = direct
    return found


def credential(env: Mapping[str, str], *, given: str | None, remote: bool) -> dict[str, Any]:
    """Return ``api_key`` or ``credential_command``, whichever comes first (protocol 5.7).

    The argument, ``TINKER_API_KEY``, ``TINKER_CREDENTIAL_CMD``, and for a remote server the default key of
    ``~/.tinker/credentials.json``. A key of an unknown form gives way to a command.

    Raises:
        CredentialsError: the credentials file is needed and broken.
    """
    key = given or env.get("TINKER_API_KEY", "") or None
    command = env.get("TINKER_CREDENTIAL_CMD", "").strip() or None
    if key is not None and (command is None or not remote or key.startswith(("tml-", "eyJ"))):
        return {"api_key": key} if command is None else {"api_key": key, "credential_command": command}
    if command is not None:
        return {"credential_command": command}
    home = env.get("HOME") or env.get("USERPROFILE")
    if remote and home and (stored := default_key(Path(home) / CREDENTIALS_FILE)):
        return {"api_key": stored}
    return {}


def default_store(env: Mapping[str, str]) -> Path:
    """Return where the local engine keeps checkpoints."""
    if given := env.get("TINKEX_ENGINE_STORE"):
        return Path(given).expanduser()
    import platformdirs

    return Path(platformdirs.user_data_dir("tinkex_actors", appauthor=False)) / "engine"


def default_cache(env: Mapping[str, str]) -> Path:
    """Return where model weights and compiled code are kept."""
    if given := env.get("TINKEX_CACHE_DIR"):
        return Path(given).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("tinkex_actors", appauthor=False))


def default_state(env: Mapping[str, str]) -> Path:
    """Return where telemetry waits while the server is away."""
    if given := env.get("TINKEX_STATE_DIR"):
        return Path(given).expanduser()
    import platformdirs

    return Path(platformdirs.user_state_dir("tinkex_actors", appauthor=False))


def _check_poll_backoff(env: Mapping[str, str]) -> None:
    # Polls always back off here, so the variable of the Elixir client has one value that is true.
    value = env.get("TINKEX_POLL_BACKOFF", "").strip()
    if value and value.lower() != "exponential" and not _flag("TINKEX_POLL_BACKOFF", value):
        raise ConfigError(
            f"TINKEX_POLL_BACKOFF: got {value!r}, but repeated polls always back off here: a server in trouble must "
            "not be flooded. Unset it, or set exponential."
        )


def _sampling_connections(env: Mapping[str, str]) -> int | None:
    # The Elixir client has `count` pools of `size` connections for sampling: 50 of 20 each.
    sizes = {"TINKEX_POOL_SIZE": 50, "TINKEX_POOL_COUNT": 20}
    if not any(env.get(name, "").strip() for name in sizes):
        return None
    product = 1
    for name, ordinary in sizes.items():
        text = env.get(name, "").strip() or str(ordinary)
        if not (text.isdecimal() and int(text) > 0):
            raise ConfigError(f"{name}: expected a whole number above 0, got {text!r}.")
        product *= int(text)
    return product
