"""Checked by mypy --strict, never run: correct uses of messages that must pass without noise."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import assert_type

from tinkex_actors.runtime import (
    Actor,
    ActorRef,
    ActorSystem,
    ChildSpec,
    DynamicSupervisor,
    RestartPolicy,
    Supervisor,
    handler,
)


class Scorer(Actor):
    restart_policy = RestartPolicy(calls="fail", carry="seen")

    def __init__(self, model: str) -> None:
        self.model = model
        self.seen = 0

    async def init(self) -> None:
        self.every(10.0, self.ref.cast.peek)
        self.after(1.0, self.ref.cast.grade, "first")

    @handler
    async def grade(self, text: str, weight: float = 1.0) -> float:
        self.seen += 1
        return len(text) * weight

    @handler
    def peek(self) -> int:
        return self.seen

    @handler(raises=(KeyError, LookupError))
    async def lookup(self, key: str) -> list[str]:
        return [key]

    @handler(raises=KeyError)
    def lookup_now(self, key: str) -> dict[str, int]:
        return {key: 1}

    @handler(retry_once=True)
    async def store(self, key: str) -> bytes:
        return key.encode()


async def correct(system: ActorSystem) -> None:
    scorer = await system.spawn(Scorer, "tiny", restart="transient", name="scorer", shutdown=1.0)
    assert_type(scorer, ActorRef[Scorer])
    assert_type(await scorer.call.grade("text", weight=2.0), float)
    assert_type(await scorer.call.peek(), int)
    assert_type(await scorer.within(0.5).call.grade("text"), float)
    assert_type(await scorer.call.lookup("a"), list[str])
    assert_type(await scorer.call.lookup_now("a"), dict[str, int])
    assert_type(await scorer.call.store("a"), bytes)
    scorer.cast.grade("text")
    scorer.cast.peek()
    await scorer.send.grade("text")
    kept = scorer.call.peek
    waiting: Awaitable[int] = kept()
    assert_type(await waiting, int)
    await system.spawn(Supervisor, [ChildSpec(Scorer, ("tiny",))], strategy="one_for_all")
    dynamic = await system.spawn(DynamicSupervisor, max_children=3)
    child: ActorRef[Scorer] = await dynamic.call.start_child(ChildSpec(Scorer, ("tiny",)))
    anything: ActorRef[Actor] = child
    await anything.stop(drain=True)
    print(system.explain(anything), await system.top(0.1))
