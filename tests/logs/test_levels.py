"""Levels are read strictly: a typing mistake is told at once, by the variable's name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import tinkex_actors
from tinkex_actors import Config, ConfigError
from tinkex_actors.log_levels import LEVELS, LOGGERS, parse_log_levels


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        ("", {}),
        (" , ", {}),
        ("info", {"": "info"}),
        ("http=debug,telemetry=warning", {"http": "debug", "telemetry": "warning"}),
        (" HTTP = Debug , warn ", {"http": "debug", "": "warning"}),
        ("session=critical", {"session": "critical"}),
    ],
)
def test_levels_are_read(text: str, levels: dict[str, str]) -> None:
    assert parse_log_levels(text, "TINKEX_LOG") == levels


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("http=loud", "'http=loud'"),
        ("http", "'http'"),
        ("http=", "'http='"),
        ("htpp=debug", "no logger is called 'htpp'"),
        ("=debug", "no logger is called ''"),
        ("http=debug,http=info", "two levels for http"),
        ("debug,info", "two levels for all loggers"),
    ],
)
@pytest.mark.parametrize("source", ["TINKEX_LOG", "Config.log"])
def test_what_cannot_be_read_is_refused_by_name(text: str, words: str, source: str) -> None:
    with pytest.raises(ConfigError, match=f"^{source}: .*{re.escape(words)}"):
        parse_log_levels(text, source)


def test_config_and_environment_refuse_by_their_names() -> None:
    with pytest.raises(ConfigError, match=r"^Config\.log: "):
        Config(log="http=loud")
    with pytest.raises(ConfigError, match=r"^TINKEX_LOG: "):
        Config.from_environment(environ={"TINKEX_LOG": "http=loud"})
    assert Config.from_environment(environ={"TINKEX_LOG": "http=debug"}).log == "http=debug"


def test_every_logger_of_the_package_can_be_named() -> None:
    package = Path(tinkex_actors.__file__).parent
    sources = [path.read_text(encoding="utf-8") for path in package.rglob("*.py")]
    used = {name for source in sources for name in re.findall(r'Logger\("tinkex_actors\.(\w+)"', source)}

    assert used
    assert used <= set(LOGGERS)
    assert sorted(LOGGERS) == list(LOGGERS)
    assert all(parse_log_levels(f"{name}={level}", "x") == {name: level} for name in LOGGERS for level in LEVELS)
