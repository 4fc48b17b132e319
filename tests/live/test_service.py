"""Against a real service, with the smallest model it has, within hard caps, leaving nothing behind.

``TINKEX_LIVE=1 TINKER_API_KEY=... pytest -m live tests/live`` runs it; ``TINKER_BASE_URL`` names another server.
"""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.live.purse import Purse, smallest
from tinkex_actors import (
    AdamParams,
    APIStatusError,
    Config,
    Datum,
    ModelInput,
    RequestFailedError,
    SamplingParams,
    ServiceClient,
    TinkexError,
)
from tinkex_actors.runtime import ActorSystem
from tinkex_actors.transport import open_transport

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

# Whatever happens to this process, the server forgets the checkpoints after so many seconds; fewer are not allowed.
TTL = 3_600
TOKENS = list(range(100, 117))


def batch() -> list[Datum]:
    inputs, targets = TOKENS[:-1], TOKENS[1:]
    loss_inputs = {"target_tokens": targets, "weights": [1.0] * len(targets)}
    return [Datum(model_input=ModelInput.from_ints(inputs), loss_fn_inputs=loss_inputs)]


@asynccontextmanager
async def spending(config: Config) -> AsyncIterator[tuple[ServiceClient, Purse]]:
    """A service whose every request is counted."""
    async with ActorSystem(name="live") as system:
        purse = Purse(open_transport(config.base_url, system=system, config=config))
        metadata = {"suite": "tinkex_actors live"}
        async with ServiceClient(config=config, transport=purse, system=system, user_metadata=metadata) as service:
            yield service, purse


async def test_train_save_sample_and_clean_up(service_config: Config) -> None:
    name = f"live-{uuid.uuid4().hex[:12]}"
    paths: list[str] = []
    async with spending(service_config) as (service, purse):
        model = smallest((await service.get_server_capabilities()).supported_models)
        rest = service.create_rest_client()
        training = await service.create_lora_training_client(model, rank=8, seed=1)
        try:
            steps = []
            for _ in range(3):
                steps.append(training.forward_backward(batch(), "cross_entropy"))
                training.optim_step(AdamParams(learning_rate=1e-4))
            losses = [(await step).metrics["loss:sum"] for step in steps]
            assert all(math.isfinite(loss) and loss > 0 for loss in losses)
            assert losses[-1] < losses[0]

            paths.append((await training.save_state(name, ttl_seconds=TTL)).path)
            paths.append((await training.save_weights_for_sampler(name, ttl_seconds=TTL)).path)
            sampler = await service.create_sampling_client(model_path=paths[-1])
            prompt = ModelInput.from_ints(TOKENS[:8])
            params = SamplingParams(max_tokens=4, temperature=0.0, seed=7)
            first, again = await asyncio.gather(
                sampler.sample(prompt, num_samples=1, sampling_params=params),
                sampler.sample(prompt, num_samples=1, sampling_params=params),
            )
            assert 1 <= len(first.sequences[0].tokens) <= 4
            assert first.sequences[0].tokens == again.sequences[0].tokens
            scores = await sampler.compute_logprobs(prompt)
            assert len(scores) == 8
            assert scores[0] is None
            assert all(score is not None and score <= 0 for score in scores[1:])

            listed = await rest.list_checkpoints(training.model_id)
            assert {checkpoint.tinker_path for checkpoint in listed.checkpoints} >= set(paths)
        finally:
            await clean_up(service, paths)
        left = await rest.list_checkpoints(training.model_id)
        assert not {checkpoint.tinker_path for checkpoint in left.checkpoints} & set(paths)
    assert purse.spent["finish_session"] >= 1


async def clean_up(service: ServiceClient, paths: list[str]) -> None:
    """Delete checkpoints, all that can be, and say which could not."""
    rest = service.create_rest_client()
    outcomes = await asyncio.gather(
        *(rest.delete_checkpoint_from_tinker_path(path) for path in paths), return_exceptions=True
    )
    failed = {path: outcome for path, outcome in zip(paths, outcomes, strict=True) if outcome is not None}
    assert not failed, f"left behind until their TTL of {TTL} s ends: {failed}"


async def test_what_the_service_refuses_is_an_error_of_ours(service_config: Config) -> None:
    async with spending(service_config) as (service, _):
        rest = service.create_rest_client()
        with pytest.raises((APIStatusError, RequestFailedError)):
            await service.create_lora_training_client("no-such-model/really-not")
        with pytest.raises(APIStatusError):
            await rest.get_training_run(str(uuid.uuid4()))
        with pytest.raises(TinkexError):
            await rest.delete_checkpoint_from_tinker_path(f"tinker://{uuid.uuid4()}/weights/none")


async def test_the_service_takes_our_telemetry(service_config: Config) -> None:
    async with spending(service_config) as (service, purse):
        service.telemetry.log("tinkex_actors.live", {"answer": 42})
        assert await service.telemetry.wait_until_drained()
        counts = service.telemetry.statistics()
        assert purse.spent["telemetry"] == 1
        assert (counts.refused, counts.spooled, counts.lost) == (0, 0, 0)


async def test_the_caps_hold(service_config: Config) -> None:
    async with spending(service_config) as (service, purse):
        model = smallest((await service.get_server_capabilities()).supported_models)
        sampler = await service.create_sampling_client(base_model=model)
        with pytest.raises(TinkexError, match="cap of 600 tokens stops asample"):
            await sampler.sample(ModelInput.from_ints(TOKENS), sampling_params=SamplingParams(max_tokens=100_000))
        assert purse.spent["retrieve_future"] == 0
