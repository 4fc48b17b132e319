"""What a server can be asked to do wrong, and that it does it as often and as long as it was asked to."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.plugins.wire_client import engine_config, local_engine, step_request
from tinkex_actors import AdamParams, SamplingParams, ServiceClient, types
from tinkex_actors.engine.service.call import EngineOptions
from tinkex_actors.engine.service.provocations import Provocations
from tinkex_actors.engine.transport import LocalTransport
from tinkex_actors.errors import ConfigError, GoneError, RateLimitError
from tinkex_actors.runtime import ActorSystem
from tinkex_actors.transport.server import serve
from tinkex_actors.wire.answers import MetadataOnly, Ready, Timeout408, TryAgain


def test_a_count_is_used_up_and_a_time_runs_from_its_first_use() -> None:
    asked = Provocations(["queue-paused=2", "queue_limited=5s", "asample-429=1", "asample-503", "metadata_only"])
    assert [asked.state("queue_paused", 0.0) for _ in range(3)] == [True, True, False]
    assert [asked.state("queue_limited", now) for now in (100.0, 104.9, 105.0)] == [True, True, False]
    assert [asked.status("asample", 0.0) for _ in range(3)] == [429, 503, 503]
    assert asked.status("optim_step", 0.0) is None
    assert asked.state("metadata_only", 0.0)
    assert not Provocations().state("queue_paused", 0.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nonsense", "expected queue_paused, queue_limited, metadata_only, or ROUTE-STATUS"),
        ("asample-200", "a status of 400 to 599"),
        ("nothing-429", "or ROUTE-STATUS"),
        ("asample-429=soon", "expected =TIMES .* or =SECONDSs .*, got 'soon'"),
        ("queue_paused=0", "got '0'"),
        ("queue_paused=infs", "got 'infs'"),
    ],
)
def test_what_cannot_be_asked_is_told(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Provocations([text])


async def test_each_is_seen_on_the_wire(tmp_path: Path) -> None:
    provoke = [
        "queue_paused=1",
        "queue_limited=1",
        "metadata_only=1",
        "retrieve_future-408=1",
        "session_heartbeat-410=1",
        "asample-429=1",
    ]
    async with local_engine(tmp_path, provoke=provoke) as client:
        session = types.CreateSessionRequest(tags=[], user_metadata={}, sdk_version="x")
        session_id = (await client.call("create_session", session)).session_id
        create = types.CreateModelRequest(session_id=session_id, model_seq_id=0, base_model="tiny")
        promise = await client.call("create_model", create)
        answers = [await client.poll("create_model", promise.request_id, allow_metadata_only=True) for _ in range(5)]
        kinds = [type(answer) for answer in answers]
        assert kinds == [Timeout408, TryAgain, TryAgain, MetadataOnly, Ready]
        states = [answer.queue_state for answer in answers if isinstance(answer, TryAgain | Timeout408)]
        assert states == ["paused_capacity", "paused_capacity", "paused_rate_limit"]
        beat = types.SessionHeartbeatRequest(session_id=session_id)
        with pytest.raises(GoneError, match="was told to answer session_heartbeat with 410"):
            await client.call("session_heartbeat", beat)
        await client.call("session_heartbeat", beat)
        sampler = types.CreateSamplingSessionRequest(
            session_id=session_id, sampling_session_seq_id=0, base_model="tiny"
        )
        sample = types.SampleRequest(
            sampling_session_id=(await client.call("create_sampling_session", sampler)).sampling_session_id,
            seq_id=0,
            prompt=types.ModelInput.from_ints([5]),
            sampling_params=SamplingParams(max_tokens=1),
        )
        with pytest.raises(RateLimitError) as caught:
            await client.call("asample", sample)
        assert caught.value.retry_after == 1.0
        assert (await client.do("asample", sample)).sequences
        assert await client.do("optim_step", step_request(f"{session_id}:train:0", 1))


@pytest.mark.slow
async def test_our_client_gets_through_all_of_it_over_http(tmp_path: Path) -> None:
    provoke = [
        "queue_paused=2",
        "metadata_only",
        "retrieve_future-408=2",
        "retrieve_future-503=1",
        "asample-429=2",
        "optim_step-500=1",
        "forward_backward-409=1",
        "create_session-503=1",
        "session_heartbeat-500",
        "telemetry-500",
    ]
    config = engine_config(tmp_path)
    async with ActorSystem(name="server") as system:
        options = EngineOptions(provocations=Provocations(provoke))
        transport = LocalTransport("tiny", system=system, config=config, options=options)
        server = await serve(transport)
        try:
            mine = msgspec.structs.replace(config, base_url=server.url, api_key="tml-x")
            async with ServiceClient(config=mine) as service:
                training = await service.create_lora_training_client("tiny", rank=4, seed=1)
                data = [
                    types.Datum(
                        model_input=types.ModelInput.from_ints([5, 6, 7]),
                        loss_fn_inputs={"target_tokens": [6, 7, 8], "weights": [1.0] * 3},
                    )
                ]
                first = await training.forward_backward(data, "cross_entropy")
                assert (await training.optim_step(AdamParams())).metrics
                sampler = await training.save_weights_and_get_sampling_client()
                answer = await sampler.sample(types.ModelInput.from_ints([5]), 1, SamplingParams(max_tokens=2))
                assert len(answer.sequences[0].tokens) == 2
                assert first.metrics["loss:sum"] > 0
        finally:
            await server.close()
            await transport.close()
