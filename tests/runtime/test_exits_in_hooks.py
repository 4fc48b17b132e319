"""Exits and other BaseExceptions from the hooks of a restart, and the end of the loop during one: nothing hangs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.runtime.actors import Hooked, Recorder
from tinkex_actors.runtime import (
    Actor,
    ActorSystem,
    Backoff,
    ChildSpec,
    Crashed,
    ExitReason,
    Supervisor,
    handler,
)
from tinkex_actors.testing import run_virtual


class Odd(BaseException):
    """Neither an exception nor one of those that asyncio lets leave the loop."""


class Leaving(Actor):
    """Raises an exit where it is told: when its second incarnation begins, or its first one ends."""

    def __init__(self, where: str, error: BaseException, began: list[int]) -> None:
        self.where, self.error, self.began = where, error, began
        began.append(1)
        self.again = len(began) > 1
        if self.again and where == "new":
            raise error

    async def init(self) -> None:
        if self.again and self.where == "init":
            raise self.error

    async def on_stop(self, reason: ExitReason) -> None:
        if self.where == "on_stop" and len(self.began) == 1:
            self.began.append(1)
            raise self.error

    @handler
    def crash(self) -> None:
        raise ZeroDivisionError("planted")


async def crash_into(where: str, error: BaseException, strategy: Any, journal: list[str]) -> None:
    async with ActorSystem() as system:
        await system.spawn(Hooked, "other", journal)
        top = await system.spawn(Supervisor, [ChildSpec(Leaving, (where, error, []), name="a")], strategy=strategy)
        top.child("a").cast.crash()
        await asyncio.sleep(1000.0)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=["exit", "interrupt"])
@pytest.mark.parametrize("where", ["new", "init", "on_stop"])
@pytest.mark.parametrize("strategy", ["one_for_one", "one_for_all"])
def test_an_exit_in_a_hook_of_a_restart_ends_the_program_in_order(
    where: str, error: BaseException, strategy: str
) -> None:
    journal: list[str] = []
    with pytest.raises(type(error)):
        asyncio.run(crash_into(where, error, strategy, journal))
    assert journal[-1] == "other:stop:Shutdown"


@pytest.mark.parametrize("where", ["new", "init"])
def test_any_other_base_exception_in_a_hook_of_a_restart_is_the_loops_and_ends_the_actor(where: str) -> None:
    told: list[dict[str, Any]] = []
    odd = Odd()

    async def main() -> ExitReason:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        async with ActorSystem() as system:
            ref = await system.spawn(Leaving, where, odd, [])
            ref.cast.crash()
            return await ref.stopped

    reason = asyncio.run(main())
    assert reason == Crashed(odd)
    assert [(context["exception"], "failed inside the runtime" in context["message"]) for context in told] == [
        (odd, True)
    ]


def test_any_other_base_exception_in_on_stop_is_logged_and_the_restart_goes_on() -> None:
    async def main() -> int:
        async with ActorSystem() as system:
            ref = await system.spawn(Leaving, "on_stop", Odd(), [])
            ref.cast.crash()
            await asyncio.sleep(1.0)
            return ref.statistics().incarnation

    assert run_virtual(main()) == 1


def test_the_end_of_the_loop_ends_a_restart_in_its_back_off() -> None:
    """The program exits while an actor waits to come back: what stops the system must not wait for it for ever."""
    journal: list[str] = []

    async def main() -> None:
        async with ActorSystem() as system:
            await system.spawn(Hooked, "other", journal)
            again = Backoff(base=1000.0, cap=1000.0)
            top = await system.spawn(Supervisor, [ChildSpec(Recorder, name="a")], backoff=again)
            top.child("a").cast.crash()
            await asyncio.sleep(0.01)
            asyncio.get_running_loop().call_soon(leave)
            await asyncio.sleep(1000.0)

    def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        asyncio.run(main())
    assert journal[-1] == "other:stop:Shutdown"
