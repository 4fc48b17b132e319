"""Telemetry's queue: when a batch goes, and that nothing is lost or doubled without being counted."""

import math
import pickle

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tinkex_actors.errors import ConfigError
from tinkex_actors.machines.batching import Batching, BatchingStatistics, BatchLimits

SMALL = BatchLimits(capacity=5, batch=2, interval=10.0, attempts=2)


def filled(count: int, limits: BatchLimits = SMALL) -> Batching[int]:
    batching: Batching[int] = Batching(limits)
    for event in range(count):
        assert batching.add(event)
    return batching


def test_a_batch_is_due_with_the_interval() -> None:
    batching = filled(1)
    assert [batching.due(now) for now in (0.0, 9.9, 10.0, 10.1, 19.9, 20.0)] == [False, False, True, False, False, True]


def test_an_empty_queue_is_never_due() -> None:
    batching = filled(0)
    batching.flush()
    assert [batching.due(now) for now in (0.0, 10.0, 99.0)] == [False] * 3
    batching.add(1)
    # Nothing was queued when the flush was asked for, so it is over; the interval has long passed.
    assert batching.due(99.0)


def test_a_full_batch_and_a_flush_are_due_at_once() -> None:
    batching = filled(2)
    assert batching.due(0.0)
    single = filled(1)
    assert not single.due(0.0)
    single.flush()
    assert single.due(0.0)


def test_a_flush_sends_batch_after_batch_until_drained() -> None:
    batching = filled(5)
    batching.flush()
    batches = []
    while batching.due(0.0):
        batches.append(batching.take())
        assert not batching.due(0.0)
        batching.sent(len(batches[-1]))
    assert batches == [[0, 1], [2, 3], [4]]
    assert batching.drained


def test_a_failed_batch_waits_for_the_interval_however_much_is_queued() -> None:
    batching = filled(5)
    batching.flush()
    assert batching.due(0.0)
    assert batching.take() == [0, 1]
    assert batching.failed(2) == []
    assert not batching.drained
    assert [batching.due(now) for now in (0.0, 9.9)] == [False, False]
    assert batching.due(10.0)
    assert batching.take() == [0, 1]


def away(count: int) -> Batching[int]:
    batching = filled(count)
    for _ in range(SMALL.attempts):
        given_up = batching.failed(len(batching.take()))
    assert given_up == list(range(count))
    return batching


def test_after_so_many_failures_everything_is_given_up_in_order() -> None:
    batching = away(5)
    assert batching.drained
    assert batching.statistics() == BatchingStatistics(queued=0, sending=0, sent=0, overflowed=0, given_up=5, refused=0)


def test_while_the_server_is_away_one_failure_gives_up() -> None:
    batching = away(2)
    for event in (7, 8, 9):
        batching.add(event)
    assert batching.take() == [7, 8]
    assert batching.failed(2) == [7, 8, 9]


@pytest.mark.parametrize("answer", ["sent", "refused"])
def test_an_answer_ends_the_server_s_absence(answer: str) -> None:
    batching = away(2)
    batching.add(7)
    getattr(batching, answer)(len(batching.take()))
    batching.add(8)
    assert batching.failed(len(batching.take())) == []


def test_a_refused_batch_is_dropped_and_the_next_one_goes() -> None:
    batching = filled(3)
    batching.take()
    batching.refused(2)
    assert batching.take() == [2]
    assert batching.statistics() == BatchingStatistics(queued=0, sending=1, sent=0, overflowed=0, given_up=0, refused=2)


def test_giving_up_takes_the_batch_on_its_way_too() -> None:
    batching = filled(3)
    batching.take()
    assert batching.give_up() == [0, 1, 2]
    assert batching.drained


def test_a_new_flush_forces_one_attempt_after_a_failure() -> None:
    batching = filled(1)
    assert not batching.due(0.0)
    batching.flush()
    batching.take()
    batching.failed(1)
    assert not batching.due(1.0)
    batching.flush()
    assert batching.due(1.0)


def test_a_full_queue_drops_and_counts() -> None:
    batching = filled(5)
    assert not batching.add(99)
    batching.take()
    assert not batching.add(99)
    batching.sent(2)
    assert batching.add(5)
    assert batching.statistics() == BatchingStatistics(queued=4, sending=0, sent=2, overflowed=2, given_up=0, refused=0)


