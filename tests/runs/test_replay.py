"""The server loses a run's model, and the program notices nothing: each step counts once, with the same numbers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.plugins.counting_server import datum
from tinkex_actors import (
    AdamParams,
    Config,
    ConfigError,
    GoneError,
    InputError,
    LoraConfig,
    ModelInput,
    RecoveryPolicy,
    RequestFailedError,
    SamplingParams,
    ServiceClient,
)
from tinkex_actors.engine.transport import LocalTransport
from tinkex_actors.events import RecoveryCompleted, RecoveryStarted
from tinkex_actors.runs import DurableRun, HistoryRow, is_interruption
from tinkex_actors.runs.journal.file import read_journal
from tinkex_actors.runtime import ActorSystem
from tinkex_actors.types import FinishReason, FinishSessionRequest, UnloadModelRequest
from tinkex_actors.wire.client import encode_request
from tinkex_actors.wire.dialect import HOSTED
from tinkex_actors.wire.exchange import Request, Response
from tinkex_actors.wire.routes import ROUTES

SOON = RecoveryPolicy(poll_interval=0.05, backoff=0.01)
LATER = RecoveryPolicy(poll_interval=600.0, backoff=0.01)
STEPS, EVERY = 5, 2
TRAINING = ("forward", "optim_step", "save_weights")


class Mortal:
    """The engine, which loses what it is told to, when the training's ``at``-th request comes."""

    def __init__(self, inner: LocalTransport) -> None:
        self._inner = inner
        self.seen = 0
        self.losses: dict[int, Callable[[], Any]] = {}
        self.corrupted: set[str] = set()
        self.refuse_loads = False

    async def send(self, request: Request) -> Response:
        if request.path.rpartition("/")[2].startswith(TRAINING):
            self.seen += 1
            if (lose := self.losses.pop(self.seen, None)) is not None:
                await lose()
        if self.refuse_loads and "load_weights" in request.path:
            return Response(404, {"content-type": "application/json"}, b'{"detail": "no such checkpoint"}')
        answer = await self._inner.send(request)
        if any(request.path.startswith(f"/api/v1/training_runs/{run}?") for run in self.corrupted):
            answer.body = msgspec.json.encode(msgspec.json.decode(answer.body) | {"corrupted": True})
        return answer

    async def unload(self, model_id: str) -> None:
        await self._inner.send(encode_request(ROUTES["unload_model"], UnloadModelRequest(model_id=model_id), HOSTED))

    async def end(self, session_id: str) -> None:
        message = FinishSessionRequest(reason=FinishReason(type="errored"))
        path = {"session_id": session_id}
        await self._inner.send(encode_request(ROUTES["finish_session"], message, HOSTED, path=path))

    async def close(self) -> None:
        await self._inner.close()


@asynccontextmanager
async def service_in(folder: Path) -> AsyncIterator[tuple[ServiceClient, Mortal]]:
    config = Config(base_url="local://tiny", engine_store=folder / "store", telemetry=False)
    async with ActorSystem() as system:
        transport = Mortal(LocalTransport("tiny", system=system, config=config))
        async with ServiceClient(config=config, system=system, transport=transport) as service:
            yield service, transport


def durable(folder: Path, service: ServiceClient, policy: RecoveryPolicy | None = LATER) -> DurableRun:
    return DurableRun.open(folder / "run", service, model="tiny", lora=LoraConfig(rank=4), recovery=policy)


async def train(run: DurableRun, *, samples: bool = False) -> list[int]:
    """Train; returns the steps that the program did."""
    done = []
    async with asyncio.timeout(60.0):
        async for step in run.steps(STEPS, checkpoint_every=EVERY):
            step.cursor = step.index
            if samples:
                drawn = await step.sample(ModelInput.from_ints([1, 2]), 1, SamplingParams(max_tokens=2))
                assert len(drawn.sequences[0].tokens) == 2
            first = step.forward_backward([datum(3 + step.index)], "cross_entropy")
            second = step.forward_backward([datum(2)], "cross_entropy")
            update = step.optim_step(AdamParams(learning_rate=1e-2))
            assert (await second).metrics["loss:sum"] > 0
            assert (await first).metrics["loss:sum"] > 0
            await update
            done.append(step.index)
    return done


class Enough(Exception):
    """What a program raises that has had enough."""


