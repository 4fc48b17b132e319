"""Teach a small language model one unmistakable voice, on this machine: no key, no network, no GPU.

Run it with ``python examples/01_first_fine_tune.py``, or ``make demo`` for the same with a live view.
The weights must be here: ``tinkex-actors models pull smollm2-135m`` (``make demo`` does that for you).
"""

from __future__ import annotations

import asyncio
import json
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tinkex_actors import AdamParams, Datum, ModelInput, SamplingParams, ServiceClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from tinkex_actors import ApiFuture, ForwardBackwardOutput, OptimStepResponse, SamplingClient, TrainingClient

MODEL = "smollm2-135m"
DATA = Path(__file__).parent / "data" / "pirate.jsonl"
STEPS, BATCH, LEARNING_RATE = 20, 8, 5e-4
UNSEEN = ("What is the capital of France?", "What is the ocean?", "Who is your best friend?")


class Progress(NamedTuple):
    """Where the training stands after a step: the mean loss per trained token, and what it took so far."""

    step: int
    steps: int
    loss: float
    tokens: int
    seconds: float


class Submitted(NamedTuple):
    """One step's two operations, on their way."""

    trained_tokens: float
    tokens: int
    gradients: ApiFuture[ForwardBackwardOutput]
    update: ApiFuture[OptimStepResponse]


def chat(training: TrainingClient, question: str) -> list[int]:
    """The tokens of a question in the model's own chat form, up to where the answer begins."""
    return training.tokenizer.chat_prompt([{"role": "user", "content": question}])


def build_datum(training: TrainingClient, question: str, answer: str) -> Datum:
    """One example: read the question (weight 0), learn the answer and where it ends (weight 1)."""
    prompt = chat(training, question)
    tokens = [*prompt, *training.tokenizer.encode(answer), training.tokenizer.eos_id]
    weights = [0.0] * (len(prompt) - 1) + [1.0] * (len(tokens) - len(prompt))
    return Datum(ModelInput.from_ints(tokens[:-1]), {"target_tokens": tokens[1:], "weights": weights})


def load_data(training: TrainingClient) -> list[Datum]:
    """All examples of the data file: one JSON object a line, with a prompt and an answer."""
    pairs = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]
    return [build_datum(training, pair["prompt"], pair["answer"]) for pair in pairs]


def submit(training: TrainingClient, data: Sequence[Datum], step: int) -> Submitted:
    """Submit one step's gradients and update. Nothing is awaited: calls take effect in the order they are made."""
    batch = [data[(step * BATCH + i) % len(data)] for i in range(BATCH)]
    return Submitted(
        trained_tokens=sum(float(datum.loss_fn_inputs["weights"].to_numpy().sum()) for datum in batch),
        tokens=sum(datum.model_input.length for datum in batch),
        gradients=training.forward_backward(batch, "cross_entropy"),
        update=training.optim_step(AdamParams(learning_rate=LEARNING_RATE)),
    )


async def fine_tune(training: TrainingClient, report: Callable[[Progress], None]) -> list[Progress]:
    """Train, with one step submitted ahead so that the engine never waits for us; return what each step showed."""
    data = load_data(training)
    history: list[Progress] = []
    began, tokens = time.perf_counter(), 0
    ahead = submit(training, data, 0)
    for index in range(STEPS):
        current = ahead
        if index + 1 < STEPS:
            ahead = submit(training, data, index + 1)
        output = await current.gradients
        await current.update
        tokens += current.tokens
        loss = output.metrics["loss:sum"] / current.trained_tokens
        history.append(Progress(index + 1, STEPS, loss, tokens, time.perf_counter() - began))
        report(history[-1])
    return history


async def ask(training: TrainingClient, sampler: SamplingClient) -> AsyncIterator[str]:
    """The model's likeliest answers to the unseen questions: asked all at once, given one by one."""
    params = SamplingParams(max_tokens=32, temperature=0.0)
    prompts = [ModelInput.from_ints(chat(training, question)) for question in UNSEEN]
    for answer in [sampler.sample(prompt, sampling_params=params) for prompt in prompts]:
        tokens = (await answer).sequences[0].tokens
        yield training.tokenizer.decode(tokens, skip_special_tokens=True).strip()


def side_by_side(before: Sequence[str], after: Sequence[str], width: int = 46) -> str:
    """The answers before and after, in two columns under each question."""
    lines = []
    for question, left, right in zip(UNSEEN, before, after, strict=True):
        columns = (["before:", *textwrap.wrap(left, width)], ["after:", *textwrap.wrap(right, width)])
        height = max(map(len, columns))
        rows = zip(*(column + [""] * (height - len(column)) for column in columns), strict=True)
        lines += [question, *(f"  {one:<{width}}  {two}".rstrip() for one, two in rows), ""]
    return "\n".join(lines)


def plot(history: Sequence[Progress], path: Path) -> None:
    """Draw the loss of each step into a PNG file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    axes.plot([row.step for row in history], [row.loss for row in history], marker="o")
    axes.set(xlabel="step", ylabel="mean loss per trained token", title="LoRA fine-tune", ylim=(0, None))
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


async def first_fine_tune(
    service: ServiceClient,
    report: Callable[[Progress], None],
    say: Callable[[str], None] = print,
    model: str = MODEL,
) -> list[Progress]:
    """The whole story: ask, train, ask again. ``report`` is called after each step, ``say`` with finished text."""
    base = service.create_sampling_client(base_model=model)  # both are submitted; the model is loaded once
    training = await service.create_lora_training_client(model, rank=16, train_unembed=False)
    before = []
    async for text in ask(training, await base):
        before.append(text)
        say(f"Before the training: {UNSEEN[len(before) - 1]} {text}")
    history = await fine_tune(training, report)
    after = [text async for text in ask(training, await training.save_weights_and_get_sampling_client())]
    say(f"\n{side_by_side(before, after)}")
    return history


def summary(history: Sequence[Progress]) -> str:
    """The demo's last line."""
    first, last = history[0], history[-1]
    return f"demo: loss {first.loss:.3f} -> {last.loss:.3f} in {last.steps} steps, {last.seconds:.1f} s"


def print_progress(progress: Progress) -> None:
    """One plain line a step."""
    rate = progress.tokens / progress.seconds
    print(f"step {progress.step:2}/{progress.steps}  loss {progress.loss:.3f}  {rate:.0f} tokens/s", flush=True)


async def main() -> None:
    """Run on the engine in this process; an https:// URL here, and a key, would run it on a server."""
    async with ServiceClient(base_url=f"local://{MODEL}") as service:
        history = await first_fine_tune(service, print_progress)
    plot(history, Path("demo-loss.png"))
    print(summary(history))


if __name__ == "__main__":
    asyncio.run(main())
