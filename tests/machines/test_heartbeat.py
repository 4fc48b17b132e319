"""Keeping a session alive: the beats, the warnings, the end."""

import copy
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinkex_actors.machines.heartbeat import (
    PERIOD,
    Beat,
    BeatDue,
    BeatFailed,
    BeatOk,
    Changed,
    Event,
    Heartbeat,
    Late,
    Started,
    WakeAt,
    Warn,
    step,
)


def beating(now: float = 0.0) -> Heartbeat:
    state = Heartbeat()
    assert step(state, Started(), now) == [WakeAt(now + 10.0)]
    return state


def test_a_beat_every_ten_seconds_the_first_after_ten() -> None:
    state = beating(5.0)
    assert step(state, BeatDue(), 15.0) == [Beat(), WakeAt(25.0)]
    assert step(state, BeatOk(), 15.1) == []
    assert step(state, BeatDue(), 26.0) == [Beat(), WakeAt(36.0)]
    assert state.status == "alive"


def test_an_early_tick_sends_nothing() -> None:
    state = beating()
    assert step(state, BeatDue(), 9.99) == [WakeAt(10.0)]
    step(state, BeatDue(), 10.0)
    assert step(state, BeatDue(), 10.0) == [WakeAt(20.0)]


def test_a_restarted_shell_keeps_the_rhythm() -> None:
    state = beating()
    step(state, BeatDue(), 10.0)
    assert step(state, Started(), 13.0) == [WakeAt(20.0)]
    assert step(state, Started(), 500.0) == [WakeAt(20.0)]
    assert state.last_ok_at == 0.0


def test_a_failure_degrades_and_a_success_restores() -> None:
    state = beating()
    assert step(state, BeatFailed(503), 11.0) == [Changed("alive", "degraded", 11.0)]
    assert (state.status, state.failures, state.last_failure) == ("degraded", 1, 503)
    assert step(state, BeatFailed(), 21.0) == []
    assert (state.status, state.failures, state.last_failure) == ("degraded", 2, None)
    assert step(state, BeatOk(), 31.0) == [Changed("degraded", "alive", 31.0)]
    assert state == Heartbeat(last_ok_at=31.0, next_beat_at=10.0)


def test_silence_warns_at_two_minutes_and_at_each_doubling() -> None:
    state = beating()
    warned = []
    for beat in range(1, 101):
        effects = step(state, BeatDue(), beat * 10.0) + step(state, BeatFailed(), beat * 10.0)
        warned += [effect.elapsed for effect in effects if isinstance(effect, Warn)]
    assert warned == [120.0, 240.0, 480.0, 960.0]
    assert state.status == "lost"
    assert step(state, BeatOk(), 1001.0) == [Changed("lost", "alive", 1001.0)]
    assert step(state, BeatFailed(), 1120.0) == [Changed("alive", "degraded", 119.0)]
    assert step(state, BeatFailed(), 1121.0) == [Warn(120.0), Changed("degraded", "lost", 120.0)]


def test_beats_that_are_never_answered_warn_too() -> None:
    state = beating()
    for beat in range(1, 12):
        assert step(state, BeatDue(), beat * 10.0) == [Beat(), WakeAt(beat * 10.0 + 10.0)]
    assert step(state, BeatDue(), 120.0) == [
        Beat(),
        WakeAt(130.0),
        Warn(120.0),
        Changed("alive", "lost", 120.0),
    ]


def test_one_long_silence_warns_once() -> None:
    state = beating()
    assert step(state, BeatFailed(), 5000.0) == [Warn(5000.0), Changed("alive", "lost", 5000.0)]
    assert step(state, BeatFailed(), 5010.0) == []


def test_a_beat_that_waited_for_the_loop_goes_out_at_once_and_says_so() -> None:
    state = beating()
    assert step(state, BeatDue(), 19.9) == [Beat(), WakeAt(29.9)]
    assert step(state, BeatDue(), 45.0) == [Beat(), WakeAt(55.0), Late(pytest.approx(15.1))]


def test_a_server_without_heartbeats_is_left_in_peace() -> None:
    state = beating()
    step(state, BeatDue(), 10.0)
    assert step(state, BeatFailed(unsupported=True), 10.1) == [Changed("alive", "unwatched", 10.1)]
    for event in (BeatDue(), BeatOk(), BeatFailed(), BeatFailed(410), Started()):
        assert step(state, event, 500.0) == []
    assert state.status == "unwatched"


@pytest.mark.parametrize("before", [BeatOk(), BeatFailed(500)])
def test_410_ends_the_session_for_good(before: Event) -> None:
    state = beating()
    step(state, before, 10.0)
    [change] = step(state, BeatFailed(410), 20.0)
    assert isinstance(change, Changed)
    assert change.after == "ended"
    assert state.status == "ended"
    for event in (BeatDue(), BeatOk(), BeatFailed(), BeatFailed(410), Started()):
        assert step(state, event, 30.0) == []
    assert state.status == "ended"


@pytest.mark.parametrize("event", [BeatDue(), BeatOk(), BeatFailed(), BeatFailed(410)])
def test_nothing_happens_before_the_start(event: Event) -> None:
    state = Heartbeat()
    with pytest.raises(ValueError, match="before Started"):
        step(state, event, 1.0)
    assert state == Heartbeat()


def test_something_that_is_no_event_raises_and_changes_nothing() -> None:
    state = beating()
    before = copy.deepcopy(state)
    with pytest.raises(AssertionError):
        step(state, "beat", 1.0)  # type: ignore[arg-type]
    assert state == before


events = st.sampled_from([Started(), BeatDue(), BeatDue(), BeatOk(), BeatFailed(500), BeatFailed()])


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(events, st.floats(0.0, 70.0)), max_size=80))
def test_beats_keep_their_distance_and_a_timer_is_always_set(script: list[tuple[Event, float]]) -> None:
    state, now, beats, wake = beating(), 0.0, [], PERIOD
    for event, seconds in script:
        now += seconds
        for effect in step(state, event, now):
            if isinstance(effect, Beat):
                beats.append(now)
            elif isinstance(effect, WakeAt):
                wake = effect.instant
    assert all(later - earlier >= PERIOD for earlier, later in pairwise(beats))
    assert wake == state.next_beat_at
    assert wake <= now + PERIOD