def plain(rows: list[HistoryRow]) -> list[Any]:
    return [(row.index, row.metrics, row.optim_metrics, row.cursor) for row in rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], int]:
    """What a run comes to of which nothing is lost, and how many training requests it takes."""
    folder = tmp_path_factory.mktemp("whole")

    async def run_it() -> tuple[list[Any], int]:
        async with service_in(folder) as (service, server), durable(folder, service) as run:
            assert await train(run) == list(range(STEPS))
            return plain(run.history()), server.seen

    return asyncio.run(run_it())


async def test_a_model_may_be_lost_at_any_request(tmp_path: Path, whole: tuple[list[Any], int]) -> None:
    history, requests = whole
    assert requests == 3 * STEPS + 3
    # Beginning, middle and end of a step; before and at a checkpoint; twice.
    for at in ((1,), (3,), (6,), (7,), (8,), (requests - 1,), (5, 9), (10, 12)):
        folder = tmp_path / "-".join(map(str, at))
        async with service_in(folder) as (service, server):
            told: list[Any] = []
            service.system.events.subscribe(told.append, RecoveryStarted, RecoveryCompleted)
            async with durable(folder, service) as run:
                for number in at:
                    server.losses[number] = lambda run=run, server=server: server.unload(run.training.model_id)
                assert await train(run) == list(range(STEPS)), at
                assert plain(run.history()) == history, at
        assert [type(event) for event in told] == [RecoveryStarted, RecoveryCompleted] * len(at)
        record = read_journal(folder / "run")
        assert plain(record.history) == history
        assert len(record.openings) == 1 + len(at)
        assert [kind for _, _, kind, _ in record.notes] == ["model_lost"] * len(at)
        assert [row.step for row in record.checkpoints] == [2, 4, 5]


async def test_a_session_that_has_ended_is_begun_anew(tmp_path: Path, whole: tuple[list[Any], int]) -> None:
    async with service_in(tmp_path) as (service, server), durable(tmp_path, service) as run:
        begun = service.session_id
        server.losses[9] = lambda: server.end(begun)
        assert await train(run) == list(range(STEPS))
        assert plain(run.history()) == whole[0]
        assert service.session_id != begun


async def test_what_the_server_calls_corrupted_is_done_again(tmp_path: Path, whole: tuple[list[Any], int]) -> None:
    async with service_in(tmp_path) as (service, server), durable(tmp_path, service, SOON) as run:
        lost = run.training.model_id
        back = asyncio.Event()
        service.system.events.subscribe(lambda _: back.set(), RecoveryCompleted)

        async def corrupt() -> None:
            server.corrupted.add(lost)
            await back.wait()

        # While the request is on its way, the look finds out; what it then answers is another model's word.
        server.losses[9] = corrupt
        assert await train(run) == list(range(STEPS))
        assert plain(run.history()) == whole[0]
        assert run.training.model_id != lost


async def test_the_programs_client_goes_on_where_the_policy_says_so(tmp_path: Path) -> None:
    policy = msgspec.structs.replace(LATER, adopt=True, watch_again=False)
    async with service_in(tmp_path) as (service, server), durable(tmp_path, service, policy) as run:
        training = run.training
        lost = training.model_id
        server.losses[6] = lambda: server.unload(lost)
        assert await train(run) == list(range(STEPS))
        assert run.training is training
        assert training.model_id != lost


async def test_samples_are_drawn_of_the_model_that_is_back(tmp_path: Path) -> None:
    for at in (0, 9, 10):
        folder = tmp_path / str(at)
        async with service_in(folder) as (service, server), durable(folder, service) as run:
            begun = service.session_id
            server.losses[at] = lambda server=server, begun=begun: server.end(begun)
            assert await train(run, samples=True) == list(range(STEPS))
            history = plain(run.history())
        if at == 0:
            whole = history
        assert history == whole


async def test_actors_that_crash_on_the_way_back_are_seen_by_nobody(
    tmp_path: Path, whole: tuple[list[Any], int]
) -> None:
    for victim in ("recovery/monitor", "core/courier"):
        folder = tmp_path / victim.replace("/", "-")
        async with service_in(folder) as (service, server), durable(folder, service) as run:
            ref = service.system.whereis(f"/service/{victim}")
            assert ref is not None
            service.system.events.subscribe(lambda _, ref=ref: ref.kill(), RecoveryStarted)
            server.losses[9] = lambda run=run, server=server: server.unload(run.training.model_id)
            assert await train(run) == list(range(STEPS))
            assert plain(run.history()) == whole[0]


