"""RestClient and AdminClient against the engine: what exists, page by page, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tinkex_actors import (
    AdamParams,
    Config,
    ConflictError,
    CredentialsError,
    InputError,
    NotFoundError,
    OwnSearchOwner,
    ServiceClient,
    SessionSearchRequest,
    TinkerPathError,
)
from tinkex_actors.clients.rest.pages import Pages, by_offset


def service(tmp_path: Path, **options: str) -> ServiceClient:
    return ServiceClient(config=Config(base_url="local://tiny", engine_store=tmp_path, **options))


async def test_everything_is_walked_page_by_page(tmp_path: Path) -> None:
    async with service(tmp_path) as client:
        rest = client.create_rest_client()
        models = [await client.create_lora_training_client("tiny", rank=4) for _ in range(3)]
        for model in models:
            await model.save_state("a")
        runs = [run.training_run_id async for run in rest.iter_training_runs(page_size=2)]
        assert runs == [model.model_id for model in reversed(models)]
        paths = [point.tinker_path async for point in rest.iter_user_checkpoints(page_size=1)]
        assert paths == [f"tinker://{model.model_id}/weights/a" for model in reversed(models)]
        assert client.session_id in await rest.iter_sessions(page_size=1).collect()
        assert (
            await rest.iter_training_runs(page_size=1).collect(limit=2)
            == (await rest.list_training_runs(2)).training_runs
        )
        run = await rest.get_training_run_by_tinker_path(paths[0])
        assert run == await rest.get_training_run(models[2].model_id)


async def test_sessions_are_found_described_and_given_to_a_project(tmp_path: Path) -> None:
    async with service(tmp_path) as client:
        rest = client.create_rest_client()
        model = await client.create_lora_training_client("tiny", rank=4)
        described = await rest.get_session(client.session_id)
        assert described.training_run_ids == [model.model_id]
        found = await rest.iter_session_search(SessionSearchRequest(owner=OwnSearchOwner(), limit=1)).collect()
        assert [session.session_id for session in found] == [client.session_id]
        await rest.assign_session_project(client.session_id, "p1")
        (session,) = (await rest.search_sessions(SessionSearchRequest(project_ids=["p1"]))).sessions
        assert session.project_id == "p1"
        sampler = await client.create_sampling_client(base_model="tiny")
        (sampler_id,) = (await rest.get_session(client.session_id)).sampler_ids
        assert (await rest.get_sampler(sampler_id)).base_model == "tiny"
        del sampler


async def test_a_checkpoint_is_published_kept_for_a_while_copied_and_deleted(tmp_path: Path) -> None:
    async with service(tmp_path, project_id="home") as client:
        rest = client.create_rest_client()
        model = await client.create_lora_training_client("tiny", rank=4)
        await model.optim_step(AdamParams(learning_rate=1e-3))
        path = (await model.save_state("a")).path
        await rest.publish_checkpoint_from_tinker_path(path)
        with pytest.raises(ConflictError):
            await rest.publish_checkpoint_from_tinker_path(path)
        await rest.unpublish_checkpoint_from_tinker_path(path)
        await rest.set_checkpoint_ttl_from_tinker_path(path, 7200)
        (point,) = (await rest.list_checkpoints(model.model_id)).checkpoints
        assert point.expires_at is not None
        assert not point.public
        await rest.set_checkpoint_ttl_from_tinker_path(path, None)
        copy = await client.copy_weights(path, ttl_seconds=7200)
        assert await rest.get_weights_info_by_tinker_path(copy) == await rest.get_weights_info_by_tinker_path(path)
        await rest.delete_checkpoint(model.model_id, "weights/a")
        await rest.delete_checkpoint_from_tinker_path(copy)
        with pytest.raises(NotFoundError):
            await rest.get_weights_info_by_tinker_path(path)


async def test_wrong_use_is_told_at_the_call(tmp_path: Path) -> None:
    async with service(tmp_path) as client:
        rest, admin = client.create_rest_client(), client.create_admin_client()
        with pytest.raises(InputError, match="TINKER_PROJECT_ID"):
            rest.copy_weights("tinker://a/weights/b")
        with pytest.raises(InputError, match="ttl_seconds must be a whole number above 0"):
            rest.set_checkpoint_ttl_from_tinker_path("tinker://a/weights/b", 0)
        with pytest.raises(InputError, match="training_run_id"):
            rest.list_checkpoints("")
        with pytest.raises(TinkerPathError, match="tinker://"):
            rest.delete_checkpoint_from_tinker_path("a/b")
        with pytest.raises(TinkerPathError, match="external_weights"):
            rest.get_external_weights_urls("tinker://a/weights/b")
        with pytest.raises(InputError, match="page_size"):
            rest.iter_sessions(page_size=0)
        with pytest.raises(InputError, match="above 0"):
            rest.export_session_trace("s", timeout=0.0)
        with pytest.raises(InputError, match="2026-01-31"):
            admin.get_audit_log(day="yesterday")
        with pytest.raises(InputError, match="time zone"):
            admin.get_billing_usage(datetime(2026, 1, 1), "2026-01-02T00:00:00Z")
        with pytest.raises(InputError, match="time zone"):
            admin.get_billing_usage(datetime(2026, 1, 1, tzinfo=UTC), "soon")
        with pytest.raises(CredentialsError, match="whoami"):
            await rest.whoami()


async def test_what_a_local_engine_has_no_notion_of_is_answered_truly(tmp_path: Path) -> None:
    async with service(tmp_path) as client:
        admin = client.create_admin_client()
        usage = await admin.get_billing_usage("2026-01-01T00:00:00Z", datetime(2026, 1, 2, tzinfo=UTC))
        assert usage.data == []
        assert (await admin.get_audit_log("checkpoints", "2026-01-31")).entries == []
        stored = await admin.get_current_checkpoint_storage_usage()
        assert stored.data == []


async def test_a_walk_ends_with_a_short_page_an_empty_one_or_the_total() -> None:
    everything = list(range(5))

    async def with_total(limit: int, offset: int) -> tuple[list[int], int | None]:
        return everything[offset : offset + limit], 5

    async def without(limit: int, offset: int) -> tuple[list[int], int | None]:
        return everything[offset : offset + limit], None

    async def wrong_total(limit: int, offset: int) -> tuple[list[int], int | None]:
        return everything[offset : offset + limit], 99

    for page in (with_total, without, wrong_total):
        for size in (1, 2, 5, 7):
            assert [item async for item in by_offset(size, page)] == everything

    async def empty(_: object) -> tuple[list[int], None]:
        return [], None

    pages: Pages[int] = Pages(empty)
    assert await pages.collect() == []
    with pytest.raises(StopAsyncIteration):
        await pages.__anext__()


async def test_a_session_is_exported(tmp_path: Path) -> None:
    async with service(tmp_path) as client:
        rest = client.create_rest_client()
        assert "/api/v1/files/" in await rest.export_session_trace(client.session_id)
        with pytest.raises(NotFoundError):
            await rest.export_session_trace("nobody")
