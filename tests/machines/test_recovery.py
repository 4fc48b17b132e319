"""Recovery's rules, one by one and under every order of events."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinkex_actors.errors import ConfigError
from tinkex_actors.machines.recovery import (
    Due,
    Event,
    GaveUp,
    Look,
    Looked,
    Lost,
    NotRestored,
    Recovery,
    RecoveryPolicy,
    Restore,
    Restored,
    WakeAt,
    step,
)

PATH = "tinker://r/weights/a"


def watching(*runs: str, **policy: Any) -> Recovery:
    state = Recovery(policy=RecoveryPolicy(**policy))
    for run in runs:
        state.watch(run, 0.0, PATH)
    return state


def test_a_run_is_looked_at_once_per_interval_and_one_look_at_a_time() -> None:
    state = watching("r")
    assert step(state, Due(), 10.0) == [WakeAt(30.0)]
    assert step(state, Due(), 30.0) == [Look("r")]
    assert step(state, Due(), 99.0) == []
    assert step(state, Looked("r"), 100.0) == [WakeAt(130.0)]


@pytest.mark.parametrize("answer", [{"corrupted": True}, {"status": 404}, {"status": 410}])
def test_what_says_that_a_run_is_lost(answer: dict[str, Any]) -> None:
    state = watching("r")
    step(state, Due(), 30.0)
    assert step(state, Looked("r", **answer), 30.0) == [Restore("r", PATH, 1)]


@pytest.mark.parametrize("answer", [{}, {"status": 500}, {"status": 403}])
def test_what_says_nothing(answer: dict[str, Any]) -> None:
    state = watching("r")
    step(state, Due(), 30.0)
    assert step(state, Looked("r", **answer), 30.0) == [WakeAt(60.0)]


def test_the_newest_checkpoint_is_gone_back_to_or_the_one_that_is_named() -> None:
    newer = "tinker://r/weights/b"
    for policy, wanted in ((RecoveryPolicy(), newer), (RecoveryPolicy(checkpoint=PATH), PATH)):
        state = Recovery(policy=policy)
        state.watch("r", 0.0)
        step(state, Due(), 30.0)
        assert step(state, Looked("r", corrupted=True, checkpoint=newer), 30.0) == [Restore("r", wanted, 1)]


def test_without_a_checkpoint_it_is_given_up_at_once() -> None:
    state = Recovery()
    state.watch("r", 0.0)
    assert step(state, Lost("r"), 1.0) == [GaveUp("r", 0)]
    assert state.runs == {}


def test_attempts_wait_longer_each_time_and_end() -> None:
    state = watching("r", max_attempts=4, backoff=5.0, max_backoff=8.0)
    assert step(state, Lost("r"), 0.0) == [Restore("r", PATH, 1)]
    now = 0.0
    for attempt, wait in ((1, 5.0), (2, 8.0), (3, 8.0)):
        assert step(state, NotRestored("r"), now) == [WakeAt(now + wait)]
        assert step(state, Due(), now + wait / 2) == [WakeAt(now + wait)]
        now += wait
        assert step(state, Due(), now) == [Restore("r", PATH, attempt + 1)]
    assert step(state, NotRestored("r"), now) == [GaveUp("r", 4)]


def test_as_many_at_a_time_as_allowed_in_the_order_of_their_loss() -> None:
    state = watching("a", "b", "c", max_concurrent=2)
    assert step(state, Lost("c"), 0.0)[0] == Restore("c", PATH, 1)
    assert step(state, Lost("a"), 0.0)[0] == Restore("a", PATH, 1)
    assert not any(isinstance(effect, Restore) for effect in step(state, Lost("b"), 0.0))
    assert step(state, Restored("a"), 0.0) == [Restore("b", PATH, 1)]
    assert step(state, Restored("b"), 0.0) == []


def test_news_of_runs_that_nobody_watches_or_that_are_lost_already_change_nothing() -> None:
    state = watching("r")
    for event in (Lost("x"), Looked("x"), Restored("x"), NotRestored("x"), NotRestored("r")):
        assert step(state, event, 0.0) == [WakeAt(30.0)]
    step(state, Lost("r"), 0.0)
    assert step(state, Lost("r"), 0.0) == []
    assert step(state, Looked("r", corrupted=True), 0.0) == []
    state.forget("r")
    assert step(state, Restored("r"), 0.0) == []
    state.watch("r", 0.0)
    state.watch("r", 50.0)
    assert state.runs["r"].instant == 30.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_attempts": 0},
        {"max_concurrent": True},
        {"backoff": 0.0},
        {"max_backoff": math.inf},
        {"poll_interval": "1"},
        {"checkpoint": "best"},
    ],
)
def test_a_policy_that_cannot_be_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        RecoveryPolicy(**wrong)


RUNS = st.sampled_from(["a", "b", "c"])
EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.just(Due()),
    st.builds(Looked, RUNS, st.booleans(), st.sampled_from([None, PATH]), st.sampled_from([None, 404, 500])),
    st.builds(Lost, RUNS),
    st.builds(Restored, RUNS),
    st.builds(NotRestored, RUNS),
)


@given(st.lists(st.tuples(EVENTS, st.floats(0.0, 50.0)), max_size=60), st.integers(1, 3), st.integers(1, 3))
def test_no_order_of_events_restores_a_run_twice_or_too_often(
    history: list[tuple[Event, float]], max_concurrent: int, max_attempts: int
) -> None:
    state = watching("a", "b", "c", max_concurrent=max_concurrent, max_attempts=max_attempts)
    under_way: set[str] = set()
    attempts = dict.fromkeys("abc", 0)
    over: set[str] = set()
    now = 0.0
    for event, wait in history:
        now += wait
        if isinstance(event, (Restored, NotRestored)):
            if event.run_id not in under_way:
                continue  # no shell says so
            under_way.discard(event.run_id)
            if isinstance(event, Restored):
                over.add(event.run_id)
        for effect in step(state, event, now):
            if isinstance(effect, Restore):
                assert effect.run_id not in under_way | over
                attempts[effect.run_id] += 1
                assert effect.attempt == attempts[effect.run_id] <= max_attempts
                under_way.add(effect.run_id)
            elif isinstance(effect, GaveUp):
                over.add(effect.run_id)
            elif isinstance(effect, WakeAt):
                assert effect.instant > now or isinstance(event, (Looked, Lost, NotRestored, Restored))
        assert len(under_way) <= max_concurrent
        assert over.isdisjoint(state.runs)
