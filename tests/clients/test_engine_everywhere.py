"""The same calls give the same numbers in process and over HTTP, whatever the server speaks, lacks or insists on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.every_server import SERVERS, over_http
from tinkex_actors import (
    AdamParams,
    APIStatusError,
    Config,
    Datum,
    ModelInput,
    RequestFailedError,
    SamplingParams,
    ServiceClient,
    UnsupportedByServerError,
)
from tinkex_actors.engine.service.call import EngineOptions
from tinkex_actors.wire.dialect import HOSTED, JSON
from tinkex_actors.wire.quirks import Quirks

PROMPT = ModelInput.from_ints([5, 6, 7])


def batch() -> list[Datum]:
    rows = [[1, 2, 3, 4], [9, 8, 7, 6, 5, 4], [2, 2]]
    return [
        Datum(
            model_input=ModelInput.from_ints(row[:-1]),
            loss_fn_inputs={"target_tokens": row[1:], "weights": [1.0] * (len(row) - 1)},
        )
        for row in rows
    ]


async def everything(service: ServiceClient) -> dict[str, Any]:
    """Train, save, load, sample, score and list; return every number."""
    seen: dict[str, Any] = {}
    training = await service.create_lora_training_client("tiny", rank=4, seed=11)
    for step in range(3):
        passed = training.forward_backward(batch(), "cross_entropy")
        updated = training.optim_step(AdamParams(learning_rate=1e-2))
        result = await passed
        seen[f"pass {step}"] = result.metrics
        seen[f"logprobs {step}"] = [output["logprobs"].tolist() for output in result.loss_fn_outputs]
        seen[f"update {step}"] = (await updated).metrics
    saved = await training.save_state("half")
    sampler_path = (await training.save_weights_for_sampler("sampler")).path
    again = await service.create_training_client_from_state_with_optimizer(saved.path)
    seen["forward"] = (await training.forward(batch(), "cross_entropy")).metrics
    seen["forward of the copy"] = (await again.forward(batch(), "cross_entropy")).metrics
    await again.forward_backward(batch(), "cross_entropy")
    seen["the copy's next update"] = (await again.optim_step(AdamParams(learning_rate=1e-2))).metrics
    await training.load_state(saved.path)
    seen["forward after load"] = (await training.forward(batch(), "cross_entropy")).metrics
    for name, sampler in (
        ("snapshot", await training.save_weights_and_get_sampling_client()),
        ("saved", await service.create_sampling_client(model_path=sampler_path)),
        ("base", await service.create_sampling_client(base_model="tiny")),
    ):
        answer = await sampler.sample(PROMPT, 2, SamplingParams(max_tokens=6, seed=3), include_prompt_logprobs=True)
        seen[name] = [(sequence.tokens, sequence.logprobs, sequence.stop_reason) for sequence in answer.sequences]
        seen[f"{name} prompt"] = answer.prompt_logprobs
        seen[f"{name} scores"] = await sampler.compute_logprobs(PROMPT)
        # A stop that is a text, which some servers want in a list, and none for the length, which some insist on.
        stopped = await sampler.sample(PROMPT, 1, SamplingParams(max_tokens=4, seed=5, stop="never said"))
        seen[f"{name} stop"] = [sequence.tokens for sequence in stopped.sequences]
        endless = await sampler.sample(PROMPT, 1, SamplingParams(seed=6, stop=list(range(512))))
        seen[f"{name} without a length"] = [(sequence.tokens, sequence.stop_reason) for sequence in endless.sequences]
    rest = service.create_rest_client()
    listed = await rest.list_checkpoints(training.model_id)
    seen["checkpoints"] = sorted((point.checkpoint_id, point.checkpoint_type) for point in listed.checkpoints)
    runs = await rest.list_training_runs()
    seen["run is listed"] = training.model_id in {run.training_run_id for run in runs.training_runs}
    seen["models"] = [model.model_name for model in (await service.get_server_capabilities()).supported_models]
    seen["info"] = (await training.get_info()).lora_rank
    return seen


@pytest.fixture(scope="module")
def in_process(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    async def run() -> dict[str, Any]:
        config = Config(base_url="local://tiny", engine_store=tmp_path_factory.mktemp("in-process"))
        async with ServiceClient(config=config) as service:
            return await everything(service)

    return asyncio.run(run())


@pytest.mark.slow
def test_the_numbers_make_sense(in_process: dict[str, Any]) -> None:
    assert in_process["pass 2"]["loss:sum"] < in_process["pass 0"]["loss:sum"]
    assert in_process["forward"] == in_process["forward of the copy"] == in_process["forward after load"]
    assert in_process["snapshot"] == in_process["saved"]
    assert in_process["snapshot"] != in_process["base"]
    assert in_process["run is listed"]
    assert [kind for _, kind in in_process["checkpoints"]] == ["sampler", "training"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SERVERS)
async def test_every_number_is_equal(name: str, tmp_path: Path, in_process: dict[str, Any]) -> None:
    options = SERVERS[name]
    async with over_http(tmp_path, options) as url, ServiceClient(base_url=url, api_key="tml-any") as service:
        seen = await everything(service)
    wanted = dict(in_process)
    if options.quirks.empty_metrics:
        # What the server does not say, nobody can compare.
        for key, value in in_process.items():
            if isinstance(value, dict):
                assert seen.pop(key) == {}
                del wanted[key]
    assert seen == wanted


@pytest.mark.slow
@pytest.mark.parametrize("dialect", [HOSTED, JSON])
async def test_what_the_server_refuses_says_why(tmp_path: Path, dialect: Any) -> None:
    async with over_http(tmp_path, EngineOptions(dialect=dialect)) as url, ServiceClient(base_url=url) as service:
        with pytest.raises(APIStatusError, match="tiny"):
            await service.create_lora_training_client("gpt-17")
        training = await service.create_lora_training_client("tiny", rank=4)
        with pytest.raises(RequestFailedError, match=r"supported") as caught:
            await training.forward_backward(
                [
                    Datum(
                        model_input=PROMPT,
                        loss_fn_inputs={
                            "target_tokens": [1, 2, 3],
                            "logprobs": [0.0] * 3,
                            "advantages": [1.0] * 3,
                        },
                    )
                ],
                "stable_reinforce",
            )
        assert caught.value.category == "user"
        with pytest.raises(RequestFailedError, match="9999"):
            await training.forward(
                [Datum(model_input=ModelInput.from_ints([9999]), loss_fn_inputs={"target_tokens": [1]})],
                "cross_entropy",
            )
        with pytest.raises((RequestFailedError, APIStatusError), match="nowhere"):
            await training.load_state(f"tinker://{training.model_id}/weights/nowhere")
        assert (await training.optim_step(AdamParams())).metrics is not None, "refusals leave no gap"


@pytest.mark.slow
async def test_a_server_that_takes_no_encoding_at_all_is_told_so(tmp_path: Path) -> None:
    options = EngineOptions(dialect=JSON, quirks=Quirks.named(["refuses_json"]))
    async with over_http(tmp_path, options) as url, ServiceClient(base_url=url) as service:
        training = await service.create_lora_training_client("tiny", rank=4)
        with pytest.raises(UnsupportedByServerError, match="neither protobuf nor JSON") as caught:
            await training.forward_backward(batch(), "cross_entropy")
        assert caught.value.server == url


@pytest.mark.slow
async def test_what_a_server_does_not_know_is_not_left_out_where_it_was_meant(tmp_path: Path) -> None:
    options = EngineOptions(quirks=Quirks.named(["old_fields"]))
    async with over_http(tmp_path, options) as url, ServiceClient(base_url=url) as service:
        training = await service.create_lora_training_client("tiny", rank=4)
        with pytest.raises(UnsupportedByServerError, match="ttl_seconds") as caught:
            await training.save_state("kept", ttl_seconds=3600)
        assert caught.value.feature == "save_weights with ttl_seconds"
        assert (await training.save_state("kept")).path, "a refusal takes no number"
