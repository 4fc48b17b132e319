"""The local engine: seconds of a training step, and tokens per second, through the whole client.

    python -m tests.bench.engine [--json] [--quick]

The real model is measured where its weights are installed (``tinkex-actors models pull smollm2-135m``).
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np

from tests.bench.report import Row, main
from tinkex_actors import AdamParams, Config, Datum, ModelInput, SamplingParams, ServiceClient
from tinkex_actors.engine.models.catalog import model_names

ROWS, LENGTH = 8, 64
CROWDS = (1, 4, 16)
# Requests of one measurement.
FEWEST = 4


class Effort(msgspec.Struct, frozen=True):
    """How much is measured.

    Args:
        rounds: the best of which counts; one more of a token each goes ahead, which compiles.
        tokens: of each answer.
    """

    rounds: int
    tokens: int


FULL = Effort(rounds=4, tokens=32)
QUICK = Effort(rounds=1, tokens=6)


def a_batch(vocabulary: int) -> list[Datum]:
    """Return 8 rows of 64 random tokens."""
    rng = np.random.default_rng(0)
    rows = rng.integers(3, vocabulary, (ROWS, LENGTH + 1))
    return [
        Datum(
            model_input=ModelInput.from_ints(row[:-1].tolist()),
            loss_fn_inputs={"target_tokens": row[1:].astype(np.int64), "weights": np.ones(LENGTH, np.float32)},
        )
        for row in rows
    ]


async def alone(name: str, effort: Effort, store: Path) -> list[Row]:
    """Return the rows of one client that trains and samples: the best of all rounds."""
    config = msgspec.structs.replace(Config.from_environment(base_url=f"local://{name}"), engine_store=store)
    steps: list[float] = []
    rates: list[float] = []
    async with ServiceClient(config=config) as service:
        training = await service.create_lora_training_client(name, rank=16, train_unembed=False, seed=0)
        batch = a_batch(300)
        sampler = await training.save_weights_and_get_sampling_client()
        for round_number in range(effort.rounds + 1):
            params = SamplingParams(max_tokens=effort.tokens if round_number else 1, stop=[], seed=0)
            began = time.perf_counter()
            passed = training.forward_backward(batch, "cross_entropy")
            updated = training.optim_step(AdamParams(learning_rate=1e-4))
            await passed
            await updated
            stepped = time.perf_counter()
            await sampler.sample(batch[0].model_input, ROWS, params)
            steps.append(stepped - began)
            rates.append(ROWS * effort.tokens / (time.perf_counter() - stepped))
    step = min(steps[1:])
    return [
        Row(measure=f"{name}: step of {ROWS} x {LENGTH}, rank 16", ours=step * 1e3, unit="ms"),
        Row(measure=f"{name}: training", ours=ROWS * LENGTH / step, unit="tokens/s"),
        Row(measure=f"{name}: sampling, {ROWS} of one prompt", ours=max(rates[1:]), unit="tokens/s"),
    ]


class Rates(msgspec.Struct):
    """Of crowds of one size, in all rounds: tokens per second of wall time, and milliseconds of CPU time per token."""

    speeds: list[float] = []
    costs: list[float] = []

    def add(self, tokens: int, seconds: float, cpu_seconds: float) -> None:
        """Note one round."""
        self.speeds.append(tokens / seconds)
        self.costs.append(1e3 * cpu_seconds / tokens)


async def crowds(name: str, effort: Effort, store: Path) -> list[Row]:
    """Return the rows of requests of one sample each, so many at a time, against the same one by one."""
    config = msgspec.structs.replace(Config.from_environment(base_url=f"local://{name}"), engine_store=store)
    prompts = [datum.model_input for datum in a_batch(300)]
    measured = {(seeded, crowd): Rates() for seeded in (False, True) for crowd in CROWDS}
    async with ServiceClient(config=config) as service:
        sampler = await service.create_sampling_client(base_model=name)

        async def asked(number: int, seeded: bool, tokens: int) -> int:
            params = SamplingParams(max_tokens=tokens, stop=[], seed=number if seeded else None)
            answer = await sampler.sample(prompts[number % ROWS], 1, params)
            return len(answer.sequences[0].tokens)

        for round_number in range(effort.rounds + 1):
            for (seeded, crowd), rates in measured.items():
                began, spent = time.perf_counter(), time.process_time()
                drawn = 0
                tokens = effort.tokens if round_number else 1
                for first in range(0, max(crowd, FEWEST), crowd):
                    numbers = range(first, first + crowd)
                    drawn += sum(await asyncio.gather(*(asked(number, seeded, tokens) for number in numbers)))
                if round_number:
                    rates.add(drawn, time.perf_counter() - began, time.process_time() - spent)
    rows: list[Row] = []
    for seeded, targets in ((False, (None, 1.5, 2.5)), (True, (None, 1.5, 2.5))):
        base = max(measured[seeded, 1].speeds)
        kind = f"{name}: {'seeded' if seeded else 'unseeded'} samples"
        for crowd, target in zip(CROWDS, targets, strict=True):
            rates = measured[seeded, crowd]
            speed = max(rates.speeds)
            ratio = speed / base
            rows.append(
                Row(
                    measure=f"{kind}, {crowd} at a time",
                    ours=speed,
                    unit="tokens/s",
                    baseline=base,
                    against="one by one",
                    ratio=ratio,
                    target=target,
                    held=None if target is None else ratio >= target,
                )
            )
            rows.append(Row(measure=f"{kind}, {crowd} at a time, CPU a token", ours=min(rates.costs), unit="ms"))
    return rows


def run(quick: bool = False) -> list[Row]:
    """Measure every installed model and return the table."""
    effort = QUICK if quick else FULL
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for record in model_names(cache_dir=Config.from_environment().cache_dir):
            if record.installed:
                rows += asyncio.run(alone(record.name, effort, Path(folder) / record.name))
                rows += asyncio.run(crowds(record.name, effort, Path(folder) / f"{record.name}-together"))
    return rows


if __name__ == "__main__":
    main("engine: the best of some rounds, compiled before", run)
