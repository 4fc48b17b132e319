"""A breaker opens for failures of the server only, lets few probes through, and always finds back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinkex_actors.machines.breaker import Breaker, Outcome, admit, judge, record, reset


def opened(at: float = 0.0) -> Breaker:
    breaker = Breaker(failure_threshold=2, reset_timeout=10.0)
    for _ in range(2):
        assert admit(breaker, at) is None
        record(breaker, breaker.openings, "failure", at)
    assert breaker.state == "open"
    return breaker


def test_failures_in_a_row_open_it_and_a_success_starts_the_count_again() -> None:
    breaker = Breaker(failure_threshold=2)
    outcomes: list[Outcome] = ["failure", "success", "failure", "neither", "failure"]
    states = []
    for outcome in outcomes:
        assert admit(breaker, 0.0) is None
        record(breaker, breaker.openings, outcome, 0.0)
        states.append(breaker.state)

    assert states == ["closed", "closed", "closed", "closed", "open"]


def test_an_open_one_says_how_long_and_then_lets_one_probe_through() -> None:
    breaker = opened()

    assert admit(breaker, 4.0) == 6.0
    assert admit(breaker, 10.0) is None
    assert breaker.state == "half_open"
    assert admit(breaker, 10.0) == 0.0, "the probe's place was taken at its admission"


@pytest.mark.parametrize(("outcome", "state"), [("success", "closed"), ("failure", "open"), ("neither", "half_open")])
def test_the_probe_decides(outcome: Outcome, state: str) -> None:
    breaker = opened()
    admit(breaker, 10.0)
    record(breaker, breaker.openings, outcome, 11.0)

    assert breaker.state == state
    assert (admit(breaker, 11.0) is None) is (outcome != "failure")


def test_a_late_answer_of_the_past_changes_nothing() -> None:
    breaker = Breaker(failure_threshold=1, reset_timeout=10.0)
    admit(breaker, 0.0)
    admit(breaker, 0.0)
    under = breaker.openings
    record(breaker, under, "failure", 0.0)
    admit(breaker, 10.0)
    record(breaker, under, "success", 10.0)

    assert breaker.state == "half_open"
    assert breaker.probes == 1


def test_it_can_be_closed_by_hand() -> None:
    breaker = opened()
    reset(breaker)

    assert admit(breaker, 0.0) is None


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(None, "failure"), (408, "failure"), (500, "failure"), (429, "neither"), (401, "success"), (200, "success")],
)
def test_only_the_server_and_the_way_to_it_can_fail(status: int | None, outcome: str) -> None:
    assert judge(status) == outcome


@settings(deadline=None, max_examples=200)
@given(
    steps=st.lists(st.tuples(st.sampled_from(["call", "success", "failure", "neither"]), st.floats(0, 20))),
    places=st.integers(1, 3),
)
def test_no_history_lets_more_probes_through_than_there_are_places(steps: list[tuple[str, float]], places: int) -> None:
    breaker = Breaker(failure_threshold=2, reset_timeout=10.0, half_open_max_calls=places)
    now, out = 0.0, []
    for step, seconds in steps:
        now += seconds
        if step == "call":
            if admit(breaker, now) is None:
                out.append((breaker.openings, breaker.state))
        elif out:
            under, _ = out.pop(0)
            record(breaker, under, step, now)  # type: ignore[arg-type]
        probes = [under for under, state in out if state == "half_open" and under == breaker.openings]
        assert breaker.state != "half_open" or len(probes) <= places

    for under, _ in out:
        record(breaker, under, "neither", now)
    assert admit(breaker, now + 10.0) is None, "it always finds back"