def test_after_a_restart_the_same_batch_goes_again() -> None:
    batching = filled(3)
    assert batching.take() == [0, 1]
    revived = pickle.loads(pickle.dumps(batching))
    with pytest.raises(ValueError, match="on its way"):
        revived.take()
    revived.restarted()
    assert revived.take() == [0, 1]


def test_an_empty_take_puts_nothing_on_its_way() -> None:
    batching = filled(0)
    assert batching.take() == []
    assert batching.take() == []


@pytest.mark.parametrize("event", ["sent", "failed", "refused"])
@pytest.mark.parametrize(("taken", "count"), [(False, 0), (False, 2), (True, 1), (True, 3)])
def test_an_answer_to_another_batch_is_refused_and_changes_nothing(event: str, taken: bool, count: int) -> None:
    batching = filled(3)
    if taken:
        batching.take()
    before = pickle.dumps(batching)
    with pytest.raises(ValueError, match=f"got {count}"):
        getattr(batching, event)(count)
    assert pickle.dumps(batching) == before


@pytest.mark.parametrize(
    "options", [{"capacity": 0}, {"batch": 0}, {"attempts": 0}, {"interval": 0.0}, {"interval": math.inf}]
)
def test_limits_out_of_range_are_refused_by_name(options: dict[str, int]) -> None:
    (name,) = options
    with pytest.raises(ConfigError, match=f"BatchLimits.{name}"):
        BatchLimits(**options)


class NothingLostOrDoubled(RuleBasedStateMachine):
    """Events are numbered; what arrives must be in order, once, and what does not must be counted."""

    def __init__(self) -> None:
        super().__init__()
        self.batching: Batching[int] = Batching(BatchLimits(capacity=7, batch=3, attempts=2))
        self.offered = 0
        self.refused = 0
        self.batch: list[int] = []
        self.arrived: list[int] = []
        self.elsewhere: list[int] = []
        self.now = 0.0

    @rule(count=st.integers(1, 5))
    def add(self, count: int) -> None:
        for _ in range(count):
            self.refused += not self.batching.add(self.offered)
            self.offered += 1

    @precondition(lambda self: not self.batch)
    @rule(seconds=st.sampled_from([0.0, 1.0, 10.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        if self.batching.due(self.now):
            self.batch = self.batching.take()
            assert 1 <= len(self.batch) <= 3

    @rule()
    def flush(self) -> None:
        self.batching.flush()

    @precondition(lambda self: self.batch)
    @rule(outcome=st.sampled_from(["sent", "failed", "refused"]))
    def answer(self, outcome: str) -> None:
        if outcome == "sent":
            self.arrived += self.batch
            self.batching.sent(len(self.batch))
        elif outcome == "refused":
            self.batching.refused(len(self.batch))
        else:
            self.elsewhere += self.batching.failed(len(self.batch))
        self.batch = []

    @precondition(lambda self: self.batch)
    @rule()
    def restart(self) -> None:
        self.batching.restarted()
        assert self.batching.take() == self.batch

    @invariant()
    def the_books_agree(self) -> None:
        counts = self.batching.statistics()
        assert self.arrived == sorted(set(self.arrived))
        assert counts.sent == len(self.arrived)
        assert counts.overflowed == self.refused
        assert counts.queued + counts.sending <= 7
        assert self.elsewhere == sorted(set(self.elsewhere) - set(self.arrived))
        assert counts.given_up == len(self.elsewhere)
        gone = counts.sent + counts.overflowed + counts.given_up + counts.refused
        assert self.offered == counts.queued + counts.sending + gone

    def teardown(self) -> None:
        if self.batch:
            self.answer("sent")
        for _ in range(10):
            self.batching.flush()
            if self.batching.due(self.now):
                self.batch = self.batching.take()
                self.answer("sent")
        assert self.batching.drained


NothingLostOrDoubled.TestCase.settings = settings(
    deadline=None, max_examples=80, stateful_step_count=30, suppress_health_check=[HealthCheck.too_slow]
)
TestNothingLostOrDoubled = NothingLostOrDoubled.TestCase
