"""Shares between sessions, priorities and sizes; nobody starves."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from tinkex_actors.machines.admission import Admission, Post
from tinkex_actors.machines.admission.fair_queue import FairQueue, Ticket


def queue_of(*entries: tuple[str, float, str, bool]) -> FairQueue:
    queue = FairQueue()
    for order, (session, weight, priority, large) in enumerate(entries):
        queue.push(Ticket(order, order, 1), session=session, weight=weight, priority=priority, large=large)
    return queue


def drained(queue: FairQueue) -> list[int]:
    return [queue.pop().id for _ in range(len(queue))]


def test_one_session_and_class_is_served_in_order() -> None:
    assert drained(queue_of(*[("a", 1.0, "normal", False)] * 5)) == [0, 1, 2, 3, 4]


def test_a_session_that_comes_late_is_served_beside_one_that_filled_the_queue() -> None:
    left = drained(queue_of(*[("a", 1.0, "normal", False)] * 100, *[("b", 1.0, "normal", False)] * 10))
    assert max(left.index(op_id) for op_id in range(100, 110)) <= 21


def test_a_session_of_threefold_weight_is_served_three_times_as_often() -> None:
    left = drained(queue_of(*[("a", 1.0, "normal", False)] * 100, *[("b", 3.0, "normal", False)] * 100))
    assert sum(op_id >= 100 for op_id in left[:80]) == pytest.approx(60, abs=2)


def test_small_prompts_are_served_between_large_ones() -> None:
    left = drained(queue_of(*[("a", 1.0, "normal", True)] * 50, *[("a", 1.0, "normal", False)] * 5))
    assert max(left.index(op_id) for op_id in range(50, 55)) <= 11


def test_high_priority_goes_first_and_low_priority_goes_too() -> None:
    left = drained(queue_of(*[("a", 1.0, "low", False)] * 40, *[("a", 1.0, "high", False)] * 40))
    assert sum(op_id >= 40 for op_id in left[:34]) == pytest.approx(32, abs=2)
    assert any(op_id < 40 for op_id in left[:20])


def test_a_session_that_was_idle_saved_up_no_shares() -> None:
    queue = queue_of(*[("a", 1.0, "normal", False)] * 100, ("b", 1.0, "normal", False))
    for _ in range(60):
        queue.pop()
    for order in range(200, 240):
        queue.push(Ticket(order, order, 1), session="b", weight=1.0, priority="normal", large=False)
    assert sum(queue.pop().id >= 200 for _ in range(20)) == pytest.approx(10, abs=1)


def test_sessions_of_the_past_are_forgotten() -> None:
    queue = FairQueue()
    for order in range(2000):
        queue.push(Ticket(order, order, 1), session=str(order), weight=1.0, priority="normal", large=False)
        queue.pop()
    assert len(queue._sessions) <= 257


@pytest.mark.parametrize(
    "wrong", [{"priority": "urgent"}, {"weight": 0.0}, {"weight": float("inf")}, {"weight": float("nan")}]
)
def test_a_wrong_priority_or_weight_is_refused_and_nothing_is_queued(wrong: dict[str, object]) -> None:
    admission = Admission()
    with pytest.raises(ValueError, match="request 0: expected a priority of low, normal, high"):
        admission.submit(0, 1, **wrong)  # type: ignore[arg-type]
    assert admission.stage(0) is None


ENTRIES = st.tuples(
    st.sampled_from("abc"), st.sampled_from([0.2, 1.0, 5.0]), st.sampled_from(["low", "normal", "high"]), st.booleans()
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(ENTRIES, st.just("pop"), st.just("refuse"), st.integers(0, 30)), max_size=120))
def test_everything_queued_leaves_once_and_each_class_in_order(steps: list[object]) -> None:
    queue = FairQueue()
    waiting: dict[int, Ticket] = {}
    refused: list[int] = []
    classes: dict[int, object] = {}
    left: list[Ticket] = []
    for step in steps:
        match step:
            case tuple():
                session, weight, priority, large = step
                ticket = Ticket(len(classes), len(classes), 1)
                classes[ticket.id] = (session, priority, large)
                waiting[ticket.id] = ticket
                queue.push(ticket, session=session, weight=weight, priority=priority, large=large)
            case "pop" if waiting:
                ticket = queue.pop()
                del waiting[ticket.id]
                if refused:
                    assert ticket.id == min(refused)
                    refused.remove(ticket.id)
                else:
                    alike = [other for other in waiting if classes[other] == classes[ticket.id]]
                    assert all(other > ticket.id for other in alike)
                left.append(ticket)
            case "refuse" if left:
                ticket = left.pop()
                waiting[ticket.id] = ticket
                refused.append(ticket.id)
                queue.push_back(ticket)
            case int() if step in waiting:
                queue.withdraw(waiting.pop(step))
                if step in refused:
                    refused.remove(step)
        assert len(queue) == len(waiting)
    assert sorted(drained(queue)) == sorted(waiting)


@settings(max_examples=60, deadline=None)
@given(
    weight=st.sampled_from([0.1, 1.0, 10.0]),
    priority=st.sampled_from(["low", "normal", "high"]),
    size=st.sampled_from([1, 200_000, 2_000_000]),
    rivals=st.lists(ENTRIES, min_size=1, max_size=12),
)
def test_no_flood_starves_anybody(
    weight: float, priority: str, size: int, rivals: list[tuple[str, float, str, bool]]
) -> None:
    """However many others keep coming, a request is posted after a number of others that its weight bounds."""
    admission = Admission()
    admission.limits = type(admission.limits)(in_flight=1, dispatch=1)

    def rival(op_id: int) -> list[object]:
        session, other, urgency, large = rivals[op_id % len(rivals)]
        return list(admission.submit(op_id, 150_000 if large else 10, session=session, weight=other, priority=urgency))

    (first,) = rival(0)
    assert first == Post(0)
    for op_id in range(1, 50):
        rival(op_id)
    admission.submit(-1, size, session="mine", weight=weight, priority=priority)
    current, served = 0, 0
    # Three rival sessions of weight 5 at most, against ours: each of their posts costs them at least 1 / 5.
    while current != -1:
        served += 1
        assert served < 200, "starved"
        rival(50 + served)
        (post,) = admission.finished(current)
        assert isinstance(post, Post)
        current = post.id
