"""One model's order on the wire, case by case; test_turns_order.py has the invariants."""

import copy
import pickle

import pytest

from tinkex_actors.errors import SequenceBrokenError
from tinkex_actors.machines.turns import (
    Broken,
    Post,
    Turns,
    Withdrawn,
    advance,
    cancelled,
    lost,
    outstanding,
    position,
    posted,
    rejected,
    submit,
)


def test_numbers_start_at_one_and_are_contiguous_in_call_order() -> None:
    turns = Turns()
    assert [submit(turns, 10, 3, True), submit(turns, 11, 1, True), submit(turns, 12, 2, False)] == [
        range(1, 4),
        range(4, 5),
        range(5, 7),
    ]


def test_three_chunks_and_an_optimizer_step_leave_as_2_3_1_4() -> None:
    turns = Turns()
    submit(turns, 1, 3, True)
    submit(turns, 2, 1, True)
    assert advance(turns) == [Post(1, 2, 1), Post(1, 3, 2)]
    assert advance(turns) == []
    assert posted(turns, 3) == []
    assert posted(turns, 2) == [Post(1, 1, 0)]
    assert posted(turns, 1) == [Post(2, 4, 0)]
    assert posted(turns, 4) == []
    assert turns == Turns(next_seq=5)


def test_chunks_of_a_serial_call_leave_one_by_one() -> None:
    turns = Turns()
    submit(turns, 1, 3, False)
    assert advance(turns) == [Post(1, 1, 0)]
    assert posted(turns, 1) == [Post(1, 2, 1)]
    assert rejected(turns, 2) == [Post(1, 3, 2)]
    assert posted(turns, 3) == []


def test_a_rejection_completes_its_number_and_chunk_one_still_follows() -> None:
    turns = Turns()
    submit(turns, 1, 2, True)
    submit(turns, 2, 1, False)
    advance(turns)
    assert rejected(turns, 2) == [Post(1, 1, 0)]
    assert rejected(turns, 1) == [Post(2, 3, 0)]


def test_a_lost_number_breaks_what_is_behind_it_and_all_that_comes() -> None:
    turns = Turns(model_id="m-1")
    submit(turns, 1, 3, True)
    submit(turns, 2, 1, False)
    submit(turns, 3, 1, False)
    advance(turns)
    assert lost(turns, 3) == [Broken((2, 3), 3)]
    assert outstanding(turns) == [Post(1, 2, 1)]
    assert posted(turns, 2) == []
    assert turns.calls == {}
    with pytest.raises(SequenceBrokenError, match=r"m-1.*request 3 was lost.*checkpoint") as caught:
        submit(turns, 4, 1, False)
    assert (caught.value.model_id, caught.value.first_failed_seq_id) == ("m-1", 3)
    assert advance(turns) == []


def test_a_second_loss_reports_nothing_new() -> None:
    turns = Turns()
    submit(turns, 1, 3, True)
    submit(turns, 2, 1, True)
    advance(turns)
    assert lost(turns, 2) == [Broken((2,), 2)]
    assert lost(turns, 3) == []
    assert turns.broken_at == 2
    assert lost(turns, 3) == []


def test_a_loss_with_nothing_behind_it_has_no_effect_but_the_break() -> None:
    turns = Turns()
    submit(turns, 1, 1, True)
    advance(turns)
    assert lost(turns, 1) == []
    assert turns.broken_at == 1


def test_an_answer_that_comes_twice_changes_nothing() -> None:
    turns = Turns()
    submit(turns, 1, 2, False)
    submit(turns, 2, 3, True)
    advance(turns)
    posted(turns, 1)
    before = copy.deepcopy(turns)
    assert posted(turns, 1) == []
    assert turns == before
    assert posted(turns, 2) == [Post(2, 4, 1), Post(2, 5, 2)]
    assert posted(turns, 1) == []
    posted(turns, 5)
    assert posted(turns, 5) == []


