"""Settings that no server could use are refused where they are given."""

from __future__ import annotations

import math

import pytest

from tinkex_actors import Config, ConfigError, CredentialsError, RetryConfig, ServiceClient


@pytest.mark.parametrize("key", ["tml-abc\n", " tml-abc", "tml-a\u2009bc"])
@pytest.mark.parametrize("url", ["https://tinker.example/api", "http://127.0.0.1:1"])
def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(url: str, key: str) -> None:
    with pytest.raises(CredentialsError, match=r"line break.*strip it") as caught:
        ServiceClient(base_url=url, api_key=key)

    assert "abc" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("https://tinker.example/api/", "https://tinker.example/api"),
        ("local://tiny/", "local://tiny"),
        ("local://", "local://"),
    ],
)
def test_a_url_loses_its_trailing_slash_and_never_its_scheme(given: str, kept: str) -> None:
    assert Config.from_environment(base_url=given, environ={}).base_url == kept


async def test_a_local_url_without_a_model_is_told_what_is_missing() -> None:
    with pytest.raises(ConfigError, match="'local://' names no model"):
        await ServiceClient(base_url="local://").get_server_capabilities()


def test_a_password_in_the_base_url_is_never_shown() -> None:
    url = "https://me:hid@zen@tinker.example/api?next=https://you:other@x"
    config = Config(base_url=url)
    with pytest.raises(CredentialsError) as caught:
        config.require_key()

    for text in (str(caught.value), repr(config), repr(ServiceClient(base_url=url, api_key="tml-abc"))):
        assert "https://***@tinker.example/api" in text
        assert not any(secret in text for secret in ("me:", "hid", "zen", "you:", "other"))


def test_a_retry_config_refuses_to_try_for_ever() -> None:
    with pytest.raises(ConfigError, match="progress_timeout: expected finite"):
        RetryConfig(progress_timeout=math.inf)
