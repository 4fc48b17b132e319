"""The order rule of a model's requests, by tables and for every order of arrival."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinkex_actors.engine.service.state.ordering import GAP_PATIENCE, Ordering


def test_numbers_in_order_run_at_once() -> None:
    ordering: Ordering[str] = Ordering()
    assert ordering.arrive(1, "a", 0.0) == ["a"]
    assert ordering.arrive(2, "b", 0.0) == ["b"]
    assert (ordering.next_seq, ordering.waiting) == (3, 0)


def test_later_chunks_wait_for_the_first_and_run_after_it() -> None:
    # Protocol 6.3: of three parallel chunks, the first is posted last.
    ordering: Ordering[str] = Ordering()
    assert ordering.arrive(2, "b", 0.0) == []
    assert ordering.arrive(3, "c", 0.0) == []
    assert ordering.arrive(1, "a", 0.0) == ["a", "b", "c"]


def test_a_rejected_number_is_completed_by_its_rejection() -> None:
    ordering: Ordering[str] = Ordering()
    assert ordering.arrive(2, "b", 0.0) == []
    assert ordering.reject(1, 0.0) == ["b"]
    assert ordering.reject(4, 0.0) == []
    assert ordering.arrive(3, "c", 0.0) == ["c"]
    assert ordering.next_seq == 5


def test_rejecting_a_passed_number_changes_nothing() -> None:
    ordering: Ordering[str] = Ordering()
    ordering.arrive(1, "a", 0.0)
    assert ordering.reject(1, 0.0) == []
    assert ordering.next_seq == 2


@pytest.mark.parametrize("seq", [1, 3, 0])
def test_a_number_is_taken_once(seq: int) -> None:
    ordering: Ordering[str] = Ordering()
    ordering.arrive(1, "a", 0.0)
    ordering.arrive(3, "c", 0.0)
    assert ordering.passed(seq)
    with pytest.raises(ValueError, match="has passed"):
        ordering.arrive(seq, "x", 0.0)


def test_a_request_without_a_number_comes_after_all_that_came() -> None:
    ordering: Ordering[str] = Ordering()
    assert ordering.take_number() == 1
    ordering.arrive(1, "a", 0.0)
    ordering.arrive(5, "e", 0.0)
    assert ordering.take_number() == 6


def test_a_hole_fails_its_followers_after_the_patience_and_not_before() -> None:
    ordering: Ordering[str] = Ordering()
    ordering.arrive(2, "b", 10.0)
    ordering.arrive(4, "d", 50.0)
    assert ordering.expire(10.0 + GAP_PATIENCE - 0.001) is None
    found = ordering.expire(10.0 + GAP_PATIENCE)
    assert found is not None
    assert (found.missing, found.items) == (1, ["b", "d"])
    assert ordering.passed(1)
    assert ordering.arrive(5, "e", 100.0) == ["e"]


def test_a_new_hole_has_a_patience_of_its_own() -> None:
    ordering: Ordering[str] = Ordering()
    ordering.arrive(2, "b", 0.0)
    ordering.arrive(4, "d", 1.0)
    assert ordering.arrive(1, "a", 50.0) == ["a", "b"]
    assert ordering.expire(GAP_PATIENCE + 1.0) is None
    found = ordering.expire(50.0 + GAP_PATIENCE)
    assert found is not None
    assert found.missing == 3


def test_nothing_expires_without_followers() -> None:
    ordering: Ordering[str] = Ordering()
    ordering.arrive(1, "a", 0.0)
    assert ordering.expire(1e9) is None


@settings(deadline=None, max_examples=200)
@given(order=st.permutations(range(1, 9)), rejected=st.sets(st.integers(1, 8)))
def test_any_order_of_arrival_runs_in_the_order_of_numbers(order: list[int], rejected: set[int]) -> None:
    ordering: Ordering[int] = Ordering()
    ran: list[int] = []
    for seq in order:
        before = len(ran)
        ran += ordering.reject(seq, 0.0) if seq in rejected else ordering.arrive(seq, seq, 0.0)
        assert all(number < ordering.next_seq for number in ran[before:])
    assert ran == sorted(set(order) - rejected)
    assert (ordering.waiting, ordering.next_seq) == (0, 9)
