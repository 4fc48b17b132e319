"""Fields refuse what no server could use, and never show what is secret."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tinkex_actors.config import BreakerConfig, Config
from tinkex_actors.config.proxies import ProxyAddress, parse_proxy
from tinkex_actors.errors import ConfigError

SECRETS = ("hush", "tml-abcdefghijklmnopqrstuvwxyz", "pa%20ss", "pa ss", "cGEgc3M")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("timeout", 0.0),
        ("timeout", float("inf")),
        ("connect_timeout", -1.0),
        ("read_timeout", float("nan")),
        ("poll_timeout", "45"),
        ("stall_after", True),
        ("last_good_max_age", 0),
        ("max_response_bytes", 0),
        ("max_retries", -1),
        ("max_retries", 1.5),
        ("parity", "ruby"),
        ("project_id", " "),
        ("tags", "a"),
        ("tags", (1,)),
        ("default_headers", {"bad name": "x"}),
        ("default_headers", {"X-A": "two\nlines"}),
        ("default_headers", {"X-A": object()}),
        ("default_query", [("a",)]),
        ("proxy", "socks5://p"),
        ("pool_limits", {"nobody": 1}),
        ("pool_limits", {"train": 0}),
        ("base_url", "https://"),
        ("base_url", "http://:80/api"),
        ("log", "http=loud"),
    ],
)
def test_a_field_out_of_range_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^Config\.{field}"):
        Config(**{field: value})


@pytest.mark.parametrize("field", ["failure_threshold", "reset_timeout", "half_open_max_calls"])
def test_a_breaker_refuses_what_could_never_close(field: str) -> None:
    with pytest.raises(ConfigError, match=f"BreakerConfig.{field}"):
        BreakerConfig(**{field: 0})


def test_pairs_may_be_given_as_a_mapping_and_none_is_dropped() -> None:
    config = Config(default_headers={" X-A ": 1, "X-B": None}, user_metadata={"who": "me"})  # type: ignore[dict-item]

    assert config.default_headers == (("X-A", "1"),)
    assert config.user_metadata == (("who", "me"),)
    assert hash(config) == hash(msgspec.structs.replace(config))


@pytest.mark.parametrize(("parity", "seconds"), [("python", 60.0), ("official", 60.0), ("beam", 120.0)])
def test_the_time_limit_follows_parity_unless_it_is_given(parity: Any, seconds: float) -> None:
    assert Config(parity=parity).exchange_timeout == seconds
    assert Config(parity=parity, timeout=7.0).exchange_timeout == 7.0


def secretive() -> Config:
    return Config(
        base_url="https://me:hush@tinker.example/api",
        api_key="tml-abcdefghijklmnopqrstuvwxyz",
        credential_command="vault read --token hush",
        credential_provider=lambda: "hush",
        proxy="http://me:pa%20ss@proxy:8080",
        proxy_headers={"X-Anything": "hush"},
        default_headers={"Authorization": "Bearer hush", "X-Team": "blue"},
        default_query={"token": "hush", "team": "red"},
        cf_access_client_secret="hush",
    )


def test_nothing_that_prints_a_config_shows_a_secret() -> None:
    config = secretive()

    for text in (config.show(), repr(config), str(config), f"{config!r:>5}"):
        assert not any(secret in text for secret in SECRETS), text
    shown = dict(line.split(" = ", 1) for line in config.show().splitlines())
    assert set(shown) == set(Config.__struct_fields__)
    assert shown["base_url"] == "'https://***@tinker.example/api'"
    assert shown["api_key"] == "***wxyz", "the end of a long key tells two apart"
    assert "blue" in shown["default_headers"]
    assert "red" in shown["default_query"]
    assert Config(api_key="tml-short").show().splitlines()[1] == "api_key = ***"


@pytest.mark.parametrize(
    ("text", "url", "authorization"),
    [
        ("http://proxy", "http://proxy:80", None),
        ("https://proxy", "https://proxy:443", None),
        ("http://me:pa%20ss@proxy:3128", "http://proxy:3128", "Basic bWU6cGEgc3M="),
        ("http://me@[::1]:1", "http://[::1]:1", "Basic bWU6"),
        ("http://%C3%BC:%40@proxy:1", "http://proxy:1", "Basic w7w6QA=="),
    ],
)
def test_a_proxy_is_taken_apart(text: str, url: str, authorization: str | None) -> None:
    found = parse_proxy(text)

    assert found == ProxyAddress(url, authorization)
    assert authorization is None or authorization not in repr(found)


def test_a_proxy_that_is_none_is_shown_without_its_password() -> None:
    with pytest.raises(ConfigError, match="socks5://\\*\\*\\*@p:1") as caught:
        Config(proxy="socks5://me:hush@p:1")

    assert "hush" not in str(caught.value)


def test_the_page_names_every_field() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "pages" / "reference" / "config.md"
    text = page.read_text(encoding="utf-8")

    assert [name for name in Config.__struct_fields__ if f"`{name}`" not in text] == []


def test_a_path_may_be_given_as_text_and_what_is_none_is_refused(tmp_path: Path) -> None:
    config = Config(engine_store=str(tmp_path), cache_dir="~/x", ca_file=None)  # type: ignore[arg-type]

    assert config.engine_store == tmp_path
    assert config.cache_dir == Path.home() / "x"
    for wrong in (3, "", None):
        with pytest.raises(ConfigError, match=r"Config.state_dir: expected the path of a folder"):
            Config(state_dir=wrong)  # type: ignore[arg-type]
