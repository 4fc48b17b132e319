"""What a failed training request means for its own call and for those behind it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.plugins.counting_server import datum
from tests.plugins.interposed import Before, Interposed, json_answer
from tinkex_actors import (
    AdamParams,
    BillingError,
    Config,
    ConflictError,
    GradientMissingError,
    OutcomeUnknownError,
    QueuePausedError,
    RateLimitError,
    RequestFailedError,
    SequenceBrokenError,
    ServiceClient,
    UnprocessableEntityError,
)
from tinkex_actors.events import QueuePaused, QueueResumed, SequenceBroken
from tinkex_actors.runtime import ActorRef
from tinkex_actors.testing import settle, virtual_time
from tinkex_actors.testing.model_server import Faults, ModelServer
from tinkex_actors.types import ClientConfigResponse
from tinkex_actors.wire.exchange import Request, Response

STEP = AdamParams()


def service_of(server: ModelServer, **options: object) -> ServiceClient:
    return ServiceClient(config=Config(base_url="http://127.0.0.1:1", telemetry=False, **options), transport=server)  # type: ignore[arg-type]


def refusing(number: int) -> ModelServer:
    """A server that refuses the training request of this number."""
    server = ModelServer(random.Random(0))
    server.refuse = frozenset({number})
    return server


def limiting(*numbers: int) -> Before:
    """Answer 429 to these training posts, by count from 1."""
    seen = 0

    def before(request: Request) -> Response | None:
        nonlocal seen
        if request.path.endswith(("/forward_backward", "/optim_step")):
            seen += 1
            if seen in numbers:
                return json_answer({"detail": "no"}, 429)
        return None

    return before


def listening(service: ServiceClient, *kinds: type) -> list[object]:
    seen: list[object] = []
    for kind in kinds:
        service.system.events.subscribe(seen.append, kind)
    return seen


# --- a gradient that is missing --------------------------------------------------------------------------------------
@virtual_time()
async def test_a_refused_gradient_stops_the_step_that_was_to_apply_it_and_nothing_else() -> None:
    server = refusing(1)
    async with service_of(server) as service:
        training = await service.create_lora_training_client("m")
        first, step = training.forward_backward([datum()], "cross_entropy"), training.optim_step(STEP)
        second, after = training.forward_backward([datum()], "cross_entropy"), training.optim_step(STEP)
        with pytest.raises(GradientMissingError, match=r"request 1 failed.*was not sent.*repeat both") as missing:
            await step
        with pytest.raises(UnprocessableEntityError):
            await first
        assert (await second).metrics["seq:max"] == 3.0
        assert ((await after).metrics or {})["step:max"] == 4.0

    assert (missing.value.failed_seq_id, missing.value.leftover) == (1, False)
    # Number 2 is filled by a pass that changes nothing; number 1 was completed by its refusal.
    assert server.posted[training.model_id] == [2, 3, 4]
    assert "optim_step" not in [name for number, name in server.applied.get(training.model_id, []) if number == 2]


@virtual_time()
async def test_where_a_part_of_the_gradient_was_taken_no_step_applies_it_unseen() -> None:
    server = refusing(2)
    server.flags = ClientConfigResponse(fwdbwd_max_chunk_len=1, parallel_fwdbwd_chunks=False)
    async with service_of(server) as service:
        training = await service.create_lora_training_client("m")
        halves = training.forward_backward([datum(), datum()], "cross_entropy")
        steps = [training.optim_step(STEP)]
        whole = training.forward_backward([datum()], "cross_entropy")
        steps.append(training.optim_step(STEP))
        errors = await asyncio.gather(*steps, return_exceptions=True)
        assert [type(error) for error in errors] == [GradientMissingError] * 2
        assert [error.leftover for error in errors if isinstance(error, GradientMissingError)] == [True, True]
        await whole
        with pytest.raises(UnprocessableEntityError):
            await halves
        # Whoever has seen it decides.
        await training.optim_step(STEP)


@virtual_time()
async def test_a_step_called_after_the_failure_was_seen_is_sent() -> None:
    server = refusing(2)
    async with service_of(server) as service:
        training = await service.create_lora_training_client("m")
        await training.forward_backward([datum()], "cross_entropy")
        with pytest.raises(UnprocessableEntityError):
            await training.forward_backward([datum()], "cross_entropy")
        await training.optim_step(STEP)
        await training.forward_backward([datum()], "cross_entropy")
        await training.optim_step(STEP)


@virtual_time()
async def test_a_step_called_after_the_failure_but_without_having_looked_at_it_is_not_sent() -> None:
    server = refusing(2)
    async with service_of(server) as service:
        training = await service.create_lora_training_client("m")
        await training.forward_backward([datum()], "cross_entropy")
        refused = training.forward_backward([datum()], "cross_entropy")
        await refused.wait()
        with pytest.raises(GradientMissingError):
            await training.optim_step(STEP)
        # Now it has been told: the next one is a decision.
        await training.optim_step(STEP)
        assert isinstance(refused.exception(), UnprocessableEntityError)


@virtual_time()
async def test_a_gradient_that_fails_when_it_is_run_says_which_step_went_without_it() -> None:
    server = ModelServer(random.Random(0), Faults(latency=0.0, compute=1.0))
    async with service_of(server) as service:
        training = await service.create_lora_training_client("m")
        server.fail_with = ("out of memory", "server")
        failed, step = training.forward_backward([datum()], "cross_entropy"), training.optim_step(STEP)
        with pytest.raises(RequestFailedError) as caught:
            await failed
        assert any("optim_step 2 had been sent by then" in note for note in caught.value.__notes__)
        with pytest.raises(RequestFailedError):
            await step


@virtual_time()
async def test_where_results_are_awaited_a_gradient_that_fails_when_it_is_run_stops_its_step_too() -> None:
    server = ModelServer(random.Random(0), Faults(latency=0.0, compute=1.0))
    async with service_of(server, training_order="results") as service:
        training = await service.create_lora_training_client("m")
        server.fail_with = ("out of memory", "server")
        failed, step = training.forward_backward([datum()], "cross_entropy"), training.optim_step(STEP)
        with pytest.raises(GradientMissingError):
            await step
        with pytest.raises(RequestFailedError):
            await failed
        server.fail_with = None
        await training.forward_backward([datum()], "cross_entropy")
        await training.optim_step(STEP)


@virtual_time()
async def test_loading_a_checkpoint_drops_what_is_left_of_a_gradient() -> None:
    server = refusing(2)
    server.flags = ClientConfigResponse(fwdbwd_max_chunk_len=1, parallel_fwdbwd_chunks=False)
    async with service_of(server) as service:
        training = await service.create_lora_training_client("m")
        training.forward_backward([datum(), datum()], "cross_entropy").cancel()
        skipped = training.optim_step(STEP)
        training.load_state_with_optimizer("tinker://run/weights/a")
        again, step = training.forward_backward([datum()], "cross_entropy"), training.optim_step(STEP)
        with pytest.raises(GradientMissingError):
            await skipped
        await again
        await step


# --- outcomes that are not known -------------------------------------------------------------------------------------
@virtual_time()
async def test_a_server_that_would_apply_it_twice_is_never_sent_a_request_again() -> None:
    server = ModelServer(random.Random(0))
    async with service_of(server, resend_training=False) as service:
        server.numbered = False
        training = await service.create_lora_training_client("m")
        events = listening(service, SequenceBroken)
        server.faults = Faults(lost_answer=1.0)
        step, behind = training.forward_backward([datum()], "cross_entropy"), training.optim_step(STEP)
        with pytest.raises(OutcomeUnknownError, match=r"request 1 was sent.*not known.*last checkpoint") as unknown:
            await step
        with pytest.raises(SequenceBrokenError):
            await behind
        server.faults = Faults()

    assert unknown.value.seq_id == 1
    assert server.applied[training.model_id] == [(1, "forward_backward")]
    assert [type(event) for event in events] == [SequenceBroken]


@virtual_time()
async def test_what_such_a_server_has_certainly_not_taken_is_sent_again() -> None:
    server = Interposed(limiting(1, 2))
    async with server.service(resend_training=False) as service:
        training = await service.create_lora_training_client("m")
        await training.forward_backward([datum()], "cross_entropy")
        server.restart(down=30.0, keep_state=True)
        await training.optim_step(STEP)

    assert server.applied[training.model_id] == [(1, "forward_backward"), (2, "optim_step")]


@virtual_time()
async def test_a_sequencer_killed_while_it_sends_to_such_a_server_leaves_the_outcome_unknown() -> None:
    server = ModelServer(random.Random(0), Faults(latency=4.0))
    async with service_of(server, resend_training=False) as service:
        training = await service.create_lora_training_client("m")
        step = training.forward_backward([datum()], "cross_entropy")
        await asyncio.sleep(0.5)
        sequencer_of(service).kill()
        with pytest.raises(OutcomeUnknownError, match="interrupted"):
            await step
        with pytest.raises(SequenceBrokenError):
            training.optim_step(STEP)

    assert server.posted.get(training.model_id, []) in ([], [1])


@virtual_time()
async def test_a_conflict_alone_is_a_refusal_and_after_an_unanswered_attempt_it_is_not() -> None:
    async def conflicting(first: Callable[[], Response] | None) -> tuple[type, type | None]:
        answers = [first] if first else []

        def before(request: Request) -> Response | None:
            if not request.path.endswith("/forward_backward"):
                return None
            return answers.pop()() if answers else json_answer({"detail": "conflict"}, 409, x_should_retry="false")

        server = Interposed(before)
        async with server.service() as service:
            training = await service.create_lora_training_client("m")
            error = (await asyncio.gather(training.forward_backward([datum()], "ppo_"), return_exceptions=True))[0]
            try:
                training.forward([datum()], "cross_entropy").cancel()
            except SequenceBrokenError as broken:
                return type(error), type(broken)
            return type(error), None

    assert await conflicting(None) == (ConflictError, None)
    assert await conflicting(lambda: json_answer({"detail": "?"}, 503)) == (OutcomeUnknownError, SequenceBrokenError)


@virtual_time()
async def test_a_request_that_was_never_taken_fails_as_such_and_leaves_its_number_open() -> None:
    server = ModelServer(random.Random(0))
    async with service_of(server) as service:
        training = await service.create_lora_training_client("m")
        server.faults = Faults(limited=1.0)
        step = training.forward_backward([datum()], "cross_entropy")
        with pytest.raises(RateLimitError):
            await step
        with pytest.raises(SequenceBrokenError) as broken:
            training.optim_step(STEP)

    assert broken.value.first_failed_seq_id == 1
    assert training.model_id not in server.applied


# --- pauses ----------------------------------------------------------------------------------------------------------
@virtual_time()
async def test_an_unpaid_bill_pauses_training_for_up_to_an_hour() -> None:
    server = ModelServer(random.Random(0))
    async with service_of(server) as service:
        training = await service.create_lora_training_client("m")
        server.faults = Faults(unpaid=1.0)
        step = training.forward_backward([datum()], "cross_entropy")
        await asyncio.sleep(3000.0)
        assert not step.done()
        assert "402" in str(step.explain())
        server.faults = Faults()
        await step
        server.faults = Faults(unpaid=1.0)
        unpaid = training.optim_step(STEP)
        with pytest.raises(BillingError):
            await unpaid
        server.faults = Faults()

    assert server.applied[training.model_id] == [(1, "forward_backward")]


@virtual_time()
async def test_the_pause_for_a_bill_is_one_for_all_posts_and_polls_of_a_server() -> None:
    server = ModelServer(random.Random(0), Faults(latency=0.0, compute=0.0))
    async with service_of(server) as service:
        training = await service.create_lora_training_client("m")
        server.pause("paused_capacity", "no machines left")
        polled = training.forward_backward([datum()], "cross_entropy")
        await settle()
        begun, server.faults = asyncio.get_running_loop().time(), Faults(latency=0.0, unpaid=1.0)
        await asyncio.sleep(1800.0)
        posted = training.optim_step(STEP)
        for refused in (polled, posted):
            with pytest.raises(BillingError):
                await refused
        # The poll began the pause; the post, half an hour younger, has no hour of its own.
        assert 3590.0 <= asyncio.get_running_loop().time() - begun <= 3640.0
        server.faults = Faults()


@virtual_time()
async def test_a_paused_queue_is_told_at_once_and_once_for_each_model() -> None:
    server = ModelServer(random.Random(0), Faults(latency=0.0, compute=0.0))
    async with service_of(server) as service:
        training = await service.create_lora_training_client("m")
        events = listening(service, QueuePaused, QueueResumed)
        server.pause("paused_capacity", "no machines left")
        calls = [training.forward_backward([datum()], "cross_entropy"), training.optim_step(STEP)]
        await asyncio.sleep(30.0)
        assert events == [QueuePaused(training.model_id, "forward_backward", "paused_capacity", "no machines left")]
        assert "queue paused_capacity" in str(calls[1].explain())
        assert "no machines left" in str(service.explain())
        server.resume()
        await asyncio.gather(*calls)

    assert [type(event) for event in events] == [QueuePaused, QueueResumed]
    assert 27.0 < getattr(events[1], "seconds", 0.0) < 33.0


@virtual_time()
async def test_a_pause_longer_than_allowed_fails_what_waits_also_over_a_crash() -> None:
    server = ModelServer(random.Random(0), Faults(latency=0.0, compute=0.0))
    async with service_of(server, pause_deadline=120.0) as service:
        training = await service.create_lora_training_client("m")
        server.pause("paused_capacity", "no machines left")
        loop = asyncio.get_running_loop()
        begun = loop.time()
        calls = [training.forward_backward([datum()], "cross_entropy"), training.optim_step(STEP)]
        await asyncio.sleep(50.0)
        sequencer_of(service).kill()
        with pytest.raises(QueuePausedError, match=r"paused for 120 s \(no machines left\).*pause_deadline"):
            await calls[0]
        assert 119.0 < loop.time() - begun < 125.0
        with pytest.raises(QueuePausedError):
            await calls[1]
        with pytest.raises(SequenceBrokenError):
            training.optim_step(STEP)
        await settle()
        assert server.polls_open == 0
        server.resume()


@virtual_time()
async def test_a_pause_that_ends_in_time_is_forgotten() -> None:
    server = ModelServer(random.Random(0), Faults(latency=0.0, compute=0.0))
    async with service_of(server, pause_deadline=120.0) as service:
        training = await service.create_lora_training_client("m")
        for _ in range(3):
            server.pause("paused_rate_limit", "")
            step = training.optim_step(STEP)
            await asyncio.sleep(100.0)
            server.resume()
            await step


# --- order -----------------------------------------------------------------------------------------------------------
@virtual_time()
async def test_where_results_are_awaited_a_server_that_reorders_cannot() -> None:
    server = ModelServer(random.Random(7), Faults(latency=0.5, compute=2.0))
    server.numbered = False
    server.flags = ClientConfigResponse(fwdbwd_max_chunk_len=1)
    async with service_of(server, training_order="results") as service:
        training = await service.create_lora_training_client("m")
        for _ in range(3):
            training.forward_backward([datum(), datum(), datum()], "cross_entropy")
            last = training.optim_step(STEP)
        cancelled = training.forward([datum()], "cross_entropy")
        await asyncio.sleep(3.0)
        cancelled.cancel()
        await last
        await training.save_state("end")

    numbers = [number for number, _ in server.applied[training.model_id]]
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize(("order", "expected"), [(None, [2, 3, 1, 4]), ("posts", [1, 2, 3, 4])])
def test_chunks_are_posted_as_the_order_says(order: str | None, expected: list[int]) -> None:
    @virtual_time()
    async def check() -> None:
        server = ModelServer(random.Random(0), Faults(latency=0.0))
        server.flags = ClientConfigResponse(fwdbwd_max_chunk_len=1)
        async with service_of(server, training_order=order) as service:
            training = await service.create_lora_training_client("m")
            training.forward_backward([datum(), datum(), datum()], "cross_entropy")
            await training.optim_step(STEP)
            assert server.posted[training.model_id] == expected

    check()


# --- the end of a model ----------------------------------------------------------------------------------------------
@virtual_time()
async def test_the_sequencer_of_an_unloaded_model_stops() -> None:
    server = ModelServer(random.Random(0))
    async with service_of(server) as service:
        one, two = [await service.create_lora_training_client("m") for _ in range(2)]
        await one.optim_step(STEP)
        await one.unload_model()
        await settle()
        trainers = service.system.whereis("/service/core/trainers")
        assert trainers is not None
        assert [child.name for child in trainers.children] == [two.model_id]
        await two.optim_step(STEP)


def sequencer_of(service: ServiceClient) -> ActorRef[Any]:
    trainers = service.system.whereis("/service/core/trainers")
    assert trainers is not None
    return trainers.children[0]
