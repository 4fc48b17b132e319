"""Sessions: kept by signs of life, ended by silence or by their client, with everything they own."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.plugins.wire_client import WireClient, local_engine, step_request
from tinkex_actors import types
from tinkex_actors.engine.service.state.sessions import SESSION_PATIENCE, Sessions
from tinkex_actors.errors import GoneError, NotFoundError
from tinkex_actors.testing import virtual_time

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_only_silent_sessions_are_over() -> None:
    sessions = Sessions()
    quiet, busy = sessions.create(0.0, NOON), sessions.create(0.0, NOON)
    sessions.touch(busy.session_id, 200.0)
    assert sessions.silent(SESSION_PATIENCE) == []
    assert sessions.silent(SESSION_PATIENCE + 1.0) == [quiet.session_id]
    assert sessions.end(quiet.session_id, "silence") is quiet
    assert sessions.end(quiet.session_id, "again") is None
    assert sessions.ended(quiet.session_id)
    with pytest.raises(GoneError, match="has ended: silence"):
        sessions.touch(quiet.session_id, 400.0)
    with pytest.raises(NotFoundError, match="No session 'other'"):
        sessions.touch("other", 0.0)


def test_names_are_never_reused_also_not_by_another_engine() -> None:
    names = {Sessions().create(0.0, NOON).session_id for _ in range(100)}
    assert len(names) == 100
    assert not any("/" in name or ":" in name for name in names)


async def beat(client: WireClient, session_id: str) -> types.SessionHeartbeatResponse:
    answer: types.SessionHeartbeatResponse = await client.call(
        "session_heartbeat", types.SessionHeartbeatRequest(session_id=session_id)
    )
    return answer


async def finish(client: WireClient, session_id: str) -> None:
    request = types.FinishSessionRequest(reason=types.FinishReason(type="success"), detail="done")
    await client.call("finish_session", request, session_id=session_id)


async def test_a_finished_session_is_gone_with_all_it_owned(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        model_id = await client.model()
        session_id = model_id.partition(":")[0]
        opened = types.CreateSamplingSessionRequest(session_id=session_id, sampling_session_seq_id=0, base_model="tiny")
        sampler_id = (await client.call("create_sampling_session", opened)).sampling_session_id
        assert await beat(client, session_id) == types.SessionHeartbeatResponse()
        await finish(client, session_id)
        # The answer to a finish may be lost and the request sent again.
        await finish(client, session_id)
        with pytest.raises(GoneError, match="finished it: success"):
            await beat(client, session_id)
        with pytest.raises(GoneError):
            await client.call("optim_step", step_request(model_id, 1))
        with pytest.raises(GoneError):
            await client.call("get_info", types.GetInfoRequest(model_id=model_id))
        with pytest.raises(GoneError):
            await client.call("get_sampler", sampler_id=sampler_id)
        with pytest.raises(GoneError):
            await client.model(session_id, 1)
        with pytest.raises(GoneError):
            await client.poll("create_model", f"{model_id}:0")
        with pytest.raises(NotFoundError):
            await finish(client, "nobody")
        # Other sessions are not touched.
        assert await client.model()


async def test_a_poll_that_waits_is_told_when_its_session_ends(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        model_id = await client.model()
        promise = await client.call("optim_step", step_request(model_id, 2))
        waiting = asyncio.ensure_future(client.poll("optim_step", promise.request_id))
        await asyncio.sleep(0)
        await finish(client, model_id.partition(":")[0])
        with pytest.raises(GoneError, match="its session has ended"):
            await waiting


@virtual_time()
async def test_a_session_lives_while_beats_come_and_ends_300_s_after_the_last(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        session_id = await client.session()
        for _ in range(60):
            await asyncio.sleep(10.0)
            await beat(client, session_id)
        await asyncio.sleep(SESSION_PATIENCE - 1.0)
        await beat(client, session_id)
        await asyncio.sleep(SESSION_PATIENCE + 10.0)
        with pytest.raises(GoneError, match="not heard of for 300 s"):
            await beat(client, session_id)