@pytest.mark.parametrize("event", [posted, rejected, lost])
@pytest.mark.parametrize("seq_id", [-1, 0, 2, 4, 5, 99])
def test_an_answer_to_what_was_not_posted_is_refused_and_changes_nothing(event: object, seq_id: int) -> None:
    assert callable(event)
    turns = Turns()
    submit(turns, 1, 2, False)
    submit(turns, 2, 2, True)
    advance(turns)
    before = copy.deepcopy(turns)
    with pytest.raises(ValueError, match=rf"seq_id {seq_id} "):
        event(turns, seq_id)
    assert turns == before


def test_chunk_one_cannot_be_answered_before_it_was_posted() -> None:
    turns = Turns()
    submit(turns, 1, 2, True)
    with pytest.raises(ValueError, match="has not been posted"):
        posted(turns, 2)
    advance(turns)
    with pytest.raises(ValueError, match="has not been posted"):
        posted(turns, 1)


@pytest.mark.parametrize(("op_id", "count", "words"), [(1, 1, "queued already"), (2, 0, "at least 1"), (2, -4, "-4")])
def test_a_bad_submission_is_refused_and_takes_no_number(op_id: int, count: int, words: str) -> None:
    turns = Turns()
    submit(turns, 1, 1, True)
    before = copy.deepcopy(turns)
    with pytest.raises(ValueError, match=words):
        submit(turns, op_id, count, True)
    assert turns == before


def test_cancelling_the_last_call_gives_its_numbers_back() -> None:
    turns = Turns()
    submit(turns, 1, 1, True)
    submit(turns, 2, 3, True)
    assert cancelled(turns, 2) == [Withdrawn((2,))]
    assert submit(turns, 3, 1, True) == range(2, 3)


def test_a_call_cancelled_before_the_first_wake_leaves_a_fresh_sequence() -> None:
    turns = Turns()
    submit(turns, 1, 2, True)
    assert cancelled(turns, 1) == [Withdrawn((1,))]
    assert turns == Turns()


def test_a_cancelled_call_with_a_wanted_one_behind_it_runs() -> None:
    turns = Turns()
    submit(turns, 1, 1, True)
    submit(turns, 2, 1, True)
    submit(turns, 3, 1, True)
    advance(turns)
    assert cancelled(turns, 2) == []
    assert posted(turns, 1) == [Post(2, 2, 0)]
    assert posted(turns, 2) == [Post(3, 3, 0)]


def test_cancelling_in_call_order_withdraws_all_once_the_last_is_cancelled() -> None:
    turns = Turns()
    for op_id in (1, 2, 3):
        submit(turns, op_id, 1, True)
    advance(turns)
    assert cancelled(turns, 1) == []
    assert cancelled(turns, 2) == []
    assert cancelled(turns, 3) == [Withdrawn((3, 2))]
    assert turns.next_seq == 2
    assert posted(turns, 1) == []
    assert cancelled(turns, 1) == []


def test_position_says_what_a_call_waits_for() -> None:
    turns = Turns()
    submit(turns, 1, 3, True)
    submit(turns, 2, 2, False)
    submit(turns, 3, 1, False)
    assert position(turns, 1) == ("posting", ())
    assert position(turns, 2) == ("waiting", 1, 1)
    advance(turns)
    assert position(turns, 1) == ("posting", (2, 3))
    assert position(turns, 3) == ("waiting", 1, 1)
    posted(turns, 2)
    posted(turns, 3)
    assert position(turns, 3) == ("waiting", 1, 1)
    posted(turns, 1)
    assert position(turns, 1) is None
    assert position(turns, 3) == ("waiting", 2, 4)
    posted(turns, 4)
    assert position(turns, 3) == ("waiting", 2, 5)
    assert position(turns, 99) is None


def test_position_behind_a_serial_call_that_has_not_begun() -> None:
    turns = Turns()
    submit(turns, 1, 2, False)
    submit(turns, 2, 1, False)
    assert position(turns, 2) == ("waiting", 1, 1)


def test_a_restarted_shell_finds_the_same_posts() -> None:
    turns = Turns()
    assert outstanding(turns) == []
    submit(turns, 1, 3, True)
    advance(turns)
    revived = pickle.loads(pickle.dumps(turns))
    assert revived == turns
    assert outstanding(revived) == [Post(1, 2, 1), Post(1, 3, 2)]
    assert posted(revived, 2) == []
    assert posted(revived, 3) == [Post(1, 1, 0)]
