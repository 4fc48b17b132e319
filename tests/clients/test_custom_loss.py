"""A loss of one's own between two requests: right numbers, right order, and nothing poisoned when it ends early."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.plugins.counting_server import datum
from tinkex_actors import (
    AdamParams,
    Config,
    Datum,
    InputError,
    LossError,
    ModelInput,
    NonFiniteLossError,
    ServiceClient,
    TrainingClient,
)
from tinkex_actors.losses import BatchLoss, cispo, cross_entropy, dro, gspo, importance_sampling, ppo
from tinkex_actors.testing.model_server import Faults, ModelServer

QUICK = Faults(latency=0.0, compute=0.0)


def nll(data: Any, logprobs: Any) -> tuple[Any, dict[str, Any]]:
    """Cross-entropy, written by hand."""
    weights = [datum.loss_fn_inputs["weights"].to_numpy() for datum in data]
    return -sum((w * row).sum() for w, row in zip(weights, logprobs, strict=True)), {"rows:sum": len(data)}


def an_example(rng: np.random.Generator, length: int) -> Datum:
    tokens = rng.integers(3, 300, length + 1)
    answer = (np.arange(length) >= length // 2).astype(np.float32)
    return Datum(
        ModelInput.from_ints(tokens[:-1].tolist()),
        {
            "target_tokens": tokens[1:],
            "weights": rng.random(length).astype(np.float32) * answer,
            "logprobs": -rng.uniform(4.0, 8.0, length).astype(np.float32),
            "advantages": rng.normal(size=length).astype(np.float32) * answer,
            "sequence_ratio_mask": answer,
        },
    )


def examples() -> list[Datum]:
    rng = np.random.default_rng(0)
    return [an_example(rng, length) for length in (5, 30, 12)]


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[ServiceClient]:
    async with ServiceClient(config=Config(base_url="local://tiny", engine_store=tmp_path)) as service:
        yield service


async def gradient(
    service: ServiceClient, store: Path, loss: Any, name: str
) -> tuple[dict[str, Any], dict[str, float]]:
    """Return the adapter after one step along the gradient, and the metrics. A large eps makes Adam's step linear."""
    training = await service.create_lora_training_client("tiny", rank=4, seed=0)
    data = examples()
    passed = (
        training.forward_backward(data, loss) if isinstance(loss, str) else training.forward_backward_custom(data, loss)
    )
    training.optim_step(AdamParams(learning_rate=1e6, eps=1e6))
    saved = await training.save_state(name)
    assert saved.path
    return tensors_of(store, name), (await passed).metrics


def tensors_of(store: Path, name: str) -> dict[str, Any]:
    files = [path for path in store.rglob("*.safetensors") if name in str(path)]
    return {f"{path.name}:{key}": array for path in files for key, array in load_file(path).items()}


