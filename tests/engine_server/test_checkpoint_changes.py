"""Checkpoints published, expiring, copied, exported and downloaded."""

from __future__ import annotations

import io
import json
import tarfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyrage
import pytest

from tests.plugins.wire_client import WireClient, engine_config, local_engine, pass_request, step_request
from tinkex_actors import types
from tinkex_actors.engine.store.store import Store
from tinkex_actors.errors import BadRequestError, ConflictError, NotFoundError, RequestFailedError
from tinkex_actors.transport.http import HttpTransport
from tinkex_actors.transport.server import serve
from tinkex_actors.wire.exchange import Request, Response


async def saved(client: WireClient, name: str = "a") -> str:
    """A model that has learned a little, saved; the path."""
    model_id = await client.model()
    await client.do("forward_backward", pass_request(model_id, 1))
    await client.do("optim_step", step_request(model_id, 2))
    answer = await client.do("save_weights", types.SaveWeightsRequest(model_id=model_id, seq_id=3, path=name))
    path: str = answer.path
    return path


def address(path: str) -> dict[str, str]:
    parsed = types.ParsedCheckpointTinkerPath.from_tinker_path(path)
    return {"training_run_id": parsed.training_run_id, "checkpoint_id": parsed.checkpoint_id}


async def listed(client: WireClient) -> dict[str, types.Checkpoint]:
    found = await client.call("list_user_checkpoints", types.ListCheckpointsRequest())
    return {entry.tinker_path: entry for entry in found.checkpoints}


async def get(client: WireClient, url: str, **headers: str) -> Response:
    return await client.transport.send(Request("GET", "/api/v1/" + url.partition("/api/v1/")[2], dict(headers)))


