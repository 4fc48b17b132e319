"""Records ``smollm2.json``: logits of smollm2-135m from plain float64 numpy, one head and one layer at a time.

Independent of the engine but for the GGUF reader (which has its own tests): weights stay in the file's layout, so the
rotary halves are interleaved here where the engine splits them. Run it with ``python -m tests.engine.golden.record``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.plugins.numerics import cache_dir, log_softmax
from tinkex_actors.engine.models.catalog import load_model
from tinkex_actors.engine.models.fetch import SMOLLM2, require
from tinkex_actors.engine.models.gguf import GgufFile

Floats = npt.NDArray[np.float64]
TARGET = Path(__file__).parent / "smollm2.json"
PROMPTS = (
    "The capital of France is Paris, and the capital of Italy is",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "In 1969, 2 men — Neil Armstrong & Buzz Aldrin — walked on the",
)
HEADS, KV_HEADS, WIDTH, THETA, EPS = 9, 3, 64, 100_000.0, 1e-5


def norm(x: Floats, gain: Floats) -> Floats:
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + EPS) * gain


def turn(x: Floats) -> Floats:
    """Rotate interleaved pairs ``(2i, 2i + 1)`` as complex numbers."""
    angles = np.arange(len(x))[:, None] * THETA ** (-np.arange(0, WIDTH, 2) / WIDTH)
    turned = (x[:, 0::2] + 1j * x[:, 1::2]) * np.exp(1j * angles)
    return np.stack([turned.real, turned.imag], axis=-1).reshape(x.shape)


def attention(q: Floats, k: Floats, v: Floats) -> Floats:
    out = np.empty_like(q)
    for head in range(HEADS):
        own = slice(head * WIDTH, (head + 1) * WIDTH)
        shared = head // (HEADS // KV_HEADS)
        kept = slice(shared * WIDTH, (shared + 1) * WIDTH)
        scores = turn(q[:, own]) @ turn(k[:, kept]).T / np.sqrt(WIDTH)
        scores[np.triu_indices(len(q), 1)] = -np.inf
        out[:, own] = np.exp(log_softmax(scores)) @ v[:, kept]
    return out


def logits(file: GgufFile, ids: list[int]) -> Floats:
    """Return ``[T, vocab]`` in float64."""

    def read(name: str) -> Floats:
        return file.read(f"{name}.weight").astype(np.float64)

    embedding = read("token_embd")
    x = embedding[ids]
    for layer in range(int(file.metadata["llama.block_count"])):
        block = f"blk.{layer}."
        h = norm(x, read(block + "attn_norm"))
        mixed = attention(*(h @ read(f"{block}attn_{name}").T for name in "qkv"))
        x = x + mixed @ read(block + "attn_output").T
        h = norm(x, read(block + "ffn_norm"))
        gate = h @ read(block + "ffn_gate").T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ read(block + "ffn_up").T)) @ read(block + "ffn_down").T
    return norm(x, read("output_norm")) @ embedding.T


def record() -> list[dict[str, Any]]:
    """Return one record per prompt: ids, every next-token logprob, and the five largest logits at the end."""
    tokenizer = load_model("smollm2-135m", cache_dir=cache_dir()).tokenizer
    records = []
    with GgufFile(require(SMOLLM2, cache_dir())) as file:
        for prompt in PROMPTS:
            ids = tokenizer.encode(prompt)
            scores = logits(file, ids)
            best = np.argsort(-scores[-1])[:5]
            logprobs = log_softmax(scores)[np.arange(len(ids) - 1), ids[1:]]
            records.append(
                {
                    "prompt": prompt,
                    "ids": ids,
                    "logprobs": np.round(logprobs, 6).tolist(),
                    "best_ids": best.tolist(),
                    "best_logits": np.round(scores[-1][best], 6).tolist(),
                }
            )
    return records


if __name__ == "__main__":
    TARGET.write_text(json.dumps(record(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
