"""Where log lines go: to the standard library, unless the program has configured structlog."""

from __future__ import annotations

import logging

import pytest
import structlog

from tests.runtime.actors import Recorder
from tinkex_actors.runtime import ActorSystem
from tinkex_actors.runtime.log import Logger
from tinkex_actors.testing import run_virtual, settle


async def one_crash() -> None:
    async with ActorSystem(name="app") as system:
        ref = await system.spawn(Recorder)
        ref.cast.crash()
        await settle()


@pytest.fixture
def unconfigured() -> None:
    structlog.reset_defaults()


@pytest.mark.usefixtures("unconfigured")
def test_a_crash_is_one_record_of_the_standard_library_with_its_traceback_below(
    caplog: pytest.LogCaptureFixture,
) -> None:
    run_virtual(one_crash())
    (record,) = [record for record in caplog.records if record.name == "tinkex_actors.runtime"]
    first, *rest = record.getMessage().splitlines()
    assert record.levelno == logging.ERROR
    assert first.startswith("event='actor.crashed'")
    for part in ("system='app'", "actor='/recorder-1'", "where='crash'", "incarnation=0"):
        assert part in first
    assert rest[0] == "Traceback (most recent call last):"
    assert rest[-1] == "ZeroDivisionError: planted"


@pytest.mark.usefixtures("unconfigured")
def test_levels_are_the_standard_librarys(caplog: pytest.LogCaptureFixture) -> None:
    log = Logger("tinkex_actors.test", run=1)
    with caplog.at_level(logging.INFO, "tinkex_actors.test"):
        log.debug("nobody.looks")
        log.info("step.done", index=3)
        log.warning("disk.full")
    assert [record.getMessage() for record in caplog.records] == [
        "event='step.done' run=1 index=3",
        "event='disk.full' run=1",
    ]


@pytest.mark.usefixtures("unconfigured")
def test_a_program_that_configured_structlog_gets_the_events(caplog: pytest.LogCaptureFixture) -> None:
    with structlog.testing.capture_logs() as events:
        run_virtual(one_crash())
    assert [event["event"] for event in events] == ["actor.crashed"]
    assert caplog.records == []


@pytest.mark.usefixtures("unconfigured")
def test_a_failing_logger_never_stops_supervision() -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    told: list[str] = []

    async def main() -> None:
        async with ActorSystem() as system:
            system.loop.set_exception_handler(lambda _, context: told.append(context["message"]))
            ref = await system.spawn(Recorder)
            ref.cast.crash()
            ref.cast.put(1)
            assert await ref.call.seen() == [1]

    structlog.configure(processors=[fail])
    try:
        run_virtual(main())
    finally:
        structlog.reset_defaults()
    assert told == ["logging 'actor.crashed' failed"]