async def test_publishing_is_marked_and_not_repeated(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        path = await saved(client)
        await client.call("publish_checkpoint", **address(path))
        assert (await listed(client))[path].public
        with pytest.raises(ConflictError, match="is public already"):
            await client.call("publish_checkpoint", **address(path))
        await client.call("unpublish_checkpoint", **address(path))
        assert not (await listed(client))[path].public
        with pytest.raises(ConflictError, match="is private already"):
            await client.call("unpublish_checkpoint", **address(path))
        with pytest.raises(NotFoundError):
            await client.call("publish_checkpoint", **address(path + "b"))


async def test_a_time_to_live_is_set_and_taken_back(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        path = await saved(client)
        before = datetime.now(UTC)
        await client.call("set_checkpoint_ttl", types.SetCheckpointTtlRequest(ttl_seconds=7200), **address(path))
        expires_at = (await listed(client))[path].expires_at
        assert expires_at is not None
        assert timedelta(seconds=7200) <= expires_at - before < timedelta(seconds=7260)
        with pytest.raises(BadRequestError, match="expected 3600 to"):
            await client.call("set_checkpoint_ttl", types.SetCheckpointTtlRequest(ttl_seconds=60), **address(path))
        await client.call("set_checkpoint_ttl", types.SetCheckpointTtlRequest(ttl_seconds=None), **address(path))
        assert (await listed(client))[path].expires_at is None


def test_what_has_expired_is_gone_and_its_files_go_too(tmp_path: Path) -> None:
    clock = [datetime(2026, 1, 1, tzinfo=UTC)]
    store = Store(tmp_path, wall_clock=lambda: clock[0])
    record: dict[str, Any] = {"kind": "weights", "time": clock[0], "base_model": "tiny", "lora_rank": 4}
    from tinkex_actors.engine.store.store import CheckpointRecord

    for name in ("short", "long"):
        store.put(CheckpointRecord(training_run_id="r", name=name, **record), None, lambda folder: folder.mkdir())
    store.set_ttl("r", "weights", "short", 3600)
    clock[0] += timedelta(seconds=3599)
    assert len(store.checkpoints()) == 2
    clock[0] += timedelta(seconds=1)
    assert [found.name for found in store.checkpoints()] == ["long"]
    with pytest.raises(NotFoundError):
        store.checkpoint("r", "weights", "short")
    clock[0] += timedelta(hours=1)
    store.put(CheckpointRecord(training_run_id="r", name="third", **record), None, lambda folder: folder.mkdir())
    assert not store.checkpoint_folder("r", "weights", "short").exists()
    store.close()


async def test_a_copy_is_whole_its_own_and_made_once(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        path = await saved(client)
        request = types.CopyWeightsRequest(source_path=path, destination_project_id="p", ttl_seconds=3600)
        client.headers = {"X-Idempotency-Key": "one"}
        copy = (await client.call("copy_weights", request)).tinker_path
        assert (await client.call("copy_weights", request)).tinker_path == copy
        client.headers = {"X-Idempotency-Key": "two"}
        assert (await client.call("copy_weights", request)).tinker_path not in (path, copy)
        runs = await client.call("list_training_runs", types.ListTrainingRunsRequest(project_id="p"))
        assert copy.split("/")[2] in [run.training_run_id for run in runs.training_runs]
        await client.call("delete_checkpoint", **address(path))
        load = types.LoadWeightsRequest(session_id=await client.session(), model_seq_id=0, path=copy, optimizer=True)
        loaded = await client.do("load_weights", load)
        assert (await client.do("optim_step", step_request(loaded.model_id, 1))).metrics["optim_steps:max"] == 2.0


async def test_external_weights_are_what_peft_reads(tmp_path: Path) -> None:
    from safetensors.numpy import load, load_file

    async with local_engine(tmp_path) as client:
        path = await saved(client)
        model_id = path.split("/")[2]
        request = types.SaveWeightsExternalRequest(model_id=model_id, seq_id=4, path="out")
        answer = await client.do("save_weights_external", request)
        assert answer.path == f"tinker://{model_id}/external_weights/out"
        found = await client.call("get_external_weights_urls", **address(answer.path))
        assert sorted(found.urls) == ["adapter_config.json", "adapter_model.safetensors"]
        assert timedelta(minutes=59) < found.expires - datetime.now(UTC) <= timedelta(hours=1)
        config = json.loads((await get(client, found.urls["adapter_config.json"])).body)
        assert (config["r"], config["lora_alpha"], config["peft_type"]) == (4, 32.0, "LORA")
        body = (await get(client, found.urls["adapter_model.safetensors"])).body
        assert answer.size_bytes >= len(body)
        exported = load(body)
        (file,) = (tmp_path / "tiny").glob("runs/*/weights/a/adapter.safetensors")
        own = load_file(file)
        name = "base_model.model.model.layers.1.self_attn.k_proj"
        np.testing.assert_array_equal(exported[f"{name}.lora_A.weight"], own["lora.k.a"][1].T)
        np.testing.assert_array_equal(exported[f"{name}.lora_B.weight"], own["lora.k.b"][1].T)
        assert exported["base_model.model.lm_head.lora_B.weight"].shape == (512, 4)
        assert len(exported) == 2 * (2 * 7 + 1)
        with pytest.raises(BadRequestError, match="is no external checkpoint"):
            await client.call("get_external_weights_urls", **address(path))
        sampler = types.CreateSamplingSessionRequest(
            session_id=await client.session(), sampling_session_seq_id=0, model_path=answer.path
        )
        with pytest.raises(BadRequestError, match="for other programs"):
            await client.call("create_sampling_session", sampler)


async def test_external_weights_are_encrypted_for_their_recipients(tmp_path: Path) -> None:
    identity = pyrage.x25519.Identity.generate()
    async with local_engine(tmp_path) as client:
        model_id = (await saved(client)).split("/")[2]
        request = types.SaveWeightsExternalRequest(
            model_id=model_id, seq_id=4, path="out", age_encryption_recipients=[str(identity.to_public())]
        )
        answer = await client.do("save_weights_external", request)
        urls = (await client.call("get_external_weights_urls", **address(answer.path))).urls
        assert sorted(urls) == ["adapter_config.json.age", "adapter_model.safetensors.age"]
        sealed = (await get(client, urls["adapter_config.json.age"])).body
        assert json.loads(pyrage.decrypt(sealed, [identity]))["r"] == 4
        wrong = msgspec.structs.replace(request, seq_id=5, path="no", age_encryption_recipients=["age1nobody"])
        with pytest.raises(RequestFailedError, match=r"age_encryption_recipients\[0\]: expected an age1"):
            await client.do("save_weights_external", wrong)


async def test_an_archive_is_downloaded_over_http_in_parts(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as direct:
        server = await serve(direct.transport)
        transport = HttpTransport(
            server.url, config=msgspec.structs.replace(engine_config(tmp_path), base_url=server.url)
        )
        client = WireClient(transport, headers={"X-API-Key": "tml-x"})
        try:
            path = await saved(client)
            route = f"/api/v1/training_runs/{address(path)['training_run_id']}/checkpoints/weights/a/archive"
            answer = await direct.transport.send(Request("GET", route, {"Host": f"127.0.0.1:{server.port}"}))
            assert answer.status == 302
            url = answer.headers["location"]
            assert url.startswith(f"{server.url}/api/v1/files/")
            whole = (await get(direct, url)).body
            part = await get(direct, url, range="bytes=100-")
            assert (part.status, part.body) == (206, whole[100:])
            assert part.headers["content-range"] == f"bytes 100-{len(whole) - 1}/{len(whole)}"
            assert (await get(direct, url, range=f"bytes={len(whole)}-")).status == 416
            with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
                assert sorted(tar.getnames()) == ["adapter.safetensors", "meta.json"]
        finally:
            await transport.close()
            await server.close()
