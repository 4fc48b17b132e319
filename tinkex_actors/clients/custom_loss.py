"""A loss of the user's own between two requests: forward, the loss here, backward (protocol 6.7)."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tinkex_actors.actors.sequencer import SequencerDesk
from tinkex_actors.clients.custom_loss_handle import LossHandle
from tinkex_actors.clients.regularizers import LOSS_EXECUTOR, LOSS_NICENESS, told, with_results
from tinkex_actors.errors import ConfigError, InputError, LossError, RemoteWireError, TinkexError
from tinkex_actors.machines.chunking import estimate_bytes
from tinkex_actors.machines.combining import combine
from tinkex_actors.types import Datum, ForwardBackwardOutput, TensorData
from tinkex_actors.wire.routes import ROUTES

if TYPE_CHECKING:
    from tinkex_actors.actors.futures import ApiFuture
    from tinkex_actors.actors.sequencer import Chunk, Reservation
    from tinkex_actors.clients.backbone import Backbone
    from tinkex_actors.clients.training import TrainingClient
    from tinkex_actors.losses import Differentiable, Evaluation

__all__ = ["CustomLoss", "forward_backward_custom"]

CustomLoss: TypeAlias = "Callable[[Sequence[Any], Sequence[Any]], tuple[Any, Any]] | Differentiable"

_OPERATION = "forward_backward_custom"


def forward_backward_custom(
    client: TrainingClient, data: Iterable[Datum], loss_fn: CustomLoss, loss_type_input: str | None = None
) -> ApiFuture[ForwardBackwardOutput]:
    """Begin both passes; see ``TrainingClient.forward_backward_custom``."""
    core = client._use()
    batch = _checked(data, loss_fn, loss_type_input)
    if isinstance(loss_fn, LossHandle):
        loss_fn.check(batch, core.session.session_id)
        if loss_fn.loss_id is not None:
            return client.forward_backward(batch, "custom", {"loss_id": loss_fn.loss_id})
    forward_data = [_linear(datum, None) for datum in batch]
    sizes = list(map(estimate_bytes, forward_data))
    parts = client._parts(sizes)
    chunks = client._chunks("forward", forward_data, sizes, parts, "cross_entropy", None, forward_only=True)
    desk: SequencerDesk = client._desk
    forward = desk.submit(f"{_OPERATION}: forward pass", ROUTES["forward"], chunks, combine)
    backward = desk.reserve(_OPERATION, ROUTES["forward_backward"], len(parts))

    def requests(gradients: Sequence[Any]) -> list[Chunk]:
        linear = [_linear(datum, gradient) for datum, gradient in zip(batch, gradients, strict=True)]
        sizes = list(map(estimate_bytes, linear))
        return client._chunks("forward_backward", linear, sizes, parts, "cross_entropy", None, forward_only=False)

    return _Passage(core, batch, loss_fn, forward, backward, requests).begin(client.model_id)


class _Passage:
    """One custom loss on its way; its errand may be begun again, and computes the loss once."""

    def __init__(
        self,
        core: Backbone,
        batch: list[Datum],
        loss_fn: CustomLoss,
        forward: ApiFuture[ForwardBackwardOutput],
        backward: Reservation,
        requests: Callable[[Sequence[Any]], list[Chunk]],
    ) -> None:
        self._core = core
        self._batch = batch
        self._loss_fn = loss_fn
        self._forward = forward
        self._backward = backward
        self._requests = requests
        self._stop = threading.Event()
        self._supplied = False

    def begin(self, model_id: str) -> ApiFuture[ForwardBackwardOutput]:
        """Start the errand; the reservation's future is the user's."""
        future: ApiFuture[ForwardBackwardOutput] = self._backward.future
        future.waits_for(lambda: f"its forward pass: {self._forward.record().state}")
        errand = self._core.courier.send(f"{_OPERATION}: loss", self._run, model_id=model_id)

        def ended(_: object) -> None:
            # However it ended, cancelled or with the service, nobody needs the rest.
            self._stop.set()
            self._forward.cancel()
            errand.cancel()

        future.add_done_callback(ended)
        return future

    async def _run(self, errand: ApiFuture[Any]) -> None:
        errand.waits_for("the forward pass, the loss and the backward pass")
        try:
            logprobs = _logprobs(await self._forward, len(self._batch))
            if not self._supplied:
                self._supply(await told(self._core.system, self._loss_fn, self._evaluate(logprobs)))
        except Exception as error:
            # The errand has done its work; it is the user's future that fails.
            self._backward.abandon(error)

    async def _evaluate(self, logprobs: list[Any]) -> Evaluation:
        config = self._core.config
        name = _name(self._loss_fn)
        if getattr(self._loss_fn, "asynchronous", ()):
            self._backward.future.waits_for(f"the asynchronous regularizers of {name}")
            self._loss_fn = await with_results(self._loss_fn, self._batch, logprobs)
        since = self._core.loop.time()
        self._backward.future.waits_for(lambda: f"computing loss {name} for {self._core.loop.time() - since:.1f} s")

        def compute() -> Evaluation:
            # The one way to the losses, and so to JAX: not before a loss is there to be computed, nor on the loop.
            from tinkex_actors.losses import evaluate

            return evaluate(
                self._loss_fn,
                self._batch,
                logprobs,
                device=config.loss_device,
                float64=config.loss_float64,
                should_stop=self._stop.is_set,
            )

        compute.__qualname__ = f"loss {name}"
        try:
            return await self._core.system.blocking(
                compute, executor=LOSS_EXECUTOR, workers=config.loss_workers, niceness=LOSS_NICENESS
            )
        except TinkexError:
            raise
        except Exception as error:
            raise LossError(
                f"{_OPERATION}: {name} raised {type(error).__name__}: {error}. Nothing was added to the gradient; "
                "try it alone with tinkex_actors.losses.check(loss, data)."
            ) from error

    def _supply(self, evaluation: Evaluation) -> None:
        def finish(outputs: list[ForwardBackwardOutput]) -> ForwardBackwardOutput:
            return _merged(combine(outputs), evaluation)

        chunks = self._requests(evaluation.gradients)
        self._supplied = True
        self._backward.supply(chunks, finish)


def _checked(data: Iterable[Datum], loss_fn: CustomLoss, loss_type_input: str | None) -> list[Datum]:
    from tinkex_actors.clients.training import checked_batch

    if loss_type_input is not None:
        if loss_type_input != "logprobs":
            raise InputError(f"{_OPERATION}: loss_type_input is 'logprobs' or None, got {loss_type_input!r}.")
        warnings.warn("loss_type_input is deprecated, and does nothing: leave it out", DeprecationWarning, stacklevel=4)
    if not callable(loss_fn):
        raise InputError(
            f"{_OPERATION}: expected a loss, a function of (data, logprobs), got {type(loss_fn).__name__}. For a loss "
            "of the server's own, by name, call forward_backward."
        )
    batch = checked_batch(_OPERATION, data, "cross_entropy")
    if find_spec("jax") is None:
        raise ConfigError(
            f"{_OPERATION} computes losses with JAX, which is not installed. Run: pip install 'tinkex-actors[jax]'"
        )
    return batch


def _name(loss_fn: object) -> str:
    own = getattr(loss_fn, "__name__", None) or getattr(loss_fn, "name", None)
    return own if isinstance(own, str) else type(loss_fn).__name__


def _linear(datum: Datum, gradient: Any | None) -> Datum:
    """Return a datum for ``cross_entropy``, whose loss is linear in the logprobs (protocol 6.7).

    Args:
        datum: the user's.
        gradient: d loss / d logprobs, float32 in the targets' shape; None before it is known, for the forward pass.
    """
    targets = datum.loss_fn_inputs["target_tokens"]
    weights: TensorData | None = datum.loss_fn_inputs.get("weights")
    if gradient is not None:
        weights = TensorData.from_numpy(-np.asarray(gradient, np.float32))
    elif weights is None or weights.shape != targets.shape:
        weights = TensorData.from_numpy(np.zeros(targets.shape, np.float32))
    return Datum(
        datum.model_input,
        {"target_tokens": targets, "weights": weights},
        datum.model_input_spans,
        datum.loss_fn_input_spans,
    )


def _logprobs(output: ForwardBackwardOutput, count: int) -> list[Any]:
    rows = [row.get("logprobs") for row in output.loss_fn_outputs]
    if len(rows) != count or any(row is None for row in rows):
        raise RemoteWireError(
            f"{_OPERATION}: the forward pass of {count} data gave {len(rows)} outputs, of which "
            f"{sum(row is not None for row in rows)} have logprobs; expected logprobs for each datum."
        )
    return [row.to_numpy() for row in rows if row is not None]


def _merged(output: ForwardBackwardOutput, evaluation: Evaluation) -> ForwardBackwardOutput:
    metrics = dict(output.metrics)
    surrogate = metrics.pop("loss:sum", None)
    if surrogate is None:
        raise RemoteWireError(
            f"{_OPERATION}: the server's backward pass told no 'loss:sum', only "
            f"{', '.join(sorted(metrics)) or 'nothing'}."
        )
    metrics.update(evaluation.metrics)
    metrics["loss:sum"] = evaluation.loss
    metrics["surrogate_loss:sum"] = surrogate
    return ForwardBackwardOutput(output.loss_fn_output_type, output.loss_fn_outputs, metrics)
