"""The pure decisions of supervision, as properties."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinkex_actors.errors import ConfigError
from tinkex_actors.runtime._core.restarts import Backoff, Policy, RestartLog, affected, backoff_ceiling, restarts

quick = settings(max_examples=100, deadline=None)
instants = st.lists(st.floats(0.0, 100.0), max_size=40).map(sorted)
orders = st.lists(st.text("abcdefgh", min_size=1, max_size=2), unique=True, max_size=8)


@quick
@given(instants, st.integers(0, 5), st.floats(0.1, 50.0))
def test_intensity_allows_exactly_max_restarts_in_every_window(
    times: list[float], max_restarts: int, seconds: float
) -> None:
    policy = Policy(max_restarts=max_restarts, max_seconds=seconds)
    log = RestartLog()
    for index, now in enumerate(times):
        inside = sum(1 for earlier in times[: index + 1] if earlier >= now - seconds)
        assert log.allow(policy, now) is (inside <= max_restarts)


@quick
@given(orders, st.data())
def test_strategies_name_who_is_affected(order: list[str], data: st.DataObject) -> None:
    failed = data.draw(st.lists(st.sampled_from(order), unique=True)) if order else []
    one = affected("one_for_one", order, failed)
    rest = affected("rest_for_one", order, failed)
    everyone = affected("one_for_all", order, failed)
    assert set(one) == set(failed)
    assert everyone == (tuple(order) if failed else ())
    assert set(one) <= set(rest) <= set(order)
    for named in (one, rest, everyone):
        assert list(named) == sorted(named, key=order.index)
    if failed:
        first = min(map(order.index, failed))
        assert rest == tuple(order[first:])


@quick
@given(orders)
def test_a_failure_of_a_stranger_affects_nobody(order: list[str]) -> None:
    assert affected("one_for_all", order, ["stranger"]) == ()


@pytest.mark.parametrize(
    ("restart", "abnormal", "expected"),
    [
        ("permanent", True, True),
        ("permanent", False, True),
        ("transient", True, True),
        ("transient", False, False),
        ("temporary", True, False),
        ("temporary", False, False),
    ],
)
def test_restart_types(restart: object, abnormal: bool, expected: bool) -> None:
    assert restarts(restart, abnormal) is expected  # type: ignore[arg-type]


@quick
@given(
    st.floats(0.001, 10.0),
    st.floats(1.0, 1000.0),
    st.lists(st.tuples(st.floats(0.0, 5.0), st.floats(0.0, 1.0, exclude_max=True)), max_size=30),
)
def test_backoff_is_full_jitter_below_a_doubling_ceiling(
    base: float, factor: float, draws: list[tuple[float, float]]
) -> None:
    backoff = Backoff(base=base, cap=base * factor, reset_after=1e9)
    log, now = RestartLog(), 0.0
    for streak, (pause, u) in enumerate(draws):
        wait = log.delay(backoff, now, u)
        ceiling = min(backoff.cap, base * 2.0**streak)
        assert math.isclose(wait, u * ceiling)
        assert 0.0 <= wait < backoff.cap or wait == 0.0
        now += wait + pause


def test_backoff_falls_back_after_health() -> None:
    backoff = Backoff(base=1.0, cap=100.0, reset_after=10.0)
    log = RestartLog()
    assert [log.delay(backoff, now, 1.0) for now in (0.0, 2.0, 5.0)] == [1.0, 2.0, 4.0]
    assert log.delay(backoff, 9.0 + 9.9, 1.0) == 8.0
    assert log.delay(backoff, 18.9 + 8.0 + 10.0, 1.0) == 1.0
    assert log.delay(None, 40.0, 1.0) == 0.0


@quick
@given(st.integers(0, 10_000))
def test_the_ceiling_stays_finite(streak: int) -> None:
    assert backoff_ceiling(Backoff(base=0.5, cap=30.0), streak) <= 30.0


@pytest.mark.parametrize("options", [{"base": 0.0}, {"base": 2.0, "cap": 1.0}, {"reset_after": -1.0}])
def test_impossible_backoffs_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="0 < base <= cap"):
        Backoff(**options)
