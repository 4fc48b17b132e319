"""A strict system fails the test that loses messages; the pytest plugin brings it, and the number of seeds."""

from __future__ import annotations

import os

import pytest

from tinkex_actors.runtime import Actor, ActorRestarted, Normal, handler
from tinkex_actors.testing import MessagesLost, StrictSystem, seeds, settle, virtual_time

pytest_plugins = ["pytester"]


class Sink(Actor):
    @handler
    def put(self, item: int) -> None:
        if item < 0:
            raise ZeroDivisionError("planted")


@virtual_time()
async def test_a_block_that_loses_no_message_ends_quietly() -> None:
    async with StrictSystem() as system:
        sink = await system.spawn(Sink)
        sink.cast.put(1)
        await settle()


@virtual_time()
async def test_lost_messages_fail_the_block_by_actor_message_and_count() -> None:
    async def block() -> None:
        async with StrictSystem(name="s") as system:
            sink = await system.spawn(Sink)
            sink.request_stop(Normal())
            sink.cast.put(1)
            sink.cast.put(1)

    with pytest.raises(MessagesLost, match=r"/sink-1 lost 2 of put \(actor stopped\)"):
        await block()


@virtual_time()
async def test_what_may_be_lost_may_be_lost() -> None:
    async with StrictSystem(may_lose=[("/sink-*", "p*")]) as system:
        (await system.spawn(Sink)).cast.put(1)


@virtual_time()
async def test_a_block_that_fails_by_itself_keeps_its_error() -> None:
    async def block() -> None:
        async with StrictSystem() as system:
            (await system.spawn(Sink)).cast.put(1)
            raise LookupError

    with pytest.raises(LookupError):
        await block()


@virtual_time()
async def test_a_subscriber_that_failed_is_told() -> None:
    def broken(event: object) -> None:
        raise ValueError("subscriber")

    async def block() -> None:
        async with StrictSystem() as system:
            system.events.subscribe(broken, ActorRestarted)
            (await system.spawn(Sink)).cast.put(-1)
            await settle()

    with pytest.raises(MessagesLost, match="subscriber"):
        await block()


def test_the_findings_of_a_strict_system_are_shrunk_like_any_other() -> None:
    @seeds(200)
    async def stops_too_early() -> None:
        async with StrictSystem() as system:
            sink = await system.spawn(Sink)
            sink.cast.put(1)
            await sink.stop()

    with pytest.raises(MessagesLost) as caught:
        stops_too_early()
    assert "replay: @virtual_time(seed=" in "".join(caught.value.__notes__)


QUIET = ("-p", "no:cacheprovider", "-o", "asyncio_default_fixture_loop_scope=function")
PLUGIN_TESTS = """
import pytest
from tinkex_actors.runtime import Actor, handler
from tinkex_actors.testing import seeds

pytest_plugins = ["tinkex_actors.testing.pytest_plugin"]
runs = []

class Sink(Actor):
    @handler
    def put(self, item): ...

def test_simulate(simulate, strict_system):
    async def scenario(number):
        runs.append(number)
        async with strict_system() as system:
            await (await system.spawn(Sink)).call.put(1)
    simulate(scenario, 7, count=3)
    simulate(scenario, 7, count=None)
    assert runs == [7] * EXPECTED

def test_left_running(simulate, strict_system):
    async def scenario():
        await strict_system(name="left").start()
    simulate(scenario, count=None)
"""


@pytest.mark.parametrize(("options", "expected"), [((), 4), (("--sim-seeds", "5"), 6)])
def test_the_plugin_brings_fixtures_and_an_option(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], expected: int
) -> None:
    monkeypatch.delenv("TINKEX_TEST_SEEDS", raising=False)
    pytester.makeconftest('pytest_plugins = ["tinkex_actors.testing.pytest_plugin"]')
    pytester.makepyfile(PLUGIN_TESTS.replace("EXPECTED", str(expected)))
    result = pytester.runpytest_inprocess(*QUIET, *options)
    result.assert_outcomes(passed=2, errors=1)
    assert "systems still running at the end of the test: ['left']" in result.stdout.str()
    assert "TINKEX_TEST_SEEDS" not in os.environ


def test_the_option_puts_a_variable_back(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKEX_TEST_SEEDS", "2")
    pytester.makeconftest('pytest_plugins = ["tinkex_actors.testing.pytest_plugin"]')
    pytester.makepyfile(PLUGIN_TESTS.replace("EXPECTED", "6"))
    pytester.runpytest_inprocess(*QUIET, "--sim-seeds", "5").assert_outcomes(passed=2, errors=1)
    assert os.environ["TINKEX_TEST_SEEDS"] == "2"
