"""The engine's sampling as its users see it: through the client, on ``local://tiny``."""

from __future__ import annotations

import asyncio
import threading
from contextlib import aclosing
from pathlib import Path

import msgspec
import pytest

from tests.plugins.wire_client import engine_config
from tinkex_actors import ModelInput, SamplingParams, ServiceClient
from tinkex_actors.engine.service.host import lease
from tinkex_actors.runtime import ActorSystem
from tinkex_actors.tokenizers.byte_level import ByteTokenizer

PROMPT = ModelInput.from_ints([10, 11, 12])


def service_on(system: ActorSystem, tmp_path: Path) -> ServiceClient:
    config = msgspec.structs.replace(engine_config(tmp_path), base_url="local://tiny")
    return ServiceClient(config=config, system=system)


async def test_seeded_answers_are_their_own_whoever_else_is_asked(tmp_path: Path) -> None:
    def params(seed: int | None) -> SamplingParams:
        return SamplingParams(max_tokens=24, seed=seed, stop=[])

    async with ActorSystem() as system, service_on(system, tmp_path) as service:
        sampler = await service.create_sampling_client(base_model="tiny")
        alone = [await sampler.sample(PROMPT, 1, params(seed)) for seed in range(4)]
        answers = [sampler.sample(PROMPT, 1, params(None if seed % 3 == 0 else seed)) for seed in range(16)]
        together = await asyncio.gather(*answers)
    for seed in (1, 2):
        assert together[seed].sequences[0].tokens == alone[seed].sequences[0].tokens
        assert together[seed].sequences[0].logprobs == alone[seed].sequences[0].logprobs
    assert len({tuple(answer.sequences[0].tokens) for answer in together}) == 16


async def test_a_stream_ends_with_its_stop_string_and_is_the_sample(tmp_path: Path) -> None:
    tokenizer = ByteTokenizer()
    async with ActorSystem() as system, service_on(system, tmp_path) as service:
        sampler = await service.create_sampling_client(base_model="tiny")
        free = await sampler.sample(PROMPT, 1, SamplingParams(max_tokens=60, seed=5, stop=[]))
        tokens = free.sequences[0].tokens
        # Two tokens that spell text, and came in this order once.
        at = next(at for at in range(20, 59) if max(tokens[at : at + 2]) < 128)
        stop = tokenizer.decode(tokens[at : at + 2])
        end = tokenizer.decode(tokens).index(stop)
        stopping = SamplingParams(max_tokens=60, seed=5, stop=["never this", stop])
        whole = await sampler.sample(PROMPT, 1, stopping)
        *pieces, last = [chunk async for chunk in sampler.sample_stream(PROMPT, 1, stopping)]
    text = "".join(piece.token or "" for piece in pieces)
    assert text == tokenizer.decode(whole.sequences[0].tokens)
    assert text.endswith(stop)
    assert text.index(stop) == end
    assert whole.sequences[0].stop_reason == last.finish_reason == "stop"
    assert whole.sequences[0].tokens == tokens[: len(whole.sequences[0].tokens)]


async def test_what_nobody_wants_any_more_is_decoded_no_further(tmp_path: Path) -> None:
    long = SamplingParams(max_tokens=1900, stop=[])
    async with ActorSystem() as system, service_on(system, tmp_path) as service:
        sampler = await service.create_sampling_client(base_model="tiny")
        held = await lease("tiny", system=system, config=engine_config(tmp_path))

        async def until(busy: bool) -> None:
            async with asyncio.timeout(60.0):
                while bool(held.cell.jobs.decoding) is not busy:
                    await asyncio.to_thread(threading.Event().wait, 0.005)

        future = sampler.sample(PROMPT, 64, long)
        await until(busy=True)
        (cancelled,) = held.cell.jobs.decoding
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future
        await until(busy=False)

        async with aclosing(sampler.sample_stream(PROMPT, 16, long)) as stream:
            await anext(stream)
            (left,) = held.cell.jobs.decoding
        await until(busy=False)
        await held.release()
    # They did not end by themselves.
    assert cancelled.drawing.open_answers > 0
    assert left.drawing.open_answers > 0
