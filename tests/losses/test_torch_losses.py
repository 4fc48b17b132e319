"""Losses written for torch run as they are, where torch is installed: their gradient is torch's."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from tinkex_actors import AdamParams, Config, Datum, LossError, ModelInput, NonFiniteLossError, ServiceClient
from tinkex_actors import ShapeMismatchError as Misshapen
from tinkex_actors.losses import TorchLoss, check, dpo, evaluate

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.slow  # torch itself takes seconds to load


def a_batch(*lengths: int) -> tuple[list[Datum], list[Any]]:
    rng = np.random.default_rng(0)
    data = [
        Datum(
            ModelInput.from_ints([1] * length),
            {
                "target_tokens": rng.integers(0, 99, length),
                "weights": (np.arange(length) > 0).astype(np.float32),
                "reference_logprobs": -rng.uniform(0.1, 3.0, length).astype(np.float32),
            },
        )
        for length in lengths
    ]
    return data, [-rng.uniform(0.1, 3.0, length).astype(np.float32) for length in lengths]


def torch_dpo(data: Any, logprobs: Any, beta: float = 0.3) -> Any:
    """As people write it for the official client: per datum, with plain metric names and numbers."""
    h = []
    for datum, row in zip(data, logprobs, strict=True):
        reference = torch.tensor(datum.loss_fn_inputs["reference_logprobs"].data)
        weights = datum.loss_fn_inputs["weights"].to_torch()
        h.append(((row - reference) * weights).sum())
    margins = beta * (torch.stack(h[::2]) - torch.stack(h[1::2]))
    loss = -torch.nn.functional.logsigmoid(margins).mean()
    return loss, {"accuracy": (margins > 0).float().mean().item(), "margin:mean": margins.mean().detach()}


def test_value_and_gradient_are_those_of_the_same_loss_in_jax() -> None:
    data, rows = a_batch(3, 7, 1, 12)

    found, wanted = evaluate(torch_dpo, data, rows), evaluate(dpo(beta=0.3), data, rows)

    assert found.loss == pytest.approx(wanted.loss, rel=1e-5)
    for row, other in zip(found.gradients, wanted.gradients, strict=True):
        assert (row.shape, row.dtype) == (other.shape, np.float32)
        np.testing.assert_allclose(row, other, rtol=1e-4, atol=1e-7)
    assert found.metrics["margin:mean"] == pytest.approx(wanted.metrics["margin:mean"], rel=1e-5)


def test_metrics_keep_the_names_that_the_official_client_takes() -> None:
    data, rows = a_batch(3, 7)

    assert evaluate(torch_dpo, data, rows).metrics.keys() == {"accuracy", "margin:mean"}


@pytest.mark.parametrize(
    ("metrics", "words"),
    [({3: 1.0}, "metric 3 has no name"), ({"x": "high"}, "metric 'x' is a str"), ([1.0], "list as its metrics")],
)
def test_metrics_that_are_none_are_refused(metrics: Any, words: str) -> None:
    data, rows = a_batch(3)

    with pytest.raises(LossError, match=words):
        evaluate(TorchLoss(lambda data, logprobs: (logprobs[0].sum(), metrics)), data, rows)


def annotated(data: Any, logprobs: list[torch.Tensor]) -> Any:
    return logprobs[0].exp().sum(), {}


def plain(data: Any, logprobs: Any) -> Any:
    return logprobs[0].exp().sum(), {}


def through_a_name(data: Any, logprobs: Any) -> Any:
    return exponential(logprobs[0]).sum(), {}


exponential = torch.exp


class Weighted:
    """A loss as an object."""

    def __init__(self) -> None:
        self.scale = torch.tensor(2.0)

    def __call__(self, data: Any, logprobs: Any) -> Any:
        return self.scale * torch.cat(logprobs).exp().sum() / 2, {}

    def method(self, data: Any, logprobs: Any) -> Any:
        return self.scale * torch.cat(logprobs).exp().sum() / 2, {}


@pytest.mark.parametrize(
    "loss",
    [annotated, TorchLoss(plain), through_a_name, Weighted(), Weighted().method],
    ids=["annotated", "said", "module", "object", "method"],
)
def test_a_torch_loss_is_known_by_its_code_or_by_what_is_said(loss: Any) -> None:
    data, rows = a_batch(5)

    np.testing.assert_allclose(evaluate(loss, data, rows).gradients[0], np.exp(rows[0]), rtol=1e-6)


def test_a_jax_loss_is_not_taken_for_torchs() -> None:
    data, rows = a_batch(5)

    found = evaluate(lambda data, logprobs: (jnp.exp(logprobs[0]).sum(), {}), data, rows)

    np.testing.assert_allclose(found.gradients[0], np.exp(rows[0]), rtol=1e-6)


def test_a_row_that_a_loss_does_not_read_has_a_gradient_of_zero() -> None:
    data, rows = a_batch(3, 2)

    found = evaluate(TorchLoss(lambda data, logprobs: (logprobs[1].sum(), {})), data, rows)

    assert [row.tolist() for row in found.gradients] == [[0.0] * 3, [1.0] * 2]


@pytest.mark.parametrize(
    ("loss", "error", "words"),
    [
        (lambda data, logprobs: (logprobs[0].sum().detach(), {}), LossError, r"no gradient.*\.item\(\) and \.detach"),
        (lambda data, logprobs: (logprobs[0].sum().item(), {}), LossError, "no gradient"),
        (lambda data, logprobs: (logprobs[0], {}), Misshapen, r"loss of shape \[3\]; expected a scalar"),
        (lambda data, logprobs: logprobs[0].sum(), LossError, r"returned a Tensor; expected \(loss, metrics\)"),
        (
            lambda data, logprobs: (torch.log(logprobs[0] - logprobs[0].detach()).sum(), {}),
            NonFiniteLossError,
            "datum 0, token 0: the gradient is inf",
        ),
    ],
    ids=["detached", "item", "vector", "alone", "infinite"],
)
def test_what_is_wrong_is_told_in_the_same_words(loss: Any, error: Any, words: str) -> None:
    data, rows = a_batch(3)

    with pytest.raises(error, match=words):
        evaluate(TorchLoss(loss), data, rows)


def test_a_loss_of_one_number_in_brackets_is_a_scalar_to_torch() -> None:
    """The official client sums the loss before it is told, and ``backward`` takes one number of any shape."""
    data, rows = a_batch(3)

    assert evaluate(TorchLoss(lambda data, logprobs: (logprobs[0].sum().reshape(1), {})), data, rows).loss == (
        pytest.approx(rows[0].sum())
    )


def test_check_looks_at_torch_losses_too() -> None:
    data, _ = a_batch(3, 4)

    def cut(data: Any, logprobs: Any) -> Any:
        return logprobs[0].sum().detach() * torch.cat(logprobs).sum(), {}

    assert check(torch_dpo, data, quiet=True).ok
    report = check(cut, data, quiet=True)
    assert any("datum 0, token 0: the gradient is" in problem for problem in report.problems)


def test_torch_is_not_loaded_by_the_package() -> None:
    import subprocess

    code = "import sys, tinkex_actors.losses as losses; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[ServiceClient]:
    async with ServiceClient(config=Config(base_url="local://tiny", engine_store=tmp_path)) as service:
        yield service


async def test_a_torch_loss_trains(engine: ServiceClient) -> None:
    training = await engine.create_lora_training_client("tiny", rank=4, seed=0)
    data, _ = a_batch(5, 9)
    losses = []
    for _ in range(4):
        step = training.forward_backward_custom(data, torch_dpo)
        update = training.optim_step(AdamParams(learning_rate=1e-2))
        metrics = (await step).metrics
        losses.append(metrics["loss:sum"])
        await update
    assert losses[-1] < losses[0]
    assert metrics["accuracy"] == 1.0
