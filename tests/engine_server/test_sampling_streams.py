"""Samples read while they are drawn, in process and over HTTP: the same tokens, in pieces, and an end to the work when
nobody reads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from tests.plugins.wire_client import WireClient, engine_config, local_engine
from tinkex_actors import Config, types
from tinkex_actors.engine.service.host import lease
from tinkex_actors.engine.service.state.jobs import MAX_WAITING_SAMPLES, Job
from tinkex_actors.engine.service.state.promises import Promise
from tinkex_actors.engine.service.state.streams import Speller
from tinkex_actors.errors import APIConnectionError, APITimeoutError, BadRequestError, NotFoundError, RateLimitError
from tinkex_actors.runtime import ActorSystem
from tinkex_actors.tokenizers.byte_level import ByteTokenizer
from tinkex_actors.transport import Streaming, Transport, open_transport
from tinkex_actors.transport.server import serve
from tinkex_actors.wire.client import encode_request
from tinkex_actors.wire.routes import ROUTES
from tinkex_actors.wire.streams import EventReader, decode_chunk

PROMPT = types.ModelInput.from_ints([10, 11, 12])
LONG = types.SamplingParams(max_tokens=2000, stop=[])


async def base_sampler(client: WireClient, number: int = 0) -> str:
    request = types.CreateSamplingSessionRequest(
        session_id=await client.session(), sampling_session_seq_id=number, base_model="tiny"
    )
    answer: types.CreateSamplingSessionResponse = await client.call("create_sampling_session", request)
    return answer.sampling_session_id


def asking(sampler_id: str, params: types.SamplingParams, **options: object) -> types.SampleRequest:
    return types.SampleRequest(sampling_session_id=sampler_id, prompt=PROMPT, sampling_params=params, **options)  # type: ignore[arg-type]


async def chunks(
    client: WireClient, request: types.SampleRequest, timeout: float = 60.0
) -> AsyncIterator[types.SampleStreamChunk]:
    assert isinstance(client.transport, Streaming)
    sent = encode_request(ROUTES["stream_sample"], request, client.dialect)
    sent.timeout = timeout
    reader = EventReader()
    async with aclosing(client.transport.stream(sent)) as pieces:
        async for piece in pieces:
            for event in reader.feed(piece):
                if (chunk := decode_chunk(event)) is not None:
                    yield chunk
                else:
                    assert event.data == "[DONE]"


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread brings about."""
    async with asyncio.timeout(30.0):
        while not condition():
            await asyncio.to_thread(threading.Event().wait, 0.005)


@asynccontextmanager
async def reached(way: str, tmp_path: Path) -> AsyncIterator[tuple[WireClient, ActorSystem]]:
    """A client in process or over HTTP, and the system that its engine runs in."""
    async with ActorSystem() as system, local_engine(tmp_path, system=system) as client:
        if way == "in process":
            yield client, system
            return
        server = await serve(client.transport)
        transport: Transport = open_transport(server.url, system=system, config=Config(base_url=server.url))
        try:
            yield WireClient(transport), system
        finally:
            await transport.close()
            await server.close()


BOTH_WAYS = pytest.mark.parametrize("way", ["in process", "over HTTP"])


@BOTH_WAYS
async def test_a_stream_has_the_tokens_logprobs_and_ends_of_the_sample(way: str, tmp_path: Path) -> None:
    async with reached(way, tmp_path) as (client, _):
        sampler_id = await base_sampler(client)
        params = types.SamplingParams(max_tokens=21, seed=3, stop=list(range(0, 512, 16)))
        whole = await client.do("asample", asking(sampler_id, params, seq_id=0, num_samples=3))
        streamed = [chunk async for chunk in chunks(client, asking(sampler_id, params, num_samples=3))]
    tokenizer = ByteTokenizer()
    for index, sequence in enumerate(whole.sequences):
        own = [chunk for chunk in streamed if chunk.index == index]
        *tokens, end = own
        assert [chunk.token_id for chunk in tokens] == sequence.tokens
        assert [chunk.logprob for chunk in tokens] == sequence.logprobs
        assert "".join(chunk.token or "" for chunk in tokens) == tokenizer.decode(sequence.tokens)
        assert not any(chunk.done for chunk in tokens)
        assert (end.finish_reason, end.total_tokens, end.event_type) == (
            sequence.stop_reason,
            len(sequence.tokens),
            "done",
        )
    assert len({sequence.stop_reason for sequence in whole.sequences} | {len(streamed)}) > 1


@BOTH_WAYS
async def test_tokens_come_while_others_are_still_to_be_drawn(way: str, tmp_path: Path) -> None:
    async with reached(way, tmp_path) as (client, system):
        sampler_id = await base_sampler(client)
        held = await lease("tiny", system=system, config=engine_config(tmp_path))
        seen = 0
        unfinished = False
        params = types.SamplingParams(max_tokens=500, stop=[])
        async for _ in chunks(client, asking(sampler_id, params)):
            seen += 1
            unfinished = unfinished or bool(held.cell.jobs.decoding)
        assert seen == 501
        assert unfinished
        await held.release()


