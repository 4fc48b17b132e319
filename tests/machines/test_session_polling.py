"""The completions of a whole sampling session, case by case (protocol 4.7)."""

from __future__ import annotations

import pytest

from tinkex_actors.machines.session_polling import PAUSE, Ask, SessionPolling


def test_it_is_idle_until_somebody_waits_and_again_once_everything_is_reported() -> None:
    state = SessionPolling()
    assert state.next() is None
    assert not state.wait_for("p1")
    long_poll = state.next()
    assert long_poll == Ask(0, at_once=False, retrieved=())
    assert state.answered(long_poll, 1, {"p1": 100}, held=3.0) == 0.0
    assert state.size_of("p1") == 100
    acknowledging = state.next()
    assert acknowledging == Ask(1, at_once=True, retrieved=())
    state.answered(acknowledging, 1, {}, held=0.0)
    assert state.next() is None
    state.read("p1")
    reporting = state.next()
    assert reporting == Ask(1, at_once=True, retrieved=("p1",))
    state.answered(reporting, 1, {}, held=0.0)
    assert state.next() is None


def test_a_completion_that_comes_before_anybody_waits_is_kept() -> None:
    state = SessionPolling(waiting={"p2"})
    state.answered(Ask(0, at_once=False, retrieved=()), 1, {"p1": None}, held=0.0)
    assert state.wait_for("p1")
    assert state.size_of("p1") is None
    assert state.waiting == {"p2"}


def test_answers_without_news_are_asked_for_a_second_apart_unless_they_were_held() -> None:
    state = SessionPolling(waiting={"p1"})
    ask = Ask(0, at_once=False, retrieved=())
    assert state.answered(ask, 0, {}, held=0.01) == PAUSE
    assert state.answered(ask, 0, {}, held=20.0) == 0.0


@pytest.mark.parametrize(
    ("status", "hint", "pause"),
    [(None, None, 1.0), (429, 7.0, 7.0), (429, 900.0, 60.0), (503, 0.1, 1.0), (409, None, 1.0)],
)
def test_what_may_pass_is_asked_again(status: int | None, hint: float | None, pause: float) -> None:
    state = SessionPolling(waiting={"p1"})
    assert state.refused(status, hint) == pause
    assert state.next() is not None


def test_a_refusal_for_billing_lasts_as_long_as_the_servers_pause() -> None:
    state = SessionPolling(waiting={"p1"})
    assert state.refused(402, billing_pause=5.0) == 5.0
    assert state.refused(402, 9.0, billing_pause=5.0) == 9.0
    assert not state.ended
    assert state.refused(402) is None
    assert state.ended


def test_three_400s_are_borne_and_the_fourth_is_the_end() -> None:
    state = SessionPolling(waiting={"p1"})
    assert [state.refused(400) for _ in range(4)] == [PAUSE, PAUSE, PAUSE, None]
    state = SessionPolling(waiting={"p1"})
    for _ in range(3):
        state.refused(400)
    state.answered(Ask(0, at_once=False, retrieved=()), 0, {}, held=0.0)
    assert state.refused(400) == PAUSE, "an answer between begins the count again"


def test_the_end_sends_everybody_to_single_polls_and_keeps_what_was_done() -> None:
    state = SessionPolling(waiting={"p1"}, done={"p2": 5})
    assert state.refused(404) is None
    assert state.next() is None
    assert state.wait_for("p1")
    assert state.size_of("p1") is None
    assert state.size_of("p2") == 5


def test_a_completion_is_told_once_and_so_remembered_until_its_result_was_read() -> None:
    state = SessionPolling()
    state.wait_for("p1")
    state.answered(Ask(0, at_once=False, retrieved=()), 1, {"p1": 7}, held=0.0)
    for _ in range(2):  # who waited was killed, and the next one asks again
        assert state.wait_for("p1")
        assert state.size_of("p1") == 7
    state.read("p1")
    assert (state.done, state.retrieved) == ({}, {"p1"})


def test_what_nobody_wants_is_reported_as_soon_as_it_is_done_and_kept_by_nobody() -> None:
    state = SessionPolling()
    for name in ("p1", "p2"):
        state.wait_for(name)
    state.answered(Ask(0, at_once=False, retrieved=()), 1, {"p1": 7}, held=0.0)
    for name in ("p1", "p2"):
        state.give_up(name)
    assert state.next() == Ask(1, at_once=True, retrieved=("p1",)), "nobody waits any more"
    state.answered(Ask(1, at_once=True, retrieved=("p1",)), 2, {"p2": 8}, held=0.0)
    assert state.retrieved == {"p2"}
    assert (state.waiting, state.done, state.unwanted) == (set(), {}, set())
