"""Which sampling requests may leave, case by case; test_admission_budgets.py has the invariants."""

import math
import pickle

import pytest

from tinkex_actors.errors import ConfigError
from tinkex_actors.machines.admission import Admission, AdmissionLimits, Post, WakeAt
from tinkex_actors.machines.admission.backoff import PARITY, Backoff, BackoffPolicy

LARGE = 131_073


def submitted(limits: AdmissionLimits, *sizes: int, policy: BackoffPolicy = PARITY) -> Admission:
    admission = Admission(limits, Backoff(policy))
    for op_id, size in enumerate(sizes):
        admission.submit(op_id, size)
    return admission


def test_requests_leave_in_order_up_to_the_dispatch_limit() -> None:
    admission = Admission(AdmissionLimits(dispatch=2))
    assert admission.submit(7, 10) == [Post(7)]
    assert admission.submit(5, 10) == [Post(5)]
    assert admission.submit(6, 10) == []
    assert admission.submit(4, 10) == []
    assert admission.accepted(5) == [Post(6)]
    assert admission.failed(7) == [Post(4)]
    assert [admission.stage(op_id) for op_id in (7, 5, 6, 4)] == [None, "in_flight", "dispatching", "dispatching"]


def test_what_is_polled_counts_against_the_in_flight_limit() -> None:
    admission = submitted(AdmissionLimits(in_flight=2), 1, 1, 1)
    assert admission.accepted(0) == []
    assert admission.accepted(1) == []
    assert admission.stage(2) == "waiting"
    assert admission.finished(1) == [Post(2)]


def test_a_request_waits_while_the_byte_balance_is_negative() -> None:
    admission = Admission(AdmissionLimits(prompt_bytes=100))
    assert admission.submit(0, 100) == [Post(0)]
    assert admission.submit(1, 1000) == [Post(1)]
    assert admission.submit(2, 0) == []
    assert admission.accepted(0) == []
    assert admission.accepted(1) == [Post(2)]
    assert admission.statistics().dispatching_bytes == 0


@pytest.mark.parametrize(
    ("size", "retry_after", "seconds"),
    [
        (10, None, 1.0),
        (LARGE - 1, None, 1.0),
        (LARGE, None, 5.0),
        (10, 3.5, 3.5),
        (LARGE, 3.5, 5.0),
        (LARGE, 7.25, 7.25),
        (10, 9999.0, 60.0),
        (10, math.inf, 60.0),
        (10, -4.0, 1.0),
        (10, math.nan, 1.0),
    ],
)
def test_a_429_opens_the_window_for_the_longer_of_hint_and_size_rule(
    size: int, retry_after: float | None, seconds: float
) -> None:
    admission = submitted(AdmissionLimits(), size)
    assert admission.limited(0, 100.0, retry_after, u=0.5) == [WakeAt(100.0 + seconds + 0.5)]
    statistics = admission.statistics()
    assert (statistics.phase, statistics.window_since, statistics.window_until) == (
        "backing_off",
        100.0,
        100.0 + seconds,
    )
    assert statistics.window_cause == "rate limited (429)"
    assert (statistics.waiting, statistics.dispatching, statistics.dispatching_bytes) == (1, 0, 0)
    assert statistics.limited_total == 1


def test_a_shorter_back_off_never_shortens_a_longer_one() -> None:
    admission = submitted(AdmissionLimits(), 1, 1, 1)
    admission.limited(0, 0.0, 30.0, u=0.0)
    assert admission.limited(1, 1.0, None, u=0.9, cause="another") == [WakeAt(30.0)]
    assert admission.statistics().window_cause == "rate limited (429)"
    assert admission.accepted(2) == [WakeAt(30.0)]
    assert admission.statistics().window_until == 30.0


