"""Every route is answered, in the dialect that was asked for, and nothing else is."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.plugins.wire_client import local_engine, pass_request, step_request
from tinkex_actors import types
from tinkex_actors.engine.service.naming import names_of
from tinkex_actors.engine.service.router import HANDLERS
from tinkex_actors.errors import AuthenticationError, ConflictError, NotFoundError
from tinkex_actors.wire.client import encode_request
from tinkex_actors.wire.dialect import HOSTED, JSON
from tinkex_actors.wire.exchange import Request
from tinkex_actors.wire.routes import ROUTES


def test_every_route_of_the_table_has_a_handler() -> None:
    assert set(HANDLERS) == set(ROUTES)


@pytest.mark.parametrize(
    ("name", "asked", "accepted"),
    [
        ("smollm2-135m", "SmolLM2-135M", True),
        ("smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct", True),
        ("smollm2-135m", "huggingfacetb/smollm2-135m-instruct", True),
        # Published without its instruction tuning, it is another model.
        ("smollm2-135m", "HuggingFaceTB/SmolLM2-135M", False),
        ("smollm2-135m", "tiny", False),
        ("tiny", "Tiny", True),
        ("tiny", "tiny-2", False),
    ],
)
def test_a_model_is_known_by_its_own_names_only(name: str, asked: str, accepted: bool) -> None:
    assert names_of(name).accepts(asked) is accepted


async def test_the_service_routes_answer(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        assert await client.call("healthz") == types.HealthResponse()
        asked = types.ClientConfigRequest(sdk_version="0.38.0")
        config = await client.call("client_config", asked)
        assert (config.use_pyqwest_transport, config.parallel_fwdbwd_chunks, config.pjwt_auth_enabled) == (
            False,
            True,
            False,
        )
        assert (await client.call("dynamic_config", asked)).sample_cancel_enabled
        capabilities = await client.call("get_server_capabilities")
        assert capabilities.supported_models == [
            types.SupportedModel(model_name="tiny", max_context_length=2048, trainable=True, sampleable=True)
        ]
        event = types.SessionStartEvent(event_id="1", event_session_index=0, timestamp=datetime.now(UTC))
        batch = types.TelemetrySendRequest(
            events=[event], platform="Linux", sdk_version="0.38.0", session_id="s", process_uuid="p"
        )
        assert await client.call("telemetry", batch) == types.TelemetryResponse()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v1/nothing"),
        ("HEAD", "/api/v1/healthz"),
        ("POST", "/api/v1/healthz"),
        ("GET", "/"),
    ],
)
async def test_what_is_not_a_route_is_404_in_json(tmp_path: Path, method: str, path: str) -> None:
    async with local_engine(tmp_path) as client:
        answer = await client.transport.send(Request(method, path, {}))
        assert answer.status == 404
        assert path in json.loads(answer.body)["detail"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"tags": 3}', b"\xff"])
async def test_what_cannot_be_read_is_400_with_a_body(tmp_path: Path, body: bytes) -> None:
    async with local_engine(tmp_path) as client:
        answer = await client.transport.send(
            Request("POST", "/api/v1/create_session", {"content-type": "application/json"}, body)
        )
        assert answer.status == 400
        assert int(answer.headers["content-length"]) == len(answer.body) > 10


async def test_any_key_or_none_is_accepted(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        for headers in ({}, {"X-API-Key": "tml-x"}, {"X-API-Key": "anything"}):
            client.headers = headers
            assert await client.session()


async def test_a_strict_engine_wants_a_key_and_numbers_used_once(tmp_path: Path) -> None:
    async with local_engine(tmp_path, strict=True) as client:
        assert await client.call("healthz") == types.HealthResponse()
        with pytest.raises(AuthenticationError):
            await client.session()
        client.headers = {"X-API-Key": "tml-x"}
        model_id = await client.model()
        first = await client.call("optim_step", step_request(model_id, 1))
        assert await client.call("optim_step", step_request(model_id, 1)) == first
        with pytest.raises(ConflictError, match="taken by a request with other content"):
            await client.call("optim_step", step_request(model_id, 1, 0.5))


async def test_the_json_dialect_has_no_configuration_and_no_protobuf(tmp_path: Path) -> None:
    async with local_engine(tmp_path, dialect=JSON) as client:
        for name in ("client_config", "dynamic_config"):
            with pytest.raises(NotFoundError):
                await client.call(name, types.ClientConfigRequest(sdk_version="0.38.0"))
        model_id = await client.model()
        request = encode_request(ROUTES["forward_backward"], pass_request(model_id, 1), HOSTED)
        answer = await client.transport.send(request)
        assert answer.status == 415
        assert b"application/json" in answer.body
        # Refused for its form, number 1 is still to come.
        output = await client.do("forward_backward", pass_request(model_id, 1))
        assert len(output.loss_fn_outputs) == 2
        sampler = types.CreateSamplingSessionRequest(
            session_id=model_id.partition(":")[0], sampling_session_seq_id=0, base_model="tiny"
        )
        asked = types.SampleRequest(
            sampling_session_id=(await client.call("create_sampling_session", sampler)).sampling_session_id,
            seq_id=0,
            prompt=types.ModelInput.from_ints([1]),
            sampling_params=types.SamplingParams(max_tokens=1),
        )
        assert (await client.call("asample", asked)).sample_sequence_ids is None


async def test_both_dialects_compute_the_same_numbers(tmp_path: Path) -> None:
    outputs = []
    for dialect in (HOSTED, JSON):
        async with local_engine(tmp_path / dialect.name, dialect=dialect) as client:
            model_id = await client.model()
            found = [await client.do("forward_backward", pass_request(model_id, 1))]
            found.append(await client.do("optim_step", step_request(model_id, 2)))
            name = "forward_backward" if dialect.forward_only_in_forward_backward else "forward"
            found.append(await client.do(name, pass_request(model_id, 3, forward_only=True)))
            saved = types.SaveWeightsForSamplerRequest(model_id=model_id, seq_id=4, sampling_session_seq_id=0)
            sampler_id = (await client.do("save_weights_for_sampler", saved)).sampling_session_id
            asked = types.SampleRequest(
                sampling_session_id=sampler_id,
                seq_id=0,
                num_samples=2,
                prompt=types.ModelInput.from_ints([5, 6, 7]),
                sampling_params=types.SamplingParams(max_tokens=8, seed=3),
                prompt_logprobs=True,
                topk_prompt_logprobs=2,
            )
            found.append(await client.do("asample", asked))
            outputs.append(found)
    assert outputs[0] == outputs[1]
