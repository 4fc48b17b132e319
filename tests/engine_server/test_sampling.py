"""Sampling over the local transport: which weights, which tokens, which scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.plugins.wire_client import WireClient, engine_config, local_engine, pass_request, step_request
from tinkex_actors import types
from tinkex_actors.engine.service.host import lease
from tinkex_actors.engine.service.state.jobs import MAX_WAITING_SAMPLES, Job
from tinkex_actors.engine.service.state.promises import Promise
from tinkex_actors.errors import BadRequestError, NotFoundError, RateLimitError, RequestFailedError
from tinkex_actors.runtime import ActorSystem

PROMPT = types.ModelInput.from_ints([10, 11, 12])
GREEDY = types.SamplingParams(max_tokens=4, temperature=0.0)


async def base_sampler(client: WireClient, session_id: str | None = None, number: int = 0) -> str:
    request = types.CreateSamplingSessionRequest(
        session_id=session_id or await client.session(), sampling_session_seq_id=number, base_model="tiny"
    )
    answer: types.CreateSamplingSessionResponse = await client.call("create_sampling_session", request)
    return answer.sampling_session_id


async def sample(
    client: WireClient,
    sampler_id: str,
    seq_id: int | None = 0,
    params: types.SamplingParams = GREEDY,
    prompt: types.ModelInput = PROMPT,
    **options: object,
) -> types.SampleResponse:
    request = types.SampleRequest(
        sampling_session_id=sampler_id, seq_id=seq_id, prompt=prompt, sampling_params=params, **options
    )  # type: ignore[arg-type]
    answer: types.SampleResponse = await client.do("asample", request)
    return answer


async def teach(client: WireClient, model_id: str, first: int = 1, steps: int = 16) -> int:
    """Train on counting; return the next free number."""
    for number in range(first, first + 2 * steps, 2):
        await client.call("forward_backward", pass_request(model_id, number))
        await client.do("optim_step", step_request(model_id, number + 1, 1e-2))
    return first + 2 * steps


async def snapshot(client: WireClient, model_id: str, seq_id: int, number: int, kind: str = "snapshot") -> str:
    request = types.SaveWeightsForSamplerRequest(
        model_id=model_id,
        seq_id=seq_id,
        sampling_session_seq_id=number,
        kind=kind,  # type: ignore[arg-type]
    )
    answer: types.SaveWeightsForSamplerResponseInternal = await client.do("save_weights_for_sampler", request)
    assert answer.path is None
    assert answer.sampling_session_id is not None
    return answer.sampling_session_id


def tokens(response: types.SampleResponse) -> list[list[int]]:
    return [sequence.tokens for sequence in response.sequences]


async def test_equal_seeds_give_equal_answers_and_no_seed_gives_new_ones(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        sampler_id = await base_sampler(client)
        seeded = types.SamplingParams(max_tokens=12, seed=7)
        one = await sample(client, sampler_id, 0, seeded, num_samples=2)
        assert await sample(client, sampler_id, 1, seeded, num_samples=2) == one
        assert tokens(one)[0] != tokens(one)[1]
        free = types.SamplingParams(max_tokens=12)
        assert tokens(await sample(client, sampler_id, 2, free)) != tokens(await sample(client, sampler_id, 3, free))


async def test_a_sample_sent_twice_is_drawn_once_and_names_its_sequences(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        sampler_id = await base_sampler(client)
        request = types.SampleRequest(
            sampling_session_id=sampler_id,
            seq_id=5,
            num_samples=3,
            prompt=PROMPT,
            sampling_params=types.SamplingParams(max_tokens=8),
        )
        promises = [await client.call("asample", request) for _ in range(2)]
        assert promises[0] == promises[1]
        assert len(set(promises[0].sample_sequence_ids or [])) == 3
        results = [await client.result("asample", promise) for promise in promises]
        assert results[0] == results[1]
        assert len(results[0].sequences) == 3


async def test_a_snapshot_keeps_its_weights_while_the_model_goes_on(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        model_id = await client.model()
        number = await teach(client, model_id)
        sampler_id = await snapshot(client, model_id, number, 0)
        before = await sample(client, sampler_id, 0, prompt_logprobs=True)
        assert tokens(before) == [[13, 14, 15, 16]]
        await teach(client, model_id, number + 1, 2)
        assert await sample(client, sampler_id, 1, prompt_logprobs=True) == before


async def test_an_inflight_sampler_follows_what_is_published(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        model_id = await client.model()
        early = await snapshot(client, model_id, 1, 0, "inflight")
        number = await teach(client, model_id, 2)
        untrained = await sample(client, early, 0, prompt_logprobs=True)
        late = await snapshot(client, model_id, number, 1, "inflight")
        followed = await sample(client, early, 1, prompt_logprobs=True)
        assert followed == await sample(client, late, 0, prompt_logprobs=True)
        assert followed != untrained


async def test_a_repeated_unnamed_save_is_one_sampler_whatever_its_sampler_number(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        model_id = await client.model()
        assert await snapshot(client, model_id, 1, 0) == await snapshot(client, model_id, 1, 1)
        assert await snapshot(client, model_id, 2, 2) == f"{model_id.partition(':')[0]}:sample:2"


async def test_a_named_save_is_sampled_by_its_path_also_by_a_later_engine(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        model_id = await client.model()
        number = await teach(client, model_id)
        request = types.SaveWeightsForSamplerRequest(model_id=model_id, seq_id=number, path="taught")
        saved = await client.do("save_weights_for_sampler", request)
        assert saved.path == f"tinker://{model_id}/sampler_weights/taught"
        assert saved.sampling_session_id is None
        direct = await sample(client, await snapshot(client, model_id, number + 1, 0), prompt_logprobs=True)

    async with local_engine(tmp_path) as client:
        opened = types.CreateSamplingSessionRequest(
            session_id=await client.session(), sampling_session_seq_id=0, model_path=saved.path
        )
        sampler_id = (await client.call("create_sampling_session", opened)).sampling_session_id
        assert (await client.call("create_sampling_session", opened)).sampling_session_id == sampler_id
        described = await client.call("get_sampler", sampler_id=sampler_id)
        assert described == types.GetSamplerResponse(sampler_id=sampler_id, base_model="tiny", model_path=saved.path)
        assert await sample(client, sampler_id, prompt_logprobs=True) == direct


async def test_stops_end_an_answer(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        model_id = await client.model()
        sampler_id = await snapshot(client, model_id, await teach(client, model_id), 0)

        def params(stop: object) -> types.SamplingParams:
            return types.SamplingParams(max_tokens=6, temperature=0.0, stop=stop)  # type: ignore[arg-type]

        free = await sample(client, sampler_id, 0, params([]))
        assert tokens(free) == [[13, 14, 15, 16, 17, 18]]
        assert free.sequences[0].stop_reason == "length"
        by_token = await sample(client, sampler_id, 1, params([15]))
        assert (tokens(by_token), by_token.sequences[0].stop_reason) == ([[13, 14, 15]], "stop")
        # The tiny tokenizer reads byte b as token b.
        by_text = await sample(client, sampler_id, 2, params(["\x0f\x10", "never"]))
        assert (tokens(by_text), by_text.sequences[0].stop_reason) == ([[13, 14, 15, 16]], "stop")
        with pytest.raises(RequestFailedError, match="empty string"):
            await sample(client, sampler_id, 3, params(""))


async def test_prompts_are_scored_as_training_scores_them(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        model_id = await client.model()
        number = await teach(client, model_id, steps=2)
        row = list(range(20, 37))
        datum = types.Datum(model_input=types.ModelInput.from_ints(row[:-1]), loss_fn_inputs={"target_tokens": row[1:]})
        trained = await client.do("forward_backward", pass_request(model_id, number, [datum], forward_only=True))
        sampler_id = await snapshot(client, model_id, number + 1, 0)
        scored = await sample(
            client, sampler_id, prompt=types.ModelInput.from_ints(row), prompt_logprobs=True, topk_prompt_logprobs=3
        )
        assert scored.prompt_logprobs is not None
        assert scored.prompt_logprobs[0] is None
        np.testing.assert_allclose(
            np.array(scored.prompt_logprobs[1:]), trained.loss_fn_outputs[0]["logprobs"].to_numpy(), atol=1e-4
        )
        assert scored.topk_prompt_logprobs is not None
        assert scored.topk_prompt_logprobs[0] is None
        assert [len(entry or []) for entry in scored.topk_prompt_logprobs[1:]] == [3] * 16

        last = await sample(
            client,
            sampler_id,
            1,
            prompt=types.ModelInput.from_ints(row),
            prompt_logprobs=True,
            topk_prompt_logprobs=1,
            prompt_logprobs_last_n=2,
        )
        assert last.prompt_logprobs is not None
        assert last.prompt_logprobs[:15] == [None] * 15
        assert last.prompt_logprobs[15:] == scored.prompt_logprobs[15:]
        assert last.topk_prompt_logprobs is not None
        assert last.topk_prompt_logprobs[:15] == [None] * 15


async def test_what_cannot_be_sampled_is_refused(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        session_id = await client.session()
        sampler_id = await base_sampler(client, session_id)
        with pytest.raises(BadRequestError, match="record_stability_info"):
            await sample(client, sampler_id, record_stability_info=True)
        with pytest.raises(RequestFailedError, match="prompt"):
            await sample(client, sampler_id, prompt=types.ModelInput.from_ints([600]))
        image = types.ImageChunk(data=b"", format="png", expected_tokens=1)
        with pytest.raises(RequestFailedError, match="text only, got a ImageChunk"):
            await sample(client, sampler_id, 1, prompt=types.ModelInput(chunks=[image]))
        with pytest.raises(NotFoundError):
            await sample(client, f"{session_id}:sample:9")
        with pytest.raises(BadRequestError, match="sampling_session_id is missing"):
            await client.call("asample", types.SampleRequest(prompt=PROMPT, sampling_params=GREEDY))


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ({}, BadRequestError),
        ({"base_model": "tiny", "model_path": "tinker://a/weights/b"}, BadRequestError),
        ({"base_model": "other"}, BadRequestError),
        ({"model_path": "tinker://a/b"}, BadRequestError),
        ({"model_path": "tinker://a/sampler_weights/b"}, NotFoundError),
    ],
)
async def test_a_sampler_of_nothing_is_refused_at_once(
    tmp_path: Path, target: dict[str, str], error: type[Exception]
) -> None:
    async with local_engine(tmp_path) as client:
        request = types.CreateSamplingSessionRequest(
            session_id=await client.session(),
            sampling_session_seq_id=0,
            **target,  # type: ignore[arg-type]
        )
        with pytest.raises(error):
            await client.call("create_sampling_session", request)


async def test_a_full_engine_asks_for_patience(tmp_path: Path) -> None:
    async with ActorSystem() as system, local_engine(tmp_path, system=system) as client:
        sampler_id = await base_sampler(client)
        held = await lease("tiny", system=system, config=engine_config(tmp_path))
        waiting = [Promise(str(number), "asample", "none") for number in range(MAX_WAITING_SAMPLES + 50)]
        for promise in waiting:
            held.cell.jobs.put(Job(held.cell.promises.add(promise), lambda core, job: None, lambda value: None))
        with pytest.raises(RateLimitError, match="requests wait for this engine"):
            await sample(client, sampler_id)
        assert await waiting[-1].wait(30.0)
        assert len((await sample(client, sampler_id)).sequences) == 1
        await held.release()
