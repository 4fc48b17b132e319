"""Is a loss's gradient the one it should have? Compared with finite differences, and told in words."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from tinkex_actors.errors import LossError
from tinkex_actors.losses.batch_loss import BatchLoss, view_of
from tinkex_actors.losses.evaluation.evaluate import Differentiable, run_loss
from tinkex_actors.losses.evaluation.listed import ListLoss, loss_name
from tinkex_actors.losses.evaluation.result import Evaluation
from tinkex_actors.losses.evaluation.verdicts import check_logprobs
from tinkex_actors.types import Datum

__all__ = ["CheckReport", "check"]

Rows = list[npt.NDArray[Any]]

_STEP = 1e-6
_SHOWN = 5


class CheckReport(NamedTuple):
    """What ``check`` found; ``str()`` is for people.

    Args:
        loss: the loss's name.
        tokens: how many tokens' gradients were compared, one by one.
        problems: what is wrong, a sentence each; empty where nothing is.
        notes: what may be meant, such as a kink.
    """

    loss: str
    tokens: int
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def __str__(self) -> str:
        head = "the gradient agrees with finite differences" if self.ok else f"{len(self.problems)} problem(s)"
        lines = [f"{self.loss}: {head} ({self.tokens} tokens compared)"]
        return "\n".join([*lines, *(f"  - {text}" for text in self.problems), *(f"  note: {t}" for t in self.notes)])


def check(
    loss: ListLoss | Differentiable,
    data: Sequence[Datum],
    logprobs: Sequence[Any] | None = None,
    *,
    tolerance: float = 1e-5,
    tokens: int = 32,
    seed: int = 0,
    quiet: bool = False,
) -> CheckReport:
    """Compare a loss's gradient with finite differences, in 64 bits, and say what is wrong.

    Looked for: a loss that raises, is no scalar, not finite or has no gradient; a token whose gradient is not the rate
    at which the loss changes with its logprob (``stop_gradient``, a number taken out with ``item()``, a wrong
    ``custom_vjp``); a kink there; 32 bits that are not enough; and a ``BatchLoss`` that reads padding. A loss that cuts
    its gradient on purpose, as ``cispo`` and ``gspo`` do, is told to differ: it does.

    Args:
        loss: as for ``forward_backward_custom``.
        data: a few examples, small ones.
        logprobs: where to look; drawn at random where None, between -0.05 and -4.
        tolerance: how far gradient and difference may be apart, as a share of the largest gradient.
        tokens: how many tokens are looked at one by one: those of the largest gradients, and others at random.
        seed: of what is drawn.
        quiet: do not print the report.

    Returns:
        The report, which is printed too.

    Raises:
        LossError: data or logprobs that no loss could be computed from.
    """
    rng = np.random.default_rng(seed)
    if logprobs is None:
        shapes = [tuple(datum.loss_fn_inputs["target_tokens"].shape) for datum in data if _has_targets(datum)]
        logprobs = [-rng.uniform(0.05, 4.0, shape) for shape in shapes]
    rows = [np.asarray(row, np.float64) for row in logprobs]
    check_logprobs(data, rows)
    with jax.enable_x64(True):
        report = _Check(loss, data, rows, tolerance, rng).run(tokens)
    if not quiet:
        sys.stdout.write(f"{report}\n")
    return report


class _Check:
    def __init__(self, loss: Any, data: Sequence[Datum], rows: Rows, tolerance: float, rng: Any) -> None:
        self._loss = loss
        self._data = data
        self._rows = rows
        self._tolerance = tolerance
        self._rng = rng
        self._problems: list[str] = []
        self._notes: list[str] = []

    def run(self, tokens: int) -> CheckReport:
        name = loss_name(self._loss)
        try:
            found = run_loss(self._loss, self._data, self._rows)
        except Exception as error:
            text = str(error) if isinstance(error, LossError) else f"it raised {type(error).__name__}: {error}"
            return CheckReport(name, 0, (text,))
        places = self._places(found, tokens)
        scale = max((float(np.abs(row).max()) for row in found.gradients if row.size), default=0.0)
        compared = [self._compare(found, place, scale) for place in places]
        wrong = [text for text in compared if text is not None]
        self._problems += wrong[:_SHOWN]
        if len(wrong) > _SHOWN:
            self._problems.append(f"and {len(wrong) - _SHOWN} more tokens")
        self._look_at_precision(found)
        if isinstance(self._loss, BatchLoss):
            self._look_at_padding(self._loss, found)
        return CheckReport(name, len(places), tuple(self._problems), tuple(self._notes))

    def _places(self, found: Evaluation, count: int) -> list[tuple[int, int]]:
        """The tokens to look at, as datum and place in its flat row."""
        every = [(index, place) for index, row in enumerate(found.gradients) for place in range(row.size)]
        sizes = np.array([abs(float(found.gradients[index].flat[place])) for index, place in every])
        largest = np.argsort(-sizes, kind="stable")[: count // 2]
        rest = np.setdiff1d(np.arange(len(every)), largest)
        others = self._rng.permutation(rest)[: count - len(largest)]
        return [every[int(at)] for at in np.sort(np.concatenate([largest, others]).astype(int))]

    def _compare(self, found: Evaluation, place: tuple[int, int], scale: float) -> str | None:
        index, at = place
        up, down = self._moved(place, _STEP), self._moved(place, -_STEP)
        rate = (up - down) / (2 * _STEP)
        gradient = float(found.gradients[index].flat[at])
        # What rounding leaves of a difference of two nearly equal numbers.
        noise = 1e-15 * max(abs(found.loss), 1.0) / _STEP
        allowed = self._tolerance * max(scale, abs(rate)) + 10 * noise
        if abs(rate - gradient) <= allowed:
            return None
        left, right = (found.loss - down) / _STEP, (up - found.loss) / _STEP
        where = f"datum {index}, token {np.unravel_index(at, self._rows[index].shape)[0]}"
        if abs(left - right) > allowed and min(left, right) - allowed <= gradient <= max(left, right) + allowed:
            self._notes.append(f"{where}: the loss has a kink here, with slopes {left:.6g} and {right:.6g}")
            return None
        text = (
            f"{where}: the gradient is {gradient:.6g}, but the loss changes by {rate:.6g} for each unit of its logprob"
        )
        if gradient == 0:
            text += "; stop_gradient, item() or numpy.asarray cuts the gradient off on the way"
        return text

    def _moved(self, place: tuple[int, int], step: float) -> float:
        index, at = place
        rows = list(self._rows)
        rows[index] = rows[index].copy()
        rows[index].flat[at] += step
        return run_loss(self._loss, self._data, rows).loss

    def _look_at_precision(self, found: Evaluation) -> None:
        with jax.enable_x64(False):
            short = run_loss(self._loss, self._data, [row.astype(np.float32) for row in self._rows])
        gap = abs(short.loss - found.loss) / max(abs(found.loss), 1e-12)
        if gap > 1e-3 and abs(short.loss - found.loss) > 1e-6:
            self._notes.append(
                f"in 32 bits the loss is {short.loss:.6g}, in 64 bits {found.loss:.6g}: large numbers cancel somewhere"
            )

    def _look_at_padding(self, loss: BatchLoss, found: Evaluation) -> None:
        packed = loss.pack(self._data, [row.shape for row in self._rows])
        layout = packed.layout
        flat = layout.flat(self._rows, np.float64)
        view = view_of(jnp.asarray(flat), packed.flat, packed.padded, layout.place, layout.length)

        def grown(array: jax.Array) -> jax.Array:
            widths = [(0, layout.rows)] + [(0, layout.length if axis == 1 else 0) for axis in range(1, array.ndim)]
            return jnp.pad(array, widths)

        at, inputs, mask = jax.tree.map(grown, view)
        value, _ = loss.fn(inputs, at, mask)
        if abs(float(value) - found.loss) > 1e-6 * max(abs(found.loss), 1.0):
            self._problems.append(
                f"it reads padding: with twice the padding the loss is {float(value):.6g} instead of {found.loss:.6g}. "
                "Multiply with the mask before summing, and divide by its sum instead of the array's size"
            )


def _has_targets(datum: Datum) -> bool:
    return "target_tokens" in datum.loss_fn_inputs
