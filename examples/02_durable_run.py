"""Train so that nothing is lost: kill this program whenever you like, and start it again.

Run it with ``python examples/02_durable_run.py [FOLDER] [STEPS]``, on the engine in this process; no key, no network.
It ends with the same weights and the same history as if nobody had killed it. Look in from outside with
``tinkex-actors run show FOLDER``.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tinkex_actors import AdamParams, Datum, LoraConfig, ModelInput, ServiceClient, TinkexError, TrainingClient
from tinkex_actors.runs import DurableRun, is_interruption

MODEL = "tiny"
TEXTS = ("Ships sail the sea.", "Parrots talk a lot.", "Maps lead to gold.", "Storms come at night.")
PATIENCE = 5.0  # seconds between two attempts


def example(training: TrainingClient, text: str) -> Datum:
    """Learn every token of a text from those before it."""
    tokens = [*training.tokenizer.encode(text), training.tokenizer.eos_id]
    return Datum(ModelInput.from_ints(tokens[:-1]), {"target_tokens": tokens[1:], "weights": [1.0] * (len(tokens) - 1)})


async def train(folder: Path, steps: int) -> None:
    """Do the steps that are not done yet. What a step does follows from its index: so it can be done again."""
    async with (
        ServiceClient(base_url=f"local://{MODEL}") as service,
        DurableRun.open(folder, service, model=MODEL, lora=LoraConfig(rank=8), keep_last=2) as run,
    ):
        print(f"{run.way}: {run.next_index} of {steps} steps are done", flush=True)
        async for step in run.steps(steps, checkpoint_every=10):
            texts = step.rng.sample(TEXTS, 2)  # the same two in every repetition of this step
            output = await step.forward_backward([example(run.training, text) for text in texts], "cross_entropy")
            await step.optim_step(AdamParams(learning_rate=1e-3))
            print(f"step {step.index}  loss {output.metrics['loss:sum']:.3f}", flush=True)
        print(f"{len(run.history())} steps in the history, each once")


async def main(folder: str = "runs/durable", steps: str = "40") -> None:
    """Train, and open the run again as long as it ends by something that passes."""
    while True:
        try:
            return await train(Path(folder), int(steps))
        except TinkexError as error:
            if not is_interruption(error):
                raise
            print(f"interrupted: {error}", flush=True)
            await asyncio.sleep(PATIENCE)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
