"""Runs that the engine loses, and that come back from their newest checkpoint."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.plugins.counting_server import datum
from tinkex_actors import (
    AdamParams,
    Config,
    ConfigError,
    InputError,
    NotFoundError,
    RecoveryPolicy,
    ServiceClient,
    TinkexError,
    TrainingClient,
)
from tinkex_actors.engine.transport import LocalTransport
from tinkex_actors.events import (
    RecoveryCompleted,
    RecoveryDetected,
    RecoveryExhausted,
    RecoveryFailed,
    RecoveryLookFailed,
    RecoveryStarted,
)
from tinkex_actors.runtime import ActorSystem
from tinkex_actors.wire.exchange import Request, Response

EVENTS = (RecoveryStarted, RecoveryCompleted, RecoveryFailed, RecoveryExhausted)
SOON = RecoveryPolicy(poll_interval=0.02, backoff=0.01, max_attempts=2)


class Losing:
    """The engine, but runs in ``corrupted`` are said to be, and as many loads as ``refuse`` says fail."""

    def __init__(self, inner: LocalTransport) -> None:
        self._inner = inner
        self.corrupted: set[str] = set()
        self.refuse = 0
        self.forbid = False

    async def send(self, request: Request) -> Response:
        if "load_weights" in request.path and self.refuse:
            self.refuse -= 1
            return Response(404, {"content-type": "application/json"}, b'{"detail": "no such checkpoint"}')
        if self.forbid and request.path.startswith("/api/v1/training_runs/"):
            return Response(403, {"content-type": "application/json"}, b'{"detail": "not yours"}')
        answer = await self._inner.send(request)
        if any(request.path.startswith(f"/api/v1/training_runs/{run}?") for run in self.corrupted):
            answer.body = msgspec.json.encode(msgspec.json.decode(answer.body) | {"corrupted": True})
        return answer

    async def close(self) -> None:
        await self._inner.close()


@asynccontextmanager
async def trained(tmp_path: Path) -> AsyncIterator[tuple[ServiceClient, Losing, TrainingClient, float]]:
    """A run with a checkpoint, one step beyond it, and the loss that the checkpoint has."""
    config = Config(base_url="local://tiny", engine_store=tmp_path)
    async with ActorSystem() as system:
        transport = Losing(LocalTransport("tiny", system=system, config=config))
        async with ServiceClient(config=config, system=system, transport=transport) as service:
            training = await service.create_lora_training_client("tiny", rank=4, seed=1)
            await step(training)
            await training.save_state("a")
            at_checkpoint = await loss(training)
            await step(training)
            assert await loss(training) != at_checkpoint
            yield service, transport, training, at_checkpoint


async def step(training: TrainingClient) -> None:
    training.forward_backward([datum(3)], "cross_entropy")
    await training.optim_step(AdamParams(learning_rate=1e-2))


async def loss(training: TrainingClient) -> float:
    return (await training.forward([datum(3)], "cross_entropy")).metrics["loss:sum"]


class Told:
    """What the callbacks were told, and when they were."""

    def __init__(self, service: ServiceClient) -> None:
        self.events: list[Any] = []
        self.recovered: asyncio.Queue[tuple[TrainingClient, TrainingClient, str]] = asyncio.Queue()
        self.failed: asyncio.Queue[tuple[str, Exception]] = asyncio.Queue()
        service.system.events.subscribe(self.events.append, *EVENTS)

    def on_recovery(self, old: TrainingClient, new: TrainingClient, path: str) -> None:
        self.recovered.put_nowait((old, new, path))
        raise ZeroDivisionError  # what the program's callback raises is the program's

    def on_failure(self, run_id: str, error: Exception) -> None:
        self.failed.put_nowait((run_id, error))


async def test_a_corrupted_run_goes_on_from_its_checkpoint_as_a_new_one(tmp_path: Path) -> None:
    async with trained(tmp_path) as (service, transport, training, at_checkpoint):
        told = Told(service)
        run = service.watch(training, SOON, on_recovery=told.on_recovery, on_failure=told.on_failure)
        transport.corrupted.add(training.model_id)
        async with asyncio.timeout(20.0):
            old, new, path = await told.recovered.get()
        assert old is training
        assert run.training is new
        assert new.model_id != old.model_id
        assert path == run.checkpoint == f"tinker://{old.model_id}/weights/a"
        assert await loss(new) == at_checkpoint
        await step(new)
        assert [type(event) for event in told.events] == [RecoveryStarted, RecoveryCompleted]
        assert (run.recoveries, run.error) == (1, None)
        assert "1 recoveries" in repr(run)
        await new.save_state("b")
        transport.corrupted.add(new.model_id)  # it is watched again
        async with asyncio.timeout(20.0):
            assert (await told.recovered.get())[0] is new
        run.stop()


async def test_the_programs_own_client_goes_on_where_the_policy_says_so(tmp_path: Path) -> None:
    async with trained(tmp_path) as (service, _, training, at_checkpoint):
        told = Told(service)
        lost = training.model_id
        policy = RecoveryPolicy(adopt=True, watch_again=False, checkpoint=f"tinker://{lost}/weights/a")
        run = service.watch(training, policy, on_recovery=told.on_recovery)
        run.report_lost()
        async with asyncio.timeout(20.0):
            await told.recovered.get()
        assert run.training is training
        assert training.model_id != lost
        assert await loss(training) == at_checkpoint


async def test_attempts_are_made_again_and_end(tmp_path: Path) -> None:
    async with trained(tmp_path) as (service, transport, training, _):
        told = Told(service)
        run = service.watch(training, SOON, on_recovery=told.on_recovery, on_failure=told.on_failure)
        transport.corrupted.add(training.model_id)
        transport.refuse = 1
        async with asyncio.timeout(20.0):
            await told.recovered.get()
        assert [type(event) for event in told.events] == [
            RecoveryStarted,
            RecoveryFailed,
            RecoveryStarted,
            RecoveryCompleted,
        ]
        transport.refuse = 9
        await run.training.save_state("b")
        transport.corrupted.add(run.training.model_id)
        async with asyncio.timeout(20.0):
            run_id, error = await told.failed.get()
        assert run_id == run.training.model_id
        assert isinstance(error, NotFoundError)
        assert run.error is error
        assert "given up" in repr(run)
        assert told.events[-1] == RecoveryExhausted(run_id, 2, str(error))


async def test_what_was_found_is_told_and_what_could_not_be_asked(tmp_path: Path) -> None:
    async with trained(tmp_path) as (service, transport, training, _):
        told: asyncio.Queue[Any] = asyncio.Queue()
        service.system.events.subscribe(told.put_nowait, RecoveryDetected, RecoveryLookFailed)
        transport.forbid = True
        run = service.watch(training, SOON)
        async with asyncio.timeout(20.0):
            failed = await told.get()
            assert (type(failed), failed.run_id) == (RecoveryLookFailed, training.model_id)
            assert "not yours" in failed.error
            transport.corrupted.add(training.model_id)
            transport.forbid = False
            while isinstance(found := await told.get(), RecoveryLookFailed):
                pass
        assert found == RecoveryDetected(training.model_id, "corrupted")
        assert told.empty()
        run.stop()


async def test_a_run_without_a_checkpoint_is_given_up_with_a_reason(tmp_path: Path) -> None:
    async with ServiceClient(config=Config(base_url="local://tiny", engine_store=tmp_path)) as service:
        told = Told(service)
        training = await service.create_lora_training_client("tiny", rank=4)
        run = service.watch(training, on_failure=told.on_failure)
        with pytest.raises(InputError, match="watched already"):
            service.watch(training)
        with pytest.raises(ConfigError, match="second policy"):
            service.watch(training, SOON)
        run.report_lost()
        async with asyncio.timeout(20.0):
            _, error = await told.failed.get()
        assert "save_state" in str(error)


async def test_a_restore_of_the_programs_own_may_refuse_and_a_crash_repeats_no_attempt(tmp_path: Path) -> None:
    async with trained(tmp_path) as (service, _, training, at_checkpoint):
        told = Told(service)
        monitor = service.system.whereis("/service/recovery/monitor")
        assert monitor is not None
        calls: list[str] = []

        def restore(path: str, optimizer: bool) -> Any:
            calls.append(path)
            if len(calls) == 1:
                raise TinkexError("not now")
            monitor.kill()  # in the middle of the attempt
            assert optimizer
            return service.create_training_client_from_state_with_optimizer(path)

        path = f"tinker://{training.model_id}/weights/a"
        policy = RecoveryPolicy(checkpoint=path, backoff=0.01)
        service.watch(training, policy, on_recovery=told.on_recovery, restore=restore).report_lost()
        async with asyncio.timeout(20.0):
            _, new, _ = await told.recovered.get()
        assert await loss(new) == at_checkpoint
        assert calls == [path, path]


async def test_a_recovery_that_nobody_wants_any_more_is_let_go(tmp_path: Path) -> None:
    async with trained(tmp_path) as (service, _, training, _):
        told = Told(service)
        begun: asyncio.Queue[Any] = asyncio.Queue()

        def restore(path: str, _: bool) -> Any:
            begun.put_nowait(made := service.create_training_client_from_state(path))
            return made

        policy = RecoveryPolicy(checkpoint=f"tinker://{training.model_id}/weights/a")
        run = service.watch(training, policy, on_recovery=told.on_recovery, restore=restore)
        run.report_lost()
        async with asyncio.timeout(20.0):
            made = await begun.get()
            run.stop()
            await made
        assert told.recovered.empty()
        assert run.training is training
