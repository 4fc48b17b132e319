"""The order rule, against a server that records what arrives."""

import copy

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

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


class OrderOnTheWire(RuleBasedStateMachine):
    """Calls arrive, answers come in any order, numbers get lost: the model knows only the rules, not the code."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = Turns()
        self.numbers: dict[int, range] = {}  # every call that is neither withdrawn nor broken, in call order
        self.parallel: dict[int, bool] = {}
        self.arrived: list[int] = []
        self.answered: set[int] = set()
        self.broken_at: int | None = None
        self.next_op = 0

    def perform(self, effects: list[Post | Broken | Withdrawn]) -> None:
        for effect in effects:
            match effect:
                case Post(op_id=op_id, seq_id=seq_id, index=index):
                    assert self.broken_at is None
                    assert self.numbers[op_id][index] == seq_id
                    assert seq_id not in self.arrived
                    self.check_order(op_id, index)
                case Broken(op_ids=op_ids, first_failed_seq_id=first):
                    assert first == self.broken_at
                    waiting = [op for op, seqs in self.numbers.items() if not set(seqs) & set(self.arrived)]
                    assert list(op_ids) == waiting
                    for op_id in op_ids:
                        del self.numbers[op_id]
                case Withdrawn(op_ids=op_ids):
                    for op_id in op_ids:
                        assert op_id == list(self.numbers)[-1]
                        assert not set(self.numbers.pop(op_id)) & set(self.arrived)
        # Posts of one batch are concurrent: none may rely on another's arrival, so they are recorded together.
        self.arrived.extend(effect.seq_id for effect in effects if isinstance(effect, Post))

    def check_order(self, op_id: int, index: int) -> None:
        for earlier, seqs in self.numbers.items():
            if earlier == op_id:
                break
            assert set(seqs) <= self.answered, f"{op_id} posted before call {earlier} was answered"
        seqs = self.numbers[op_id]
        if len(seqs) > 1 and self.parallel[op_id]:
            assert index > 0 or set(seqs[1:]) <= self.answered
        else:
            assert set(seqs[:index]) <= self.answered

    @rule(count=st.integers(1, 5), parallel=st.booleans())
    def call(self, count: int, parallel: bool) -> None:
        op_id, self.next_op = self.next_op, self.next_op + 1
        if self.broken_at is not None:
            before = copy.deepcopy(self.turns)
            with pytest.raises(SequenceBrokenError) as caught:
                submit(self.turns, op_id, count, parallel)
            assert caught.value.first_failed_seq_id == self.broken_at
            assert self.turns == before
            return
        seqs = submit(self.turns, op_id, count, parallel)
        assert seqs.start == 1 + max((number for taken in self.numbers.values() for number in taken), default=0)
        assert len(seqs) == count
        self.numbers[op_id], self.parallel[op_id] = seqs, parallel
        self.perform(advance(self.turns))

    @precondition(lambda self: outstanding(self.turns))
    @rule(data=st.data(), refused=st.booleans())
    def answer(self, data: st.DataObject, refused: bool) -> None:
        post = data.draw(st.sampled_from(outstanding(self.turns)))
        self.answered.add(post.seq_id)
        self.perform((rejected if refused else posted)(self.turns, post.seq_id))

    @precondition(lambda self: outstanding(self.turns) and len(self.arrived) > 6)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        post = data.draw(st.sampled_from(outstanding(self.turns)))
        if self.broken_at is None:
            self.broken_at = post.seq_id
        self.answered.add(post.seq_id)
        self.perform(lost(self.turns, post.seq_id))

    @precondition(lambda self: self.numbers)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.perform(cancelled(self.turns, data.draw(st.sampled_from(list(self.numbers)))))

    @precondition(lambda self: self.answered)
    @rule(data=st.data())
    def repeat_an_answer(self, data: st.DataObject) -> None:
        before = copy.deepcopy(self.turns)
        assert posted(self.turns, data.draw(st.sampled_from(sorted(self.answered)))) == []
        assert self.turns == before

    @rule(event=st.sampled_from([posted, rejected, lost]), ahead=st.integers(0, 9))
    def answer_what_was_never_posted(self, event: object, ahead: int) -> None:
        assert callable(event)
        before = copy.deepcopy(self.turns)
        with pytest.raises(ValueError, match="seq_id"):
            event(self.turns, self.turns.next_seq + ahead)
        assert self.turns == before

    @rule()
    def restart_the_shell(self) -> None:
        assert {post.seq_id for post in outstanding(self.turns)} == set(self.arrived) - self.answered

    @invariant()
    def somebody_is_always_being_served(self) -> None:
        open_calls = [op for op, seqs in self.numbers.items() if not set(seqs) <= self.answered]
        assert bool(open_calls) == bool(outstanding(self.turns)) or self.broken_at is not None

    @invariant()
    def everybody_knows_what_they_wait_for(self) -> None:
        for op_id, seqs in self.numbers.items():
            where = position(self.turns, op_id)
            if where is not None and where[0] == "waiting":
                _, behind_op, behind_seq = where
                lowest = min(seq for seq in self.numbers[behind_op] if seq not in self.answered)
                assert (behind_seq, behind_op < op_id) == (lowest, True)
            elif self.broken_at is None:
                assert (where is None) == (set(seqs) <= self.answered)

    def teardown(self) -> None:
        while posts := outstanding(self.turns):
            self.answered.add(posts[-1].seq_id)
            self.perform(posted(self.turns, posts[-1].seq_id))
        if self.broken_at is None:
            # No gap, nothing twice.
            assert sorted(self.arrived) == list(range(1, self.turns.next_seq))
        assert not self.turns.calls


OrderOnTheWire.TestCase.settings = settings(
    deadline=None, max_examples=80, stateful_step_count=40, suppress_health_check=[HealthCheck.too_slow]
)
TestOrderOnTheWire = OrderOnTheWire.TestCase
