"""Every public method of the official SDK against ``tinkex-actors serve``, and our client's equal results beside it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.plugins.model_folder import model_config, write_model
from tests.plugins.served import served
from tinkex_actors import (
    AdamParams,
    AdminClient,
    Config,
    Datum,
    ModelInput,
    RestClient,
    SamplingParams,
    ServiceClient,
    SessionSearchRequest,
    TensorData,
)
from tinkex_actors.types import Checkpoint

pytestmark = [pytest.mark.peer, pytest.mark.slow, pytest.mark.timeout(240)]

STORY = Path(__file__).with_name("every_method_story.py")
BASE = "pocket"

# `create` is the SDK's own way to make one, `holder` is no method, and the sampler's tokenizer is fetched from the
# network by the model's name.
NOT_CALLED = ["SamplingClient.create", "SamplingClient.get_tokenizer", "ServiceClient.holder"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of a small model folder, in a process of its own, with tokens for keys and the session's poller."""
    folder = tmp_path_factory.mktemp("models") / BASE
    write_model(folder, model_config("Qwen3ForCausalLM", model_type="qwen3"))
    store = tmp_path_factory.mktemp("store")
    with served("--quirk", "session-polls", "--quirk", "wants-jwt", store=store, model=str(folder)) as url:
        yield url


@pytest.fixture(scope="module")
def story(server: str) -> dict[str, Any]:
    """What the SDK saw."""
    environment = {**os.environ, "TINKER_API_KEY": "tml-local", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, str(STORY), server, BASE],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_every_public_method_was_called(story: dict[str, Any]) -> None:
    assert story["not called"] == NOT_CALLED
    # These need torch on the client's side, which comes with the bench extra and not with this suite.
    needing = ["forward_backward_custom", "forward_backward_custom_async", "create_custom_loss"]
    assert story["without torch"] == ([] if importlib.util.find_spec("torch") else needing)


def test_training_is_computed_saved_and_restored(story: dict[str, Any]) -> None:
    first, *_, last = story["losses"]
    assert story["losses"][:4] == [first] * 4
    assert last < 0.6 * first
    assert story["loaded"] == last
    assert story["restored"] == [last] * 4
    assert story["info"] == ["qwen3", BASE, 4, True]
    assert story["tokens"] == [3, 4]
    assert story["paths"] == {
        "a": "weights/a",
        "b": "weights/b",
        "s": "sampler_weights/s",
        "t": "sampler_weights/t",
        "x": "external_weights/x",
        "y": "external_weights/y",
    }


def test_samples_come_from_the_weights_they_were_asked_from(story: dict[str, Any]) -> None:
    answers = dict(story["sampled"])
    untrained = answers.pop("service twin")
    assert len({tuple(tokens) for tokens in answers.values()}) == 1
    assert untrained != answers["snapshot"]
    scored = story["scored"]
    assert story["logprobs"] == scored["prompt"]
    assert scored["targets"] == scored["prompt"][1:]
    assert [row[0][0] for row in scored["sampled topk"]] == answers["by path"]
    assert scored["alternatives"] == [[row[0][0]] * 2 for row in scored["topk"][1:]]


def test_listings_and_administration_are_answered(story: dict[str, Any]) -> None:
    assert story["capabilities"] == [BASE]
    assert story["weights"] == [4, True, True, True]
    assert story["checkpoints"] == sorted(story["paths"].values())
    assert story["external"] == ["adapter_config.json", "adapter_model.safetensors"]
    assert story["session"] == ["Every method of it", 6]
    assert story["runs"] == story["project"] == 6
    assert all(story[name] for name in ("console", "sessions", "trace", "sampler"))
    assert story["search"] == [True]
    assert story["whoami"] == "local"
    assert story["copies"] == 3


