"""Killed between the server's taking of a request and the journal's line of it: nothing is done twice, nor otherwise.

A copy of the run's folder, made while the journal cannot be written, is what a process leaves that is killed at that
moment; the server goes on as it is.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from tests.plugins.every_server import over_http
from tests.runs.test_run import Stop, durable, example, go_on, left_alive, plain, service_in
from tinkex_actors import AdamParams, Config, LoraConfig, ModelInput, RunDivergedError, SamplingParams, ServiceClient
from tinkex_actors.engine.service.call import EngineOptions
from tinkex_actors.runs import DurableRun, Step
from tinkex_actors.runs.journal.file import JOURNAL, read_journal
from tinkex_actors.testing import virtual_time
from tinkex_actors.testing.model_server import ModelServer
from tinkex_actors.wire.exchange import Request, Response

KILLED_IN, TOTAL = 3, 6
PLACES = ("passed", "updating", "updated")


@contextmanager
def nothing_written(folder: Path) -> Iterator[None]:
    """Hold the journal, as a disk does that hangs."""
    with closing(sqlite3.connect(folder / JOURNAL, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


async def body(step: Step) -> None:
    await step.sample(ModelInput.from_ints([1, 2]), 1, SamplingParams(max_tokens=2))


async def killed_in(folder: Path, url: str, place: str, image: Path) -> None:
    """Train into step 3, of which the journal learns nothing, and leave the folder's image."""
    async with left_alive(url) as service:
        with suppress(Stop):
            async with durable(folder, service) as run:
                async for step in run.steps(TOTAL, checkpoint_every=2):
                    await body(step)
                    if step.index < KILLED_IN:
                        await step.forward_backward([example(step.index)], "cross_entropy")
                        await step.optim_step(AdamParams(learning_rate=1e-3))
                        continue
                    with nothing_written(folder / "run"):
                        await unwritten(step, place)
                        shutil.copytree(folder / "run", image / "run")
                    raise Stop


async def unwritten(step: Step, place: str) -> None:
    passed = step.forward_backward([example(step.index)], "cross_entropy")
    if place == "passed":
        await passed
        return
    update = step.optim_step(AdamParams(learning_rate=1e-3))
    await (update if place == "updated" else passed)


@pytest.mark.parametrize("place", PLACES)
async def test_a_line_that_was_not_written_costs_nothing(tmp_path: Path, place: str) -> None:
    async with over_http(tmp_path / "store", EngineOptions()) as url:
        (tmp_path / "whole").mkdir()
        await go_on(tmp_path / "whole", url, TOTAL)
        image = tmp_path / "image"
        await killed_in(tmp_path, url, place, image)
        unwritten = read_journal(image / "run")
        assert KILLED_IN not in [row.index for row in unwritten.history]
        assert (KILLED_IN, "forward_backward") not in [(row.step, row.kind) for row in unwritten.sent]

        run, done = await go_on(image, url, TOTAL)

    # The step is asked for again under its numbers, and the server answers what it answered.
    assert run.way == "attached"
    assert done[-1] == TOTAL - 1
    record = read_journal(image / "run")
    assert plain(record.history) == plain(read_journal(tmp_path / "whole" / "run").history)
    assert [row.optim_metrics["optim_steps:max"] for row in record.history if row.optim_metrics] == [1, 2, 3, 4, 5, 6]
    assert record.notes == []


async def test_what_a_program_was_given_to_train_on_is_in_the_journal(tmp_path: Path) -> None:
    """Else a killed program would draw again, and send other data under a number that has been answered."""
    async with service_in(tmp_path) as service, durable(tmp_path, service) as run:
        async for step in run.steps(2):
            drawn = await step.sample(ModelInput.from_ints([1, 2]), 2, SamplingParams(max_tokens=3))
            shutil.copytree(tmp_path / "run", tmp_path / f"image-{step.index}")
            assert drawn.sequences[0].tokens
            assert (step.index, 0) in read_journal(tmp_path / f"image-{step.index}").samples
            step.skip()


class Left:
    """A server that outlives the services that use it."""

    def __init__(self, server: ModelServer) -> None:
        self._server = server

    async def send(self, request: Request) -> Response:
        return await self._server.send(request)

    async def close(self) -> None:
        """Stay."""


async def opened_on(server: ModelServer, folder: Path, *, leave_in: int | None) -> DurableRun:
    """Open the run, do four steps, or leave it in the middle of one; returns the run."""
    service = ServiceClient(config=Config(base_url="http://127.0.0.1:1", telemetry=False), transport=Left(server))
    try:
        async with DurableRun.open(folder, service, model="m", lora=LoraConfig(rank=4)) as run:
            async for step in run.steps(4, checkpoint_every=2):
                await step.forward_backward([example(step.index)], "cross_entropy")
                if step.index == leave_in:
                    raise Stop
                await step.optim_step(AdamParams())
    finally:
        await service.close(finish=False)
    return run


@virtual_time()
async def test_a_server_that_does_not_know_a_request_again_is_found_out_and_the_run_goes_back(tmp_path: Path) -> None:
    server = ModelServer(random.Random(0))
    with suppress(Stop):
        await opened_on(server, tmp_path, leave_in=3)
    server.numbered = False
    with pytest.raises(RunDivergedError, match="not what the history says"):
        await opened_on(server, tmp_path, leave_in=None)
    (note,) = read_journal(tmp_path).notes
    assert "applied twice" in note[3]
    assert "reattach=False" in note[3]

    run = await opened_on(server, tmp_path, leave_in=None)

    assert run.way == "restored"
    assert [row.index for row in read_journal(tmp_path).history] == [0, 1, 2, 3]


@virtual_time()
async def test_a_server_that_knows_a_request_again_answers_with_the_same_promise(tmp_path: Path) -> None:
    server = ModelServer(random.Random(0))
    with suppress(Stop):
        await opened_on(server, tmp_path, leave_in=3)
    run = await opened_on(server, tmp_path, leave_in=None)

    assert run.way == "attached"
    assert read_journal(tmp_path).notes == []
    numbers = [number for number, _ in server.applied[read_journal(tmp_path).openings[-1].model_id]]
    assert numbers == sorted(set(numbers))
