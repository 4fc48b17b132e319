"""create_custom_loss and regularized losses, end to end on the engine."""

from __future__ import annotations

import asyncio
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tinkex_actors import Datum, LossHandle, ModelInput, ServiceClient, compute_regularized
from tinkex_actors.errors import InputError, LossError
from tinkex_actors.events import (
    CustomLossFailed,
    CustomLossStarted,
    CustomLossStopped,
    RegularizerFailed,
    RegularizerStarted,
    RegularizerStopped,
)
from tinkex_actors.losses import L1, BatchLoss, KLDivergence, RegularizerPipeline, RegularizerSpec
from tinkex_actors.runtime import ActorSystem

pytestmark = pytest.mark.slow

X = -np.array([0.5, 1.2, 0.8, 2.1, 0.3, 1.5, 0.9, 1.8, 0.6, 1.1], np.float32)


def data(count: int = 3) -> list[Datum]:
    rng = np.random.default_rng(0)
    made = []
    for length in range(4, 4 + count):
        tokens = rng.integers(1, 200, length + 1)
        inputs = {
            "target_tokens": tokens[1:].astype(np.int64),
            "weights": rng.uniform(0, 1, length).astype(np.float32),
            "reference_logprobs": rng.uniform(-3, 0, length).astype(np.float32),
        }
        made.append(Datum(ModelInput.from_ints(tokens[:-1].tolist()), inputs))
    return made


def squared(logprobs: Any, weights: Any) -> Any:
    return (logprobs**2 * weights).sum(), {"custom/nll:mean": -logprobs.mean(), "custom/low:sum": (logprobs < -3).sum()}


def squared_list(batch: Any, logprobs: Any) -> Any:
    rows = [(row**2 * datum.loss_fn_inputs["weights"].to_numpy()).sum() for datum, row in zip(batch, logprobs)]  # noqa: B905
    return sum(rows), {}


def running(logprobs: Any, weights: Any) -> Any:
    last, _ = jax.lax.scan(lambda total, lp: (0.9 * total + lp, None), 0.0, logprobs)
    return last + 0 * weights.sum(), {"custom/nll:mean": -logprobs.mean()}


async def test_the_server_runs_what_can_be_traced_and_the_client_the_rest() -> None:
    async with ServiceClient(base_url="local://tiny") as service:
        training = await service.create_lora_training_client("tiny", rank=4, seed=1)
        handle = await service.create_custom_loss(squared, {"logprobs": 1, "weights": 1})
        assert isinstance(handle, LossHandle)
        assert (handle.loss_id, handle.why) == (f"{service.session_id}:loss:0", "")
        uploaded = await training.forward_backward_custom(data(), handle)
        here = await training.forward_backward_custom(data(), squared_list)
        assert uploaded.metrics["loss:sum"] == pytest.approx(here.metrics["loss:sum"], rel=1e-4)
        assert "surrogate_loss:sum" in here.metrics
        assert "surrogate_loss:sum" not in uploaded.metrics
        assert uploaded.metrics["custom/nll:mean"] > 0

        other = await service.create_custom_loss(running, {"logprobs": 1, "weights": 1})
        assert other.loss_id is None
        assert "scan" in other.why
        run_here = await training.forward_backward_custom(data(), other)
        assert run_here.metrics["custom/nll:mean"] == pytest.approx(uploaded.metrics["custom/nll:mean"], rel=1e-4)
        with pytest.raises(InputError, match="is the same loss as squared"):
            await service.create_custom_loss(squared, {"logprobs": 1, "weights": 1})
        with pytest.raises(InputError, match=r"datum 0: loss_fn_inputs\['weights'\] is missing"):
            await training.forward_backward_custom(
                [Datum(one.model_input, {"target_tokens": one.loss_fn_inputs["target_tokens"]}) for one in data()],
                handle,
            )
        with pytest.raises(InputError, match="expected logprobs first"):
            await service.create_custom_loss(lambda x: (x, {}), {"x": 1})