@BOTH_WAYS
async def test_a_reader_that_goes_away_frees_its_row(way: str, tmp_path: Path) -> None:
    async with reached(way, tmp_path) as (client, system):
        sampler_id = await base_sampler(client)
        held = await lease("tiny", system=system, config=engine_config(tmp_path))
        before = len(held.cell.promises)
        async with aclosing(chunks(client, asking(sampler_id, LONG, num_samples=16))) as read:  # type: ignore[type-var]
            first = await anext(read)
        assert first.event_type == "token"
        await until(lambda: not held.cell.jobs.decoding)
        assert len(held.cell.promises) == before
        # Had it gone on, 32,000 tokens would have stood before this one's first.
        answer = await client.do("asample", asking(sampler_id, types.SamplingParams(max_tokens=2), seq_id=1))
        assert len(answer.sequences) == 1
        await held.release()


@BOTH_WAYS
async def test_refusals_come_before_the_first_piece(way: str, tmp_path: Path) -> None:
    async with reached(way, tmp_path) as (client, system):
        sampler_id = await base_sampler(client)

        async def first(request: types.SampleRequest) -> types.SampleStreamChunk:
            async with aclosing(chunks(client, request)) as read:  # type: ignore[type-var]
                return await anext(read)

        with pytest.raises(NotFoundError, match="No sampling session"):
            await first(asking(f"{sampler_id}9", LONG))
        with pytest.raises(BadRequestError, match="num_samples: expected 1 to 1024"):
            await first(asking(sampler_id, LONG, num_samples=2000))
        held = await lease("tiny", system=system, config=engine_config(tmp_path))
        waiting = [Promise(str(number), "optim_step", "none") for number in range(MAX_WAITING_SAMPLES + 50)]
        for promise in waiting:
            held.cell.jobs.put(Job(held.cell.promises.add(promise), lambda core, job: None, lambda value: None))
        with pytest.raises(RateLimitError, match="requests wait for this engine") as caught:
            await first(asking(sampler_id, LONG))
        assert caught.value.retry_after == 1.0
        assert await waiting[-1].wait(30.0)
        await held.release()


@BOTH_WAYS
async def test_what_goes_wrong_later_is_the_last_piece(way: str, tmp_path: Path) -> None:
    async with reached(way, tmp_path) as (client, _):
        sampler_id = await base_sampler(client)
        empty = types.SamplingParams(max_tokens=3, stop=[""])
        (piece,) = [chunk async for chunk in chunks(client, asking(sampler_id, empty))]
        assert piece.event_type == "error"
        assert "an empty string stops nothing" in (piece.token or "")

        read = chunks(client, asking(sampler_id, LONG, num_samples=16))
        pieces = [await anext(read)]
        reason = types.FinishSessionRequest(reason=types.FinishReason(type="interrupted"))
        await client.call("finish_session", reason, session_id=sampler_id.partition(":")[0])
        pieces += [chunk async for chunk in read]
        assert pieces[-1] == types.SampleStreamChunk(token="its session has ended", event_type="error")


async def test_a_closed_transport_ends_its_streams(tmp_path: Path) -> None:
    async with ActorSystem() as system, local_engine(tmp_path, system=system) as client:
        other = open_transport("local://tiny", system=system, config=engine_config(tmp_path))
        reader = WireClient(other)
        read = chunks(reader, asking(await base_sampler(reader), LONG, num_samples=16))
        await anext(read)
        await other.close()
        with pytest.raises(APIConnectionError, match="closed"):
            [chunk async for chunk in read]
        held = await lease("tiny", system=system, config=engine_config(tmp_path))
        await until(lambda: not held.cell.jobs.decoding)
        await held.release()
        assert await client.call("healthz") == types.HealthResponse()


async def test_a_stream_without_patience_says_so(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        sampler_id = await base_sampler(client)
        with pytest.raises(APITimeoutError, match="no answer to POST /api/v1/stream_sample within 1e-09 s"):
            await anext(chunks(client, asking(sampler_id, LONG), timeout=1e-9))


async def test_a_plain_request_gets_the_whole_stream_at_once(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        request = asking(await base_sampler(client), types.SamplingParams(max_tokens=5, stop=[]))
        response = await client.transport.send(encode_request(ROUTES["stream_sample"], request, client.dialect))
    assert (response.status, response.headers["content-type"]) == (200, "text/event-stream")
    events = EventReader().feed(response.body)
    assert len(events) == 7
    assert events[-1].data == "[DONE]"


def test_a_character_of_several_tokens_is_told_with_its_last() -> None:
    tokenizer = ByteTokenizer()
    text = "aé€😀b"
    speller = Speller(tokenizer)
    told = [speller.next(token) for token in tokenizer.encode(text)]
    assert told == ["a", "", "é", "", "", "€", "", "", "", "😀", "b"]
    # What never becomes a character is told as what it is, and the last token brings along what is open.
    broken = Speller(tokenizer)
    assert "".join(
        broken.next(token, last=at == 5) for at, token in enumerate([0x61, 0xFF, 0x62, 0xE2, 0x82, 0xE2])
    ) == (tokenizer.decode([0x61, 0xFF, 0x62, 0xE2, 0x82, 0xE2]))
