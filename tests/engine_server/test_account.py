"""Sessions found again, traces, projects, and what a local engine answers where the hosted service has accounts."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.wire_client import WireClient, local_engine, pass_request
from tinkex_actors import types
from tinkex_actors.errors import AuthenticationError, BadRequestError, GoneError, NotFoundError
from tinkex_actors.wire.exchange import Request


async def open_session(client: WireClient, **fields: Any) -> str:
    request = types.CreateSessionRequest(**{"tags": [], "user_metadata": {}, "sdk_version": "0.38.0"} | fields)
    session_id: str = (await client.call("create_session", request)).session_id
    return session_id


async def finish(client: WireClient, session_id: str, how: types.FinishStatus, detail: str | None = None) -> None:
    request = types.FinishSessionRequest(reason=types.FinishReason(type=how), detail=detail)
    await client.call("finish_session", request, session_id=session_id)


async def search(client: WireClient, **fields: Any) -> list[str]:
    found = await client.call("search_sessions", types.SessionSearchRequest(**fields))
    return [session.session_id for session in found.sessions]


async def test_a_finished_session_refuses_everything_and_is_still_found(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        model_id = await client.model()
        session_id = model_id.partition(":")[0]
        sampler = types.CreateSamplingSessionRequest(
            session_id=session_id, sampling_session_seq_id=0, base_model="tiny"
        )
        sampler_id = (await client.call("create_sampling_session", sampler)).sampling_session_id
        await finish(client, session_id, "errored", "out of data")
        await finish(client, session_id, "success")
        with pytest.raises(GoneError, match=r"finished it: errored \(out of data\)"):
            await client.call("session_heartbeat", types.SessionHeartbeatRequest(session_id=session_id))
        with pytest.raises(GoneError):
            await client.call("forward_backward", pass_request(model_id, 1))
        with pytest.raises(GoneError):
            await client.call("create_sampling_session", sampler)
        found = await client.call("get_session", types.GetSessionRequest(), session_id=session_id)
        assert (found.training_run_ids, found.sampler_ids) == ([model_id], [sampler_id])
        (summary,) = (await client.call("search_sessions", types.SessionSearchRequest())).sessions
        assert summary.status == types.ClientSessionFinished(
            reason=types.FinishReason(type="errored"), detail="out of data"
        )
        with pytest.raises(NotFoundError):
            await client.call("get_session", types.GetSessionRequest(), session_id="nobody")


async def test_sessions_are_listed_newest_first_and_searched(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        a = await open_session(client, display_name="Alpha run", user_metadata={"k": "v", "n": "1"}, project_id="p")
        b = await open_session(client, display_name="beta RUN")
        c = await open_session(client)
        listed = await client.call("list_sessions", types.ListSessionsRequest(limit=2, offset=1))
        assert listed.sessions == [b, a]
        assert await search(client) == [c, b, a]
        assert await search(client, display_name="run") == [b, a]
        assert await search(client, display_name="run alpha") == [a]
        assert await search(client, display_name="alpha", session_id=c) == [c, a]
        assert await search(client, user_metadata={"k": "v"}) == [a]
        assert await search(client, user_metadata={"k": "w"}) == []
        assert await search(client, project_ids=["p"]) == [a]
        assert await search(client, owner=types.UserSearchOwner(owner_urns=["somebody"])) == []
        await finish(client, b, "success")
        active, done = types.ActiveSessionStatusQuery(), types.ClientFinishedSessionStatusQuery(reasons=["success"])
        assert await search(client, statuses=[active]) == [c, a]
        assert await search(client, statuses=[done]) == [b]
        assert await search(client, statuses=[types.ClientFinishedSessionStatusQuery(reasons=["errored"])]) == []
        assert await search(client, statuses=[types.FailedSessionStatusQuery()]) == []
        first = await client.call("search_sessions", types.SessionSearchRequest(limit=2))
        assert first.next_cursor is not None
        rest = await client.call("search_sessions", types.SessionSearchRequest(limit=2, cursor=first.next_cursor))
        assert [one.session_id for one in (*first.sessions, *rest.sessions)] == [c, b, a]
        assert rest.next_cursor is None


async def test_a_project_takes_the_runs_of_its_session_along(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        model_id = await client.model()
        other = await client.model()
        saved = types.SaveWeightsRequest(model_id=model_id, seq_id=1, path="a")
        await client.do("save_weights", saved)
        session_id = model_id.partition(":")[0]
        await client.call(
            "assign_session_project", types.AssignSessionProjectRequest(project_id="p"), session_id=session_id
        )
        with pytest.raises(BadRequestError, match="cannot leave a project"):
            await client.call(
                "assign_session_project", types.AssignSessionProjectRequest(project_id=""), session_id=session_id
            )
        for project_id, expected in (("p", [model_id]), ("q", []), (None, [model_id, other])):
            query = types.ListTrainingRunsRequest(project_id=project_id)
            runs = (await client.call("list_training_runs", query)).training_runs
            assert sorted(run.training_run_id for run in runs) == sorted(expected)
        (summary,) = (await client.call("search_sessions", types.SessionSearchRequest(project_ids=["p"]))).sessions
        assert (summary.checkpoints_count, summary.checkpoint_storage_bytes or 0) >= (1, 1)
        usage = await client.call(
            "get_current_checkpoint_storage_usage", types.GetCurrentCheckpointStorageUsageRequest(project_id="p")
        )
        (item,) = usage.data
        assert (item.checkpoint_count, item.size_bytes) == (1, summary.checkpoint_storage_bytes)
        # A later save keeps the run where it was put.
        await client.do("save_weights", types.SaveWeightsRequest(model_id=model_id, seq_id=2, path="b"))
        runs = await client.call("list_training_runs", types.ListTrainingRunsRequest(project_id="p"))
        assert len(runs.training_runs) == 1


async def test_a_trace_shows_what_ran(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        model_id = await client.model()
        await client.do("forward_backward", pass_request(model_id, 1))
        answer = await client.call("export_session_trace", session_id=model_id.partition(":")[0])
        assert answer.status == "ready"
        path = "/api/v1/" + answer.url.partition("/api/v1/")[2]
        events = json.loads((await client.transport.send(Request("GET", path, {}))).body)["traceEvents"]
        assert [event["name"] for event in events] == ["create_model", "forward_backward"]
        assert events[1]["args"] == {"request_id": f"{model_id}:1", "failed": False} | {
            "waited_s": events[1]["args"]["waited_s"]
        }
        assert events[1]["ts"] >= events[0]["ts"] + events[0]["dur"]
        assert (await client.transport.send(Request("GET", path[:-1], {}))).status == 404


async def test_accounts_are_answered_as_far_as_there_are_any(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        for name in ("auth_token", "get_self_api_key"):
            with pytest.raises(AuthenticationError):
                await client.call(name, types.AuthTokenRequest() if name == "auth_token" else None)
        client.headers = {"X-API-Key": "tml-x"}
        token = (await client.call("auth_token", types.AuthTokenRequest())).jwt
        claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
        assert claims["exp"] - claims["iat"] == 3600
        assert (await client.call("get_self_api_key")).name == "local"
        with pytest.raises(NotFoundError, match="keeps none"):
            await client.call("delete_self_api_key")
        assert (await client.call("get_audit_log", types.GetAuditLogRequest())).entries == []
        now = datetime(2026, 1, 2, tzinfo=UTC)
        usage = types.GetBillingUsageRequest(starting_on=now - timedelta(hours=1), ending_before=now)
        assert (await client.call("get_billing_usage", usage)).data == []


async def test_where_tokens_are_wanted_a_key_is_not_enough(tmp_path: Path) -> None:
    async with local_engine(tmp_path, quirks=["wants-jwt"]) as client:
        client.headers = {"X-API-Key": "tml-x"}
        config = await client.call("client_config", types.ClientConfigRequest(sdk_version="0.38.0"))
        assert config.pjwt_auth_enabled
        refused = await client.transport.send(Request("GET", "/api/v1/sessions", dict(client.headers)))
        assert (refused.status, 'error="invalid_token"' in refused.headers["www-authenticate"]) == (401, True)
        token = (await client.call("auth_token", types.AuthTokenRequest())).jwt
        client.headers = {"X-API-Key": token}
        assert await client.session()
        client.headers = {"X-API-Key": token[:-2] + "xx"}
        with pytest.raises(AuthenticationError):
            await client.session()


async def test_telemetry_is_counted(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        event = types.SessionStartEvent(event_id="1", event_session_index=0, timestamp=datetime.now(UTC))
        batch = types.TelemetrySendRequest(
            events=[event, event], platform="Linux", sdk_version="0.38.0", session_id="s", process_uuid="p"
        )
        await client.call("telemetry", batch)
        assert dict(client.transport._lease.cell.telemetry_events) == {"SESSION_START": 2}  # type: ignore[attr-defined]