def test_a_longer_back_off_lengthens_the_window_and_keeps_its_beginning() -> None:
    admission = submitted(AdmissionLimits(), 1, 1)
    admission.limited(0, 0.0, 2.0, u=0.0)
    assert admission.limited(1, 1.0, 40.0, u=0.0, cause="billing (402)") == [WakeAt(41.0)]
    statistics = admission.statistics()
    assert (statistics.window_since, statistics.window_until, statistics.window_cause) == (0.0, 41.0, "billing (402)")


def test_refused_requests_go_back_to_their_own_places() -> None:
    admission = submitted(AdmissionLimits(dispatch=3), 1, 1, 1, 1, 1, policy=BackoffPolicy(throttled=1))
    for op_id in (2, 0, 1):
        admission.limited(op_id, 0.0, None, u=0.0)
    assert admission.statistics().waiting == 5
    order = [effect.id for effect in admission.tick(1.0) if isinstance(effect, Post)]
    for _ in range(4):
        admission.accepted(order[-1])
        (post,) = (effect for effect in admission.tick(2.0) if isinstance(effect, Post))
        order.append(post.id)
    assert order == [0, 1, 2, 3, 4]


def test_one_request_probes_and_then_the_window_opens_up_gradually() -> None:
    policy = BackoffPolicy(throttled=4, spread=2.0)
    admission = submitted(AdmissionLimits(dispatch=8), *[1] * 20, policy=policy)
    for op_id in range(8):
        admission.limited(op_id, 0.0, None, u=0.25)
    assert admission.tick(1.0) == [WakeAt(1.5)]
    assert admission.tick(1.5) == [Post(0), WakeAt(11.5)]
    assert admission.statistics().phase == "probing"
    (now,) = admission.accepted(0)
    assert isinstance(now, WakeAt)
    assert now.instant <= 1.75
    assert admission.tick(1.75) == [Post(1), WakeAt(2.25)]
    assert admission.statistics().phase == "recovering"
    assert admission.statistics().window_since is None
    assert admission.tick(2.25) == [Post(2), WakeAt(2.75)]
    assert admission.tick(3.25) == [Post(3), Post(4), WakeAt(11.0)]
    admission.accepted(1)
    assert admission.tick(3.3) == [Post(5), WakeAt(11.0)]
    assert [effect.id for effect in admission.tick(11.0) if isinstance(effect, Post)] == [6, 7, 8, 9]
    assert admission.statistics().phase == "steady"
    assert admission.tick(12.0) == []


def test_a_probe_that_is_refused_opens_the_window_again_and_longer_each_time() -> None:
    admission = submitted(AdmissionLimits(), 1, policy=BackoffPolicy(growth=2.0, spread=0.0))
    assert admission.limited(0, 0.0, None, u=0.0) == [WakeAt(1.0)]
    assert admission.tick(1.0) == [Post(0), WakeAt(11.0)]
    assert admission.limited(0, 1.5, None, u=0.0) == [WakeAt(3.5)]
    assert admission.tick(3.5) == [Post(0), WakeAt(13.5)]
    assert admission.limited(0, 4.0, None, u=0.0) == [WakeAt(8.0)]
    assert admission.backoff.since == 0.0
    assert admission.backoff.openings == 1
    admission.tick(8.0)
    admission.accepted(0)
    admission.submit(1, 1)
    admission.tick(9.0)
    assert admission.limited(1, 9.5, None, u=0.0) == [WakeAt(10.5)], "the factor begins again"
    assert admission.backoff.openings == 2


@pytest.mark.parametrize("event", ["failed", "cancelled"])
def test_a_probe_that_says_nothing_makes_room_for_another(event: str) -> None:
    admission = submitted(AdmissionLimits(), 1, 1, policy=BackoffPolicy(spread=0.0))
    admission.limited(0, 0.0, None, u=0.0)
    admission.failed(1)
    admission.submit(2, 1)
    assert admission.tick(1.0) == [Post(0), WakeAt(11.0)]
    assert admission.tick(2.0) == [WakeAt(11.0)]
    getattr(admission, event)(0)
    assert admission.tick(2.0) == [Post(2), WakeAt(12.0)]


