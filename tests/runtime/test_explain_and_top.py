"""``explain`` follows waits to whoever holds everything up; ``top`` says who is busy."""

from __future__ import annotations

import asyncio
import inspect
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.runtime.actors import Hooked, Recorder, Sleeper
from tinkex_actors.errors import ConfigError
from tinkex_actors.runtime import (
    Actor,
    ActorRef,
    ActorSystem,
    Backoff,
    ChildSpec,
    Explanation,
    RestartPolicy,
    Shutdown,
    Supervisor,
    Top,
    handler,
)
from tinkex_actors.testing import settle, virtual_time


class Asker(Actor):
    restart_policy = RestartPolicy(carry="nothing")
    nothing = None

    @handler
    async def ask(self, other: ActorRef[Any], seconds: float) -> None:
        await other.within(60.0).call.nap(seconds)

    @handler
    async def ask_beside(self, other: ActorRef[Any]) -> None:
        await asyncio.gather(other.call.pause(), other.call.pause())

    @handler
    async def pause(self) -> None:
        await asyncio.sleep(1.0)


def line_of(function: Any, text: str) -> str:
    lines, first = inspect.getsourcelines(function)
    number = first + next(index for index, line in enumerate(lines) if text in line)
    return f"{Path(__file__).parent / 'actors.py' if function is Sleeper.nap.function else __file__}:{number}"


@virtual_time()
async def test_explain_follows_the_waits_to_whoever_holds_everything_up() -> None:
    async with ActorSystem() as system:
        b = await system.spawn(Sleeper, name="b")
        a = await system.spawn(Asker, name="a")
        a.cast.ask(b, 10.0)
        await asyncio.sleep(3.1)
        b.cast.put(1)
        explanation = system.explain(a)
        assert str(explanation) == "\n".join(
            [
                f"/a waits for /b since 3.1 s, in ask at {line_of(Asker.ask.function, 'await other')}",
                f"/b runs nap at {line_of(Sleeper.nap.function, 'await asyncio')}, 1 queued",
            ]
        )
        assert msgspec.json.decode(msgspec.json.encode(explanation), type=Explanation) == explanation
        await asyncio.sleep(10.0)
        assert str(system.explain(a)) == "/a is idle"


@virtual_time()
async def test_explain_of_actors_that_start_back_off_stop_or_have_ended() -> None:
    async with ActorSystem() as system:
        backoff = {"backoff": Backoff(base=10.0, cap=10.0), "max_restarts": 9}
        top = await system.spawn(Supervisor, [ChildSpec(Recorder, name="r")], name="top", **backoff)
        ref = top.child("r")
        ref.cast.crash()
        await settle()
        ref.cast.put(1)
        assert str(system.explain(ref)) == "/top/r is backing off, 1 queued: after ZeroDivisionError: planted"
        slow = asyncio.ensure_future(
            system.spawn(Supervisor, [ChildSpec(Hooked, ("h", [], 5.0), name="h")], name="slow")
        )
        await settle()
        text = str(system.explain(system.whereis("/slow")))
        assert text.startswith("/slow is starting")
        assert text.endswith(": its child h is starting")
        await slow
        sleeper = await system.spawn(Sleeper, name="s")
        sleeper.cast.nap(3.0)
        await settle()
        sleeper.request_stop(Shutdown("enough"))
        await settle()
        assert str(system.explain(sleeper)).startswith("/s is stopping, in nap at ")
        await sleeper.stop()
        assert str(system.explain(sleeper)) == "/s is dead: shutdown: enough"


@virtual_time()
async def test_explain_shows_the_line_of_a_handler_that_waits_for_side_calls() -> None:
    async with ActorSystem() as system:
        a, b = [await system.spawn(Asker, name=name) for name in "ab"]
        a.cast.ask_beside(b)
        await settle()
        (situation,) = system.explain(a).chain
        assert (situation.path, situation.handling, situation.waiting_on) == ("/a", "ask_beside", None)
        assert situation.place == line_of(Asker.ask_beside.function, "gather")


@virtual_time()
async def test_top_counts_what_was_handled_meanwhile() -> None:
    async with ActorSystem() as system:
        busy, quiet = await system.spawn(Recorder, name="busy"), await system.spawn(Recorder, name="quiet")
        for item in range(5):
            quiet.cast.put(item)
        await settle()
        looking = asyncio.ensure_future(system.top(2.0))
        await settle()
        for item in range(10):
            busy.cast.put(item)
        busy.cast.crash()
        late = await system.spawn(Recorder, name="late")
        late.cast.put(1)
        top = await looking
        rows = {row.path: (row.rate, row.restarts) for row in top.rows}
        assert list(rows) == ["/busy", "/late", "/quiet"]
        assert rows == {"/busy": (5.5, 1), "/late": (0.5, 0), "/quiet": (0.0, 0)}
        assert str(top).splitlines()[1].split() == ["0.0%", "5.5", "0", "-", "1", "idle", "/busy", "Recorder"]
        assert msgspec.json.decode(msgspec.json.encode(top), type=Top) == top
        with pytest.raises(ConfigError):
            await system.top(0.0)


@virtual_time()
async def test_top_says_how_long_messages_wait_at_least() -> None:
    async with ActorSystem() as system:
        stuck = await system.spawn(Sleeper, name="stuck")
        stuck.cast.nap(10.0)
        stuck.cast.put(1)
        await settle()
        assert str(await system.top(2.0)).splitlines() == [
            " share      msg/s  queued    oldest restarts  state        actor",
            "  0.0%        0.0       1   >=2.0 s        0  running      /stuck  Sleeper",
        ]
        call = asyncio.ensure_future(stuck.within(60.0).call.seen())
        await asyncio.sleep(8.5)
        assert await call == ["napped", 1]


class Burner(Actor):
    @handler
    def burn(self, seconds: float) -> None:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass


async def test_top_samples_who_uses_the_processor() -> None:
    async with ActorSystem() as system:
        burner, idle = await system.spawn(Burner), await system.spawn(Burner)
        looking = asyncio.ensure_future(system.top(0.2))
        await asyncio.sleep(0)
        burner.cast.burn(0.3)
        idle.cast.burn(0.0)
        first, second = (await looking).rows
        assert (first.path, second.path) == ("/burner-1", "/burner-2")
        assert first.share > 0.5 > second.share
