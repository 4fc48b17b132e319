"""What a training step costs: against bare aiohttp and the official SDK, with a journal, and beside a custom loss.

A step is a ``forward_backward`` of 64 x 1024 tokens and an ``optim_step``, with the results of both, against a server
that answers at once from a process of its own. The official SDK (``tinker``) runs in a process of its own, where it is
installed.

    python -m tests.bench.training [--json] [--quick]
"""

from __future__ import annotations

import asyncio
import functools
import sqlite3
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from tests.bench.client import a_batch, bare_steps, instant_server, official, our_steps
from tests.bench.report import Row, beside, main
from tinkex_actors import AdamParams, Datum, LoraConfig, ServiceClient, TrainingClient
from tinkex_actors.runs import DurableRun, Step
from tinkex_actors.runtime import Actor, handler

OFFICIAL = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
import numpy as np
import tinker
from tinker import types
url, count = sys.argv[1], int(sys.argv[2])
service = tinker.ServiceClient(base_url=url, api_key="tml-bench")
training = service.create_lora_training_client(base_model="m")
tokens, weights = np.arange(1024, dtype=np.int64), np.ones(1024, np.float32)
batch = [
    types.Datum(
        model_input=types.ModelInput.from_ints(tokens.tolist()),
        loss_fn_inputs={"target_tokens": tokens, "weights": weights},
    )
    for _ in range(64)
]
def run(total):
    for _ in range(total):
        passed = training.forward_backward(batch, "cross_entropy")
        updated = training.optim_step(types.AdamParams())
        passed.result(120)
        updated.result(120)