async def test_a_pipeline_trains_and_tells_every_share() -> None:
    def nll(inputs: Any, logprobs: Any, mask: Any) -> Any:
        return -(logprobs * mask).sum(), {}

    pipeline = RegularizerPipeline(
        [
            RegularizerSpec(L1(), lambda step: 0.1 * step, "l1"),
            RegularizerSpec(KLDivergence(reference_field="reference_logprobs"), 0.5, "kl"),
        ],
        BatchLoss(nll),
        track_grad_norms=True,
    )
    async with ServiceClient(base_url="local://tiny") as service:
        training = await service.create_lora_training_client("tiny", rank=4, seed=1)
        heard: list[Any] = []
        service.system.events.subscribe(
            heard.append, CustomLossStarted, CustomLossStopped, RegularizerStarted, RegularizerStopped
        )
        out = await training.forward_backward_custom(data(), pipeline.at(2))
        told = out.metrics
        assert [type(event).__name__[-7:] for event in heard] == ["Started"] * 3 + ["Stopped"] * 3
        kl, whole = heard[-2:]
        assert (kl.regularizer_name, kl.weight, kl.value) == ("kl", 0.5, told["kl/value:mean"])
        assert kl.grad_norm == told["kl/grad_norm:mean"]
        assert (whole.loss_total, whole.regularizer_total) == (told["loss:sum"], told["regularizer_total:mean"])
        assert told["l1/weight:mean"] == pytest.approx(0.2)
        assert told["loss:sum"] == pytest.approx(
            told["base_loss:mean"] + 0.2 * told["l1/value:mean"] + 0.5 * told["kl/value:mean"], rel=1e-5
        )
        assert told["l1/value:mean"] == pytest.approx(told["base_loss:mean"], rel=1e-5)
        assert told["base_grad_norm:mean"] == pytest.approx(np.sqrt(4 + 5 + 6), rel=1e-5)

        async def fetched(batch: Any, logprobs: Any) -> Any:
            await asyncio.sleep(0)
            return lambda batch, logprobs: (sum(jnp.abs(row).sum() for row in logprobs), {})

        waiting = RegularizerPipeline([RegularizerSpec(fetched, 0.2, "l1", is_async=True)], BatchLoss(nll))
        again = await training.forward_backward_custom(data(), waiting)
        assert again.metrics["loss:sum"] == pytest.approx(1.2 * again.metrics["base_loss:mean"], rel=1e-5)


async def mean_abs(_: Any, logprobs: Any) -> Any:
    return jnp.abs(logprobs[0]).mean(), {}


def base(_: Any, logprobs: Any) -> Any:
    return -logprobs[0].mean(), {}


async def test_asynchronous_terms_and_events_in_their_order() -> None:
    told: list[Any] = []
    async with ActorSystem(name="t", seed=0) as system:
        system.events.subscribe(
            told.append, CustomLossStarted, CustomLossStopped, RegularizerStarted, RegularizerStopped
        )
        specs = [RegularizerSpec(mean_abs, 0.02, "fetched", is_async=True), RegularizerSpec(L1(), 0.01, "l1")]
        for parallel in (True, False):
            pipeline = RegularizerPipeline(specs, base, track_grad_norms=True, parallel=parallel)
            output = await compute_regularized(system, pipeline, [], [X])
            assert output.loss_total == pytest.approx(1.08 + 0.0216 + 0.108, abs=1e-5)
            assert output.regularizers["fetched"].grad_norm is None
            assert output.regularizers["l1"].grad_norm == pytest.approx(3.1623, abs=1e-4)
            assert output.total_grad_norm == pytest.approx(0.3162 + 0.0316, abs=1e-4)
    kinds = [CustomLossStarted, RegularizerStarted, RegularizerStarted, RegularizerStopped, RegularizerStopped]
    assert [type(event) for event in told] == [*kinds, CustomLossStopped] * 2
    fetched, l1, whole = told[-3:]
    assert (fetched.regularizer_name, fetched.is_async, fetched.grad_norm) == ("fetched", True, None)
    assert (l1.contribution, l1.grad_norm) == pytest.approx((0.108, 3.1623), abs=1e-4)
    assert (whole.regularizer_count, whole.regularizer_total) == (2, pytest.approx(0.1296, abs=1e-5))


async def test_terms_one_after_another_are_told_as_each_ends() -> None:
    told: list[Any] = []
    async with ActorSystem(name="t", seed=0) as system:
        system.events.subscribe(told.append, RegularizerStarted, RegularizerStopped)
        specs = [RegularizerSpec(mean_abs, 0.02, "fetched", is_async=True), RegularizerSpec(L1(), 0.01, "l1")]
        await compute_regularized(system, RegularizerPipeline(specs, base, parallel=False), [], [X])
    assert [type(event) for event in told] == [RegularizerStarted, RegularizerStopped] * 2
    assert [event.grad_norm for event in told[1::2]] == [None, None]


async def test_a_term_that_fails_or_waits_too_long_is_named_and_told() -> None:
    async def never(_: Any, logprobs: Any) -> Any:
        await asyncio.get_running_loop().create_future()

    async def broken(_: Any, logprobs: Any) -> Any:
        raise ValueError("no such table")

    told: list[Any] = []
    async with ActorSystem(name="t", seed=0) as system:
        system.events.subscribe(told.append, CustomLossFailed, RegularizerFailed)
        for fn, says in ((never, "'term' took longer than 0.01 s"), (broken, "'term' failed: ValueError: no such")):
            pipeline = RegularizerPipeline([RegularizerSpec(fn, 1.0, "term", is_async=True)], base, timeout=0.01)
            with pytest.raises(LossError, match=says):
                await compute_regularized(system, pipeline, [], [X])
        with pytest.raises(LossError, match="regularizers that are awaited: term"):
            pipeline.compute([], [X])
    assert [type(event) for event in told] == [RegularizerFailed, CustomLossFailed] * 2
    assert "no such table" in told[-1].reason
