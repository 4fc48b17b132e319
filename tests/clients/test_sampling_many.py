"""Many samples as one thing, streams, handles."""

from __future__ import annotations

import asyncio
import pickle
import random
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

import pytest

from tests.plugins.counting_server import counting
from tinkex_actors import InputError, ModelInput, SamplingParams, ServiceClient
from tinkex_actors.clients.sampling import SampleBatch, SamplerHandle
from tinkex_actors.errors import (
    APIConnectionError,
    APIStatusError,
    NotFoundError,
    RemoteWireError,
    RequestFailedError,
    UnsupportedByServerError,
)
from tinkex_actors.testing import seeds, settle, virtual_time
from tinkex_actors.testing.model_server import Faults, ModelServer
from tinkex_actors.types import ClientConfigResponse, JoinSamplingSessionResponse, SampleStreamChunk
from tinkex_actors.wire.exchange import Request
from tinkex_actors.wire.streams import STREAM_END, encode_chunk

PROMPT = ModelInput.from_ints([1, 2, 3])


def prompts(count: int) -> list[ModelInput]:
    return [ModelInput.from_ints([n + 1]) for n in range(count)]


@seeds(20)
async def test_awaiting_gives_all_answers_in_the_prompts_order() -> None:
    seed = asyncio.get_running_loop().seed  # type: ignore[attr-defined]
    service, _ = counting(seed, compute=5.0)
    async with service:
        sampler = await service.create_sampling_client(base_model="m")
        answers = await sampler.sample_many(prompts(40), 1, SamplingParams(max_tokens=1), at_once=7)

    # The server counts: a sample's token is its number.
    assert [answer.sequences[0].tokens for answer in answers] == [[n] for n in range(40)]


@virtual_time()
async def test_iterating_gives_each_as_it_ends_and_takes_prompts_as_there_is_room() -> None:
    service, server = counting(latency=0.0)
    taken: list[int] = []

    def lazily() -> Iterator[ModelInput]:
        for n in range(10):
            taken.append(n)
            yield ModelInput.from_ints([n])

    told: list[int] = []
    async with service:
        sampler = await service.create_sampling_client(base_model="m")
        server.faults = Faults(latency=0.0, compute=10.0)
        batch = sampler.sample_many(lazily(), at_once=3, progress=lambda batch: told.append(batch.ended))
        assert taken == [0, 1, 2]
        items = []
        async for item in batch:
            items.append(item)
            assert len(taken) <= len(items) + 3
    assert sorted(item.index for item in items) == list(range(10))
    assert [item.index for item in items] != list(range(10)), "they end in another order than they began"
    assert told == list(range(1, 11))
    assert repr(batch) == "<SampleBatch 10 of 10 ended, 0 failed>"


@virtual_time()
async def test_who_iterates_slowly_is_not_buried_in_results() -> None:
    service, server = counting(latency=0.0, compute=0.0)
    async with service:
        sampler = await service.create_sampling_client(base_model="m")
        batch = sampler.sample_many(prompts(100), at_once=5)
        await asyncio.sleep(60.0)
        assert server.seen["asample"] == 5
        await anext(batch)
        await asyncio.sleep(60.0)
        assert server.seen["asample"] == 6
        batch.cancel()


class Cursed(ModelServer):
    """Fails every sample whose number is odd."""

    async def _execute(self, promise: object, message: object) -> None:
        if getattr(message, "seq_id", 0) % 2:
            self.fail_with = ("an odd number", "user")
        try:
            await super()._execute(promise, message)  # type: ignore[arg-type]
        finally:
            self.fail_with = None


@virtual_time()
async def test_errors_belong_to_their_items() -> None:
    server = Cursed(random.Random(0), Faults(compute=0.0))
    async with ServiceClient(base_url="http://127.0.0.1:1", transport=server) as service:
        sampler = await service.create_sampling_client(base_model="m")
        found = await sampler.sample_many(prompts(6), return_errors=True)
        assert [isinstance(one, RequestFailedError) for one in found] == [False, True] * 3
        items = [item async for item in sampler.sample_many(prompts(4))]
        assert sum(item.error is not None for item in items) == 2
        with pytest.raises(RequestFailedError, match="an odd number"):
            await sampler.sample_many(prompts(50))
        await settle()
        assert len(service.explain()) == 0, "the rest was given up"


