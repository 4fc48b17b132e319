"""Lines reach whoever listens, at the level asked for and without a credential; nobody's configuration is touched."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
import structlog

from tinkex_actors.redaction import redact_event
from tinkex_actors.runtime.log import Logger, set_log_levels

KEY = "tml-Abc123_secret-part"
BRANCH = logging.getLogger("tinkex_actors")


@pytest.fixture(autouse=True)
def _levels_as_they_were() -> Iterator[None]:
    names = [
        logging.getLogger(),
        BRANCH,
        *(logging.getLogger(f"tinkex_actors.{name}") for name in ("http", "session", "telemetry")),
    ]
    before = [logger.level for logger in names]
    handlers = list(BRANCH.handlers)
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()
    BRANCH.handlers[:] = handlers
    for logger, level in zip(names, before, strict=True):
        logger.setLevel(level)


def say_everything(name: str) -> None:
    log = Logger(f"tinkex_actors.{name}")
    for level in ("debug", "info", "warning", "error"):
        getattr(log, level)(f"{name}.{level}", key=KEY, headers={"X-API-Key": "of-my-own"})


def test_levels_hold_for_the_standard_library(caplog: pytest.LogCaptureFixture) -> None:
    set_log_levels({"": "error", "http": "debug"})
    say_everything("http")
    say_everything("session")
    heard = [record.getMessage().split("'")[1] for record in caplog.records]
    assert heard == ["http.debug", "http.info", "http.warning", "http.error", "session.error"]
    assert KEY not in caplog.text
    assert "of-my-own" not in caplog.text


def test_levels_hold_for_a_program_that_configured_structlog() -> None:
    set_log_levels({"": "error", "http": "debug"})
    with structlog.testing.capture_logs() as lines:
        say_everything("http")
        say_everything("session")
    assert [line["event"] for line in lines] == [
        "http.debug", "http.info", "http.warning", "http.error", "session.error",
    ]  # fmt: skip
    assert all(line["key"] == "***" and line["headers"] == {"X-API-Key": "***"} for line in lines)


def test_without_levels_structlog_decides_alone() -> None:
    logging.getLogger().setLevel(logging.ERROR)
    with structlog.testing.capture_logs() as lines:
        say_everything("http")
    assert len(lines) == 4


@pytest.mark.parametrize("configured", [False, True])
def test_a_traceback_shows_neither_credentials_nor_local_variables(
    configured: bool, caplog: pytest.LogCaptureFixture
) -> None:
    stream = io.StringIO()
    if configured:
        structlog.configure(
            processors=[structlog.processors.format_exc_info, structlog.dev.ConsoleRenderer(colors=False)],
            logger_factory=structlog.PrintLoggerFactory(stream),
        )
    try:
        unshown = "local variable"
        raise ValueError(f"{KEY} {len(unshown)}")
    except ValueError as error:
        Logger("tinkex_actors.http").error("request.failed", exc_info=error)
    text = stream.getvalue() if configured else caplog.text
    assert "ValueError: *** 14" in text
    assert "Traceback (most recent call last)" in text
    assert KEY not in text
    assert "'local variable'" not in text


def test_users_may_put_the_redaction_into_their_own_chain() -> None:
    stream = io.StringIO()
    structlog.configure(
        processors=[redact_event, structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(stream),
    )
    structlog.get_logger().info("mine", key=KEY)
    assert stream.getvalue() == '{"key": "***", "event": "mine"}\n'


def test_neither_the_root_logger_nor_structlog_is_configured() -> None:
    root = logging.getLogger()
    before = (root.level, list(root.handlers), root.disabled)
    set_log_levels({"": "debug", "http": "info"})
    set_log_levels({"http": "debug"})
    say_everything("http")
    assert (root.level, root.handlers, root.disabled) == before
    assert not structlog.is_configured()
    assert len(BRANCH.handlers) == 1


def test_a_branch_that_does_not_propagate_is_written_though_the_root_logger_listens(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BRANCH, "propagate", False)
    set_log_levels({"http": "error"})
    say_everything("http")
    assert caplog.records == []
    assert "http.error" in capsys.readouterr().err


LISTENING = {
    "nobody": "",
    "the root logger": "logging.basicConfig(level=logging.DEBUG, format='ROOT %(message)s')",
    "the branch": "logging.getLogger('tinkex_actors').addHandler(logging.StreamHandler())",
}


@pytest.mark.parametrize("who", LISTENING)
def test_each_line_is_written_once_whoever_listens(who: str) -> None:
    script = f"""
import logging
from tinkex_actors.runtime.log import Logger, set_log_levels
set_log_levels({{"http": "debug"}})
{LISTENING[who]}
Logger("tinkex_actors.http").debug("request.sent", route="asample")
Logger("tinkex_actors.session").debug("not.asked_for")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=True)
    lines = [line for line in done.stderr.splitlines() if "not.asked_for" not in line]
    assert len(lines) == 1
    assert "event='request.sent' route='asample'" in lines[0]
    assert lines[0].startswith({"nobody": "debug ", "the root logger": "ROOT "}.get(who, "event="))
    assert ("not.asked_for" in done.stderr) is (who == "the root logger")


def test_a_program_that_asks_for_nothing_sees_warnings_only() -> None:
    script = """
from tinkex_actors.runtime.log import Logger
for level in ("debug", "info", "warning", "error"):
    getattr(Logger("tinkex_actors.http"), level)(f"http.{level}")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=True)
    assert [line.split("'")[1] for line in done.stderr.splitlines()] == ["http.warning", "http.error"]
