"""A byte budget: order, the one oversize item, and that every byte comes back."""

import copy

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from tinkex_actors.machines.budget import Budget


def test_items_pass_until_the_balance_is_negative_and_then_wait_in_order() -> None:
    budget = Budget(balance=10)
    assert [budget.acquire(item, 6) for item in range(4)] == [True, True, False, False]
    assert budget.release(6) == [2]
    assert budget.release(6) == [3]
    assert budget.release(12) == []
    assert budget.balance == 10


def test_an_oversize_item_passes_alone() -> None:
    budget = Budget(balance=10)
    assert budget.acquire(1, 10_000)
    assert not budget.acquire(2, 0)
    assert budget.release(10_000) == [2]


def test_nobody_overtakes_an_item_that_waits() -> None:
    budget = Budget(balance=10)
    budget.acquire(1, 11)
    budget.acquire(2, 500)
    assert not budget.acquire(3, 1)
    assert budget.release(11) == [2]
    assert budget.withdraw(3) == []
    assert budget.release(500) == []


def test_withdrawing_a_stranger_changes_nothing() -> None:
    budget = Budget(balance=10)
    assert budget.withdraw(4) == []
    assert budget == Budget(balance=10)


@pytest.mark.parametrize(("item", "size"), [(1, -1), (2, 3)])
def test_a_bad_item_is_refused_and_changes_nothing(item: int, size: int) -> None:
    budget = Budget(balance=0)
    budget.acquire(1, 1)
    budget.acquire(2, 1)
    before = copy.deepcopy(budget)
    with pytest.raises(ValueError, match=f"item {item} of {size} bytes"):
        budget.acquire(item, size)
    assert budget == before


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 50), st.lists(st.integers(0, 80), max_size=30), st.data())
def test_never_overdrawn_by_more_than_one_item_and_all_bytes_come_back(
    limit: int, sizes: list[int], data: st.DataObject
) -> None:
    budget, inside, order = Budget(balance=limit), dict[int, int](), list[int]()

    def enter(item: int) -> None:
        assert sum(inside.values()) <= limit
        inside[item] = sizes[item]
        order.append(item)

    for item, size in enumerate(sizes):
        if budget.acquire(item, size):
            enter(item)
        if inside and data.draw(st.booleans()):
            for granted in budget.release(inside.pop(data.draw(st.sampled_from(sorted(inside))))):
                enter(granted)
    while inside:
        for granted in budget.release(inside.pop(min(inside))):
            enter(granted)
    assert order == list(range(len(sizes)))
    assert budget == Budget(balance=limit)
