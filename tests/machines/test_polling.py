"""One promise: every answer, and the pace of the polls."""

import copy
import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinkex_actors.machines.polling import (
    Event,
    Fail,
    FailedSeen,
    MetadataSeen,
    NoAnswer,
    Poll,
    Polling,
    ReadySeen,
    Resolve,
    StatusSeen,
    TryAgainSeen,
    started,
    step,
)

HELD = 5.0


def polling(**fields: object) -> Polling:
    """A promise whose first poll starts at 0."""
    state = Polling("req-1", **fields)  # type: ignore[arg-type]
    started(state, 0.0)
    return state


def delays(events: list[Event], held: float, u: float = 0.0) -> list[float]:
    """The delay after each event, every poll being held for the same time."""
    state, now, found = polling(), 0.0, []
    for event in events:
        now += held
        decision = step(state, event, now, u)
        assert isinstance(decision, Poll)
        found.append(round(decision.delay, 9))
        now += decision.delay
        started(state, now)
    return found


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (ReadySeen(), Resolve()),
        (FailedSeen("boom", "user"), Fail("failed", "boom", category="user")),
        (TryAgainSeen("active"), Poll(0.0)),
        (TryAgainSeen(), Poll(0.0)),
        (MetadataSeen(700), Poll(0.0, allow_metadata_only=False, reserve_bytes=700)),
        (NoAnswer(), Poll(1.0)),
        (StatusSeen(429), Poll(1.0)),
        (StatusSeen(500), Poll(0.5)),
        (StatusSeen(503), Poll(0.5)),
        (StatusSeen(408), Poll(0.0)),
        (StatusSeen(400), Poll(0.0)),
        (StatusSeen(402, billing_pause=5.0), Poll(5.0)),
    ],
)
def test_each_answer_after_a_long_poll(event: Event, expected: object) -> None:
    assert step(polling(), event, HELD, 0.0) == expected


@pytest.mark.parametrize("status", [302, 401, 403, 404, 409, 422])
def test_other_statuses_are_final(status: int) -> None:
    decision = step(polling(), StatusSeen(status), HELD, 0.0)
    assert decision == Fail("status", f"polling was refused with status {status}", status=status)


def test_a_gone_promise_is_told_apart() -> None:
    decision = step(polling(), StatusSeen(410), HELD, 0.0)
    assert isinstance(decision, Fail)
    assert (decision.kind, decision.status) == ("gone", 410)


def test_quick_answers_without_news_slow_the_polls_down_to_one_a_second() -> None:
    assert delays([TryAgainSeen("active")] * 8, held=0.0) == [0.05, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_the_floor_counts_from_start_to_start() -> None:
    assert delays([StatusSeen(408)] * 4, held=0.04) == [0.01, 0.06, 0.16, 0.36]


def test_a_long_poll_may_be_followed_at_once_and_resets_the_floor() -> None:
    state = polling(quick=5)
    assert step(state, TryAgainSeen("active"), 1.0, 0.0) == Poll(0.0)
    assert step(state, TryAgainSeen("active"), 1.0, 0.0) == Poll(0.05)


def test_a_server_that_holds_polls_for_less_than_a_second_slows_them_down_too() -> None:
    assert delays([StatusSeen(408)] * 7, held=0.3) == [0.0, 0.0, 0.0, 0.1, 0.5, 0.7, 0.7]


def test_a_changed_queue_state_is_news() -> None:
    state = polling()
    step(state, TryAgainSeen("paused_capacity", "no room"), 0.0, 0.0)
    assert (state.queue_state, state.queue_reason, state.queue_since) == ("paused_capacity", "no room", 0.0)
    state.quick = 3
    step(state, TryAgainSeen("paused_capacity", "still no room"), 1.5, 0.0)
    assert (state.queue_state, state.queue_reason, state.queue_since) == ("paused_capacity", "still no room", 0.0)
    step(state, TryAgainSeen("active"), 1.6, 0.0)
    assert (state.queue_state, state.queue_reason, state.queue_since, state.quick) == ("active", None, 1.6, 0)


@pytest.mark.parametrize("event", [StatusSeen(408), TryAgainSeen(), NoAnswer()])
def test_an_answer_without_a_queue_state_keeps_the_last_one(event: Event) -> None:
    state = polling()
    step(state, TryAgainSeen("paused_rate_limit", "too many"), HELD, 0.0)
    step(state, event, 2 * HELD, 0.0)
    assert (state.queue_state, state.queue_reason, state.queue_since) == ("paused_rate_limit", "too many", HELD)


def test_an_unknown_queue_state_leaves_the_state_and_takes_the_reason() -> None:
    state = polling()
    step(state, TryAgainSeen("on_fire", "odd"), HELD, 0.0)
    assert (state.queue_state, state.queue_reason, state.queue_since) == ("active", "odd", None)


@pytest.mark.parametrize("event", [ReadySeen(), FailedSeen("boom"), StatusSeen(404)])
def test_the_end_of_a_promise_is_the_end_of_its_pause(event: Event) -> None:
    state = polling()
    step(state, TryAgainSeen("paused_capacity", "no room"), HELD, 0.0)
    step(state, event, 2 * HELD, 0.0)
    assert (state.queue_state, state.queue_reason) == ("active", None)


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (StatusSeen(500), [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]),
        (StatusSeen(429), [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]),
        (NoAnswer(), [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]),
    ],
)
def test_trouble_doubles_the_wait(event: Event, expected: list[float]) -> None:
    assert delays([event] * 8, held=0.0) == expected
    assert delays([event] * 8, held=0.0, u=1.0) == [0.75 * delay for delay in expected]


