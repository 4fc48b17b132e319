"""When another attempt is made, and how long it waits."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinkex_actors.errors import ConfigError
from tinkex_actors.machines.retry import (
    NO_RETRY,
    Billing,
    Failure,
    RetryPolicy,
    Verdict,
    decide,
    is_doubtful,
    is_retryable,
    policy_for,
    verdict,
)

POLICY = RetryPolicy()


@pytest.mark.parametrize(
    ("status", "retryable", "alone", "after_a_doubtful_attempt"),
    [
        (None, True, "unknown", "unknown"),
        (302, False, "refused", "unknown"),
        (400, False, "refused", "refused"),
        (401, False, "refused", "unknown"),
        (402, False, "open", "unknown"),
        (404, False, "refused", "unknown"),
        (408, True, "unknown", "unknown"),
        (409, True, "refused", "unknown"),
        (410, False, "refused", "unknown"),
        (413, False, "refused", "refused"),
        (415, False, "refused", "refused"),
        (422, False, "refused", "refused"),
        (429, True, "open", "unknown"),
        (499, False, "refused", "unknown"),
        (500, True, "unknown", "unknown"),
        (503, True, "unknown", "unknown"),
        (599, True, "unknown", "unknown"),
    ],
)
def test_statuses(status: int | None, retryable: bool, alone: Verdict, after_a_doubtful_attempt: Verdict) -> None:
    failure = Failure(status)
    assert is_retryable(failure) is retryable
    assert verdict(failure, doubtful=False) == alone
    assert verdict(failure, doubtful=True) == after_a_doubtful_attempt
    assert is_doubtful(failure) is (alone == "unknown")
    assert (decide(POLICY, 0, 0.0, failure, 0.0) is not None) is retryable


def test_what_was_never_sent_is_in_no_doubt() -> None:
    unsent = Failure(None, sent=False)
    assert not is_doubtful(unsent)
    assert verdict(unsent, doubtful=False) == "open"
    assert verdict(unsent, doubtful=True) == "unknown"


def test_a_billing_pause_lasts_an_hour_from_its_first_refusal() -> None:
    billing = Billing()
    instants = [0.0, 5.0, 290.0, 580.0, 870.0]
    assert [billing.refused(now) for now in instants] == [5.0] * 5
    billing.last = 3599.0
    assert billing.refused(3599.9) == 5.0
    assert billing.refused(3600.0) is None
    assert billing.refused(3605.0) is None


def test_a_refusal_long_after_the_last_one_begins_a_new_billing_pause() -> None:
    billing = Billing(window=10.0)
    assert billing.refused(0.0) == 5.0
    assert billing.refused(10.0) is None
    assert billing.refused(310.0) is None
    assert billing.refused(610.1) == 5.0
    assert billing.since == 610.1


@pytest.mark.parametrize(
    ("status", "header", "expected"), [(422, True, 0.5), (503, False, None), (None, False, None), (503, True, 0.5)]
)
def test_should_retry_overrides_the_status(status: int | None, header: bool, expected: float | None) -> None:
    assert decide(POLICY, 0, 0.0, Failure(status, should_retry=header), 0.0) == expected


@pytest.mark.parametrize(
    ("attempt", "u", "expected"),
    [(0, 0.0, 0.5), (1, 0.0, 1.0), (2, 0.0, 2.0), (4, 0.0, 8.0), (5, 0.0, 10.0), (9, 0.0, 10.0), (0, 0.5, 0.4375)],
)
def test_own_delay_doubles_to_the_cap_less_jitter(attempt: int, u: float, expected: float) -> None:
    assert decide(POLICY, attempt, 0.0, Failure(500), u) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        (0.02, 0.02),
        (7.5, 7.5),
        (60.0, 60.0),
        (60.01, 0.5),
        (0.0, 0.5),
        (-3.0, 0.5),
        (math.nan, 0.5),
        (math.inf, 0.5),
    ],
)
def test_a_hint_within_its_bounds_replaces_the_delay(hint: float, expected: float) -> None:
    assert decide(POLICY, 0, 0.0, Failure(429, retry_after=hint), 0.0) == expected


@pytest.mark.parametrize(
    ("elapsed", "failure", "expected"),
    [
        (299.8, Failure(500), pytest.approx(0.2)),
        (280.0, Failure(429, retry_after=30.0), 20.0),
        (300.0, Failure(500), None),
        (301.0, Failure(429, retry_after=1.0), None),
    ],
)
def test_no_delay_passes_the_window(elapsed: float, failure: Failure, expected: float | None) -> None:
    assert decide(POLICY, 0, elapsed, failure, 0.0) == expected


def test_attempts_can_be_counted() -> None:
    policy = RetryPolicy(max_attempts=3)
    assert [decide(policy, attempt, 0.0, Failure(500), 0.0) for attempt in range(4)] == [0.5, 1.0, None, None]
    assert decide(NO_RETRY, 0, 0.0, Failure(None), 0.0) is None


@pytest.mark.parametrize(
    "options",
    [
        {"window": -1.0},
        {"base": math.nan},
        {"cap": math.inf},
        {"max_hint": -0.1},
        {"jitter": 1.5},
        {"jitter": -0.1},
        {"max_attempts": 0},
    ],
)
def test_a_policy_out_of_range_is_refused_by_name(options: dict[str, float]) -> None:
    (name,) = options
    with pytest.raises(ConfigError, match=f"RetryPolicy.{name}"):
        RetryPolicy(**options)


seconds = st.floats(0.0, 1e4, allow_nan=False)


@settings(deadline=None, max_examples=150)
@given(
    policy=st.builds(RetryPolicy, window=seconds, base=seconds, cap=seconds, jitter=st.floats(0, 1), max_hint=seconds),
    attempt=st.integers(0, 10**6),
    elapsed=seconds,
    failure=st.builds(
        Failure,
        st.sampled_from([None, 408, 409, 429, 500, 503]),
        retry_after=st.none() | st.floats(),
        should_retry=st.none() | st.booleans(),
    ),
    u=st.floats(0, 1, exclude_max=True),
)
def test_every_delay_is_within_its_bounds(
    policy: RetryPolicy, attempt: int, elapsed: float, failure: Failure, u: float
) -> None:
    delay = decide(policy, attempt, elapsed, failure, u)
    if failure.should_retry is False or elapsed >= policy.window:
        assert delay is None
        return
    assert delay is not None
    assert 0.0 <= delay <= max(policy.cap, policy.max_hint)
    assert elapsed + delay <= policy.window or delay == policy.window - elapsed


@settings(deadline=None)
@given(st.floats(0, 1, exclude_max=True))
def test_a_server_that_never_recovers_costs_a_bounded_number_of_attempts(u: float) -> None:
    elapsed, attempt = 0.0, 0
    while (delay := decide(POLICY, attempt, elapsed, Failure(503), u)) is not None:
        elapsed += delay
        attempt += 1
    assert elapsed == pytest.approx(POLICY.window)
    assert attempt <= 5 + POLICY.window / (POLICY.cap * 0.75) + 1


def schedule(policy: RetryPolicy, failure: Failure, took: float = 0.0) -> list[float]:
    """The delays of a request that always fails in the same way after ``took`` seconds, without jitter."""
    delays: list[float] = []
    elapsed = took
    while len(delays) < 200 and (delay := decide(policy, len(delays), elapsed, failure, 0.0)) is not None:
        delays.append(delay)
        elapsed += delay + took
    return delays


BASE = [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0, 10.0, 10.0]

# What comes back: (parity, the failure, the delays). The golden table, worked out from protocol 1.5.
GOLDEN: dict[str, tuple[str, Failure, list[float]]] = {
    "one layer: 5xx": ("python", Failure(500), [*BASE[:5], *[10.0] * 28, 4.5]),
    "one layer: no answer": ("python", Failure(None), [*BASE[:5], *[10.0] * 28, 4.5]),
    "one layer: retry-after 60": ("python", Failure(429, retry_after=60.0), [60.0] * 5),
    "one layer: retry-after 61 is ignored": ("python", Failure(429, retry_after=61.0), [*BASE[:5], *[10.0] * 28, 4.5]),
    "one layer: 404": ("python", Failure(404), []),
    "one layer: 404, x-should-retry true": ("python", Failure(404, should_retry=True), [*BASE[:5], *[10.0] * 28, 4.5]),
    "one layer: 503, x-should-retry false": ("python", Failure(503, should_retry=False), []),
    # 65.5 s in each round of the base layer, the holder's delays between, its last one cut at 300 s.
    "two layers: 5xx": (
        "official", Failure(500), [*BASE, 1.0, *BASE, 2.0, *BASE, 4.0, *BASE, 8.0, *BASE]
    ),
    "two layers: retry-after is not for the holder": (
        "official", Failure(429, retry_after=5.0),
        [*[5.0] * 10, 1.0, *[5.0] * 10, 2.0, *[5.0] * 10, 4.0, *[5.0] * 10, 8.0, *[5.0] * 10, 16.0, *[5.0] * 10],
    ),
    "two layers: the holder does not obey x-should-retry true": ("official", Failure(400, should_retry=True), BASE),
    "two layers: 403": ("official", Failure(403), []),
    "beam: 5xx": ("beam", Failure(500), [0.5, 1.0]),
}  # fmt: skip


@pytest.mark.parametrize("case", GOLDEN)
def test_golden_delays_per_layer(case: str) -> None:
    parity, failure, delays = GOLDEN[case]
    assert schedule(policy_for(parity), failure) == delays


@pytest.mark.parametrize(
    ("parity", "max_retries", "count"), [("python", 0, 0), ("python", 3, 3), ("beam", 5, 5), ("official", 0, 14)]
)
def test_retries_can_be_counted_in_every_parity(parity: str, max_retries: int, count: int) -> None:
    assert len(schedule(policy_for(parity, max_retries), Failure(500))) == count


def test_the_holder_looks_at_the_clock_and_the_base_does_not() -> None:
    slow = schedule(policy_for("official"), Failure(None), took=60.0)
    assert slow == BASE, "eleven attempts of a minute each, and no second round"
