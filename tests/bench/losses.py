"""Custom losses: time of a value and its gradient against torch, compiled programs, and the loop meanwhile.

    python -m tests.bench.losses [--json] [--quick]

The baseline is what the official SDK does with a custom loss (protocol 6.7): one torch tensor for each sequence, the
loss in plain torch, ``backward()``. It is measured in the same run where torch is installed (extra ``bench``).
"""

from __future__ import annotations

import asyncio
import importlib
import multiprocessing
import statistics
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from tests.bench.report import Row, main
from tinkex_actors import Datum, ModelInput
from tinkex_actors.clients.regularizers import LOSS_EXECUTOR, LOSS_NICENESS
from tinkex_actors.losses import (
    L1,
    L2,
    BatchLoss,
    ElasticNet,
    Entropy,
    Evaluation,
    KLDivergence,
    RegularizerPipeline,
    RegularizerSpec,
    dpo,
    evaluate,
)
from tinkex_actors.runtime import ActorSystem

SEQUENCES, MEAN_TOKENS = 512, 512
BETA = 0.1
LOOP_SECONDS, TICK = 5.0, 0.005

T = TypeVar("T")
Batch = tuple[list[Datum], list[Any]]


def a_batch(rng: np.random.Generator, sequences: int = SEQUENCES) -> Batch:
    """Return pairs of ragged answers, exponentially distributed around the mean length."""
    lengths = np.clip(rng.exponential(MEAN_TOKENS, sequences).astype(int), 8, 4096)
    data = []
    for length in lengths:
        inputs = {
            "target_tokens": np.zeros(length, np.int64),
            "weights": np.ones(length, np.float32),
            "reference_logprobs": -rng.random(length, np.float32),
        }
        data.append(Datum(ModelInput.from_ints([0]), inputs))
    return data, [-rng.random(length, np.float32) for length in lengths]


def torch_dpo(torch: Any) -> Callable[[Batch], None]:
    """Return what computes DPO and its gradient as the official SDK lets one do it."""

    def loss(data: list[Datum], logprobs: list[Any]) -> tuple[Any, dict[str, float]]:
        ratios = []
        for datum, row in zip(data, logprobs, strict=True):
            weights = torch.from_numpy(datum.loss_fn_inputs["weights"].to_numpy())
            reference = torch.from_numpy(datum.loss_fn_inputs["reference_logprobs"].to_numpy())
            ratios.append(((row - reference) * weights).sum())
        rewards = BETA * torch.stack(ratios).reshape(-1, 2)
        margins = rewards[:, 0] - rewards[:, 1]
        value = torch.nn.functional.softplus(-margins).mean()
        return value, {"accuracy:mean": (margins > 0).float().mean().item(), "margin:mean": margins.mean().item()}

    def run(batch: Batch) -> None:
        data, rows = batch
        leaves = [torch.tensor(row).clone().detach().requires_grad_(True) for row in rows]
        value, _ = loss(data, leaves)
        value.backward()
        weights = [-leaf.grad.numpy() for leaf in leaves]
        assert len(weights) == len(rows)

    return run


def ours_dpo(batch: Batch) -> Evaluation:
    """Compute the same by the objective."""
    return evaluate(dpo(beta=BETA), *batch)


def against(ours: Callable[[Any], Any], theirs: Callable[[Any], Any] | None, batches: list[Batch]) -> tuple[Any, ...]:
    """Return the median seconds of both, and of their ratio, taking turns."""
    mine, others = [], []
    for batch in batches:
        mine.append(seconds(ours, batch))
        if theirs is not None:
            others.append(seconds(theirs, batch))
    if not others:
        return statistics.median(mine), None, None
    ratio = statistics.median(one / other for one, other in zip(mine, others, strict=True))
    return statistics.median(mine), statistics.median(others), ratio


def seconds(run: Callable[[Any], Any], batch: Batch) -> float:
    """Return how long one run takes."""
    began = time.perf_counter()
    run(batch)
    return time.perf_counter() - began


def dpo_rows(quick: bool) -> list[Row]:
    """DPO over 512 ragged sequences against torch, and the programs that 200 ragged batches take."""
    rng = np.random.default_rng(0)
    batches = [a_batch(rng) for _ in range(5 if quick else 20)]
    torch = importlib.import_module("torch") if find_spec("torch") else None
    theirs = None if torch is None else torch_dpo(torch)
    for run in filter(None, (ours_dpo, theirs)):
        for batch in batches[:3]:
            run(batch)  # warm
    mine, other, ratio = against(ours_dpo, theirs, batches)
    for _ in range(20 if quick else 200):
        ours_dpo(a_batch(rng, 2 * int(rng.integers(1, 65))))
    programs = dpo(beta=BETA).compiled
    return [
        Row(
            measure=f"DPO, {SEQUENCES} x ~{MEAN_TOKENS} tokens, with gradient",
            ours=mine * 1e3,
            baseline=None if other is None else other * 1e3,
            ratio=ratio,
            unit="ms",
            against="torch, as in the official SDK" if other is not None else "",
            target=0.5,
            at_most=True,
            held=None if ratio is None else ratio <= 0.5,
        ),
        Row(measure="programs over 200 ragged batches", ours=programs, unit="", target=8, held=programs <= 8),
    ]