@pytest.mark.parametrize(
    "between", [TryAgainSeen("active"), StatusSeen(408), StatusSeen(400), StatusSeen(402, None, 5.0)]
)
def test_another_answer_starts_the_doubling_again(between: Event) -> None:
    found = delays([NoAnswer(), NoAnswer(), between, NoAnswer()], held=HELD)
    assert (found[0], found[1], found[3]) == (1.0, 2.0, 1.0)


@pytest.mark.parametrize(
    ("hint", "expected"), [(7.0, 7.0), (0.2, 1.0), (600.0, 60.0), (math.inf, 60.0), (-1.0, 1.0), (math.nan, 1.0)]
)
def test_a_hint_only_lengthens_the_wait_up_to_a_minute(hint: float, expected: float) -> None:
    assert step(polling(), StatusSeen(429, retry_after=hint), HELD, 0.0) == Poll(expected)


@pytest.mark.parametrize(("hint", "expected"), [(None, 0.05), (0.0, 0.05), (0.01, 0.05), (7.0, 7.0), (3600.0, 60.0)])
def test_not_yet_may_say_when_to_ask_again(hint: float | None, expected: float) -> None:
    assert delays([TryAgainSeen("active", None, hint)], held=0.0) == [expected]


def test_three_bad_requests_in_a_row_are_tolerated() -> None:
    state = polling()
    for _ in range(3):
        assert isinstance(step(state, StatusSeen(400), HELD, 0.0), Poll)
    decision = step(state, StatusSeen(400), HELD, 0.0)
    assert decision == Fail("status", "polling was refused with status 400 4 times in a row", status=400)


@pytest.mark.parametrize(("between", "tolerated"), [(StatusSeen(408), True), (StatusSeen(503), False)])
def test_only_an_ordinary_answer_renews_the_budget_of_bad_requests(between: Event, tolerated: bool) -> None:
    state = polling()
    for event in (StatusSeen(400), StatusSeen(400), StatusSeen(400), between):
        step(state, event, HELD, 0.0)
    assert isinstance(step(state, StatusSeen(400), HELD, 0.0), Poll) is tolerated


def test_a_refusal_for_billing_lasts_as_long_as_the_servers_pause() -> None:
    state = polling()
    assert step(state, StatusSeen(402, billing_pause=5.0), 100.0, 0.0) == Poll(5.0)
    assert step(state, StatusSeen(402), 3700.0, 0.0) == Fail(
        "status", "billing has been refused (402) for as long as a pause may last", status=402
    )


def test_metadata_comes_once() -> None:
    state = polling(quick=4)
    assert step(state, MetadataSeen(10), 0.02, 0.0) == Poll(pytest.approx(0.03), False, 10)
    assert (state.allow_metadata_only, state.reserved_bytes) == (False, 10)
    assert step(state, TryAgainSeen("active"), HELD, 0.0) == Poll(0.0, allow_metadata_only=False)
    decision = step(state, MetadataSeen(10), 2 * HELD, 0.0)
    assert isinstance(decision, Fail)
    assert decision.kind == "protocol"


