"""Trees under arbitrary histories: whatever happens in whatever order, nothing hangs, nothing is orphaned, nothing is
lost beyond the stated policy, and no supervisor restarts more than its intensity allows.

``TreeMachine`` is the model: hypothesis chooses the rules and their arguments, the virtual loop's seed the order in
which what is ready runs. Each step that could hang ends in ``SimDeadlock``.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tinkex_actors.runtime import (
    Actor,
    ActorRef,
    ActorRestarted,
    ActorSystem,
    Backoff,
    ChildSpec,
    Down,
    DynamicSupervisor,
    ExitReason,
    Normal,
    RestartPolicy,
    Supervisor,
    handler,
)
from tinkex_actors.testing import VirtualLoop, settle

T = TypeVar("T")

EXAMPLES = os.environ.get("TINKEX_TEST_SEEDS")
GROUPS = {"one": "one_for_one", "rest": "rest_for_one", "all": "one_for_all"}
MAX_RESTARTS, MAX_SECONDS = 4, 2.0
INTENSITY: dict[str, Any] = {"max_restarts": MAX_RESTARTS, "max_seconds": MAX_SECONDS}


class Ledger:
    """What the leaves have begun to handle, whatever became of them: actor by actor, in order."""

    def __init__(self) -> None:
        self.handled: dict[str, list[int]] = {}
        self.failing: Counter[str] = Counter()
        self.watches: Counter[tuple[str, ActorRef[Any]]] = Counter()
        self.downs: Counter[tuple[str, ActorRef[Any]]] = Counter()

    def of(self, path: str) -> list[int]:
        return self.handled.setdefault(path, [])


class Leaf(Actor):
    """Slow to start and stop, with a task and a timer, so that every wait of the lifecycle is met."""

    def __init__(self, ledger: Ledger, hold: float) -> None:
        self.ledger = ledger
        self.hold = hold
        self.watched: list[ActorRef[Any]] = []
        self.downs: list[ActorRef[Any]] = []

    async def init(self) -> None:
        await asyncio.sleep(self.hold)
        if self.ledger.failing[self.ref.path]:
            self.ledger.failing[self.ref.path] -= 1
            raise OSError("planted in init")
        self.task(self.sleep(1e6))
        self.every(50.0, self.ref.cast.nothing)

    async def on_stop(self, reason: ExitReason) -> None:
        await asyncio.sleep(self.hold)

    def on_down(self, down: Down) -> None:
        self.downs.append(down.ref)
        self.ledger.downs[self.ref.path, down.ref] += 1

    @handler
    def nothing(self) -> None:
        """A beat."""

    @handler
    async def put(self, number: int, seconds: float) -> int:
        self.ledger.of(self.ref.path).append(number)
        if seconds:
            await asyncio.sleep(seconds)
        return number

    @handler
    def crash(self) -> None:
        raise ZeroDivisionError("planted")

    @handler
    def finish(self) -> None:
        self.stop()

    @handler
    def grow(self) -> None:
        """Spawn a child beside the messages: a handler that waited for it would only slow the history down."""
        self.task(self.grow_one())

    async def grow_one(self) -> None:
        await self.spawn(Leaf, self.ledger, 0.1, restart="transient")

    @handler
    def tie(self, other: ActorRef[Any]) -> None:
        if other.alive:
            self.link(other)

    @handler
    def untie(self, other: ActorRef[Any]) -> None:
        self.unlink(other)

    @handler
    def watch(self, other: ActorRef[Any]) -> None:
        self.monitor(other)
        self.watched.append(other)
        self.ledger.watches[self.ref.path, other] += 1

    @handler
    def seen(self) -> tuple[list[ActorRef[Any]], list[ActorRef[Any]]]:
        return self.watched, self.downs


class Fast(Leaf):
    restart_policy = RestartPolicy(fail_fast=True)


class Forgetful(Leaf):
    restart_policy = RestartPolicy(casts="drop", calls="fail")


class Careful(Leaf):
    """Everything kept: the queue, the children, and the count of what it has handled."""

    restart_policy = RestartPolicy(children="keep", carry="count")
    count = 0

    @handler
    async def put(self, number: int, seconds: float) -> int:
        self.count += 1
        return await Leaf.put.function(self, number, seconds)  # type: ignore[attr-defined, no-any-return]


class TreeMachine(RuleBasedStateMachine):
    """Supervisors of each kind over leaves of each kind, and everything that can happen to them."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.sent: Counter[str] = Counter()
        self.number = 0
        self.calls: list[tuple[str, int, asyncio.Task[Any]]] = []
        self.others: list[asyncio.Task[Any]] = []
        self.refs: list[ActorRef[Any]] = []
        self.restarted: list[ActorRestarted] = []

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)

    @initialize(
        seed=st.none() | st.integers(0, 10_000),
        restart=st.sampled_from(["permanent", "transient", "temporary"]),
        backoff=st.booleans(),
        leaf=st.sampled_from([Leaf, Fast, Forgetful, Careful]),
    )
    def begin(self, seed: int | None, restart: Any, backoff: bool, leaf: type[Leaf]) -> None:
        self.loop = VirtualLoop(seed)
        self.leaf = leaf
        options = INTENSITY | ({"backoff": Backoff(base=0.5, cap=2.0)} if backoff else {})
        groups = [
            ChildSpec(Supervisor, (self.leaves(index, restart),), {"strategy": strategy, **options}, name=name)
            for index, (name, strategy) in enumerate(GROUPS.items())
        ]
        dynamic = ChildSpec(DynamicSupervisor, kwargs={**options, "exhausted": "remove"}, name="dynamic")
        self.run(self.start([*groups, dynamic]))

    def leaves(self, index: int, restart: Any) -> list[ChildSpec]:
        names = enumerate("abc")
        return [
            ChildSpec(self.leaf, (self.ledger, 0.25 * (index + number)), name=name, restart=restart)
            for number, name in names
        ]

    async def start(self, specs: list[ChildSpec]) -> None:
        self.system = await ActorSystem(max_restarts=1000, stop_timeout=1000.0).start()
        self.system.events.subscribe(self.restarted.append, ActorRestarted)
        await self.system.spawn(Supervisor, specs, name="top", restart="temporary", **INTENSITY)

    # --- what can happen ---------------------------------------------------------------------------------------------
    def pick(self, number: int) -> ActorRef[Any]:
        """One of all that have ever been, ended ones too."""
        return self.refs[number % len(self.refs)]

    def leaf_at(self, number: int) -> ActorRef[Any]:
        leaves = [ref for ref in self.refs if issubclass(ref.kind.cls, Leaf)]
        return leaves[number % len(leaves)]

    who = st.integers(0, 40)

    @rule(who=who, seconds=st.sampled_from([0.0, 0.3]), times=st.integers(1, 4))
    def cast(self, who: int, seconds: float, times: int) -> None:
        ref = self.leaf_at(who)
        for _ in range(times):
            self.number += 1
            self.sent[ref.path] += 1
            ref.cast.put(self.number, seconds)

    @rule(who=who, seconds=st.sampled_from([0.0, 0.3]), wait=st.booleans())
    def call(self, who: int, seconds: float, wait: bool) -> None:
        """A call sends when its task first runs; told to wait, it has been sent before the next rule."""
        ref = self.leaf_at(who)
        self.number += 1
        call = self.loop.create_task(ref.within(500.0).call.put(self.number, seconds))
        self.calls.append((ref.path, self.number, call))
        if wait:
            self.run(settle())

    @rule(who=who)
    def crash(self, who: int) -> None:
        self.leaf_at(who).cast.crash()

    @rule(who=who)
    def kill(self, who: int) -> None:
        self.pick(who).kill()

    @rule(who=who, drain=st.booleans())
    def stop(self, who: int, drain: bool) -> None:
        self.leaf_at(who).request_stop(Normal(), drain=drain)

    @rule(who=who)
    def finish(self, who: int) -> None:
        self.leaf_at(who).cast.finish()

    @rule(who=who)
    def restart_badly(self, who: int) -> None:
        ref = self.leaf_at(who)
        if ref.alive:
            self.ledger.failing[ref.path] += 1
            ref.kill()

    @rule(one=who, other=who)
    def link(self, one: int, other: int) -> None:
        if self.leaf_at(one) is not self.leaf_at(other):
            self.leaf_at(one).cast.tie(self.leaf_at(other))

    @rule(one=who, other=who)
    def unlink(self, one: int, other: int) -> None:
        self.leaf_at(one).cast.untie(self.leaf_at(other))

    @rule(one=who, other=who)
    def monitor(self, one: int, other: int) -> None:
        self.leaf_at(one).cast.watch(self.pick(other))

    @rule(who=who)
    def grow(self, who: int) -> None:
        self.leaf_at(who).cast.grow()

    @rule(restart=st.sampled_from(["permanent", "transient", "temporary"]), alone=st.booleans())
    def spawn(self, restart: Any, alone: bool) -> None:
        spec = ChildSpec(self.leaf, (self.ledger, 0.1), restart=restart)
        dynamic = self.system.whereis("/top/dynamic")
        if alone:
            self.others.append(self.loop.create_task(self.system.start_child(spec)))
        elif dynamic is not None:
            self.others.append(self.loop.create_task(dynamic.within(60.0).call.start_child(spec)))

    @rule(seconds=st.sampled_from([0.0, 0.1, 0.3, 0.6, 3.0]))
    def wait(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    @precondition(lambda self: self.number > 3)
    @rule()
    def quiet(self) -> None:
        """After 100 quiet seconds nobody is in between, every call has its answer, and who lives answers."""
        self.run(self.look())

    # --- what must be so ---------------------------------------------------------------------------------------------
    @invariant()
    def nobody_is_orphaned(self) -> None:
        pending = list(self.system.root.children)
        found = []
        while pending:
            ref = pending.pop()
            found.append(ref)
            pending += ref.children
        self.refs += [ref for ref in found if ref not in self.refs]
        for ref in self.refs:
            state = ref.statistics().state
            assert (state != "dead") == (ref in found), f"{ref} is {state}, and in the tree: {ref in found}"
            assert state != "dead" or not ref.alive

    @invariant()
    def messages_are_handled_once_and_in_order(self) -> None:
        """One sender sends all casts; a call that was not waited for may be sent later than its number says."""
        calls = {number for _, number, _ in self.calls}
        for path, numbers in self.ledger.handled.items():
            assert len(set(numbers)) == len(numbers), f"{path} handled a message twice: {numbers}"
            casts = [number for number in numbers if number not in calls]
            assert casts == sorted(casts), f"{path} handled casts of one sender out of order: {casts}"

    @invariant()
    def intensity_is_respected(self) -> None:
        """A child restarts no more than its supervisor may; under one_for_one all children together. A supervisor that
        itself was restarted starts anew."""
        windows: dict[str, list[float]] = {}
        for event in self.restarted:
            parent = event.path.rpartition("/")[0]
            windows.setdefault(parent if parent == "/top/one" else event.path, []).append(event.at)
        for path, instants in windows.items():
            supervisor = path if path == "/top/one" else path.rpartition("/")[0]
            if not supervisor.startswith("/top"):
                continue
            renewed = sum(1 for event in self.restarted if supervisor.startswith(event.path))
            allowed = max(MAX_RESTARTS, 3) * (1 + renewed)
            for start in instants:
                assert sum(start <= at < start + MAX_SECONDS for at in instants) <= allowed, (path, instants)

    async def look(self) -> None:
        await asyncio.sleep(100.0)
        await settle()
        assert all(task.done() for _, _, task in self.calls)
        assert all(task.done() for task in self.others)
        self.nobody_is_orphaned()
        for ref in self.refs:
            statistics = ref.statistics()
            assert (statistics.state, statistics.queued) == (("idle", 0) if ref.alive else ("dead", 0)), statistics
            if ref.alive and issubclass(ref.kind.cls, Leaf):
                watched, downs = await ref.call.seen()
                ended = {target for target in watched if not target.alive}
                assert ended <= set(downs), f"{ref} watched {watched} and heard of {downs}"
                assert not any(target.alive for target in downs)
        # One that was queued at a crash is heard of by the next incarnation, but none is heard of twice.
        assert self.ledger.downs <= self.ledger.watches
        self.account()

    def account(self) -> None:
        """No cast is lost beyond the stated policy: each was handled, or is a dead letter. No call is lost at all."""
        dead = self.system.dead_letters.counts
        calls = {number for _, number, _ in self.calls}
        for path, sent in self.sent.items():
            handled = sum(1 for number in self.ledger.of(path) if number not in calls)
            assert handled + dead[path, "put"] == sent, f"{path}: {sent} sent, {handled} handled, {dead}"
        for path, number, task in self.calls:
            assert task.exception() is not None or number in self.ledger.of(path), "an answer without a handler"

    def teardown(self) -> None:
        if not hasattr(self, "system"):
            return
        try:
            self.run(self.end())
        finally:
            self.loop.close()

    async def end(self) -> None:
        report = await self.system.stop()
        await settle()
        assert report.clean
        assert not any(ref.alive for ref in self.refs)
        assert all(ref.stopped.done() for ref in self.refs)
        await asyncio.gather(*self.others, *(task for _, _, task in self.calls), return_exceptions=True)
        self.account()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left


@pytest.mark.timeout(7200)
def test_any_history_under_any_order() -> None:
    """Always the same 200 histories, or as many as ``TINKEX_TEST_SEEDS`` says, new ones each time."""
    chosen = settings(
        max_examples=int(EXAMPLES or 200),
        stateful_step_count=30,
        deadline=None,
        derandomize=EXAMPLES is None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    run_state_machine_as_test(TreeMachine, settings=chosen)  # type: ignore[no-untyped-call]
