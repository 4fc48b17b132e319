"""Held calls, awaited results, and optimizer steps whose gradient failed."""

import hypothesis.strategies as st
from hypothesis import given, settings

from tinkex_actors.machines.turns import (
    Broken,
    Effect,
    Post,
    Skipped,
    Turns,
    Withdrawn,
    abandoned,
    advance,
    broken,
    cancelled,
    failed,
    finished,
    outstanding,
    position,
    posted,
    rejected,
    release,
    submit,
)


def test_a_held_call_keeps_its_numbers_and_everything_behind_it_waiting() -> None:
    turns = Turns()
    submit(turns, 1, 2, False, kind="adds", held=True)
    submit(turns, 2, 1, False, kind="applies")
    assert advance(turns) == []
    assert position(turns, 2) == ("waiting", 1, 1)
    assert release(turns, 1) == [Post(1, 1, 0)]
    assert posted(turns, 1) == [Post(1, 2, 1)]
    assert posted(turns, 2) == [Post(2, 3, 0)]


def test_an_abandoned_call_at_the_end_gives_its_numbers_back() -> None:
    turns = Turns()
    submit(turns, 1, 3, True, held=True)
    assert abandoned(turns, 1) == [Withdrawn((1,))]
    assert turns == Turns()
    assert abandoned(turns, 1) == []


def test_an_abandoned_call_with_others_behind_it_is_filled() -> None:
    turns = Turns()
    submit(turns, 1, 2, False, held=True)
    submit(turns, 2, 1, False)
    assert abandoned(turns, 1) == [Post(1, 1, 0, fill=True)]
    assert outstanding(turns) == [Post(1, 1, 0, fill=True)]
    assert posted(turns, 1) == [Post(1, 2, 1, fill=True)]
    assert rejected(turns, 2) == [Post(2, 3, 0)]
    assert turns.spoiled_by is None


def test_a_cancelled_held_call_is_filled_too() -> None:
    turns = Turns()
    submit(turns, 1, 1, False, held=True)
    submit(turns, 2, 1, False)
    assert cancelled(turns, 1) == [Post(1, 1, 0, fill=True)]


def test_awaited_results_let_one_request_run_at_a_time() -> None:
    turns = Turns(awaits_results=True)
    submit(turns, 1, 2, True)
    submit(turns, 2, 1, False)
    assert advance(turns) == [Post(1, 1, 0)]
    assert posted(turns, 1) == []
    assert outstanding(turns) == []
    assert position(turns, 1) is None
    assert position(turns, 2) == ("waiting", 1, 1)
    assert finished(turns, 1) == [Post(1, 2, 1)]
    assert finished(turns, 1) == []
    assert rejected(turns, 2) == [Post(2, 3, 0)]


def test_a_sequence_given_up_breaks_what_waits_and_lets_posts_end() -> None:
    turns = Turns()
    for op_id in (1, 2):
        submit(turns, op_id, 1, False)
    advance(turns)
    assert broken(turns, 1) == [Broken((2,), 1)]
    assert broken(turns, 1) == []
    assert posted(turns, 1) == []
    assert not turns.calls


def test_a_failure_after_its_step_was_taken_changes_nothing() -> None:
    turns = Turns()
    submit(turns, 1, 1, False, kind="adds")
    submit(turns, 2, 1, False, kind="applies")
    advance(turns)
    posted(turns, 1)
    posted(turns, 2)
    submit(turns, 3, 1, False, kind="applies")
    assert failed(turns, 1, adds=True) == [Post(3, 3, 0)]
    assert turns.spoiled_by is None


def test_a_result_that_is_gone_may_have_left_its_gradient() -> None:
    for unknown, leftover in ((True, True), (False, False)):
        turns = Turns()
        submit(turns, 1, 1, False, kind="adds")
        advance(turns)
        posted(turns, 1)
        failed(turns, 1, adds=True, unknown=unknown)
        submit(turns, 2, 1, False, kind="applies")
        assert advance(turns) == [Skipped(2, 1, leftover=leftover), Withdrawn((2,))]


calls = st.lists(
    st.tuples(st.sampled_from(["adds", "adds", "applies", "applies", "clears", "other"]), st.integers(1, 3)),
    min_size=1,
    max_size=12,
)


@settings(deadline=None, max_examples=200)
@given(calls, st.booleans(), st.data())
def test_no_step_that_was_called_in_ignorance_applies_a_gradient_that_lacks_a_part(
    plan: list[tuple[str, int]], parallel: bool, data: st.DataObject
) -> None:
    """Everything is called before anything is known; a reference that only adds up says which steps may be taken."""
    turns = Turns()
    kinds: dict[int, str] = {}
    for op_id, (kind, count) in enumerate(plan):
        kinds[op_id] = kind
        submit(turns, op_id, count if kind == "adds" else 1, parallel, kind=kind)  # type: ignore[arg-type]
    effects: list[Effect] = advance(turns)
    whole, parts, answered = True, 0, set()
    while effects or outstanding(turns):
        for effect in effects:
            if isinstance(effect, Skipped):
                assert not whole
                assert effect.leftover == (parts > 0)
                whole = parts == 0
        post = data.draw(st.sampled_from(outstanding(turns))) if outstanding(turns) else None
        if post is None:
            break
        answered.add(post.seq_id)
        refused = data.draw(st.booleans())
        if not post.fill:
            kind = kinds[post.op_id]
            if kind == "applies":
                assert whole, "a step was posted although a part of its gradient had been refused"
            if kind == "adds":
                whole, parts = whole and not refused, parts + (not refused)
            elif kind in ("applies", "clears") and not refused:
                whole, parts = True, 0
        effects = (rejected if refused else posted)(turns, post.seq_id)
    assert not turns.calls
    assert answered == set(range(1, turns.next_seq))
