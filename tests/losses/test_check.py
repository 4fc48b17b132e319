"""``losses.check`` finds what it says it finds, and only that."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tinkex_actors import Datum, ModelInput
from tinkex_actors.losses import BatchLoss, check


def data() -> list[Datum]:
    return [Datum(ModelInput.from_ints([1] * n), {"target_tokens": np.arange(n)}) for n in (3, 5)]


def test_a_right_loss_is_told_to_be_right(capsys: pytest.CaptureFixture[str]) -> None:
    report = check(lambda data, logprobs: (jnp.exp(jnp.concatenate(logprobs)).sum(), {}), data())

    assert report.ok
    assert (
        capsys.readouterr().out
        == "<lambda>: the gradient agrees with finite differences (8 tokens compared)\n".replace(
            "<lambda>", report.loss
        )
    )


def test_a_gradient_that_is_cut_is_found_and_its_token_named() -> None:
    def cut(data: Any, logprobs: Any) -> tuple[Any, dict[str, Any]]:
        return jax.lax.stop_gradient(logprobs[0]).sum() * logprobs[1].sum(), {}

    report = check(cut, data(), quiet=True)

    assert not report.ok
    assert len(report.problems) == 3
    assert report.problems[0].startswith("datum 0, token 0: the gradient is")
    assert "stop_gradient" in report.problems[0]


def test_a_wrong_rule_of_ones_own_is_found() -> None:
    @jax.custom_vjp
    def square(x: Any) -> Any:
        return x * x

    square.defvjp(lambda x: (x * x, x), lambda x, g: (x * g,))  # lacks a factor of 2

    report = check(lambda data, logprobs: (square(logprobs[0]).sum() + logprobs[1].sum(), {}), data(), quiet=True)

    assert [problem[:16] for problem in report.problems] == ["datum 0, token 0", "datum 0, token 1", "datum 0, token 2"]


def test_a_kink_is_a_note() -> None:
    def kinked(data: Any, logprobs: Any) -> tuple[Any, dict[str, Any]]:
        return jnp.abs(logprobs[0] + 1.0).sum() + logprobs[1].sum(), {}

    report = check(kinked, data(), [-np.ones(3), -np.ones(5)], quiet=True)

    assert report.ok
    assert "kink here, with slopes -1 and 1" in report.notes[0]


def test_a_loss_that_reads_padding_is_found() -> None:
    report = check(BatchLoss(lambda inputs, lp, mask: (lp.mean(), {}), name="careless"), data(), quiet=True)

    assert "careless: 1 problem(s)" in str(report)
    assert "it reads padding" in str(report)


def test_a_loss_that_raises_is_told() -> None:
    def broken(data: Any, logprobs: Any) -> tuple[Any, dict[str, Any]]:
        raise KeyError("reference")

    assert check(broken, data(), quiet=True).problems == ("it raised KeyError: 'reference'",)


def test_thirty_two_bits_that_are_not_enough_are_a_note() -> None:
    report = check(lambda data, logprobs: ((logprobs[0] + 1e7).sum() - 3e7, {}), data(), quiet=True)

    assert any("large numbers cancel" in note for note in report.notes)
