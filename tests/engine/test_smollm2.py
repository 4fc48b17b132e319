"""SmolLM2-135M-Instruct: recorded reference values, and that it learns.

Where the reference values come from: ``golden/smollm2.json`` was written by ``golden/record.py``, a plain float64
implementation that shares nothing with the engine but the GGUF reader; float32 stays within 5e-4 of it. The logprobs
written out below come from transformers 5.23.0 with torch 2.13.0 on the CPU, in float32, on the same file dequantised,
recorded to three digits, hence their tolerance of 1e-3.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.plugins.numerics import cache_dir
from tinkex_actors.engine.core import (
    AdamHyper,
    BaseModel,
    DecodeParams,
    Decoder,
    Drawing,
    Example,
    LoraSpec,
    forward_backward,
    new_adapter,
    optim_step,
    prompt_logprobs,
    sample,
    topk_prompt,
)
from tinkex_actors.engine.core.sampling.decoding import cut, head, read
from tinkex_actors.engine.models.catalog import load_model, model_names
from tinkex_actors.engine.models.fetch import SMOLLM2, pull
from tinkex_actors.engine.models.tokenizer import smollm2_tokenizer
from tinkex_actors.errors import ClosedError, ConfigError

pytestmark = [pytest.mark.smollm, pytest.mark.slow, pytest.mark.timeout(600)]

TOLERANCE = 1e-3
FLOAT32_TOLERANCE = 5e-4
GOLDEN = json.loads((Path(__file__).parent / "golden" / "smollm2.json").read_text(encoding="utf-8"))
CAPITALS = "The capital of France is Paris, and the capital of Italy is"
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="session")
def base() -> BaseModel:
    """The model, downloaded if it is not here."""
    pull(SMOLLM2, cache_dir())
    return load_model("smollm2-135m", cache_dir=cache_dir())


def ids(base: BaseModel, text: str) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return np.array(base.tokenizer.encode(text), np.int32)


def last_logits(
    base: BaseModel, text: np.ndarray[tuple[int], np.dtype[np.int32]]
) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    prompt = read(cut(base, None), text)
    return np.asarray(head(base.ends, None, prompt.hidden[None], base.config, None)[0])


def test_the_catalogue_knows_its_size(base: BaseModel) -> None:
    record = model_names(cache_dir=cache_dir())[1]
    assert record.installed
    assert (record.parameters, record.context_length) == (base.config.parameters, base.config.context_length)


def test_tokens_of_digits_unicode_and_special_tokens(base: BaseModel) -> None:
    tokenizer = base.tokenizer
    assert tokenizer.encode(CAPITALS) == [504, 3575, 282, 4649, 314, 7042, 28, 284, 260, 3575, 282, 7158, 314]
    assert [tokenizer.decode([token]) for token in tokenizer.encode("In 2024: 3.14")] == [
        "In",
        " ",
        "2",
        "0",
        "2",
        "4",
        ":",
        " ",
        "3",
        ".",
        "1",
        "4",
    ]
    awkward = "naïve 東京 🙂👍🏽 ١٢٣ \r\n\t  x²  <|im_start|>user"
    assert tokenizer.decode(tokenizer.encode(awkward)) == awkward
    assert tokenizer.encode("<|im_end|>") == [tokenizer.eos_id] == [2]


def test_the_chat_prompt_is_the_one_it_was_trained_with(base: BaseModel) -> None:
    prompt = base.tokenizer.chat_prompt(QUESTION)
    assert len(prompt) == 37
    assert prompt[:4] == [1, 9690, 198, 2683]
    assert prompt[-4:] == [1, 520, 9531, 198]


@pytest.mark.parametrize("golden", GOLDEN, ids=["prose", "code", "digits"])
def test_logits_equal_the_recorded_ones(base: BaseModel, golden: dict[str, Any]) -> None:
    text = ids(base, golden["prompt"])
    assert text.tolist() == golden["ids"]
    np.testing.assert_allclose(prompt_logprobs(base, None, text)[1:], golden["logprobs"], atol=FLOAT32_TOLERANCE)
    scores = last_logits(base, text)
    assert np.argsort(-scores)[:5].tolist() == golden["best_ids"]
    np.testing.assert_allclose(scores[golden["best_ids"]], golden["best_logits"], atol=FLOAT32_TOLERANCE)


def test_a_client_elsewhere_needs_only_the_tokenizer(base: BaseModel) -> None:
    text = "In 1969 — ١٢ <|im_end|>"
    assert smollm2_tokenizer(cache_dir()).encode(text) == base.tokenizer.encode(text)


def test_next_token_logprobs_equal_the_recorded_ones(base: BaseModel) -> None:
    text = ids(base, CAPITALS)
    found = topk_prompt(base, None, np.append(text, np.int32(0)), 4)
    assert found.token_ids[-1].tolist() == [7268, 19997, 7158, 29526]
    np.testing.assert_allclose(found.logprobs[-1], [-0.263, -2.705, -3.737, -3.949], atol=TOLERANCE)
    assert prompt_logprobs(base, None, text)[1:].sum() == pytest.approx(-23.319, abs=TOLERANCE)


def test_the_greedy_answer_is_the_recorded_one(base: BaseModel) -> None:
    prompt = np.array(base.tokenizer.chat_prompt(QUESTION), np.int32)
    params = DecodeParams(max_tokens=16, temperature=0.0, stop_token_ids=frozenset({base.tokenizer.eos_id}))
    (answer,) = sample(base, None, prompt, 1, params)
    assert base.tokenizer.decode(answer.tokens.tolist()) == "The capital of France is Paris.<|im_end|>"
    assert answer.stop_reason == "stop"
    whole = np.concatenate([prompt, answer.tokens])
    np.testing.assert_allclose(prompt_logprobs(base, None, whole)[37:], answer.logprobs, atol=1e-4)


def test_a_seed_gives_the_same_bits_beside_others_and_can_be_given_up_at_any_token(base: BaseModel) -> None:
    held = new_adapter(base, LoraSpec(rank=4))
    held = replace(held, params=held.params + 0.01)  # so that B is not zero
    prompt = np.array(base.tokenizer.chat_prompt(QUESTION), np.int32)
    params = DecodeParams(max_tokens=6, seed=3)
    (by_itself,) = sample(base, held, prompt, 1, params)
    decoder = Decoder()
    looks = iter(range(4))
    given_up = Drawing(base, held, prompt, 1, replace(params, seed=4), should_stop=lambda: next(looks) == 3)
    others = [Drawing(base, held, prompt[: 30 - number], 1, replace(params, seed=number)) for number in range(4)]
    mine = Drawing(base, held, prompt, 1, params)
    for drawing in (given_up, *others, mine):
        decoder.add(drawing)
        decoder.step()
    while not mine.over:
        decoder.step()
    (among,) = mine.result()
    assert (among.tokens.tobytes(), among.logprobs.tobytes()) == (
        by_itself.tokens.tobytes(),
        by_itself.logprobs.tobytes(),
    )
    with pytest.raises(ClosedError, match="abandoned after 3 tokens"):
        given_up.result()


def test_it_learns_an_answer_and_its_gradient_is_the_slope(base: BaseModel) -> None:
    prompt = base.tokenizer.chat_prompt(QUESTION)
    text = [*prompt, *base.tokenizer.encode("Arr! It be Paris.")]
    weights = np.array([0.0] * (len(prompt) - 1) + [1.0] * (len(text) - len(prompt)), np.float32)
    targets = np.array(text[1:], np.int64)
    example = Example(np.array(text[:-1], np.int32), {"target_tokens": targets, "weights": weights})
    held, losses = new_adapter(base, LoraSpec(rank=16, train_unembed=False)), []
    for _ in range(4):
        result = forward_backward(base, held, [example], "cross_entropy")
        losses.append(result.loss_sum)
        held, _ = optim_step(result.adapter, AdamHyper(learning_rate=5e-4))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.7 * losses[0]


def test_another_file_is_refused(tmp_path: Path) -> None:
    given = tmp_path / "other.gguf"
    given.write_bytes(b"not a model")
    with pytest.raises(ConfigError, match="not a GGUF file"):
        load_model("smollm2-135m", cache_dir=cache_dir(), weights_path=given)
