"""Listings: what the store has, also for a later engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.plugins.wire_client import WireClient, local_engine
from tinkex_actors import types
from tinkex_actors.errors import BadRequestError, NotFoundError


async def fill(client: WireClient) -> list[str]:
    """Two runs in one session; the second has a training and a sampler checkpoint. Return their ids."""
    session_id = await client.session()
    first = await client.model(session_id, 0)
    second = await client.model(session_id, 1, rank=8)
    training = types.SaveWeightsRequest(model_id=second, seq_id=1, path="a", user_metadata={"k": "v"}, ttl_seconds=7200)
    await client.do("save_weights", training)
    await client.do("save_weights_for_sampler", types.SaveWeightsForSamplerRequest(model_id=second, seq_id=2, path="b"))
    return [first, second]


async def test_runs_are_listed_with_their_last_checkpoints_also_later(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        first, second = await fill(client)
    async with local_engine(tmp_path) as client:
        listed = await client.call("list_training_runs", types.ListTrainingRunsRequest())
        assert listed.cursor == types.Cursor(offset=0, limit=20, total_count=2)
        assert [run.training_run_id for run in listed.training_runs] == [second, first]
        newest, oldest = listed.training_runs
        assert (newest.base_model, newest.lora_rank, newest.is_lora, newest.corrupted) == ("tiny", 8, True, False)
        assert newest.last_checkpoint is not None
        assert newest.last_sampler_checkpoint is not None
        assert newest.last_checkpoint.checkpoint_id == "weights/a"
        assert newest.last_sampler_checkpoint.tinker_path == f"tinker://{second}/sampler_weights/b"
        assert (oldest.last_checkpoint, oldest.last_sampler_checkpoint) == (None, None)
        assert await client.call("get_training_run", training_run_id=second) == newest
        with pytest.raises(NotFoundError, match="No training run"):
            await client.call("get_training_run", training_run_id="nobody")


async def test_checkpoints_are_listed_newest_first_and_in_pages(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        _, second = await fill(client)
    async with local_engine(tmp_path) as client:
        found = await client.call("list_checkpoints", training_run_id=second)
        assert found.cursor is None
        assert [(entry.checkpoint_id, entry.checkpoint_type) for entry in found.checkpoints] == [
            ("sampler_weights/b", "sampler"),
            ("weights/a", "training"),
        ]
        training = found.checkpoints[1]
        assert training.user_metadata == {"k": "v"}
        assert training.expires_at is not None
        assert (training.expires_at - training.time).total_seconds() == 7200
        assert training.size_bytes > found.checkpoints[0].size_bytes > 1000

        page = await client.call("list_user_checkpoints", types.ListCheckpointsRequest(limit=1, offset=1))
        assert page.checkpoints == [training]
        assert page.cursor == types.Cursor(offset=1, limit=1, total_count=2)
        with pytest.raises(BadRequestError):
            await client.call("list_user_checkpoints", types.ListCheckpointsRequest(limit=-1))
        with pytest.raises(NotFoundError):
            await client.call("list_checkpoints", training_run_id="nobody")


async def test_weights_are_described_and_deleted(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        _, second = await fill(client)
        asked = types.WeightsInfoRequest(tinker_path=f"tinker://{second}/weights/a")
        info = await client.call("weights_info", asked)
        assert (info.base_model, info.is_lora, info.lora_rank, info.train_attn) == ("tiny", True, 8, True)
        await client.call("delete_checkpoint", training_run_id=second, checkpoint_id="weights/a")
        for refused in ("weights/a", "external_weights/a"):
            with pytest.raises(NotFoundError, match="No checkpoint"):
                await client.call("delete_checkpoint", training_run_id=second, checkpoint_id=refused)
        with pytest.raises(NotFoundError):
            await client.call("weights_info", asked)
        with pytest.raises(BadRequestError, match="tinker://"):
            await client.call("weights_info", types.WeightsInfoRequest(tinker_path="a"))
        found = await client.call("list_checkpoints", training_run_id=second)
        assert [entry.checkpoint_id for entry in found.checkpoints] == ["sampler_weights/b"]