async def test_our_client_gets_equal_results(server: str, story: dict[str, Any]) -> None:
    data = [
        Datum(
            model_input=ModelInput.from_ints([3, 4, 5, 6]),
            loss_fn_inputs={"target_tokens": [4, 5, 6, 7], "weights": [1.0] * 4},
        )
    ]
    prompt = ModelInput.from_ints([3, 4, 5])
    params = SamplingParams(max_tokens=3, temperature=0.0, seed=1)
    config = Config.from_environment(base_url=server, api_key="tml-local")
    async with ServiceClient(config=config) as service:
        training = await service.create_lora_training_client(BASE, rank=4, seed=1)
        losses = [(await training.forward(data, "cross_entropy")).metrics["loss:sum"] for _ in range(2)]
        losses += [(await training.forward_backward(data, "cross_entropy")).metrics["loss:sum"] for _ in range(2)]
        for _ in range(2):
            await training.optim_step(AdamParams(learning_rate=1e-2))
        losses.append((await training.forward(data, "cross_entropy")).metrics["loss:sum"])
        assert losses == story["losses"]
        saved = await training.save_state("a", ttl_seconds=7200, user_metadata={"k": "v"})
        restored = await service.create_training_client_from_state_with_optimizer(saved.path)
        assert (await restored.forward(data, "cross_entropy")).metrics["loss:sum"] == story["restored"][0]
        named = await training.save_weights_for_sampler("s")
        sampler = await training.create_sampling_client(named.path)
        answer = await sampler.sample(
            prompt,
            1,
            params,
            include_prompt_logprobs=True,
            topk_prompt_logprobs=2,
            topk_sample_logprobs=2,
            target_prompt_logprobs=TensorData([[4], [5]], "int64"),
            prompt_alt_tokens_k=2,
        )
        assert answer.sequences[0].tokens == story["sampled"]["by path"]
        assert answer.target_prompt_logprobs is not None
        assert answer.prompt_alt_tokens is not None
        assert {
            "prompt": answer.prompt_logprobs,
            "topk": as_lists(answer.topk_prompt_logprobs),
            "sampled topk": as_lists(answer.sequences[0].topk_logprobs),
            "targets": np.asarray(answer.target_prompt_logprobs.to_numpy()).reshape(-1).tolist(),
            "alternatives": np.asarray(answer.prompt_alt_tokens.tokens.to_numpy()).tolist(),
        } == story["scored"]
        assert await sampler.compute_logprobs(prompt) == story["logprobs"]
        rest = service.create_rest_client()
        weights = await rest.get_weights_info_by_tinker_path(saved.path)
        assert [weights.lora_rank, weights.is_lora, weights.train_mlp, weights.train_attn] == story["weights"]
        listed = await rest.list_checkpoints(training.model_id)
        assert sorted(entry.checkpoint_id for entry in listed.checkpoints) == ["sampler_weights/s", "weights/a"]


async def test_our_client_sees_and_changes_the_same(server: str, story: dict[str, Any], tmp_path: Path) -> None:
    config = Config.from_environment(base_url=server, api_key="tml-local")
    async with ServiceClient(config=config) as service:
        rest, admin = service.create_rest_client(), service.create_admin_client()
        # What the SDK has left there.
        assert [model.model_name for model in (await rest.get_server_capabilities()).supported_models] == [BASE]
        (found,) = await rest.iter_session_search(SessionSearchRequest(display_name="every METHOD")).collect()
        session = await rest.get_session(found.session_id)
        assert [session.display_name, len(session.training_run_ids)] == story["session"]
        assert found.session_id in [session_id async for session_id in rest.iter_sessions(page_size=1)]
        runs = await rest.iter_training_runs(project_id="project", page_size=4).collect()
        assert len(runs) == story["project"]
        assert (await rest.get_training_run(runs[0].training_run_id)).lora_rank == story["run"]
        assert "/api/v1/files/" in await rest.export_session_trace(found.session_id)
        await service.create_sampling_client(base_model=BASE)
        (sampler_id,) = (await rest.get_session(service.session_id)).sampler_ids
        assert (await rest.get_sampler(sampler_id)).base_model == BASE
        assert (await rest.whoami()).user_urn == story["whoami"]
        # The same changes, with the same effects.
        training = await service.create_lora_training_client(BASE, rank=4, seed=1)
        saved = (await training.save_state("b")).path
        external = (await training.save_weights_external("x")).path
        assert sorted((await rest.get_external_weights_urls(external)).urls) == story["external"]
        await rest.publish_checkpoint_from_tinker_path(saved)
        assert (await listed(rest, saved)).public
        await rest.unpublish_checkpoint_from_tinker_path(saved)
        assert not (await listed(rest, saved)).public
        await rest.set_checkpoint_ttl_from_tinker_path(saved, 3600)
        assert (await listed(rest, saved)).expires_at is not None
        await rest.set_checkpoint_ttl_from_tinker_path(saved, None)
        assert (await listed(rest, saved)).expires_at is None
        copy = await rest.copy_weights(saved, "other")
        assert copy.split("/")[2] != saved.split("/")[2]
        assert await rest.get_weights_info_by_tinker_path(copy) == await rest.get_weights_info_by_tinker_path(saved)
        await rest.assign_session_project(service.session_id, "ours")
        assert len((await rest.list_training_runs(project_id="ours")).training_runs) == 1
        assert (
            sorted(path.name for path in (await rest.download_checkpoint(external, tmp_path)).iterdir())
            == (story["external"])
        )
        assert any((await rest.download_checkpoint(saved, tmp_path)).glob("*.safetensors"))
        now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
        assert list((await admin.get_audit_log()).entries) == []
        assert list((await admin.get_billing_usage(now - timedelta(hours=2), now)).data) == []
        before = await stored(admin)
        await rest.delete_checkpoint_from_tinker_path(copy)
        await rest.delete_checkpoint(training.model_id, "external_weights/x")
        assert await stored(admin) == before - 2


async def listed(rest: RestClient, path: str) -> Checkpoint:
    return next(entry for entry in await rest.iter_user_checkpoints().collect() if entry.tinker_path == path)


async def stored(admin: AdminClient) -> int:
    usage = await admin.get_current_checkpoint_storage_usage()
    return sum(item.checkpoint_count for item in usage.data)


def as_lists(rows: Any) -> list[Any]:
    return [None if row is None else [list(pair) for pair in row] for row in rows]
