"""A program that trains in a durable run, to be killed: ``killed_story.py KIND FOLDER BASE_URL STEPS``.

It says on stdout what it is about to do and has done, a line each, so that whoever kills it can choose the moment.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tinkex_actors import AdamParams, Config, Datum, LoraConfig, ModelInput, SamplingParams, ServiceClient, TinkexError
from tinkex_actors.runs import DurableRun, Step, is_interruption

CHECKPOINT_EVERY = 3


def say(*words: object) -> None:
    print(*words, flush=True)


def example(step: Step, number: int) -> Datum:
    tokens = [step.rng.randrange(400) + number for _ in range(1)] + [
        (7 * step.index + 3 * i + number) % 500 for i in range(12)
    ]
    return Datum(ModelInput.from_ints(tokens[:-1]), {"target_tokens": tokens[1:], "weights": [1.0] * (len(tokens) - 1)})


async def sft(step: Step) -> None:
    # Two passes, whose gradients add up.
    first = step.forward_backward([example(step, 0), example(step, 1)], "cross_entropy")
    say("sent", step.index)
    second = step.forward_backward([example(step, 2), example(step, 3)], "cross_entropy")
    await first
    say("one", step.index)
    await second
    say("two", step.index)


async def rl(step: Step) -> None:
    prompt = [1 + step.index % 5, 2, 3]
    drawing = [
        step.sample(ModelInput.from_ints(prompt), 2, SamplingParams(max_tokens=4, temperature=1.0)) for _ in range(2)
    ]
    say("drawing", step.index)
    drawn = [sequence for answer in [await each for each in drawing] for sequence in answer.sequences]
    say("drawn", step.index, [sequence.tokens for sequence in drawn])
    rewards = [sum(token % 7 for token in sequence.tokens) / 10 for sequence in drawn]
    mean = sum(rewards) / len(rewards)
    data = []
    for sequence, reward in zip(drawn, rewards, strict=True):
        tokens = [*prompt, *sequence.tokens]
        skipped = len(prompt) - 1
        data.append(
            Datum(
                ModelInput.from_ints(tokens[:-1]),
                {
                    "target_tokens": tokens[1:],
                    "logprobs": [0.0] * skipped + list(sequence.logprobs or []),
                    "advantages": [0.0] * skipped + [reward - mean] * len(sequence.tokens),
                },
            )
        )
    await step.forward_backward(data, "importance_sampling")
    say("one", step.index)


async def train(kind: str, folder: Path, base_url: str, total: int) -> None:
    lora = LoraConfig(rank=4, seed=5)
    body = {"sft": sft, "rl": rl}[kind]
    config = Config(base_url=base_url, engine_store=folder / "store", api_key=None)
    async with (
        ServiceClient(config=config) as service,
        DurableRun.open(folder / "run", service, model="tiny", lora=lora, keep_last=2) as run,
    ):
        say("open", run.way, run.next_index)
        async for step in run.steps(total, checkpoint_every=CHECKPOINT_EVERY):
            step.cursor = {"seen": (step.cursor or {"seen": 0})["seen"] + 3}
            await body(step)
            update = step.optim_step(AdamParams(learning_rate=1e-3 * (1 + step.index)))
            say("updating", step.index)
            await update
            say("committed", step.index)
        say("closing")
    say("finished")


async def main(kind: str, folder: str, base_url: str, total: str) -> None:
    while True:
        try:
            await train(kind, Path(folder), base_url, int(total))
        except TinkexError as error:
            say("interrupted", type(error).__name__)
            if not is_interruption(error):
                raise
            await asyncio.sleep(0.1)
        else:
            return


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
