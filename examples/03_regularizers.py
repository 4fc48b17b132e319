"""Ten tokens, eleven regularizers: what each adds to a loss, how hard it pulls, and what schedules do. No server.

Writes ``regularizers.png`` where matplotlib is installed: each term's share, gradient norms, and weights over steps.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from tinkex_actors import Datum, ModelInput, compute_regularized
from tinkex_actors.losses import (
    L1,
    L2,
    Consistency,
    ElasticNet,
    Entropy,
    GradientPenalty,
    KLDivergence,
    Orthogonality,
    RegularizerPipeline,
    RegularizerSpec,
    cosine,
    linear,
)
from tinkex_actors.runtime import ActorSystem, run
from tinkex_actors.types import CustomLossOutput

LOGPROBS = -np.array([0.5, 1.2, 0.8, 2.1, 0.3, 1.5, 0.9, 1.8, 0.6, 1.1], np.float32)
REFERENCE = np.log(np.array([0.22, 0.18, 0.12, 0.1, 0.08, 0.07, 0.06, 0.06, 0.06, 0.05], np.float32))
PAIR = -np.array([0.45, 1.05, 0.75, 2.05, 0.25, 1.35, 0.85, 1.65, 0.55, 1.05], np.float32)
DATA = [Datum(ModelInput.from_ints([1]), {"reference_logprobs": REFERENCE, "original_logprobs": PAIR})]


def nll(data: Any, logprobs: Any) -> Any:
    """The base loss: the mean of the negative logprobs."""
    return -jnp.concatenate(logprobs).mean(), {}


def terms() -> list[RegularizerSpec]:
    """One of each kind."""
    field = "reference_logprobs"
    return [
        RegularizerSpec(L1(), 0.01, "l1_sparsity"),
        RegularizerSpec(Entropy(mode="maximize"), 0.001, "entropy"),
        RegularizerSpec(Entropy(mode="maximize", temperature=0.5), 0.001, "entropy_sharp"),
        RegularizerSpec(L2(center="mean"), 0.005, "l2_weight_decay"),
        RegularizerSpec(ElasticNet(l1_ratio=0.6), 0.002, "elastic_net"),
        RegularizerSpec(KLDivergence(reference_field=field), 0.01, "kl_forward"),
        RegularizerSpec(KLDivergence(reference_field=field, direction="reverse"), 0.01, "kl_reverse"),
        RegularizerSpec(KLDivergence(reference_field=field, symmetric=True), 0.01, "kl_symmetric"),
        RegularizerSpec(Consistency(), 0.02, "consistency"),
        RegularizerSpec(Orthogonality(), 0.003, "orthogonality"),
        RegularizerSpec(GradientPenalty(loss_fn=jnp.sum), 0.001, "gradient_penalty"),
    ]


async def fetched(data: Any, logprobs: Any) -> Any:
    """An asynchronous term: awaits what it needs, and returns the part that is differentiated."""
    await asyncio.sleep(0)
    return lambda data, logprobs: (jnp.abs(logprobs[0]).mean(), {})


def show(output: CustomLossOutput) -> None:
    """Print a report, line by line."""
    assert output.base_loss is not None
    print(f"{'term':18}{'weight':>8}{'value':>10}{'adds':>9}{'|grad|':>9}")
    print(f"{'base loss':18}{'':8}{output.base_loss['value']:10.4f}{'':9}{output.base_loss['grad_norm']:9.4f}")
    for part in output.regularizers.values():
        grad_norm = float("nan") if part.grad_norm is None else part.grad_norm
        print(f"{part.name:18}{part.weight:8.3f}{part.value:10.4f}{part.contribution:9.4f}{grad_norm:9.4f}")
    print(f"{'total':18}{'':8}{output.loss_total:10.4f}{output.regularizer_total:9.4f}{output.total_grad_norm:9.4f}")


def plot(output: CustomLossOutput, path: Path) -> None:
    """Draw the shares, the gradient norms, and three schedules."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    parts = list(output.regularizers.values())
    names = [part.name for part in parts]
    figure, axes = pyplot.subplots(1, 3, figsize=(14, 4), layout="constrained")
    axes[0].barh(names, [part.contribution for part in parts])
    axes[0].set_title("weight * value")
    axes[1].barh(names, [part.grad_norm_weighted or 0.0 for part in parts])
    axes[1].set_title("weight * |gradient|")
    axes[1].set_yticklabels([])
    for label, schedule in (("linear", linear(0.0, 0.1, 80)), ("cosine", cosine(0.1, 0.0, 80))):
        axes[2].plot([schedule(step) for step in range(100)], label=label)
    axes[2].set_title("weights over steps")
    axes[2].legend()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


async def main(path: Path) -> None:
    pipeline = RegularizerPipeline(terms(), nll, track_grad_norms=True)
    output = pipeline.compute(DATA, [LOGPROBS])
    show(output)
    async with ActorSystem(name="regularizers") as system:
        again = await compute_regularized(system, pipeline, DATA, [LOGPROBS])
        print(f"in threads, at the same time: {again.loss_total:.4f}")
        waiting = RegularizerPipeline([RegularizerSpec(fetched, 0.02, "fetched", is_async=True)], nll)
        print(
            f"with an asynchronous term: {(await compute_regularized(system, waiting, [], [LOGPROBS])).loss_total:.4f}"
        )
    try:
        plot(output, path)
    except ImportError:
        print("no plot: matplotlib is not installed")
    else:
        print(f"plotted to {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", type=Path, default=Path("regularizers.png"), help="where the picture goes")
    run(main(parser.parse_args().plot))
