"""Forward and backward over a request's examples, adding to an adapter's gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from tinkex_actors.engine.core.architecture import ModelConfig, Weights
from tinkex_actors.engine.core.batching import Example, Microbatch, check_examples, pack, plan, shared_prefix
from tinkex_actors.engine.core.forward import Lora, hidden_states, logits
from tinkex_actors.engine.core.lora import Adapter, LoraPair, LoraSpec, flatten, unflatten
from tinkex_actors.engine.core.model import BaseModel
from tinkex_actors.engine.core.objectives import find_loss, token_losses
from tinkex_actors.errors import ClosedError, NonFiniteLossError

__all__ = ["BatchResult", "forward_backward", "never_stop"]


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What one forward or forward_backward computed.

    Args:
        adapter: the adapter with the gradient added; the given one where no backward pass was asked for.
        loss_sum: the loss, summed over all targets of all examples.
        logprobs: per example, float32 of its targets' shape: the logprob of every target, weighted or not.
        metrics: ``loss:sum`` and ``tokens:sum`` (tokens read), in the ``name:reduction`` form of protocol 6.5.
    """

    adapter: Adapter
    loss_sum: float
    logprobs: list[npt.NDArray[np.float32]]
    metrics: dict[str, float]


def never_stop() -> bool:
    """Say no: the ``should_stop`` of a computation that nobody will interrupt."""
    return False


def forward_backward(
    base: BaseModel,
    adapter: Adapter,
    examples: Sequence[Example],
    loss_fn: str,
    loss_config: Mapping[str, float | str] | None = None,
    *,
    backward: bool = True,
    should_stop: Callable[[], bool] = never_stop,
) -> BatchResult:
    """Compute a loss, every target's logprob and, if asked, the gradient with respect to the adapter.

    The given adapter is never changed: a call that raises leaves no trace. Equal requests give equal bits.

    Args:
        base: the model.
        adapter: the adapter to train.
        examples: the data; checked completely before anything is computed.
        loss_fn: a name of ``objectives.LOSSES``.
        loss_config: the loss's configuration, such as ``clip_low_threshold`` and ``clip_high_threshold``.
        backward: whether to compute the gradient and add it to the adapter's.
        should_stop: asked before each microbatch; true abandons the call.

    Raises:
        InputError: unusable data, loss or configuration; the message names the datum and the value.
        NonFiniteLossError: the loss of a datum is NaN or infinite; the message names the datum.
        ClosedError: ``should_stop`` said so.
    """
    loss = find_loss(loss_fn)
    settings = loss.settings(loss_config or {})
    check_examples(examples, loss, base.config)
    gradient = adapter.gradient
    if gradient is None and backward:
        gradient = jnp.zeros_like(adapter.params)
    losses = np.zeros(len(examples), np.float64)
    logprobs: list[npt.NDArray[np.float32]] = [np.empty(0, np.float32)] * len(examples)
    for indices in plan(examples):
        if should_stop():
            raise ClosedError(
                f"{loss_fn} was abandoned between microbatches because the engine stops; nothing was changed"
            )
        chosen = [examples[index] for index in indices]
        shared = shared_prefix(chosen)
        batch = pack(chosen, settings, shared)
        index = np.int32(loss.index)
        static = (base.config, adapter.spec.shape, shared)
        if backward:
            rows, scores, gradient = _train(base.weights, adapter.params, gradient, batch, index, *static)
        else:
            rows, scores = _score(base.weights, adapter.params, batch, index, *static)
        host_scores = np.asarray(scores)
        losses[indices] = np.asarray(rows)[: len(indices)]
        for row, where in enumerate(indices):
            targets = np.shape(examples[where].inputs["target_tokens"])
            kept = host_scores[row, : targets[0], : targets[1] if len(targets) == 2 else 1]
            logprobs[where] = kept.reshape(targets).copy()
    _check_finite(losses, loss_fn)
    total = float(losses.sum())
    metrics = {"loss:sum": total, "tokens:sum": float(sum(example.tokens.size for example in examples))}
    trained = replace(adapter, gradient=gradient) if backward else adapter
    return BatchResult(trained, total, logprobs, metrics)


def _check_finite(losses: npt.NDArray[np.float64], loss_fn: str) -> None:
    bad = np.flatnonzero(~np.isfinite(losses))
    if bad.size:
        raise NonFiniteLossError(
            f"datum {int(bad[0])}: its {loss_fn} loss is {losses[bad[0]]}, so no gradient was added; check its "
            "logprobs and advantages, or lower the learning rate if the model itself has diverged"
        )


def _batch_losses(
    pairs: dict[str, LoraPair],
    weights: Weights,
    batch: Microbatch,
    index: jax.Array,
    config: ModelConfig,
    spec: LoraSpec,
    shared: int,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    lora = Lora(pairs, spec.scale)
    hidden = hidden_states(weights, lora, batch.tokens, config, shared)
    scores = logits(weights, lora, hidden)
    logprobs = _target_logprobs(scores, batch.targets, shared)
    rows = token_losses(index, logprobs, batch.signals).sum(axis=(1, 2))
    return rows.sum(), (rows, logprobs)


def _target_logprobs(scores: jax.Array, targets: jax.Array, shared: int) -> jax.Array:
    """Return ``[B, T, K]`` of scores that hold the shared positions once: there too each row has targets of its own."""
    rows, length, choices = targets.shape
    normalizer = jax.nn.logsumexp(scores, axis=-1, keepdims=True)

    def look_up(part: slice, wanted: jax.Array) -> jax.Array:
        return jnp.take_along_axis(scores[part], wanted, axis=1) - normalizer[part]

    own = targets[:, shared:].reshape(-1, choices)
    found = look_up(slice(shared, None), own).reshape(rows, length - shared, choices)
    if not shared:
        return found
    across = targets[:, :shared].transpose(1, 0, 2).reshape(shared, rows * choices)
    first = look_up(slice(shared), across).reshape(shared, rows, choices).transpose(1, 0, 2)
    return jnp.concatenate([first, found], axis=1)


@partial(jax.jit, static_argnums=(5, 6, 7))
def _train(
    weights: Weights,
    params: jax.Array,
    gradient: jax.Array,
    batch: Microbatch,
    index: jax.Array,
    config: ModelConfig,
    spec: LoraSpec,
    shared: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    pairs = unflatten(params, config, spec)
    (_, (rows, logprobs)), found = jax.value_and_grad(_batch_losses, has_aux=True)(
        pairs, weights, batch, index, config, spec, shared
    )
    return rows, logprobs, gradient + flatten(found, config, spec)


@partial(jax.jit, static_argnums=(4, 5, 6))
def _score(
    weights: Weights,
    params: jax.Array,
    batch: Microbatch,
    index: jax.Array,
    config: ModelConfig,
    spec: LoraSpec,
    shared: int,
) -> tuple[jax.Array, jax.Array]:
    _, outputs = _batch_losses(unflatten(params, config, spec), weights, batch, index, config, spec, shared)
    return outputs
