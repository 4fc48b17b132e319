"""Admission under any order of events: budgets hold, the order holds, everything comes back."""

import pickle

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tinkex_actors.machines.admission import Admission, AdmissionLimits, Post, WakeAt
from tinkex_actors.machines.admission.backoff import PARITY, Backoff, BackoffPolicy

jitter = st.floats(0, 1, exclude_max=True)


class Budgets(RuleBasedStateMachine):
    """A dispatcher that answers at random; it keeps its own books."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.wake: float | None = None
        self.size: dict[int, int] = {}
        self.waiting: set[int] = set()
        self.posting: dict[int, int] = {}  # id -> bytes charged
        self.polling: set[int] = set()
        self.refused: set[int] = set()
        self.limited_total = 0

    @initialize(
        in_flight=st.integers(1, 8),
        dispatch=st.integers(1, 6),
        prompt_bytes=st.integers(1, 60),
        throttled=st.none() | st.integers(1, 4),
        spread=st.sampled_from([0.0, 0.5, 1.0]),
        recent=st.sampled_from([0.0, 3.0, 10.0]),
        growth=st.sampled_from([1.0, 2.0]),
    )
    def begin(self, in_flight: int, dispatch: int, prompt_bytes: int, throttled: int | None, **window: float) -> None:
        self.limits = AdmissionLimits(in_flight, dispatch, prompt_bytes)
        self.policy = BackoffPolicy(throttled=throttled, penalty=3, large_bytes=20, **window)  # type: ignore[arg-type]
        self.admission = Admission(self.limits, Backoff(self.policy))

    @property
    def recovering(self) -> bool:
        return self.admission.statistics().phase != "steady"

    def perform(self, effects: list[Post | WakeAt]) -> None:
        for effect in effects:
            if isinstance(effect, WakeAt):
                self.wake = effect.instant
                continue
            alike = {op_id for op_id in self.waiting if (self.size[op_id] > 20) == (self.size[effect.id] > 20)}
            assert effect.id == min(self.refused or alike), "somebody overtook"
            window = self.admission.statistics()
            assert window.phase != "backing_off"
            assert window.window_until is None or self.now >= window.window_until, "posted inside the window"
            if window.phase == "recovering" and self.policy.throttled is not None:
                assert len(self.posting) < self.policy.throttled
            assert len(self.posting) < self.limits.dispatch
            assert len(self.posting) + len(self.polling) < self.limits.in_flight
            assert sum(self.posting.values()) <= self.limits.prompt_bytes, "the balance was negative already"
            self.waiting.remove(effect.id)
            self.refused.discard(effect.id)
            self.posting[effect.id] = self.size[effect.id] * (3 if self.recovering else 1)

    @rule(size=st.integers(0, 80))
    def submit(self, size: int) -> None:
        op_id = len(self.size)
        self.size[op_id] = size
        self.waiting.add(op_id)
        self.perform(self.admission.submit(op_id, size))

    @precondition(lambda self: self.posting)
    @rule(data=st.data())
    def accept(self, data: st.DataObject) -> None:
        op_id = data.draw(st.sampled_from(sorted(self.posting)))
        del self.posting[op_id]
        self.polling.add(op_id)
        self.perform(self.admission.accepted(op_id))

    @precondition(lambda self: self.posting)
    @rule(data=st.data(), hint=st.none() | st.floats(0, 30), u=jitter)
    def limit(self, data: st.DataObject, hint: float | None, u: float) -> None:
        op_id = data.draw(st.sampled_from(sorted(self.posting)))
        del self.posting[op_id]
        self.waiting.add(op_id)
        self.refused.add(op_id)
        self.limited_total += 1
        before = self.admission.statistics()
        self.perform(self.admission.limited(op_id, self.now, hint, u))
        until = self.admission.statistics().window_until
        assert self.wake is not None
        if before.phase in ("steady", "backing_off"):
            assert until is not None
            assert until >= max(self.now + (hint or 0.0), before.window_until or 0.0)
            assert until <= self.wake

    @precondition(lambda self: self.polling)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        op_id = data.draw(st.sampled_from(sorted(self.polling)))
        self.polling.remove(op_id)
        self.perform(self.admission.finished(op_id))

    @precondition(lambda self: self.size)
    @rule(data=st.data(), event=st.sampled_from(["failed", "cancelled"]))
    def drop(self, data: st.DataObject, event: str) -> None:
        op_id = data.draw(st.integers(0, len(self.size) - 1))
        self.waiting.discard(op_id)
        self.refused.discard(op_id)
        self.posting.pop(op_id, None)
        self.polling.discard(op_id)
        self.perform(getattr(self.admission, event)(op_id))

    @rule(seconds=st.floats(0, 20), u=jitter)
    def pause(self, seconds: float, u: float) -> None:
        self.perform(self.admission.paused(self.now, seconds, u, "queue"))

    @precondition(lambda self: self.wake is not None)
    @rule(late=st.sampled_from([0.0, 0.0, 0.01, 0.3, 40.0]))
    def sleep(self, late: float) -> None:
        assert self.wake is not None
        self.now, self.wake = max(self.now, self.wake) + late, None
        self.perform(self.admission.tick(self.now))
        assert self.wake is None or self.wake > self.now, "the same wake again: a timer that spins"

    @rule(fraction=st.floats(0, 0.99))
    def tick_too_early(self, fraction: float) -> None:
        if self.wake is not None and self.wake > self.now:
            self.now += (self.wake - self.now) * fraction
        self.perform(self.admission.tick(self.now))

    @rule()
    def feed_nonsense(self) -> None:
        before = pickle.dumps(self.admission)
        with pytest.raises(ValueError, match="size of 0 bytes"):
            self.admission.submit(len(self.size), -1)
        for op_id in sorted(self.waiting)[:1]:
            for event in (self.admission.accepted, self.admission.finished):
                with pytest.raises(ValueError, match="waiting"):
                    event(op_id)
        for op_id in sorted(self.polling)[:1]:
            with pytest.raises(ValueError, match="accepted already"):
                self.admission.limited(op_id, self.now, None, 0.0)
        assert pickle.dumps(self.admission) == before

    @invariant()
    def the_books_agree(self) -> None:
        if not hasattr(self, "admission"):
            return
        statistics = self.admission.statistics()
        assert statistics.waiting == len(self.waiting)
        assert statistics.dispatching == len(self.posting)
        assert statistics.in_flight == len(self.polling)
        assert statistics.dispatching_bytes == sum(self.posting.values())
        assert statistics.limited_total == self.limited_total
        assert {op_id for op_id in self.size if self.admission.stage(op_id) == "waiting"} == self.waiting

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        """Whoever waits is woken by an answer under way or by the timer."""
        assert not self.waiting or self.posting or self.polling or self.wake is not None

    def teardown(self) -> None:
        for _ in range(400 + 20 * len(self.size)):
            if self.posting:
                op_id = min(self.posting)
                del self.posting[op_id]
                self.polling.add(op_id)
                self.perform(self.admission.accepted(op_id))
            elif self.polling:
                op_id = min(self.polling)
                self.polling.remove(op_id)
                self.perform(self.admission.finished(op_id))
            elif self.wake is not None:
                self.sleep(0.0)
        assert (self.waiting, self.posting, self.polling, self.wake) == (set(), {}, set(), None)
        if hasattr(self, "admission"):
            assert self.admission.outstanding() == []
            assert self.admission.statistics().phase == "steady"


Budgets.TestCase.settings = settings(
    deadline=None, max_examples=80, stateful_step_count=40, suppress_health_check=[HealthCheck.too_slow]
)
TestBudgets = Budgets.TestCase


def test_twenty_thousand_waiting_requests_leave_in_order_through_repeated_refusals() -> None:
    admission = Admission(AdmissionLimits(in_flight=50, dispatch=40), Backoff(PARITY))
    left: list[int] = []
    now, wake, refusals = 0.0, 0.0, 0

    def perform(effects: list[Post | WakeAt]) -> None:
        nonlocal wake
        for effect in effects:
            if isinstance(effect, Post):
                left.append(effect.id)
            else:
                wake = effect.instant

    for op_id in range(20_000):
        perform(admission.submit(op_id, 400))
    accepted: list[int] = []
    while len(accepted) < 20_000:
        if not left:
            now = max(now, wake)
            perform(admission.tick(now))
            continue
        op_id = left.pop(0)
        if op_id % 5_000 == 4_999 and refusals < 8:
            refusals += 1
            perform(admission.limited(op_id, now, None, 0.5))
            continue
        accepted.append(op_id)
        perform(admission.accepted(op_id))
        perform(admission.finished(op_id))
    assert sorted(accepted) == list(range(20_000))
    # Only what was already on its way may pass a refused request: never more than the dispatch limit.
    assert all(abs(op_id - place) <= 40 for place, op_id in enumerate(accepted))