def test_a_probe_that_is_not_answered_is_followed_by_another_after_ten_seconds() -> None:
    admission = submitted(AdmissionLimits(), 1, 1, policy=BackoffPolicy(spread=0.0))
    admission.limited(0, 0.0, None, u=0.0)
    admission.failed(1)
    admission.submit(2, 1)
    admission.tick(1.0)
    assert admission.tick(10.9) == [WakeAt(11.0)]
    assert admission.tick(11.0) == [Post(2)], "and so long after the window nothing is remembered"
    assert admission.statistics().phase == "steady"


def test_bytes_count_twentyfold_while_back_pressure_is_recent() -> None:
    admission = submitted(AdmissionLimits(prompt_bytes=100), 6, 6, 6, policy=BackoffPolicy(spread=0.0))
    for op_id in range(3):
        admission.limited(op_id, 0.0, None, u=0.0)
    assert admission.tick(1.0) == [Post(0), WakeAt(11.0)]
    assert admission.statistics().dispatching_bytes == 120
    admission.accepted(0)
    assert admission.tick(1.1) == [Post(1)], "the balance is negative: an answer releases the next, no timer"
    # What was charged at twentyfold is returned at twentyfold, also after the end of the back-pressure.
    assert admission.tick(11.0) == []
    assert admission.accepted(1) == [Post(2)]
    assert admission.statistics().dispatching_bytes == 6


def test_a_refusal_of_what_was_posted_before_the_window_counts_by_its_hint_only() -> None:
    admission = submitted(AdmissionLimits(), 1, 1, 1, policy=BackoffPolicy(spread=0.0))
    admission.limited(0, 0.0, None, u=0.0)
    assert admission.tick(1.0) == [Post(0), WakeAt(11.0)]
    assert admission.limited(1, 1.1, None, u=0.0) == [WakeAt(11.0)]
    assert admission.statistics().phase == "probing"
    assert admission.limited(2, 1.2, 4.0, u=0.0) == [WakeAt(5.2)]
    assert admission.statistics().phase == "backing_off"


def test_two_services_share_one_window_and_one_probe() -> None:
    window = Backoff(BackoffPolicy(spread=0.0))
    one, two = Admission(backoff=window), Admission(backoff=window)
    one.submit(0, 1)
    one.limited(0, 0.0, None, u=0.0)
    assert two.submit(0, 1) == [WakeAt(1.0)]
    assert two.statistics().window_cause == "rate limited (429)"
    assert two.tick(1.0) == [Post(0), WakeAt(11.0)]
    assert one.tick(1.0) == [WakeAt(11.0)], "the other one probes"
    two.accepted(0)
    assert one.tick(1.5) == [Post(0), WakeAt(11.0)]


def test_a_pause_told_by_somebody_else_opens_the_same_window() -> None:
    admission = submitted(AdmissionLimits(), 1)
    assert admission.paused(5.0, 3.0, u=0.5, cause="queue paused_rate_limit") == [WakeAt(8.5)]
    assert admission.submit(1, 1) == [WakeAt(8.5)]
    assert admission.accepted(0) == [WakeAt(8.5)]
    statistics = admission.statistics()
    assert (statistics.window_cause, statistics.limited_total) == ("queue paused_rate_limit", 0)
    assert admission.tick(8.5) == [Post(1), WakeAt(18.5)]


def test_a_wake_that_comes_after_all_the_back_pressure_releases_everything() -> None:
    admission = submitted(AdmissionLimits(dispatch=3), 1, 1, 1)
    admission.limited(0, 0.0, None, u=0.0)
    assert admission.tick(100.0) == [Post(0)]
    assert admission.statistics().phase == "steady"