@virtual_time()
async def test_a_prompt_that_nobody_can_sample_is_told_where_the_batch_is_awaited() -> None:
    service, _ = counting()
    async with service:
        sampler = await service.create_sampling_client(base_model="m")
        batch = sampler.sample_many([PROMPT, "text"])  # type: ignore[list-item]
        with pytest.raises(InputError, match="prompt is a str"):
            await batch
        with pytest.raises(InputError, match="at_once"):
            sampler.sample_many([PROMPT], at_once=0)
        assert await sampler.sample_many([]) == []


@virtual_time()
async def test_cancelling_a_batch_gives_up_what_is_under_way_and_keeps_what_has_ended() -> None:
    service, server = counting(latency=0.0)
    async with service:
        sampler = await service.create_sampling_client(base_model="m")
        server.faults = Faults(latency=0.0, compute=0.0)
        batch: SampleBatch = sampler.sample_many(prompts(8), at_once=4)
        await asyncio.sleep(1.0)
        server.faults = Faults(latency=0.0, compute=1000.0)
        await anext(batch)
        await settle()
        batch.cancel()
        ended = [item async for item in batch]
        assert sum(item.response is not None for item in ended) == 3
        assert sum(isinstance(item.error, asyncio.CancelledError) for item in ended) == 1
        await settle()
        assert server.polls_open == 0


# --- streams --------------------------------------------------------------------------------------------------------
class Streamer(ModelServer):
    """Streams three tokens, in pieces of seven bytes."""

    refusal: int | None = None
    break_off = False

    async def stream(self, request: Request) -> AsyncGenerator[bytes, None]:
        self.asked = request
        if self.refusal is not None:
            raise NotFoundError("no such endpoint", status_code=self.refusal)
        text = b"".join(
            encode_chunk(SampleStreamChunk(token=f"t{n}", token_id=n, index=0, logprob=-0.5)) for n in range(3)
        )
        if self.break_off:
            text += encode_chunk(SampleStreamChunk(token="out of memory", event_type="error"))
        text += encode_chunk(SampleStreamChunk(index=0, finish_reason="length", total_tokens=3, event_type="done"))
        text += STREAM_END
        for start in range(0, len(text), 7):
            await asyncio.sleep(0.1)
            yield text[start : start + 7]


@virtual_time()
async def test_a_stream_gives_each_token_as_it_comes() -> None:
    server = Streamer(random.Random(0))
    async with ServiceClient(base_url="http://127.0.0.1:1", transport=server, api_key="tml-k") as service:
        sampler = await service.create_sampling_client(base_model="m")
        began = asyncio.get_running_loop().time()
        came = [
            (chunk.token, chunk.done, asyncio.get_running_loop().time() - began)
            async for chunk in sampler.sample_stream(PROMPT, 1, SamplingParams(max_tokens=3))
        ]
        assert [token for token, _, _ in came] == ["t0", "t1", "t2", None]
        assert [done for _, done, _ in came] == [False, False, False, True]
        assert came[0][2] < came[1][2] < came[2][2]
        assert server.asked.headers["X-API-Key"] == "tml-k"
        assert server.asked.headers["Accept"] == "text/event-stream"


@virtual_time()
async def test_a_stream_that_fails_on_the_server_raises_after_what_came() -> None:
    server = Streamer(random.Random(0))
    server.break_off = True
    async with ServiceClient(base_url="http://127.0.0.1:1", transport=server) as service:
        sampler = await service.create_sampling_client(base_model="m")
        stream = sampler.sample_stream(PROMPT)
        assert [(await anext(stream)).token for _ in range(3)] == ["t0", "t1", "t2"]
        with pytest.raises(RequestFailedError, match="out of memory"):
            await anext(stream)


class Truncated(Streamer):
    """Streams so many bytes of what it has, and then ends in order."""

    length = 0

    async def stream(self, request: Request) -> AsyncGenerator[bytes, None]:
        whole = b"".join([piece async for piece in super().stream(request)])
        yield whole[: self.length]