async def opened_and_lost(folder: Path, service: ServiceClient, server: Mortal, *at: int) -> str:
    """Open the run, with the model lost at these requests from now on, and train; returns the run's way."""
    async with durable(folder, service) as run:
        for number in at:
            server.losses[server.seen + number] = lambda: server.unload(run.training.model_id)
        await train(run)
    return run.way


async def test_what_cannot_be_brought_back_ends_the_opening_and_not_the_run(
    tmp_path: Path, whole: tuple[list[Any], int]
) -> None:
    async with service_in(tmp_path) as (service, server):
        server.refuse_loads = True
        with pytest.raises(GoneError) as told:
            await opened_and_lost(tmp_path, service, server, 9)
        assert "could not be brought back" in "".join(told.value.__notes__)
        assert is_interruption(told.value)
        server.refuse_loads = False
        async with durable(tmp_path, service) as run:
            assert run.way == "restored"
            assert await train(run) == [2, 3, 4]
            assert plain(run.history()) == whole[0]


async def test_what_was_done_in_an_earlier_opening_cannot_be_done_again_in_place(tmp_path: Path) -> None:
    async with service_in(tmp_path) as (service, server):
        with suppress(Enough):
            async with durable(tmp_path, service) as run:
                async for step in run.steps(STEPS, checkpoint_every=EVERY):
                    if step.index == 1:
                        raise Enough
                    step.forward_backward([datum(3)], "cross_entropy")
                    await step.optim_step(AdamParams())
        with pytest.raises(GoneError) as told:
            await opened_and_lost(tmp_path, service, server, 1)
        assert "an earlier opening" in "".join(told.value.__notes__)
        assert await opened_and_lost(tmp_path, service, server) == "created"


async def test_a_model_that_is_lost_again_and_again_is_given_up(tmp_path: Path) -> None:
    async with service_in(tmp_path) as (service, server):
        with pytest.raises(GoneError):
            await opened_and_lost(tmp_path, service, server, *range(5, 100))
    notes = [kind for _, _, kind, _ in read_journal(tmp_path / "run").notes]
    assert notes == ["model_lost"] * (LATER.max_attempts + 1)


async def test_a_runs_model_is_watched_by_the_run_alone(tmp_path: Path) -> None:
    async with service_in(tmp_path) as (service, _):
        for policy in (LATER, None):
            async with durable(tmp_path, service, policy) as run:
                training = run.training
                with pytest.raises(InputError, match=r"DurableRun.open\(recovery"):
                    service.watch(training, LATER)
        service.watch(training, LATER).stop()


@pytest.mark.parametrize("wrong", [{"checkpoint": "tinker://m/weights/a"}, {"restore_optimizer": False}])
async def test_a_run_goes_back_to_nothing_but_its_own_checkpoint(tmp_path: Path, wrong: dict[str, Any]) -> None:
    async with service_in(tmp_path) as (service, _):
        with pytest.raises(ConfigError, match="its own last checkpoint"):
            durable(tmp_path, service, RecoveryPolicy(**wrong))


async def test_an_error_of_the_programs_own_is_raised_as_ever(tmp_path: Path) -> None:
    async with service_in(tmp_path) as (service, _), durable(tmp_path, service) as run:
        async for step in run.steps(1):
            with pytest.raises(InputError):
                step.forward_backward([], "cross_entropy")
            refused = step.forward_backward([datum(3)], "no_such_loss")
            with pytest.raises(RequestFailedError):
                await refused
            # With the failure seen, it is the program's decision.
            await step.optim_step(AdamParams())


async def test_what_is_cancelled_is_not_done_again(tmp_path: Path) -> None:
    async with service_in(tmp_path) as (service, server), durable(tmp_path, service) as run:
        async for step in run.steps(1):
            asked = step.forward_backward([datum(9)], "cross_entropy")
            kept = step.forward_backward([datum(2)], "cross_entropy")
            asked.cancel()
            server.losses[1] = lambda: server.unload(run.training.model_id)
            await kept
            await step.optim_step(AdamParams())
        (row,) = run.history()
    assert row.metrics == (await kept).metrics