OBJECTIVES = {
    "by-hand": ("cross_entropy", nll),
    "cross_entropy": ("cross_entropy", cross_entropy()),
    "importance_sampling": ("importance_sampling", importance_sampling()),
    "ppo": ("ppo", ppo()),
    "cispo": ("cispo", cispo()),
    "dro": ("dro", dro()),
    "gspo": ("gspo", gspo()),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", OBJECTIVES)
async def test_a_custom_loss_trains_as_the_servers_own(engine: ServiceClient, tmp_path: Path, case: str) -> None:
    served, own = OBJECTIVES[case]

    expected, of_server = await gradient(engine, tmp_path, served, "served")
    found, of_own = await gradient(engine, tmp_path, own, "own-loss")

    assert of_own["loss:sum"] == pytest.approx(of_server["loss:sum"], rel=1e-5, abs=1e-4)
    assert "surrogate_loss:sum" in of_own
    assert found.keys() == expected.keys()
    trained = [key for key, array in expected.items() if array.dtype == np.float32]
    assert any(np.abs(expected[key]).max() > 0 for key in trained)
    for key in trained:
        np.testing.assert_allclose(found[key], expected[key], rtol=1e-3, atol=2e-5 * np.abs(expected[key]).max() + 1e-8)


# --- against a server that counts ------------------------------------------------------------------------------------
@pytest.fixture
def server() -> ModelServer:
    return ModelServer(random.Random(0), QUICK)


@pytest.fixture
async def service(server: ModelServer) -> AsyncIterator[ServiceClient]:
    async with ServiceClient(base_url="http://127.0.0.1:1", transport=server) as service:
        yield service


@pytest.fixture
async def training(service: ServiceClient) -> TrainingClient:
    return await service.create_lora_training_client("m")


def applied(server: ModelServer, training: TrainingClient) -> list[tuple[int, str]]:
    return server.applied[training.model_id]


def total(data: Any, logprobs: Any) -> tuple[Any, dict[str, Any]]:
    return sum(row.sum() for row in logprobs), {"first:max": logprobs[0].max()}


async def test_numbers_are_taken_at_the_call_and_the_metrics_are_merged(
    server: ModelServer, training: TrainingClient
) -> None:
    passed = training.forward_backward_custom([datum(3), datum(2)], total)
    update = training.optim_step(AdamParams())
    after = training.forward([datum()], "cross_entropy")
    result = await passed
    await update
    await after

    assert applied(server, training) == [(1, "forward"), (2, "forward_backward"), (3, "optim_step"), (4, "forward")]
    assert {"first:max", "loss:sum", "surrogate_loss:sum", "seq:max"} <= result.metrics.keys()
    assert len(result.loss_fn_outputs) == 2


async def test_a_large_batch_keeps_its_chunks_in_both_passes(server: ModelServer, training: TrainingClient) -> None:
    loss = BatchLoss(lambda inputs, logprobs, mask: (logprobs.sum(), {}), name="total")
    passed = training.forward_backward_custom([datum(2 + n % 3) for n in range(2500)], loss)
    update = training.optim_step(AdamParams())
    result = await passed
    await update

    routes = ["forward"] * 3 + ["forward_backward"] * 3 + ["optim_step"]
    assert applied(server, training) == list(enumerate(routes, start=1))
    assert [len(output["logprobs"].tolist()) for output in result.loss_fn_outputs] == [2 + n % 3 for n in range(2500)]


async def test_a_loss_that_raises_leaves_no_gap(server: ModelServer, training: TrainingClient) -> None:
    def broken(data: Any, logprobs: Any) -> tuple[Any, dict[str, Any]]:
        raise ZeroDivisionError("no reference")

    failed = training.forward_backward_custom([datum()], broken)
    update = training.optim_step(AdamParams())
    after = training.forward_backward([datum()], "cross_entropy")

    with pytest.raises(LossError, match="broken raised ZeroDivisionError: no reference"):
        await failed
    with pytest.raises(Exception, match="request 2 failed, which its gradient needs"):
        await update
    assert (await after).loss_fn_outputs
    assert (await training.forward_backward_custom([datum()], total)).metrics["surrogate_loss:sum"] >= 0
    assert (await training.optim_step(AdamParams())) is not None
    assert "optim_step" not in [route for _, route in applied(server, training)[:4]]


async def test_a_bad_gradient_is_never_sent(server: ModelServer, training: TrainingClient) -> None:
    with pytest.raises(NonFiniteLossError, match="datum 0, token 0"):
        await training.forward_backward_custom([datum()], lambda data, logprobs: (jnp.log(0 * logprobs[0]).sum(), {}))

    assert "forward_backward" not in [route for _, route in applied(server, training)]


async def test_cancelling_while_the_loss_is_computed_lets_what_follows_go_on(
    server: ModelServer, training: TrainingClient
) -> None:
    loop = asyncio.get_running_loop()
    computing, go_on = asyncio.Event(), threading.Event()

    def slow(data: Any, logprobs: Any) -> tuple[Any, dict[str, Any]]:
        loop.call_soon_threadsafe(computing.set)
        assert go_on.wait(30)
        return total(data, logprobs)

    passed = training.forward_backward_custom([datum()], slow)
    after = training.forward([datum()], "cross_entropy")
    await computing.wait()
    assert "computing loss slow for" in str(passed.explain())
    assert passed.cancel()
    try:
        assert (await after).loss_fn_outputs
    finally:
        go_on.set()

    with pytest.raises(asyncio.CancelledError):
        await passed
    # Number 2 is filled with something harmless, so that number 3 has its turn.
    assert [number for number, _ in applied(server, training)] == [1, 2, 3]
    assert "forward_backward" not in [route for _, route in applied(server, training)]


async def test_cancelling_at_once_gives_all_numbers_back(server: ModelServer, training: TrainingClient) -> None:
    training.forward_backward_custom([datum()], total).cancel()
    await training.forward_backward([datum()], "cross_entropy")

    assert [route for _, route in applied(server, training) if route == "forward_backward"] == ["forward_backward"]
    assert (await training.forward_backward_custom([datum()], total)).metrics


async def test_a_crash_of_the_errand_is_not_noticed(server: ModelServer, training: TrainingClient) -> None:
    loop = asyncio.get_running_loop()
    computing, go_on = asyncio.Event(), threading.Event()

    def slow(data: Any, logprobs: Any) -> tuple[Any, dict[str, Any]]:
        loop.call_soon_threadsafe(computing.set)
        assert go_on.wait(30)
        return total(data, logprobs)

    passed = training.forward_backward_custom([datum()], slow)
    await computing.wait()
    courier = training._core.system.whereis("/service/core/courier")
    assert courier is not None
    courier.kill()
    go_on.set()

    assert (await passed).metrics["surrogate_loss:sum"] is not None
    assert applied(server, training) == [(1, "forward"), (2, "forward_backward")]


async def test_losses_of_two_models_are_computed_at_once(service: ServiceClient, training: TrainingClient) -> None:
    meeting = threading.Barrier(2, timeout=30)

    def meets(data: Any, logprobs: Any) -> tuple[Any, dict[str, Any]]:
        if isinstance(data[0], Datum):  # not while it is traced
            meeting.wait()
        return total(data, logprobs) if logprobs[0].sum() > 0 else total(data, logprobs[:0])

    other = await service.create_lora_training_client("m")
    both = [client.forward_backward_custom([datum()], meets) for client in (training, other)]

    assert [(await future).metrics["first:max"] for future in both] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("data", "loss", "words"),
    [
        ([], total, "no data"),
        ([datum()], "cross_entropy", "expected a loss, a function"),
        ([Datum(ModelInput.from_ints([1]))], total, r"loss_fn_inputs\['target_tokens'\] is missing"),
        (datum(), total, "expected a sequence of Datum"),
    ],
)
async def test_wrong_arguments_take_no_number(
    server: ModelServer, training: TrainingClient, data: Any, loss: Any, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        training.forward_backward_custom(data, loss)

    await training.optim_step(AdamParams())
    assert applied(server, training) == [(1, "optim_step")]


async def test_the_official_argument_that_does_nothing_is_deprecated(training: TrainingClient) -> None:
    with pytest.warns(DeprecationWarning, match="leave it out"):
        await training.forward_backward_custom([datum()], total, "logprobs")
    with pytest.raises(InputError, match="loss_type_input"):
        training.forward_backward_custom([datum()], total, "logits")  # type: ignore[arg-type]
