"""The session's poller: completions under a cursor, results released, samples cancelled (protocol 4.7, 4.10)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.plugins.wire_client import WireClient, local_engine, step_request
from tinkex_actors import types
from tinkex_actors.engine.service.state.completions import Completions
from tinkex_actors.engine.service.state.promises import Promise, Promises
from tinkex_actors.errors import BadRequestError, GoneError, NotFoundError, RequestFailedError
from tinkex_actors.testing import virtual_time


def settled(promises: Promises, *numbers: int) -> None:
    for number in numbers:
        promises.resolve(promises.add(Promise(f"s:sample:0:{number}", "asample", "s")), "result", 10)


async def test_each_client_sees_its_own_completions_from_its_cursor_on() -> None:
    completions = Completions()
    promises = Promises(settled=completions.add)
    settled(promises, 0, 1, 1_000_000_000)
    promises.resolve(promises.add(Promise("s:train:0:1", "optim_step", "s")), "step", 10)
    found, cursor = await completions.after("s:sample:0", 0, 0, 20.0)
    assert [one.request_id for one in found] == ["s:sample:0:0", "s:sample:0:1"]
    # A poll whose answer was lost is repeated, and answered alike.
    assert await completions.after("s:sample:0", 0, 0, 20.0) == (found, cursor)
    settled(promises, 2)
    later, last = await completions.after("s:sample:0", 0, cursor, 20.0)
    assert [one.request_id for one in later] == ["s:sample:0:2"]
    assert await completions.after("s:sample:0", 0, last, 0.0) == ([], last)
    clone, _ = await completions.after("s:sample:0", 1, 0, 20.0)
    assert [one.request_id for one in clone] == ["s:sample:0:1000000000"]
    completions.forget("s:sample:0")
    assert await completions.after("s:sample:0", 0, 0, 0.0) == ([], 0)


@virtual_time()
async def test_a_poll_waits_for_the_next_completion_and_no_longer_than_it_may() -> None:
    import asyncio

    completions = Completions()
    promises = Promises(settled=completions.add)
    loop = asyncio.get_running_loop()
    assert await completions.after("s:sample:0", 0, 0, 20.0) == ([], 0)
    assert loop.time() == 20.0
    loop.call_later(5.0, settled, promises, 0)
    found, cursor = await completions.after("s:sample:0", 0, 0, 20.0)
    assert (len(found), cursor, loop.time()) == (1, 1, 25.0)


async def base_sampler(client: WireClient) -> str:
    request = types.CreateSamplingSessionRequest(
        session_id=await client.session(), sampling_session_seq_id=0, base_model="tiny"
    )
    sampler_id: str = (await client.call("create_sampling_session", request)).sampling_session_id
    return sampler_id


def poll(sampler_id: str, cursor: int = 0, clone: int = 0, read: tuple[str, ...] = ()) -> types.FuturesRetrieveRequest:
    target = types.SamplingSessionFuturesTarget(sampling_session_id=sampler_id, cloned_sampler_id=clone)
    return types.FuturesRetrieveRequest(
        target=target, prev_cursor=cursor, timeout=0.0 if read else None, retrieved_request_ids=list(read)
    )


async def submit(client: WireClient, sampler_id: str, number: int, tokens: int = 4, first: int = 10) -> str:
    request = types.SampleRequest(
        sampling_session_id=sampler_id,
        seq_id=number,
        prompt=types.ModelInput.from_ints([first, 11]),
        sampling_params=types.SamplingParams(max_tokens=tokens),
    )
    request_id: str = (await client.call("asample", request)).request_id
    return request_id


async def test_samples_are_told_read_and_released(tmp_path: Path) -> None:
    async with local_engine(tmp_path, quirks=["session-polls"]) as client:
        config = await client.call("client_config", types.ClientConfigRequest(sdk_version="0.38.0"))
        assert config.sample_use_retrieve_futures
        sampler_id = await base_sampler(client)
        join = types.JoinSamplingSessionRequest(sampling_session_id=sampler_id)
        assert [(await client.call("join_sampling_session", join)).client_counter for _ in range(2)] == [1, 2]
        good = await submit(client, sampler_id, 0)
        bad = await submit(client, sampler_id, 1, first=600)
        cloned = await submit(client, sampler_id, 2_000_000_000)
        seen: dict[str, types.FutureFinished | types.FutureFailed] = {}
        cursor = 0
        while len(seen) < 2:
            answer = await client.call("retrieve_futures", poll(sampler_id, cursor))
            seen |= {one.request_id: one for one in answer.completions}
            cursor = answer.cursor
        assert isinstance(seen[good], types.FutureFinished)
        assert (seen[good].response_payload_uncompressed_size or 0) > 0
        assert isinstance(seen[bad], types.FutureFailed)
        other = await client.call("retrieve_futures", poll(sampler_id, 0, 2))
        assert [one.request_id for one in other.completions] == [cloned]
        assert (await client.poll("asample", good)) is not None
        done = await client.call("retrieve_futures", poll(sampler_id, cursor, read=(good, "somebody:else")))
        assert (done.completions, done.cursor) == ([], cursor)
        with pytest.raises(GoneError, match="was dropped"):
            await client.call("retrieve_future", types.FutureRetrieveRequest(request_id=good))


async def test_a_waiting_sample_is_cancelled_and_a_done_one_stays(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        model_id = await client.model()
        sampler_id = await base_sampler(client)
        running = await submit(client, sampler_id, 0, tokens=1500)
        waiting = await submit(client, sampler_id, 1)
        await client.call("cancel_future", types.CancelFutureRequest(request_id=waiting))
        with pytest.raises(RequestFailedError, match="its client cancelled it"):
            await client.result("asample", types.UntypedAPIFuture(request_id=waiting))
        await client.call("cancel_future", types.CancelFutureRequest(request_id=running))
        with pytest.raises(RequestFailedError):
            await client.result("asample", types.UntypedAPIFuture(request_id=running))
        step = await client.call("optim_step", step_request(model_id, 1))
        with pytest.raises(BadRequestError, match="only samples can be cancelled"):
            await client.call("cancel_future", types.CancelFutureRequest(request_id=step.request_id))
        with pytest.raises(NotFoundError):
            await client.call("cancel_future", types.CancelFutureRequest(request_id="nothing"))
        done = await submit(client, sampler_id, 2)
        await client.result("asample", types.UntypedAPIFuture(request_id=done))
        await client.call("cancel_future", types.CancelFutureRequest(request_id=done))
        assert await client.result("asample", types.UntypedAPIFuture(request_id=done))
