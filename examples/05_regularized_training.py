"""Fine-tune with ten regularizers at once, and watch what each adds, step by step. No key, no network.

Writes ``regularized_training.png`` where matplotlib is installed: the loss, and each term's share and gradient norm.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from tinkex_actors import AdamParams, Datum, ModelInput, ServiceClient
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
    linear,
)
from tinkex_actors.runtime import run

PROMPT = "The quick brown fox jumps over the lazy dog."
REFERENCE = "reference_logprobs"


def nll(data: Any, logprobs: Any) -> Any:
    """The base loss: the mean of the negative logprobs."""
    flat = jnp.concatenate(logprobs)
    return -flat.mean(), {"perplexity:mean": jnp.exp(-flat.mean())}


def steadiness(data: Any, logprobs: Any) -> Any:
    """How far each token's logprob is from its left neighbour's: ``Consistency`` with the row, turned by one."""
    turned = [{"original_logprobs": jnp.roll(row, 1, axis=-1)} for row in logprobs]
    return Consistency()(turned, logprobs)


def terms() -> list[RegularizerSpec]:
    """One of each kind; a weight may depend on the step."""

    def kl(**options: Any) -> KLDivergence:
        return KLDivergence(reference_field=REFERENCE, **options)

    return [
        RegularizerSpec(L1(reduction="mean"), linear(0.0, 0.01, 4), "l1"),
        RegularizerSpec(L2(reduction="mean", center="mean"), 0.005, "l2"),
        RegularizerSpec(ElasticNet(reduction="mean", l1_ratio=0.6), 0.002, "elastic_net"),
        RegularizerSpec(Entropy(mode="maximize", temperature=0.5), 0.001, "entropy"),
        RegularizerSpec(kl(), 0.01, "kl_forward"),
        RegularizerSpec(kl(direction="reverse"), 0.01, "kl_reverse"),
        RegularizerSpec(kl(symmetric=True), 0.005, "kl_symmetric"),
        RegularizerSpec(steadiness, 0.02, "consistency"),
        RegularizerSpec(Orthogonality(), 0.003, "orthogonality"),
        RegularizerSpec(GradientPenalty(loss_fn=jnp.sum), 0.001, "gradient_penalty"),
    ]


def a_datum(tokens: list[int]) -> Datum:
    """The prompt, with a reference that finds each of its n tokens equally likely: 1 / n."""
    targets = tokens[1:]
    reference = np.full(len(targets), -np.log(len(targets)), np.float32)
    return Datum(ModelInput.from_ints(tokens[:-1]), {"target_tokens": targets, REFERENCE: reference})


def show(step: int, metrics: dict[str, float]) -> None:
    """Print one step: the total, the base loss, and what each term adds."""
    shares = "  ".join(f"{spec.name} {metrics[f'{spec.name}/contribution:mean']:.4f}" for spec in terms())
    total, norm = metrics["loss:sum"], metrics["total_grad_norm:mean"]
    print(f"step {step}: loss {total:.4f} = {metrics['base_loss:mean']:.4f} + terms, |gradient| {norm:.4f}\n  {shares}")


def plot(history: list[dict[str, float]], path: Path) -> None:
    """Draw the loss, the terms' shares, and their gradients' norms, over the steps."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(14, 4), layout="constrained")
    for name in ("loss:sum", "base_loss:mean"):
        axes[0].plot([metrics[name] for metrics in history], label=name)
    for spec in terms():
        axes[1].plot([metrics[f"{spec.name}/contribution:mean"] for metrics in history], label=spec.name)
        axes[2].plot([metrics[f"{spec.name}/grad_norm:mean"] for metrics in history], label=spec.name)
    for axis, title in zip(axes, ("loss", "weight * value", "|gradient|"), strict=True):
        axis.set_title(title)
        axis.set_xlabel("step")
    axes[0].legend()
    axes[2].legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes[2].set_yscale("symlog", linthresh=1e-2)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


async def main(model: str, steps: int, path: Path) -> None:
    pipeline = RegularizerPipeline(terms(), nll, track_grad_norms=True)
    history = []
    async with ServiceClient(base_url=f"local://{model}") as service:
        training = await service.create_lora_training_client(model, rank=8, seed=0)
        data = [a_datum(training.tokenizer.encode(PROMPT))]
        for step in range(steps):
            passed = training.forward_backward_custom(data, pipeline.at(step))
            update = training.optim_step(AdamParams(learning_rate=3e-3))
            history.append((await passed).metrics)
            await update
            show(step, history[-1])
    try:
        plot(history, path)
    except ImportError:
        print("no plot: matplotlib is not installed")
    else:
        print(f"plotted to {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny", help="tiny, smollm2-135m, or a directory")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--plot", type=Path, default=Path("regularized_training.png"), help="where the picture goes")
    given = parser.parse_args()
    run(main(given.model, given.steps, given.plot))
