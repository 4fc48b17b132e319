"""What a sample can be asked about its prompt and its tokens (protocol 7.8), against each other and the base facts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.plugins.wire_client import WireClient, local_engine
from tinkex_actors import types
from tinkex_actors.errors import BadRequestError, RequestFailedError

TOKENS = [10, 11, 12, 13, 40, 7]
PROMPT = types.ModelInput.from_ints(TOKENS)


async def ask(client: WireClient, sampler_id: str, number: int, temperature: float = 1.0, **options: Any) -> Any:
    params = types.SamplingParams(max_tokens=3, temperature=temperature, seed=5)
    request = types.SampleRequest(
        sampling_session_id=sampler_id, seq_id=number, prompt=PROMPT, sampling_params=params, **options
    )
    return await client.do("asample", request)


async def base_sampler(client: WireClient) -> str:
    request = types.CreateSamplingSessionRequest(
        session_id=await client.session(), sampling_session_seq_id=0, base_model="tiny"
    )
    sampler_id: str = (await client.call("create_sampling_session", request)).sampling_session_id
    return sampler_id


async def test_chosen_tokens_are_scored_in_the_layout_they_came_in(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        sampler_id = await base_sampler(client)
        targets = np.full((5, 3), -1, np.int64)
        targets[:, 0] = TOKENS[1:]
        targets[2, 2] = 99
        scored = await ask(
            client, sampler_id, 0, prompt_logprobs=True, target_prompt_logprobs=types.TensorData.from_numpy(targets)
        )
        dense = scored.target_prompt_logprobs.to_numpy()
        assert dense.dtype == np.float32
        assert dense.shape == (5, 3)
        np.testing.assert_array_equal(dense[:, 0], scored.prompt_logprobs_np[1:])
        assert not dense[:, 1].any()
        assert dense[2, 2] < 0
        sparse = types.TensorData([*TOKENS[1:3], 99], "int64", (5, 3), [0, 1, 2, 3, 3, 3], [0, 0, 2])
        answer = (await ask(client, sampler_id, 1, target_prompt_logprobs=sparse)).target_prompt_logprobs
        assert answer.is_sparse
        assert (list(answer.sparse_crow_indices), list(answer.sparse_col_indices)) == ([0, 1, 2, 3, 3, 3], [0, 0, 2])
        np.testing.assert_allclose(answer.values_np, [dense[0, 0], dense[1, 0], dense[2, 2]], atol=1e-6)


async def test_the_likeliest_tokens_of_an_answer_hold_the_greedy_ones(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        answer = await ask(
            client, await base_sampler(client), 0, 0.0, num_samples=2, topk_sample_logprobs=3, topk_prompt_logprobs=2
        )
        for sequence in answer.sequences:
            assert sequence.topk_logprobs_np.token_ids.shape == (3, 3)
            assert sequence.topk_logprobs_np.token_ids[:, 0].tolist() == sequence.tokens
            np.testing.assert_allclose(sequence.topk_logprobs_np.logprobs[:, 0], sequence.logprobs_np, atol=1e-4)
        assert answer.topk_prompt_logprobs_np.token_ids.shape == (6, 2)


async def test_other_tokens_are_drawn_at_every_position(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        sampler_id = await base_sampler(client)
        answer = await ask(client, sampler_id, 0, prompt_alt_tokens_k=4)
        drawn = answer.prompt_alt_tokens
        tokens, logprobs = drawn.tokens.to_numpy(), drawn.logprobs.to_numpy()
        assert (tokens.shape, tokens.dtype, logprobs.dtype) == ((5, 4), np.int64, np.float32)
        assert len(set(tokens.reshape(-1).tolist())) > 5
        # What is said of the drawn tokens is what scoring says of them.
        targets = types.TensorData.from_numpy(tokens)
        scored = (await ask(client, sampler_id, 1, target_prompt_logprobs=targets)).target_prompt_logprobs
        np.testing.assert_allclose(scored.to_numpy(), logprobs, atol=1e-5)
        again = (await ask(client, sampler_id, 2, prompt_alt_tokens_k=4)).prompt_alt_tokens
        assert again.tokens == drawn.tokens
        greedy = await ask(client, sampler_id, 3, 0.0, prompt_alt_tokens_k=2, topk_prompt_logprobs=1)
        best = greedy.topk_prompt_logprobs_np.token_ids[1:]
        np.testing.assert_array_equal(greedy.prompt_alt_tokens.tokens.to_numpy(), np.repeat(best, 2, axis=1))


async def test_many_draws_are_distributed_as_the_model_says(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        sampler_id = await base_sampler(client)
        drawn = (await ask(client, sampler_id, 0, 0.2, prompt_alt_tokens_k=4000)).prompt_alt_tokens
        row = drawn.tokens.to_numpy()[2]
        every = types.TensorData.from_numpy(np.tile(np.arange(512, dtype=np.int64), (5, 1)))
        scored = (await ask(client, sampler_id, 1, target_prompt_logprobs=every)).target_prompt_logprobs
        tempered = scored.to_numpy()[2].astype(np.float64) / 0.2
        expected = np.exp(tempered - tempered.max())
        expected *= len(row) / expected.sum()
        found = np.bincount(row, minlength=512)
        often = expected >= 5
        # Rare tokens are counted together; 3.3 standard deviations above a chi-squared's mean are one in a thousand.
        pairs = [*zip(found[often], expected[often], strict=True), (found[~often].sum(), expected[~often].sum())]
        statistic = sum((seen - wanted) ** 2 / max(wanted, 1e-9) for seen, wanted in pairs if wanted > 1)
        assert statistic < len(pairs) + 3.3 * (2 * len(pairs)) ** 0.5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"target_prompt_logprobs": types.TensorData.from_numpy(np.zeros((6, 1), np.int64))}, r"shape \[5, K\]"),
        ({"target_prompt_logprobs": types.TensorData.from_numpy(np.full((5, 1), 512, np.int64))}, "ids of 0 to 511"),
        ({"target_prompt_logprobs": types.TensorData.from_numpy(np.zeros(5, np.int64))}, r"expected int64 \[5, K\]"),
        ({"prompt_alt_tokens_k": 100_000}, "at most 262144 draws"),
        ({"topk_sample_logprobs": 129}, "topk_sample_logprobs: expected 1 to 128"),
    ],
)
async def test_what_cannot_be_scored_is_named(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    async with local_engine(tmp_path) as client:
        with pytest.raises((RequestFailedError, BadRequestError), match=said):
            await ask(client, await base_sampler(client), 0, **options)