def test_a_negative_size_is_a_protocol_error() -> None:
    state = polling()
    decision = step(state, MetadataSeen(-1), HELD, 0.0)
    assert isinstance(decision, Fail)
    assert (decision.kind, state.reserved_bytes, state.allow_metadata_only) == ("protocol", 0, True)


def test_polls_are_counted_once_however_often_a_restarted_shell_repeats_them() -> None:
    state = polling()
    started(state, 1.0)
    assert (state.polls, state.iteration, state.last_poll_at) == (1, 0, 1.0)
    step(state, StatusSeen(408), 3.0, 0.0)
    assert (state.polls, state.iteration) == (1, 1)
    started(state, 4.0)
    assert (state.polls, state.last_poll_at) == (2, 4.0)


def test_an_answer_before_any_poll_was_reported_counts_as_one() -> None:
    state = Polling("req-1")
    assert step(state, StatusSeen(408), 3.0, 0.0) == Poll(0.0)
    assert (state.polls, state.last_poll_at) == (1, 3.0)


def test_a_poll_that_starts_late_is_measured_from_its_real_start() -> None:
    state = polling()
    step(state, StatusSeen(408), 2.0, 0.0)
    started(state, 60.0)
    assert step(state, StatusSeen(408), 60.0, 0.0) == Poll(0.05)


def test_a_restarted_shell_keeps_the_planned_wait_and_the_floor() -> None:
    assert Polling("req-1").resume(7.0) == Poll(0.0)
    state = polling()
    assert state.resume(0.02) == Poll(pytest.approx(0.03))
    assert state.resume(3.0) == Poll(0.0)
    step(state, StatusSeen(429, retry_after=20.0), 3.0, 0.0)
    assert state.resume(4.0) == Poll(19.0)
    started(state, 23.0)
    step(state, MetadataSeen(64), 25.0, 0.0)
    assert state.resume(25.0) == Poll(0.0, allow_metadata_only=False, reserve_bytes=64)


def test_something_that_is_no_answer_raises_and_changes_nothing() -> None:
    state = polling(quick=2, backoff=1)
    before = copy.deepcopy(state)
    with pytest.raises(AssertionError):
        step(state, "ready", 1.0, 0.0)  # type: ignore[arg-type]
    assert state == before


answers = st.one_of(
    st.builds(TryAgainSeen, st.sampled_from([None, "active", "paused_capacity", "paused_rate_limit", "other"])),
    st.builds(MetadataSeen, st.integers(0, 10**6)),
    st.builds(NoAnswer),
    st.builds(
        StatusSeen,
        st.sampled_from([400, 402, 408, 429, 500, 503]),
        st.none() | st.floats(0, 100, allow_nan=False),
        st.sampled_from([None, 5.0]),
    ),
)
holding = st.sampled_from([0.0, 0.001, 0.03, 0.05, 0.4, 1.0, 30.0])
jitter = st.floats(0, 1, exclude_max=True)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(answers, holding, jitter), min_size=1, max_size=60))
def test_no_two_polls_are_closer_than_the_floor(script: list[tuple[Event, float, float]]) -> None:
    state, now = Polling("req-1"), 0.0
    starts = [now]
    started(state, now)
    for event, held, u in script:
        now += held
        decision = step(state, event, now, u)
        if not isinstance(decision, Poll):
            break
        assert 0.0 <= decision.delay <= 60.0
        now += decision.delay
        starts.append(now)
        started(state, now)
    assert all(later - earlier >= 0.05 - 1e-9 for earlier, later in pairwise(starts))
    assert state.polls == len(starts)


@settings(deadline=None, max_examples=50)
@given(st.sampled_from([TryAgainSeen("active"), StatusSeen(408), StatusSeen(503), NoAnswer()]), holding, jitter)
def test_an_hour_of_the_same_answer_costs_a_poll_a_second_at_most(event: Event, held: float, u: float) -> None:
    state, now, polls = Polling("req-1"), 0.0, 0
    while now < 3600.0:
        started(state, now)
        polls += 1
        now += held
        decision = step(state, event, now, u)
        assert isinstance(decision, Poll)
        now += decision.delay
    assert polls <= 3600.0 + 8
