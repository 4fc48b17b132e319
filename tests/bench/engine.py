"""The local engine: seconds of a training step, and tokens per second, through the whole client.

    python -m tests.bench.engine [--json] [--quick]

The real model is measured where its weights are installed (``tinkex-actors models pull smollm2-135m``).
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np

from tests.bench.report import Row, main
from tinkex_actors import AdamParams, Config, Datum, ModelInput, SamplingParams, ServiceClient
from tinkex_actors.engine.models.catalog import model_names

ROWS, LENGTH = 8, 64
NEW_TOKENS = 64
CROWDS = (1, 4, 16)


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


async def measure(name: str, rounds: int, store: Path) -> list[Row]:
    """Return the rows of one model: medians over rounds, after one round that compiles."""
    config = msgspec.structs.replace(Config.from_environment(base_url=f"local://{name}"), engine_store=store)
    steps: list[float] = []
    sampled: list[float] = []
    async with ServiceClient(config=config) as service:
        training = await service.create_lora_training_client(name, rank=16, train_unembed=False, seed=0)
        batch = a_batch(300)
        sampler = await training.save_weights_and_get_sampling_client()
        for round_number in range(rounds + 1):
            began = time.perf_counter()
            passed = training.forward_backward(batch, "cross_entropy")
            updated = training.optim_step(AdamParams(learning_rate=1e-4))
            await passed
            await updated
            stepped = time.perf_counter()
            answer = await sampler.sample(
                batch[0].model_input, 8, SamplingParams(max_tokens=NEW_TOKENS, stop=[], seed=round_number)
            )
            tokens = sum(len(sequence.tokens) for sequence in answer.sequences)
            if round_number:
                steps.append(stepped - began)
                sampled.append(tokens / (time.perf_counter() - stepped))
    step = statistics.median(steps)
    return [
        Row(measure=f"{name}: step of {ROWS} x {LENGTH}, rank 16", ours=step * 1e3, unit="ms"),
        Row(measure=f"{name}: training", ours=ROWS * LENGTH / step, unit="tokens/s"),
        Row(measure=f"{name}: sampling, 8 at once", ours=statistics.median(sampled), unit="tokens/s"),
    ]


async def crowds(name: str, rounds: int, store: Path) -> list[Row]:
    """Return tokens per second of requests of one sample each, so many at a time, against the same one by one."""
    config = msgspec.structs.replace(Config.from_environment(base_url=f"local://{name}"), engine_store=store)
    params = SamplingParams(max_tokens=NEW_TOKENS, stop=[])
    prompts = [datum.model_input for datum in a_batch(300)]
    rates: dict[int, list[float]] = {crowd: [] for crowd in CROWDS}
    async with ServiceClient(config=config) as service:
        sampler = await service.create_sampling_client(base_model=name)

        async def asked(number: int) -> int:
            answer = await sampler.sample(prompts[number % ROWS], 1, params)
            return len(answer.sequences[0].tokens)

        for round_number in range(rounds + 1):
            for crowd in CROWDS:
                began = time.perf_counter()
                drawn = 0
                for first in range(0, CROWDS[-1], crowd):
                    drawn += sum(await asyncio.gather(*map(asked, range(first, first + crowd))))
                if round_number:
                    rates[crowd].append(drawn / (time.perf_counter() - began))
    return [
        Row(
            measure=f"{name}: unseeded samples, {crowd} at a time",
            ours=statistics.median(rates[crowd]),
            unit="tokens/s",
            baseline=statistics.median(rates[1]),
            against="one by one",
            ratio=statistics.median(ours / base for ours, base in zip(rates[crowd], rates[1], strict=True)),
            target=target,
            held=None,
        )
        for crowd, target in zip(CROWDS, (None, 1.5, 2.5), strict=True)
    ]


def judged(row: Row) -> Row:
    """Return the row with its verdict, where something is asked of it."""
    held = None if row.target is None or row.ratio is None else row.ratio >= row.target
    return msgspec.structs.replace(row, held=held)


def run(quick: bool = False) -> list[Row]:
    """Measure every installed model and return the table."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for record in model_names(cache_dir=Config.from_environment().cache_dir):
            if record.installed:
                rows += asyncio.run(measure(record.name, 2 if quick else 5, Path(folder) / record.name))
                together = asyncio.run(crowds(record.name, 2 if quick else 5, Path(folder) / f"{record.name}-together"))
                rows += map(judged, together)
    return rows


if __name__ == "__main__":
    main("engine: wall time, compiled", run)
