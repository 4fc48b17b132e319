"""Every variable: what it sets, what wins over it, and what it refuses by its own name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tinkex_actors.config import DEFAULT_BASE_URL, Config
from tinkex_actors.config.environment import VARIABLES
from tinkex_actors.errors import ConfigError

URL = "https://tinker.example/api"

# variable: (its text, the field, what the field becomes)
READ: dict[str, tuple[str, str, object]] = {
    "TINKER_BASE_URL": (f"{URL}/", "base_url", URL),
    "TINKER_API_KEY": ("tml-abc", "api_key", "tml-abc"),
    "TINKER_CREDENTIAL_CMD": ("print-key", "credential_command", "print-key"),
    "TINKER_PROJECT_ID": ("p1", "project_id", "p1"),
    "TINKER_TAGS": (" a, b,,a ", "tags", ("a", "b")),
    "TINKER_FEATURE_GATES": ("x,y", "feature_gates", ("x", "y")),
    "TINKER_TELEMETRY": ("Off", "telemetry", False),
    "TINKER_LOG": ("debug", "log", "debug"),
    "TINKEX_LOG": ("http=debug", "log", "http=debug"),
    "CLOUDFLARE_ACCESS_CLIENT_ID": ("id", "cf_access_client_id", "id"),
    "CLOUDFLARE_ACCESS_CLIENT_SECRET": ("hush", "cf_access_client_secret", "hush"),
    "TINKEX_PARITY": ("Elixir", "parity", "beam"),
    "TINKEX_HTTP_CLIENT": ("http2", "http2", True),
    "TINKEX_CA_FILE": ("/ca.pem", "ca_file", Path("/ca.pem")),
    "TINKEX_PROXY": ("http://proxy:8080", "proxy", "http://proxy:8080"),
    "TINKEX_PROXY_HEADERS": ('[["X-Via", "me"]]', "proxy_headers", (("X-Via", "me"),)),
    "TINKEX_DEFAULT_HEADERS": ('{"X-Team": "a", "X-Number": 2, "X-None": null}', "default_headers",
                               (("X-Team", "a"), ("X-Number", "2"))),
    "TINKEX_DEFAULT_QUERY": ('{"trace": "1"}', "default_query", (("trace", "1"),)),
    "TINKEX_DUMP_HEADERS": ("yes", "dump_headers", True),
    "TINKEX_OTEL_PROPAGATE": ("on", "otel_propagate", True),
    "TINKEX_LOSS_DEVICE": ("gpu:1", "loss_device", "gpu:1"),
    "TINKEX_LOSS_FLOAT64": ("1", "loss_float64", True),
    "TINKEX_POOL_SIZE": ("10", "pool_limits", (("sample", 200),)),
    "TINKEX_POOL_COUNT": ("2", "pool_limits", (("sample", 100),)),
    "TINKEX_POLL_BACKOFF": ("exponential", "poll_timeout", 45.0),
    "HTTPS_PROXY": ("http://p:1", "proxy", "http://p:1"),
    "HTTP_PROXY": ("http://p:1", "proxy", None),  # the server is https
    "ALL_PROXY": ("p:1", "proxy", "http://p:1"),
    "NO_PROXY": ("example", "no_proxy", "example"),
    "TINKEX_ENGINE_STORE": ("/store", "engine_store", Path("/store")),
    "TINKEX_STATE_DIR": ("/state", "state_dir", Path("/state")),
    "TINKEX_CACHE_DIR": ("/cache", "cache_dir", Path("/cache")),
}  # fmt: skip

# An argument that wins over the variable of its field.
ARGUMENTS: dict[str, Any] = {
    "loss_device": "cpu",
    "loss_float64": False,
    "base_url": "local://tiny",
    "api_key": "tml-given",
    "credential_command": "given",
    "project_id": "given",
    "tags": ("given",),
    "feature_gates": ("given",),
    "telemetry": True,
    "log": "error",
    "cf_access_client_id": "given",
    "cf_access_client_secret": "given",
    "parity": "official",
    "http2": False,
    "ca_file": Path("given"),
    "proxy": "http://given:1",
    "proxy_headers": (("given", "1"),),
    "default_headers": (("given", "1"),),
    "default_query": (("given", "1"),),
    "dump_headers": False,
    "otel_propagate": False,
    "pool_limits": (("train", 1),),
    "poll_timeout": 1.0,
    "no_proxy": "given",
    "engine_store": Path("given"),
    "cache_dir": Path("given"),
    "state_dir": Path("given"),
}


def from_environment(variables: dict[str, str], **options: Any) -> Config:
    environ = {"TINKER_BASE_URL": URL} | variables
    return Config.from_environment(environ=environ, **options)


def test_the_table_of_this_test_is_complete() -> None:
    assert set(READ) == set(VARIABLES)


@pytest.mark.parametrize("variable", READ)
def test_a_variable_sets_its_field(variable: str) -> None:
    text, field, value = READ[variable]

    assert getattr(from_environment({variable: text}), field) == value


@pytest.mark.parametrize("variable", READ)
def test_an_argument_wins_over_a_variable(variable: str) -> None:
    text, field, _ = READ[variable]

    assert getattr(from_environment({variable: text}, **{field: ARGUMENTS[field]}), field) == ARGUMENTS[field]


@pytest.mark.parametrize("variable", READ)
def test_a_variable_that_is_blank_is_unset(variable: str) -> None:
    _, field, _ = READ[variable]

    for blank in ("", "  "):
        config = from_environment({variable: blank})
        expected = DEFAULT_BASE_URL if field == "base_url" else getattr(from_environment({}), field)
        assert getattr(config, field) == expected


def test_an_argument_that_is_none_is_absent_and_one_that_is_false_is_not() -> None:
    variables = {"TINKER_PROJECT_ID": "p", "TINKER_TAGS": "a"}

    assert from_environment(variables, project_id=None).project_id == "p"
    assert from_environment(variables, tags=()).tags == ()
    assert from_environment({"TINKEX_DUMP_HEADERS": "1"}, dump_headers=False).dump_headers is False


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("TINKER_TELEMETRY", "maybe"),
        ("TINKER_LOG", "loud"),
        ("TINKEX_LOG", "nobody=debug"),
        ("TINKEX_PARITY", "ruby"),
        ("TINKEX_HTTP_CLIENT", "curl"),
        ("TINKEX_PROXY", "socks5://p:1"),
        ("TINKEX_PROXY", "http://p:99999"),
        ("HTTPS_PROXY", "ftp://p"),
        ("ALL_PROXY", "http://"),
        ("TINKEX_PROXY_HEADERS", '{"a": "b"}'),
        ("TINKEX_DEFAULT_HEADERS", "[1]"),
        ("TINKEX_DEFAULT_HEADERS", '{"a": ["hush"]}'),
        ("TINKEX_DEFAULT_QUERY", "a=b"),
        ("TINKEX_DUMP_HEADERS", "2"),
        ("TINKEX_OTEL_PROPAGATE", "w3c"),
        ("TINKEX_LOSS_FLOAT64", "64"),
        ("TINKEX_POOL_SIZE", "0"),
        ("TINKEX_POOL_COUNT", "many"),
        ("TINKEX_POLL_BACKOFF", "none"),
        ("TINKEX_POLL_BACKOFF", "sometimes"),
    ],
)
def test_a_malformed_value_is_refused_by_the_name_of_its_variable(variable: str, text: str) -> None:
    with pytest.raises(ConfigError, match=f"^{variable}: ") as caught:
        from_environment({variable: text})

    assert "hush" not in str(caught.value)


def test_an_unknown_field_is_refused_with_the_likely_one() -> None:
    with pytest.raises(ConfigError, match=r"no field 'base_ulr'\. Did you mean 'base_url'"):
        Config.from_environment(environ={}, base_ulr="x")


@pytest.mark.parametrize(
    ("no_proxy", "direct"),
    [("tinker.example", True), (".example", True), ("*", True), ("other.example", False), ("", False)],
)
def test_no_proxy_is_honoured_however_the_proxy_was_named(no_proxy: str, direct: bool) -> None:
    for variable in ("TINKEX_PROXY", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        config = from_environment({variable: "http://p:1", "NO_PROXY": no_proxy})
        assert config.proxy_for(URL) == (None if direct else "http://p:1")
    assert Config(proxy="http://p:1", no_proxy=no_proxy).proxy_for(URL) == (None if direct else "http://p:1")


def credentials_file(home: Path, **content: Any) -> dict[str, str]:
    (home / ".tinker").mkdir()
    (home / ".tinker" / "credentials.json").write_text(json.dumps({"version": 1, **content}), encoding="utf-8")
    return {"HOME": str(home)}


def test_the_credential_comes_from_the_first_source_that_has_one(tmp_path: Path) -> None:
    stored = {"type": "manual", "key": "tml-stored", "name": "n"}
    sources = credentials_file(tmp_path, default="k1", keys={"k1": stored})
    assert from_environment(sources).api_key == "tml-stored"

    sources |= {"TINKER_CREDENTIAL_CMD": "print-key"}
    assert (from_environment(sources).api_key, from_environment(sources).credential_command) == (None, "print-key")

    sources |= {"TINKER_API_KEY": "tml-variable"}
    assert from_environment(sources).api_key == "tml-variable"
    assert from_environment(sources, api_key="tml-argument").api_key == "tml-argument"

    # A key of an unknown form gives way to the command (protocol 5.7).
    sources |= {"TINKER_API_KEY": "sk-other"}
    assert (from_environment(sources).api_key, from_environment(sources).credential_command) == (None, "print-key")


def test_a_stored_key_never_goes_to_a_server_on_this_machine(tmp_path: Path) -> None:
    home = credentials_file(tmp_path, default="k1", keys={"k1": {"type": "manual", "key": "tml-stored", "name": "n"}})

    assert Config.from_environment(environ=home | {"TINKER_BASE_URL": "http://127.0.0.1:1"}).api_key is None
    assert Config.from_environment(environ=home | {"TINKER_BASE_URL": "local://tiny"}).api_key is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"version": 2}, "version 2"),
        ({"default": "gone", "keys": {}}, "does not hold"),
        ({"default": "k", "keys": {"k": {"key": 5, "name": "hush"}}}, "not a credentials file"),
    ],
)
def test_a_credentials_file_that_cannot_be_used_says_so_without_its_contents(
    tmp_path: Path, content: dict[str, Any], words: str
) -> None:
    home = credentials_file(tmp_path, **content)
    with pytest.raises(ConfigError, match=words) as caught:
        from_environment(home)

    assert "hush" not in str(caught.value)


def test_a_credentials_file_without_a_default_is_no_credential(tmp_path: Path) -> None:
    assert from_environment(credentials_file(tmp_path, keys={})).api_key is None
    assert from_environment({"HOME": str(tmp_path / "nobody")}).has_credential is False