@pytest.mark.parametrize("stage", ["waiting", "returned", "dispatching", "in_flight"])
@pytest.mark.parametrize("event", ["failed", "cancelled"])
def test_a_request_can_end_wherever_it_stands(stage: str, event: str) -> None:
    admission = submitted(AdmissionLimits(dispatch=1), 4, 4)
    target = 1 if stage == "waiting" else 0
    if stage == "returned":
        admission.limited(0, 0.0, None, u=0.0)
    if stage == "in_flight":
        admission.accepted(0)
    getattr(admission, event)(target)
    assert admission.stage(target) is None
    survivor = 1 - target
    admission.tick(1.0)
    admission.accepted(survivor)
    admission.finished(survivor)
    statistics = admission.statistics()
    assert (statistics.waiting, statistics.dispatching, statistics.in_flight, statistics.dispatching_bytes) == (0,) * 4


def test_a_result_may_come_with_the_answer_to_the_post() -> None:
    admission = submitted(AdmissionLimits(dispatch=1), 4, 4)
    assert admission.finished(0) == [Post(1)]


def test_late_events_about_finished_requests_change_nothing_but_a_429_counts() -> None:
    admission = submitted(AdmissionLimits(), 1)
    admission.cancelled(0)
    for event in (admission.accepted, admission.finished, admission.failed, admission.cancelled):
        assert event(0) == []
    assert admission.limited(0, 1.0, None, u=0.0) == [WakeAt(2.0)]
    assert admission.statistics().waiting == 0


def test_a_second_acceptance_changes_nothing() -> None:
    admission = submitted(AdmissionLimits(), 1)
    admission.accepted(0)
    assert admission.accepted(0) == []
    assert admission.statistics().in_flight == 1


def test_a_restarted_shell_finds_what_to_perform_again() -> None:
    admission = submitted(AdmissionLimits(dispatch=2), 1, 1, 1)
    assert admission.outstanding() == [Post(0), Post(1)]
    admission.limited(1, 0.0, None, u=0.0)
    revived = pickle.loads(pickle.dumps(admission))
    assert revived.outstanding() == [Post(0), WakeAt(1.0)]
    assert revived.statistics() == admission.statistics()


@pytest.mark.parametrize(
    ("event", "arguments", "words"),
    [
        ("submit", (9, -1), "size of 0 bytes or more"),
        ("submit", (0, 1), "request 0 is in_flight"),
        ("submit", (1, 1), "request 1 is dispatching"),
        ("submit", (2, 1), "request 2 is waiting"),
        ("accepted", (2,), "cannot be accepted"),
        ("finished", (2,), "cannot be finished"),
        ("limited", (2, 0.0, None, 0.0), "cannot be limited"),
        ("limited", (0, 0.0, None, 0.0), "accepted already"),
        ("paused", (0.0, -1.0, 0.0, "?"), "pause of 0 seconds or more"),
        ("paused", (0.0, math.inf, 0.0, "?"), "pause of 0 seconds or more"),
    ],
)
def test_an_impossible_event_raises_and_changes_nothing(event: str, arguments: tuple[object, ...], words: str) -> None:
    admission = submitted(AdmissionLimits(in_flight=2), 1, 1, 1)
    admission.accepted(0)
    before = pickle.dumps(admission)
    with pytest.raises(ValueError, match=words):
        getattr(admission, event)(*arguments)
    assert pickle.dumps(admission) == before


@pytest.mark.parametrize("name", ["in_flight", "dispatch", "prompt_bytes"])
def test_limits_out_of_range_are_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match=f"AdmissionLimits.{name}"):
        AdmissionLimits(**{name: 0})


@pytest.mark.parametrize(
    "options",
    [
        {"throttled": 0},
        {"penalty": 0},
        {"small_backoff": -1.0},
        {"large_backoff": math.inf},
        {"large_bytes": -1},
        {"recent": math.nan},
        {"spread": -0.5},
        {"growth": 0.5},
    ],
)
def test_policies_out_of_range_are_refused_by_name(options: dict[str, int]) -> None:
    (name,) = options
    with pytest.raises(ConfigError, match=f"BackoffPolicy.{name}"):
        BackoffPolicy(**options)
