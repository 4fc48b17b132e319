"""A durable run against the local engine: its history has each step once, whoever ended it and whenever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.every_server import over_http
from tinkex_actors import (
    AdamParams,
    Config,
    ConfigError,
    Datum,
    InputError,
    LoraConfig,
    ModelInput,
    NotFoundError,
    QueuePausedError,
    RunDivergedError,
    RunError,
    RunLockedError,
    SamplingParams,
    ServiceClient,
)
from tinkex_actors.actors.ledger import OperationLost
from tinkex_actors.actors.sequencer.events import QueuePaused, QueueResumed
from tinkex_actors.clients.inside import backbone_of
from tinkex_actors.engine.service.call import EngineOptions
from tinkex_actors.runs import DurableRun, HistoryRow, Step, is_interruption
from tinkex_actors.runs.journal.file import read_journal
from tinkex_actors.runs.model import keep_alive

LORA = LoraConfig(rank=4)


@asynccontextmanager
async def service_in(folder: Path, **options: Any) -> AsyncIterator[ServiceClient]:
    config = Config(base_url="local://tiny", engine_store=folder / "store")
    async with ServiceClient(config=config, **options) as service:
        yield service


def durable(folder: Path, service: ServiceClient, **options: Any) -> DurableRun:
    return DurableRun.open(folder / "run", service, **({"model": "tiny", "lora": LORA} | options))


def example(number: int) -> Datum:
    tokens = [(11 * number + 5 * place) % 512 for place in range(9)]
    return Datum(ModelInput.from_ints(tokens[:-1]), {"target_tokens": tokens[1:], "weights": [1.0] * 8})


async def do(step: Step) -> None:
    await step.forward_backward([example(step.index)], "cross_entropy")
    await step.optim_step(AdamParams(learning_rate=1e-3))


async def run_to(run: DurableRun, total: int, *, every: int = 2) -> list[int]:
    done = []
    async for step in run.steps(total, checkpoint_every=every):
        await do(step)
        done.append(step.index)
    return done


def plain(rows: list[HistoryRow]) -> list[Any]:
    return [(row.index, row.metrics, row.optim_metrics) for row in rows]


class Stop(Exception):
    """What a program raises that has had enough."""


async def test_a_run_that_was_closed_goes_on_and_ends_as_one_that_was_not(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    async with service_in(tmp_path / "whole") as service, durable(tmp_path / "whole", service) as run:
        assert run.way == "created"
        assert await run_to(run, 5) == [0, 1, 2, 3, 4]
        whole = run.history()
    async with service_in(tmp_path) as service, durable(tmp_path, service) as run:
        assert await run_to(run, 3) == [0, 1, 2]
    async with service_in(tmp_path) as service:
        async with DurableRun.open(tmp_path / "run", service) as run:
            assert (run.way, run.next_index) == ("restored", 3)
            assert await run_to(run, 5) == [3, 4]
            parts = run.history()
            assert await run_to(run, 5) == []
        async with durable(tmp_path, service) as run:
            assert (run.way, run.next_index) == ("attached", 5)
            assert await run_to(run, 6) == [5]

    assert plain(parts) == plain(whole)
    assert [row.index for row in whole] == [0, 1, 2, 3, 4]
    assert set(whole[0].metrics) >= {"loss:sum"}
    assert whole[0].optim_metrics is not None
    assert [row.way for row in read_journal(tmp_path / "run").openings] == ["created", "restored", "attached"]


async def test_steps_behind_the_last_checkpoint_are_done_again_once(tmp_path: Path) -> None:
    async with service_in(tmp_path) as service:
        with suppress(Stop):
            async with durable(tmp_path, service) as run:
                async for step in run.steps(6, checkpoint_every=2):
                    await step.forward_backward([example(step.index)], "cross_entropy")
                    if step.index == 3:
                        before = run.history()
                        raise Stop
                    await step.optim_step(AdamParams(learning_rate=1e-3))
        # The same service has the model, with a gradient that belongs to no committed step.
        async with durable(tmp_path, service) as run:
            assert (run.way, run.next_index) == ("restored", 2)
            assert [row.index for row in run.history()] == [0, 1]
            assert await run_to(run, 6) == [2, 3, 4, 5]
            after = run.history()

    assert plain(after)[:3] == plain(before)
    assert [row.index for row in after] == [0, 1, 2, 3, 4, 5]
    assert read_journal(tmp_path / "run").notes == []


async def test_a_loop_that_is_left_in_a_step_can_be_entered_again(tmp_path: Path) -> None:
    async with service_in(tmp_path) as service, durable(tmp_path, service) as run:
        async for step in run.steps(5, checkpoint_every=2):
            await step.forward_backward([example(step.index)], "cross_entropy")
            if step.index == 3:
                break
            await step.optim_step(AdamParams(learning_rate=1e-3))
        assert await run_to(run, 5) == [2, 3, 4]
        broken = run.history()
    (tmp_path / "whole").mkdir()
    async with service_in(tmp_path / "whole") as service, durable(tmp_path / "whole", service) as run:
        await run_to(run, 5)
        whole = run.history()

    assert plain(broken) == plain(whole)


async def test_the_last_checkpoints_are_kept_and_older_ones_deleted_on_the_server(tmp_path: Path) -> None:
    async with service_in(tmp_path) as service:
        async with durable(tmp_path, service, keep_last=2) as run:
            await run_to(run, 7)
            model_id = run.training.model_id
        listed = await service.create_rest_client().list_checkpoints(model_id)
    record = read_journal(tmp_path / "run")

    assert sorted(row.checkpoint_id for row in listed.checkpoints) == ["weights/step-000006", "weights/step-000007"]
    assert [(row.step, row.state) for row in record.checkpoints] == [
        (2, "dropped"),
        (4, "dropped"),
        (6, "kept"),
        (7, "kept"),
    ]


async def test_a_checkpoint_that_is_gone_is_passed_over_and_none_left_is_told(tmp_path: Path) -> None:
    async with service_in(tmp_path) as service, durable(tmp_path, service) as run:
        await run_to(run, 5)
        before = run.history()
    paths = [row.path for row in read_journal(tmp_path / "run").checkpoints if row.state == "kept"]
    async with service_in(tmp_path) as service:
        rest = service.create_rest_client()
        await rest.delete_checkpoint_from_tinker_path(paths[-1])
        async with durable(tmp_path, service) as run:
            assert run.next_index == 4
            assert await run_to(run, 5) == [4]
            assert plain(run.history()) == plain(before)
    assert [kind for _, _, kind, _ in read_journal(tmp_path / "run").notes] == ["checkpoint_lost"]

    async with service_in(tmp_path) as service:
        for row in read_journal(tmp_path / "run").checkpoints:
            if row.state == "kept":
                await service.create_rest_client().delete_checkpoint_from_tinker_path(row.path)
        with pytest.raises(RunError, match="none of the checkpoints"):
            await durable(tmp_path, service).__aenter__()
    # Nothing is written off where the server may be the wrong one.
    assert [row.state for row in read_journal(tmp_path / "run").checkpoints if row.step in (2, 4)] == ["kept", "kept"]


async def test_a_run_begins_with_a_checkpoint_of_another(tmp_path: Path) -> None:
    async with service_in(tmp_path) as service:
        async with durable(tmp_path, service) as run:
            await run_to(run, 4)
            path = read_journal(tmp_path / "run").checkpoints[0].path
            wanted = plain(run.history())[2:]
        (tmp_path / "other").mkdir()
        async with DurableRun.open(tmp_path / "other", service, from_checkpoint=path) as run:
            assert run.way == "created"
            for offset in range(2):
                async for step in run.steps(offset + 1, checkpoint_every=5):
                    await step.forward_backward([example(2 + step.index)], "cross_entropy")
                    await step.optim_step(AdamParams(learning_rate=1e-3))
            assert [entry[1:] for entry in plain(run.history())] == [entry[1:] for entry in wanted]


# --- what a step is ---------------------------------------------------------------------------------------------------
async def test_a_step_without_an_optimizer_step_is_told(tmp_path: Path) -> None:
    async with service_in(tmp_path) as service, durable(tmp_path, service) as run:
        steps = run.steps(2)
        step = await anext(steps)
        await step.forward_backward([example(0)], "cross_entropy")
        with pytest.raises(RunError, match="step 0 ended without optim_step"):
            await anext(steps)
        assert run.history() == []


async def test_after_its_optimizer_step_a_step_takes_no_more(tmp_path: Path) -> None:
    async with service_in(tmp_path) as service, durable(tmp_path, service) as run:
        async for step in run.steps(1):
            assert not step.committed
            await do(step)
            assert step.committed
            assert [row.index for row in run.history()] == [0]
            with pytest.raises(RunError, match="belongs into the next step"):
                step.forward_backward([example(0)], "cross_entropy")
            with pytest.raises(RunError, match="belongs into the next step"):
                step.optim_step(AdamParams())
            with pytest.raises(RunError, match="belongs into the next step"):
                step.sample(ModelInput.from_ints([1]))


async def test_a_step_may_be_skipped_but_not_with_a_gradient(tmp_path: Path) -> None:
    async with service_in(tmp_path) as service, durable(tmp_path, service) as run:
        async for step in run.steps(2):
            if step.index == 0:
                step.skip()
                continue
            step.forward_backward([example(0)], "cross_entropy")
            with pytest.raises(RunError, match="its gradient"):
                step.skip()
            step.optim_step(AdamParams(learning_rate=1e-3))
        first, second = run.history()

    assert (first.metrics, first.optim_metrics) == ({}, None)
    assert second.metrics["loss:sum"] > 0


async def test_passes_of_a_step_add_up_in_its_metrics(tmp_path: Path) -> None:
    async with service_in(tmp_path) as service, durable(tmp_path, service) as run:
        async for step in run.steps(1):
            outputs = [step.forward_backward([example(number)], "cross_entropy") for number in range(3)]
            step.optim_step(AdamParams(learning_rate=1e-3))
        total = sum([(await output).metrics["loss:sum"] for output in outputs])
        (row,) = run.history()

    assert row.metrics["loss:sum"] == pytest.approx(total)


async def test_a_loss_of_ones_own_trains_in_a_step(tmp_path: Path) -> None:
    def loss(data: Any, logprobs: Any) -> tuple[Any, dict[str, float]]:
        total = -sum(row.sum() for row in logprobs)
        return total, {"mine:sum": 1.0}

    async with service_in(tmp_path) as service, durable(tmp_path, service) as run:
        async for step in run.steps(1):
            output = await step.forward_backward_custom([example(1)], loss)
            await step.optim_step(AdamParams(learning_rate=1e-3))
        (row,) = run.history()

    assert row.metrics == output.metrics
    assert row.metrics["mine:sum"] == 1.0


async def test_the_cursor_is_kept_with_the_step_that_committed_it(tmp_path: Path) -> None:
    async with service_in(tmp_path) as service, durable(tmp_path, service) as run:
        async for step in run.steps(3, checkpoint_every=2):
            assert step.cursor == (None if step.index == 0 else {"shard": step.index - 1, "at": [1, 2]})
            step.cursor = {"shard": step.index, "at": [1, 2]}
            with pytest.raises(InputError, match="JSON can hold"):
                step.cursor = object()
            await do(step)
            if step.index == 2:
                break
    async with service_in(tmp_path) as service, durable(tmp_path, service) as run:
        async for step in run.steps(4, checkpoint_every=2):
            assert step.cursor == {"shard": step.index - 1, "at": [1, 2]}
            step.cursor = {"shard": step.index, "at": [1, 2]}
            await do(step)

        assert [row.cursor["shard"] for row in run.history()] == [0, 1, 2, 3]


async def test_seeds_of_steps_are_theirs_in_every_opening(tmp_path: Path) -> None:
    found: list[list[tuple[int, float]]] = []
    for _ in range(2):
        async with service_in(tmp_path) as service:
            with suppress(Stop):
                async with durable(tmp_path, service, seed=3) as run:
                    found.append([])
                    async for step in run.steps(3, checkpoint_every=9):
                        found[-1].append((step.seed, step.rng.random()))
                        if step.index == 2:
                            raise Stop
                        await do(step)

    assert found[0] == found[1]
    assert len({seed for seed, _ in found[0]}) == 3


# --- sampling ---------------------------------------------------------------------------------------------------------
async def test_a_step_that_is_done_again_is_given_what_it_drew(tmp_path: Path) -> None:
    prompt = ModelInput.from_ints([1, 2, 3])
    params = SamplingParams(max_tokens=3)
    async with service_in(tmp_path) as service:
        with suppress(Stop):
            async with durable(tmp_path, service) as run:
                async for step in run.steps(2, checkpoint_every=5):
                    first = await step.sample(prompt, 2, params, include_prompt_logprobs=True)
                    other = await step.sample(prompt, 1, params)
                    assert first.sequences[0].tokens or other.sequences[0].tokens
                    raise Stop
    async with service_in(tmp_path) as service, durable(tmp_path, service) as run:
        async for step in run.steps(1):
            drawn = step.sample(prompt, 2, params, include_prompt_logprobs=True)
            # It is there at once: nobody was asked.
            assert drawn.done()
            assert await drawn == first
            changed = await step.sample(prompt, 3, params)
            assert len(changed.sequences) == 3
            await do(step)

    assert [kind for _, _, kind, _ in read_journal(tmp_path / "run").notes] == ["diverged"]


async def test_a_sampler_of_ones_own_can_be_asked(tmp_path: Path) -> None:
    async with service_in(tmp_path) as service, durable(tmp_path, service) as run:
        base = await service.create_sampling_client(base_model="tiny")
        async for step in run.steps(1):
            drawn = await step.sample(ModelInput.from_ints([1, 2]), 1, SamplingParams(max_tokens=2), sampler=base)
            assert len(drawn.sequences[0].tokens) == 2
            await do(step)
    kinds = [row.kind for row in read_journal(tmp_path / "run").sent]

    assert "save_weights_and_get_sampling_client" not in kinds


# --- one writer, one run ----------------------------------------------------------------------------------------------
async def test_a_run_that_is_open_is_refused_by_name_and_free_afterwards(tmp_path: Path) -> None:
    async with service_in(tmp_path) as service:
        async with durable(tmp_path, service) as run:
            with pytest.raises(RunLockedError, match="open already: process"):
                await durable(tmp_path, service).__aenter__()
            with pytest.raises(RunError, match="open already in this program"):
                await run.__aenter__()
        with pytest.raises(RunError, match="is not open"):
            run.history()
        with pytest.raises(RunError, match="begun with model='tiny'"):
            await DurableRun.open(tmp_path / "run", service, model="other").__aenter__()
        async with durable(tmp_path, service) as run:
            assert run.next_index == 0


async def test_wrong_numbers_are_refused(tmp_path: Path) -> None:
    async with service_in(tmp_path) as service:
        with pytest.raises(ConfigError, match="keep_last"):
            durable(tmp_path, service, keep_last=0)
        async with durable(tmp_path, service) as run:
            with pytest.raises(ConfigError, match="got 0 and 50"):
                await anext(run.steps(0))
            with pytest.raises(ConfigError, match="got 1 and 0"):
                await anext(run.steps(1, checkpoint_every=0))


# --- the model that still lives ---------------------------------------------------------------------------------------
@asynccontextmanager
async def left_alive(url: str) -> AsyncIterator[ServiceClient]:
    """A client that goes away without a word to the server, as a killed one does."""
    service = ServiceClient(base_url=url, api_key="tml-any-key")
    try:
        yield service
    finally:
        await service.close(finish=False)


async def interrupted(folder: Path, url: str, *, at: int, place: int) -> list[HistoryRow]:
    """Train over HTTP up to a place within step ``at``, and go away."""
    history: list[HistoryRow] = []
    with suppress(Stop):
        async with left_alive(url) as service, durable(folder, service) as run:
            async for step in run.steps(9, checkpoint_every=2):
                if (step.index, place) == (at, 0):
                    history = run.history()
                    raise Stop
                await step.sample(ModelInput.from_ints([1, 2]), 1, SamplingParams(max_tokens=2))
                await step.forward_backward([example(step.index)], "cross_entropy")
                if (step.index, place) == (at, 1):
                    history = run.history()
                    raise Stop
                update = step.optim_step(AdamParams(learning_rate=1e-3))
                if (step.index, place) == (at, 2):
                    # Sent, and nobody waits for what comes of it.
                    await asyncio.sleep(0)
                    history = run.history()
                    raise Stop
                await update
    return history


async def go_on(folder: Path, url: str, total: int, *, every: int = 2, **options: Any) -> tuple[DurableRun, list[int]]:
    done = []
    async with left_alive(url) as service, durable(folder, service, **options) as run:
        async for step in run.steps(total, checkpoint_every=every):
            await step.sample(ModelInput.from_ints([1, 2]), 1, SamplingParams(max_tokens=2))
            await do(step)
            done.append(step.index)
        rows = run.history()
    assert [row.index for row in rows] == list(range(total))
    return run, done


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("options", [EngineOptions(), EngineOptions(strict=True)], ids=["hosted", "strict"])
async def test_a_living_model_is_gone_on_with_and_nothing_is_applied_twice(
    tmp_path: Path, place: int, options: EngineOptions
) -> None:
    async with over_http(tmp_path / "store", options) as url:
        history = await interrupted(tmp_path, url, at=3, place=place)
        run, done = await go_on(tmp_path, url, 6)

    assert run.way == "attached"
    assert done[0] == 3 or (place == 2 and done[0] == 4)
    record = read_journal(tmp_path / "run")
    assert plain(record.history)[:3] == plain(history)[:3]
    # The optimizer itself counts its steps.
    assert [row.optim_metrics["optim_steps:max"] for row in record.history if row.optim_metrics] == [1, 2, 3, 4, 5, 6]
    assert record.notes == []


async def test_a_living_model_is_left_alone_where_it_is_asked_for(tmp_path: Path) -> None:
    async with over_http(tmp_path / "store", EngineOptions()) as url:
        await interrupted(tmp_path, url, at=3, place=1)
        run, done = await go_on(tmp_path, url, 6, reattach=False)

    assert run.way == "restored"
    assert done == [2, 3, 4, 5]
    rows = read_journal(tmp_path / "run").history
    assert [row.optim_metrics["optim_steps:max"] for row in rows if row.optim_metrics] == [1, 2, 3, 4, 5, 6]


async def test_requests_that_the_run_knows_nothing_of_lead_back_to_a_checkpoint(tmp_path: Path) -> None:
    async with over_http(tmp_path / "store", EngineOptions()) as url:
        async with left_alive(url) as service:
            with suppress(Stop):
                async with durable(tmp_path, service) as run:
                    async for step in run.steps(6, checkpoint_every=2):
                        if step.index == 3:
                            await run.training.save_state("mine")
                            await step.forward_backward([example(3)], "cross_entropy")
                            raise Stop
                        await do(step)
        run, done = await go_on(tmp_path, url, 6)

    assert run.way == "restored"
    assert done == [2, 3, 4, 5]


async def test_other_checkpoint_intervals_lead_back_to_a_checkpoint(tmp_path: Path) -> None:
    """The numbers of what was sent cannot be met again, so nothing is sent under them."""
    async with over_http(tmp_path / "store", EngineOptions()) as url:
        await interrupted(tmp_path, url, at=3, place=1)
        run, done = await go_on(tmp_path, url, 6, every=3)

    assert run.way == "restored"
    assert done == [2, 3, 4, 5]


async def test_a_repeated_step_that_differs_is_refused_and_the_next_opening_goes_back(tmp_path: Path) -> None:
    async with over_http(tmp_path / "store", EngineOptions()) as url:
        await interrupted(tmp_path, url, at=3, place=1)
        async with left_alive(url) as service, durable(tmp_path, service) as run:
            step = await anext(run.steps(6, checkpoint_every=2))
            await step.sample(ModelInput.from_ints([1, 2]), 1, SamplingParams(max_tokens=2))
            with pytest.raises(RunDivergedError, match="is not the request") as told:
                step.forward_backward([example(77)], "cross_entropy")
        run, done = await go_on(tmp_path, url, 6)

    assert is_interruption(told.value)
    assert run.way == "restored"
    assert done == [2, 3, 4, 5]


async def test_a_model_that_has_ended_is_restored(tmp_path: Path) -> None:
    async with over_http(tmp_path / "store", EngineOptions()) as url:
        async with ServiceClient(base_url=url) as service, durable(tmp_path, service) as run:
            await run_to(run, 3)
        run, done = await go_on(tmp_path, url, 5)

    assert run.way == "restored"
    assert done == [3, 4]


async def test_the_session_of_a_living_model_is_kept_alive_and_its_end_disturbs_nobody(tmp_path: Path) -> None:
    async with (
        over_http(tmp_path / "store", EngineOptions()) as url,
        left_alive(url) as other,
        left_alive(url) as service,
    ):
        await other.create_lora_training_client("tiny", rank=4)
        await service.create_sampling_client(base_model="tiny")
        core = backbone_of(service)
        assert keep_alive(core, service.session_id) is None
        beat = keep_alive(core, other.session_id)
        assert beat is not None
        lost: list[OperationLost] = []
        service.system.events.subscribe(lost.append, OperationLost)
        beat()
        await asyncio.wait_for(_nothing_pending(service), 30)
        await other.close()
        beat()
        await asyncio.wait_for(_nothing_pending(service), 30)
        assert lost == []


async def _nothing_pending(service: ServiceClient) -> None:
    await asyncio.gather(*[errand.future.wait() for errand in backbone_of(service).courier.errands.values()])


async def test_pauses_of_the_queue_are_in_the_notes_of_the_run(tmp_path: Path) -> None:
    async with service_in(tmp_path) as service, durable(tmp_path, service) as run:
        await run_to(run, 1)
        publish = service.system.events.publish
        publish(QueuePaused(run.training.model_id, "forward_backward", "paused_capacity", "no room"))
        publish(QueuePaused("another model", "forward_backward", "paused_capacity", "no room"))
        publish(QueueResumed(run.training.model_id, 12.0))
    notes = [(step, kind, text) for _, step, kind, text in read_journal(tmp_path / "run").notes]

    assert notes == [(1, "queue_paused", "paused_capacity: no room"), (1, "queue_resumed", "after 12 s")]


async def test_a_pause_that_is_too_long_leaves_the_model_to_be_gone_on_with(tmp_path: Path) -> None:
    """No checkpoint can be taken behind requests that the queue does not take; the model itself is what is saved."""
    async with over_http(tmp_path / "store", EngineOptions()) as url:
        with pytest.raises(QueuePausedError):
            await _paused_in(tmp_path, url, 3)
        run, done = await go_on(tmp_path, url, 5)

    assert run.way == "attached"
    assert done == [3, 4]


async def _paused_in(folder: Path, url: str, index: int) -> None:
    async with ServiceClient(base_url=url) as service, durable(folder, service) as run:
        async for step in run.steps(5, checkpoint_every=2):
            await step.sample(ModelInput.from_ints([1, 2]), 1, SamplingParams(max_tokens=2))
            await step.forward_backward([example(step.index)], "cross_entropy")
            if step.index == index:
                raise QueuePausedError("as the sequencer says at the deadline", model_id=run.training.model_id)
            await step.optim_step(AdamParams(learning_rate=1e-3))


def test_what_may_pass_is_told_from_what_will_not() -> None:
    from tinkex_actors import APITimeoutError, AuthenticationError, RateLimitError, RequestFailedError
    from tinkex_actors.runs.interruptions import leaves_the_model

    assert is_interruption(NotFoundError("x", status_code=404))
    assert is_interruption(APITimeoutError("x"))
    assert is_interruption(RateLimitError("x", status_code=429))
    assert is_interruption(RequestFailedError("x", category="server"))
    assert not is_interruption(RequestFailedError("x", category="user"))
    assert not is_interruption(AuthenticationError("x", status_code=401))
    assert not is_interruption(InputError("x"))
    assert not is_interruption(KeyError("x"))
    assert leaves_the_model(QueuePausedError("x"))
    assert leaves_the_model(APITimeoutError("x"))
    assert not leaves_the_model(NotFoundError("x", status_code=404))
    assert not leaves_the_model(KeyError("x"))