@virtual_time()
async def test_half_a_stream_does_not_pass_for_a_whole_one() -> None:
    server = Truncated(random.Random(0))
    async with ServiceClient(base_url="http://127.0.0.1:1", transport=server) as service:
        sampler = await service.create_sampling_client(base_model="m")
        with pytest.raises(RemoteWireError, match="answered, but with no events"):
            await anext(sampler.sample_stream(PROMPT))
        server.length = 100
        stream = sampler.sample_stream(PROMPT)
        assert (await anext(stream)).token == "t0"
        with pytest.raises(APIConnectionError, match="the stream broke off after 1 pieces"):
            await anext(stream)
        server.length = 1 << 20
        assert [chunk.done async for chunk in sampler.sample_stream(PROMPT)][-1]
        async with aclosing(sampler.sample_stream(PROMPT)) as left:
            await anext(left)  # who leaves early has no half of anything


@virtual_time()
async def test_who_cannot_stream_says_so() -> None:
    server = Streamer(random.Random(0))
    server.refusal = 404
    async with ServiceClient(base_url="http://127.0.0.1:1", transport=server) as service:
        sampler = await service.create_sampling_client(base_model="m")
        with pytest.raises(UnsupportedByServerError, match=r"cannot stream samples: it answered 404\. Use sample\(\)"):
            await anext(sampler.sample_stream(PROMPT))
        server.refusal = 403
        with pytest.raises(APIStatusError):
            await anext(sampler.sample_stream(PROMPT))
        with pytest.raises(InputError, match="the prompt is empty"):
            await anext(sampler.sample_stream(ModelInput.from_ints([])))
    plain, _ = counting()
    async with plain as service:
        sampler = await service.create_sampling_client(base_model="m")
        with pytest.raises(UnsupportedByServerError, match="this transport"):
            await anext(sampler.sample_stream(PROMPT))


# --- handles --------------------------------------------------------------------------------------------------------
class Joinable(ModelServer):
    """Gives clones their numbers."""

    def __init__(self) -> None:
        super().__init__(random.Random(0), Faults(compute=0.0))
        self._answers["client_config"] = lambda *_: ClientConfigResponse(sample_join_sampling_session=True)
        self._answers["join_sampling_session"] = lambda *_: JoinSamplingSessionResponse(client_counter=3)


@virtual_time()
async def test_a_handle_rebuilds_the_sampler_with_numbers_of_its_own() -> None:
    server = Joinable()
    async with ServiceClient(base_url="http://127.0.0.1:1", transport=server) as service:
        original = await service.create_sampling_client(base_model="m")
        handle = pickle.loads(pickle.dumps(original.get_sampler_handle()))
        assert SamplerHandle.parse(str(handle)) == handle
        assert handle.base_model == "m"
        clone = await service.create_sampling_client_from_handle(str(handle))
        assert clone.sampling_session_id == original.sampling_session_id
        assert (await original.sample(PROMPT, 1, SamplingParams(max_tokens=1))).sequences[0].tokens == [0]
        counted = (await clone.sample(PROMPT, 1, SamplingParams(max_tokens=1))).sequences[0].tokens
        assert counted == [3_000_000_000 % 2**30]
        with pytest.raises(TypeError, match="get_sampler_handle"):
            pickle.dumps(original)


@virtual_time()
async def test_without_numbers_from_the_server_clones_take_their_own_by_chance() -> None:
    service, _ = counting()
    async with service:
        original = await service.create_sampling_client(base_model="m")
        handle = original.get_sampler_handle()
        clones = [await service.create_sampling_client_from_handle(handle) for _ in range(3)]
        blocks = {clone._session.clone for clone in clones}
        assert len(blocks) == 3
        assert 0 not in blocks


@virtual_time()
async def test_what_is_no_handle_or_of_another_server_is_refused() -> None:
    service, _ = counting()
    async with service:
        for text in ("", "nonsense", "e30", "\N{SNOWMAN}"):
            with pytest.raises(InputError, match="no sampler handle"):
                service.create_sampling_client_from_handle(text)
        other = SamplerHandle(session_id="s", sampling_session_id="s:sample:0", base_url="https://elsewhere.example")
        with pytest.raises(InputError, match=r"the handle is of https://elsewhere\.example"):
            service.create_sampling_client_from_handle(other)