run(5)
found = []
for _ in range(5):
    cpu, wall = time.process_time(), time.perf_counter()
    run(count // 5)
    found.append(((time.process_time() - cpu) / (count // 5), (time.perf_counter() - wall) / (count // 5)))
print(json.dumps(sorted(found)[2]))
"""

BEAT = 0.05
LOSS_SECONDS = 5.0
LOCKED_SECONDS = 1.0


def _against(measure: str, pairs: list[tuple[float, float]], against: str, target: float | None) -> Row:
    """The median round by ratio; seconds in, microseconds out."""
    ours, base = sorted(pairs, key=lambda pair: pair[0] / pair[1])[len(pairs) // 2]
    return beside(measure, ours, base, against, target)


def _ceiling(measure: str, value: float, unit: str, target: float | None, **more: Any) -> Row:
    held = None if target is None else value <= target
    return Row(measure=measure, ours=value, unit=unit, target=target, held=held, at_most=True, **more)


# --- a step -----------------------------------------------------------------------------------------------------------
async def step_rows(url: str, quick: bool) -> list[Row]:
    """CPU per step against bare aiohttp and against the official SDK, in turn."""
    rounds, steps = (3, 5) if quick else (15, 20)
    batch = a_batch()
    cpu: list[tuple[float, float]] = []
    wall: list[tuple[float, float]] = []
    async with ServiceClient(base_url=url) as service:
        training = await service.create_lora_training_client("m")
        await our_steps(training, batch, steps)
        bare = [(await our_steps(training, batch, steps), await bare_steps(url, batch, steps)) for _ in range(rounds)]
        for _ in range(1 if quick else 3):
            ours, walls = await _plain_steps(training, batch, 5 * steps)
            if (found := await asyncio.to_thread(official, OFFICIAL, url, 5 * steps)) is not None:
                cpu.append((ours, found[0]))
                wall.append((_mid(walls), found[1]))
    rows = [_against("CPU per step of 64 x 1024", bare, "encode + aiohttp", 1.25)]
    if cpu:
        rows.append(_against("CPU per step of 64 x 1024", cpu, "the official SDK", 0.5))
        rows.append(_against("wall time of a step", wall, "the official SDK", None))
    return rows


async def _plain_steps(training: TrainingClient, batch: list[Datum], count: int) -> tuple[float, list[float]]:
    """CPU per step of this process, and the wall seconds of each step."""
    walls, began = [], time.process_time()
    for _ in range(count):
        submitted = time.perf_counter()
        passed, updated = training.forward_backward(batch, "cross_entropy"), training.optim_step(AdamParams())
        await passed
        await updated
        walls.append(time.perf_counter() - submitted)
    return (time.process_time() - began) / count, walls


# --- the journal ------------------------------------------------------------------------------------------------------
async def _durable_steps(steps: AsyncIterator[Step], batch: list[Datum], count: int) -> tuple[float, list[float]]:
    """CPU per step of this process, the journal's thread included, and the wall seconds of each step."""
    walls, began = [], time.process_time()
    for _ in range(count):
        step = await anext(steps)
        submitted = time.perf_counter()
        passed, updated = step.forward_backward(batch, "cross_entropy"), step.optim_step(AdamParams())
        await passed
        await updated
        walls.append(time.perf_counter() - submitted)
    return (time.process_time() - began) / count, walls


@contextmanager
def _locked(journal: Path) -> Any:
    """Nothing can be written to the journal meanwhile, as on a disk that hangs."""
    other = sqlite3.connect(journal, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


async def journal_rows(url: str, quick: bool) -> list[Row]:
    """What a run's journal adds to a step, and what a step waits for when it cannot be written."""
    rounds, count = (3, 5) if quick else (15, 20)
    batch = a_batch()
    cpus, plain_cpus, walls, plain_walls, locked = [], [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        # Two services: this server gives every model the same name.
        async with ServiceClient(base_url=url) as one, ServiceClient(base_url=url) as other:
            training = await other.create_lora_training_client("m")
            async with DurableRun.open(folder, one, model="m", lora=LoraConfig(rank=4)) as run:
                # A checkpoint costs more than a step, and is none: the first comes behind what is measured.
                steps = run.steps(1_000_000, checkpoint_every=1_000_000)
                await _durable_steps(steps, batch, count)
                for _ in range(rounds):
                    cpu, wall = await _durable_steps(steps, batch, count)
                    plain, plain_wall = await _plain_steps(training, batch, count)
                    cpus.append(cpu)
                    plain_cpus.append(plain)
                    walls += wall
                    plain_walls += plain_wall
                with _locked(Path(folder, "journal.sqlite3")):
                    end = time.perf_counter() + LOCKED_SECONDS
                    while time.perf_counter() < end:
                        locked += (await _durable_steps(steps, batch, 1))[1]
                await steps.aclose()  # type: ignore[attr-defined]  # an async generator
    return [
        # The quietest rounds: the difference of two numbers is no larger than what a neighbour takes.
        _ceiling("CPU of the journal per step", (min(cpus) - min(plain_cpus)) * 1e6, "us", 1000.0),
        _against("wall time of a step with a journal", [(_mid(walls), _mid(plain_walls))], "without one", None),
        _against("wall time of a step, nothing can be written", [(_mid(locked), _mid(plain_walls))], "no journal", 1.5),
        _ceiling("longest of these steps", max(locked) * 1e3, "ms", LOCKED_SECONDS * 1e3 / 2),
    ]


_mid = statistics.median


# --- a heartbeat ------------------------------------------------------------------------------------------------------
class Beating(Actor):
    """Keeps a heartbeat's time as the session's actor does: a timer, a message to itself, a task.

    Args:
        late: takes how late each beat came, in seconds.
    """

    def __init__(self, late: list[float]) -> None:
        self._late = late
        self._due = 0.0

    async def init(self) -> None:
        """Begin."""
        self._later()

    def _later(self) -> None:
        self._due = self.system.loop.time() + BEAT
        self.after(BEAT, self.ref.cast.beat)

    @handler
    def beat(self) -> None:
        """It is due."""
        self.task(self._send(self._due), name="beat")
        self._later()

    async def _send(self, due: float) -> None:
        self._late.append(self.system.loop.time() - due)


async def _late_while(service: ServiceClient, work: Callable[[], Any]) -> tuple[float, float]:
    """The latest beat while some work runs, and the work's seconds."""
    late: list[float] = []
    beating = await service.system.spawn(Beating, late)
    began = time.perf_counter()
    await work()
    seconds = time.perf_counter() - began
    await beating.stop()
    return max(late), seconds


async def heartbeat_rows(url: str, quick: bool) -> list[Row]:
    """How late a heartbeat is while a jitted custom loss of some seconds runs, beside nothing at all."""
    span = 1.0 if quick else LOSS_SECONDS
    batch = a_batch()
    size = 256

    def churn(turns: int, value: Any) -> Any:
        return jax.lax.fori_loop(0, turns, lambda _, x: jnp.tanh(x @ x / size), jnp.full((size, size), value))

    seconds = [0.0]
    for turns in (1, 200):
        jax.block_until_ready(jax.jit(churn, static_argnums=0)(turns, 0.5))
        began = time.perf_counter()
        jax.block_until_ready(jax.jit(churn, static_argnums=0)(turns, 0.5))
        seconds.append((time.perf_counter() - began) / turns)
    total = max(1, int(span / seconds[-1]))
    first = compiling = busy = took = 0.0

    def weigh(turns: int, data: Any, logprobs: Any) -> tuple[Any, dict[str, Any]]:
        work = jax.lax.stop_gradient(churn(turns, logprobs[0][0] + 0.5)).sum()
        return -sum(row.sum() for row in logprobs) + 1e-9 * work, {}

    loss = functools.partial(weigh, total)

    async with ServiceClient(base_url=url) as service:
        training = await service.create_lora_training_client("m")

        async def train() -> None:
            await training.forward_backward_custom(batch, loss)

        while took < 0.8 * span:
            first, compiling = await _late_while(service, train)  # traced and compiled here
            idle, _ = await _late_while(service, lambda: asyncio.sleep(span))
            busy, took = await _late_while(service, train)
            total = int(1.1 * total * span / took)
            # Another loss to the client, of another length.
            loss = functools.partial(weigh, total)
    return [
        _ceiling("latest heartbeat, idle", idle * 1e3, "ms", None),
        _ceiling(f"latest heartbeat, custom loss of {took:.1f} s", busy * 1e3, "ms", 100.0),
        _ceiling(f"latest heartbeat, its first time ({compiling:.1f} s)", first * 1e3, "ms", None),
    ]


async def measure(url: str, quick: bool) -> list[Row]:
    """Return the table."""
    return [
        *await step_rows(url, quick),
        *await journal_rows(url, quick),
        *await heartbeat_rows(url, quick),
    ]


def run(quick: bool = False) -> list[Row]:
    """Measure and return the table."""
    with instant_server() as url:
        return asyncio.run(measure(url, quick))


if __name__ == "__main__":
    main("training: what a step costs, with a journal and beside a custom loss", run)
