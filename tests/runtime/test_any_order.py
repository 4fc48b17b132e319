"""Trees under arbitrary histories: whatever happens in whatever order, nothing hangs, nothing is orphaned, nothing is
lost beyond the stated policy, and no supervisor restarts more than its intensity allows."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tinkex_actors.runtime import (
    Actor,
    ActorRef,
    ActorRestarted,
    ActorSystem,
    Backoff,
    ChildSpec,
    DynamicSupervisor,
    ExitReason,
    Normal,
    RestartPolicy,
    Supervisor,
    handler,
)
from tinkex_actors.testing import run_virtual, settle

LEAVES = [f"/top/{group}/{name}" for group in ("one", "rest", "all") for name in "abc"]
INTENSITY = {"max_restarts": 4, "max_seconds": 2.0}


class Leaf(Actor):
    """Slow to start and stop, with a task and a timer, so that every wait of the lifecycle is met."""

    def __init__(self, ledger: Counter[int], failing: list[int], hold: float) -> None:
        self.ledger = ledger
        self.failing = failing
        self.hold = hold

    async def init(self) -> None:
        await asyncio.sleep(self.hold)
        if self.failing:
            self.failing.pop()
            raise OSError("planted in init")
        self.task(self.sleep(1e6))
        self.every(50.0, self.ref.cast.nothing)

    async def on_stop(self, reason: ExitReason) -> None:
        await asyncio.sleep(self.hold)

    @handler
    def nothing(self) -> None:
        """A beat."""

    @handler
    async def put(self, number: int, seconds: float) -> int:
        self.ledger[number] += 1
        await asyncio.sleep(seconds)
        return number

    @handler
    def crash(self) -> None:
        raise ZeroDivisionError("planted")

    @handler
    def finish(self) -> None:
        self.stop()

    @handler
    def tie(self, other: ActorRef[Any]) -> None:
        if other.alive:
            self.link(other)


class Fast(Leaf):
    restart_policy = RestartPolicy(fail_fast=True)


class Forgetful(Leaf):
    restart_policy = RestartPolicy(casts="drop", calls="fail")


class Careful(Leaf):
    """Everything kept: the queue, a child, and the count of what it has handled."""

    restart_policy = RestartPolicy(children="keep", carry="count")
    count = 0

    async def init(self) -> None:
        await super().init()
        if not self.ref.children:
            await self.spawn(Leaf, self.ledger, [], 0.1, name="kept")

    @handler
    async def put(self, number: int, seconds: float) -> int:
        self.count += 1
        return await Leaf.put.function(self, number, seconds)  # type: ignore[attr-defined, no-any-return]


LEAF_CLASSES = [Leaf, Fast, Forgetful, Careful]


def tree(
    ledger: Counter[int], failing: dict[str, list[int]], restart: str, backoff: bool, leaf: type[Leaf]
) -> list[ChildSpec]:
    groups = []
    for index, (group, strategy) in enumerate(
        (("one", "one_for_one"), ("rest", "rest_for_one"), ("all", "one_for_all"))
    ):
        children = [
            ChildSpec(
                leaf, (ledger, failing[f"/top/{group}/{name}"], 0.25 * (index + number)), name=name, restart=restart
            )
            for number, name in enumerate("abc")
        ]
        options: dict[str, Any] = {"strategy": strategy, **INTENSITY}
        if backoff:
            options["backoff"] = Backoff(base=0.5, cap=2.0)
        groups.append(ChildSpec(Supervisor, (children,), options, name=group))
    return [*groups, ChildSpec(DynamicSupervisor, kwargs=INTENSITY, name="dynamic")]


targets = st.sampled_from(LEAVES)
histories = st.lists(
    st.one_of(
        st.tuples(st.just("put"), targets, st.sampled_from([0.0, 0.3])),
        st.tuples(st.just("ask"), targets, st.sampled_from([0.0, 0.3])),
        st.tuples(st.sampled_from(["crash", "kill", "stop", "drain", "finish", "fail_next_init"]), targets),
        st.tuples(st.just("tie"), targets, targets),
        st.tuples(st.just("kill_supervisor"), st.sampled_from(["/top/one", "/top/rest", "/top/all", "/top/dynamic"])),
        st.tuples(st.just("start_dynamic"), st.booleans()),
        st.tuples(st.just("wait"), st.sampled_from([0.0, 0.1, 0.3, 0.6, 3.0])),
    ),
    max_size=25,
)


class World:
    """One run of one history."""

    def __init__(self, restart: str, backoff: bool, leaf: type[Leaf]) -> None:
        self.leaf = leaf
        self.ledger: Counter[int] = Counter()
        self.failing: dict[str, list[int]] = {path: [] for path in LEAVES}
        self.restart, self.backoff = restart, backoff
        self.sent = 0
        self.calls: list[asyncio.Task[Any]] = []
        self.refs: list[ActorRef[Any]] = []
        self.restarted: list[ActorRestarted] = []

    async def live(self, history: list[tuple[Any, ...]]) -> None:
        async with ActorSystem(max_restarts=1000, stop_timeout=1000.0) as system:
            system.events.subscribe(self.restarted.append, ActorRestarted)
            specs = tree(self.ledger, self.failing, self.restart, self.backoff, self.leaf)
            self.top = await system.spawn(
                Supervisor, specs, name="top", restart="temporary", strategy="one_for_one", **INTENSITY
            )
            self.remember(system)
            for step in history:
                await self.act(system, *step)
                self.remember(system)
            await asyncio.sleep(100.0)
            await settle()
            self.check_quiet(system)
            self.dead = system.dead_letters.counts
        self.check_end()

    def remember(self, system: ActorSystem) -> None:
        pending = list(system.root.children)
        while pending:
            ref = pending.pop()
            if ref not in self.refs:
                self.refs.append(ref)
            pending += ref.children

    async def act(self, system: ActorSystem, what: str, *rest: Any) -> None:
        if what == "wait":
            await asyncio.sleep(rest[0])
            return
        if what == "start_dynamic":
            found = system.whereis("/top/dynamic")
            if found is not None and found.alive:
                spec = ChildSpec(Leaf, (self.ledger, [1] if rest[0] else [], 0.1), restart="transient")
                self.calls.append(asyncio.ensure_future(found.within(30.0).call.start_child(spec)))
            return
        ref = system.whereis(rest[0])
        if ref is None:
            return
        if what in ("kill", "kill_supervisor"):
            ref.kill()
        elif what == "stop":
            ref.request_stop(Normal())
        elif what == "drain":
            ref.request_stop(Normal(), drain=True)
        elif what == "fail_next_init":
            self.failing[rest[0]].append(1)
        elif what == "tie":
            other = system.whereis(rest[1])
            if other is not None and other is not ref:
                ref.cast.tie(other)
        elif what in ("put", "ask"):
            self.sent += 1
            message = (ref.within(500.0).call if what == "ask" else ref.cast).put(self.sent, rest[1])
            if what == "ask":
                self.calls.append(asyncio.ensure_future(message))
        else:
            getattr(ref.cast, what)()

    def check_quiet(self, system: ActorSystem) -> None:
        """After 100 quiet seconds nobody is in between, and every call has its answer."""
        assert all(call.done() for call in self.calls)
        for ref in self.refs:
            statistics = ref.statistics()
            if ref.alive:
                assert system.whereis(ref.path) is ref, "an orphan"
                assert (statistics.state, statistics.queued) == ("idle", 0), statistics
            else:
                assert statistics.state == "dead", statistics
        assert max(self.ledger.values(), default=0) <= 1, "a message was handled twice"

    def check_end(self) -> None:
        assert not any(ref.alive for ref in self.refs)
        assert all(ref.stopped.done() for ref in self.refs)
        handled = len(self.ledger)
        failed_calls = sum(1 for call in self.calls if call.exception() is not None)
        assert handled + sum(self.dead.values()) + failed_calls >= self.sent, "a message vanished"
        assert len(asyncio.all_tasks()) == 1, asyncio.all_tasks()
        self.check_intensity()

    def check_intensity(self) -> None:
        """Under one_for_one each restart of a child is one of its supervisor's; a restarted supervisor starts anew."""
        restarts = [event.at for event in self.restarted if event.path.startswith("/top/one/")]
        renewed = sum(1 for event in self.restarted if event.path == "/top/one")
        window, allowed = INTENSITY["max_seconds"], INTENSITY["max_restarts"] * (1 + renewed)
        for start in restarts:
            assert sum(1 for at in restarts if start <= at < start + window) <= allowed


@settings(max_examples=100, deadline=None)
@given(
    histories,
    st.sampled_from(["permanent", "transient", "temporary"]),
    st.booleans(),
    st.sampled_from(LEAF_CLASSES),
    st.integers(0, 1000),
)
def test_any_history_under_any_order(
    history: list[tuple[Any, ...]], restart: str, backoff: bool, leaf: type[Leaf], seed: int
) -> None:
    run_virtual(World(restart, backoff, leaf).live(history), seed=seed)