def pipeline_row(quick: bool) -> Row:
    """Five regularizers with gradient norms against the base loss's gradient alone."""

    def base(inputs: Any, logprobs: Any, mask: Any) -> tuple[Any, dict[str, Any]]:
        return -(logprobs * mask).sum() / mask.sum(), {}

    base_loss = BatchLoss(base, name="nll")
    specs = [
        RegularizerSpec(fn, 0.01, name)
        for name, fn in {
            "l1": L1(),
            "l2": L2(center="mean"),
            "elastic": ElasticNet(),
            "entropy": Entropy(),
            "kl": KLDivergence(reference_field="reference_logprobs"),
        }.items()
    ]
    pipeline = RegularizerPipeline(specs, base_loss, track_grad_norms=True)
    batch = a_batch(np.random.default_rng(1))
    ours, base_only = lambda b: evaluate(pipeline, *b), lambda b: evaluate(base_loss, *b)
    for run in (ours, base_only):
        run(batch)
    mine, other, ratio = against(ours, base_only, [batch] * (5 if quick else 30))
    return Row(
        measure="five regularizers with gradient norms",
        ours=mine * 1e3,
        baseline=other * 1e3,
        ratio=ratio,
        unit="ms",
        against="the base loss's gradient",
        target=2.0,
        at_most=True,
        held=ratio <= 2.0,
    )


def on_a_thread(system: ActorSystem, work: Callable[[], T]) -> Coroutine[Any, Any, T]:
    """Run work where a client runs its losses: on threads that give way to the loop's."""
    return system.blocking(work, executor=LOSS_EXECUTOR, niceness=LOSS_NICENESS)


async def lags(work: Callable[[], Any] | None, span: float) -> list[float]:
    """Return how late a 5 ms timer was, in ms, while ``work`` runs in the system's threads, or while nothing does."""
    loop = asyncio.get_running_loop()
    async with ActorSystem() as system:
        job = None if work is None else loop.create_task(on_a_thread(system, work))
        late, end = [], loop.time() + span
        while loop.time() < end if job is None else not job.done():
            began = loop.time()
            await asyncio.sleep(TICK)
            late.append((loop.time() - began - TICK) * 1e3)
        if job is not None:
            await job
    return sorted(late)


def loop_rows(quick: bool) -> list[Row]:
    """The event loop's lag while a jitted loss of some seconds runs, beside an idle one."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
        return fresh.submit(watched, 1.0 if quick else LOOP_SECONDS).result()


def watched(span: float) -> list[Row]:
    """Watch the loop of a process in which, as in a client's, nothing but losses has used JAX.

    XLA's own threads have the priority of the one that used JAX first.
    """
    data, rows = a_batch(np.random.default_rng(2), 64)

    def heavy(inputs: Any, logprobs: Any, mask: Any) -> tuple[Any, dict[str, Any]]:
        def again(_: int, x: Any) -> Any:
            return jnp.tanh(x) - 0.01 * x

        return (jax.lax.fori_loop(0, turns, again, logprobs) * mask).sum(), {}

    turns = 50

    def compiled() -> BatchLoss:
        nonlocal turns
        evaluate(BatchLoss(heavy), data, rows)
        turns = max(1, int(turns * span / seconds(lambda b: evaluate(BatchLoss(heavy), *b), (data, rows))))
        evaluate(loss := BatchLoss(heavy), data, rows)
        return loss

    async def first() -> BatchLoss:
        async with ActorSystem() as system:
            return await on_a_thread(system, compiled)

    loss = asyncio.run(first())
    idle = asyncio.run(lags(None, span))
    busy = asyncio.run(lags(lambda: evaluate(loss, data, rows), span))

    def p99(values: list[float]) -> float:
        return values[len(values) * 99 // 100]

    return [
        Row(measure="loop lag p99, idle", ours=p99(idle), unit="ms"),
        Row(
            measure=f"loop lag p99 under a {span:.0f} s loss", ours=p99(busy), unit="ms", target=20, held=p99(busy) < 20
        ),
    ]


def run(quick: bool = False) -> list[Row]:
    """Measure and return the table."""
    return [*dpo_rows(quick), pipeline_row(quick), *loop_rows(quick)]


if __name__ == "__main__":
    main("custom losses", run)
