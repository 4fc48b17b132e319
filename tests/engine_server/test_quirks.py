"""Each quirk makes the engine answer as the servers it stands for; without any, nothing is different."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.plugins.wire_client import WireClient, local_engine, pass_request, step_request
from tinkex_actors import types
from tinkex_actors.engine.service.provocations import STATES
from tinkex_actors.errors import ConfigError, UnprocessableEntityError
from tinkex_actors.wire.client import encode_request
from tinkex_actors.wire.dialect import HOSTED, JSON
from tinkex_actors.wire.exchange import Request, Response
from tinkex_actors.wire.quirks import OLD_FIELDS, QUIRKS, Quirks, unknown_fields
from tinkex_actors.wire.routes import ROUTES


async def post(client: WireClient, name: str, body: dict[str, Any]) -> Response:
    headers = {"content-type": "application/json", "x-api-key": "tml-x"}
    return await client.transport.send(
        Request("POST", f"/api/v1{ROUTES[name].path}", headers, json.dumps(body).encode())
    )


async def sampler_of(client: WireClient) -> str:
    request = types.CreateSamplingSessionRequest(
        session_id=await client.session(), sampling_session_seq_id=0, base_model="tiny"
    )
    sampler_id: str = (await client.call("create_sampling_session", request)).sampling_session_id
    return sampler_id


def sample_body(sampler_id: str, **params: Any) -> dict[str, Any]:
    prompt = {"chunks": [{"type": "encoded_text", "tokens": [5, 6, 7]}]}
    return {"sampling_session_id": sampler_id, "seq_id": 0, "prompt": prompt, "sampling_params": params}


def test_names_are_those_of_the_command_line_and_wrong_ones_are_told() -> None:
    assert set(QUIRKS) == set(Quirks.__struct_fields__) - {"without", "unknown_fields"}
    chosen = Quirks.named(["empty-metrics"], ["client-config", "protobuf"])
    assert chosen == Quirks(empty_metrics=True, without=frozenset({"client_config", "protobuf"}))
    every = Quirks.named(["all"])
    assert every.old_fields
    assert not every.refuses_json
    assert not every.wants_jwt
    with pytest.raises(ConfigError, match=r"quirk 'moody': expected one of protobuf_crashes.*or all"):
        Quirks.named(["moody"])
    with pytest.raises(ConfigError, match=r"without 'everything': expected a feature or a route: metadata_only"):
        Quirks.named(without=["everything"])


def test_fields_that_came_later_are_fields_that_we_send() -> None:
    for route, names in OLD_FIELDS.items():
        assert names <= set(ROUTES[route].request.__struct_fields__)


@pytest.mark.parametrize(
    ("name", "body", "found"),
    [
        (
            "create_session",
            {"tags": [], "user_metadata": {"free": 1}, "sdk_version": "x", "type": "create_session"},
            [],
        ),
        ("create_session", {"tags": [], "colour": "red"}, [["colour"]]),
        ("create_model", {"lora_config": {"rank": 4, "alpha": 2}}, [["lora_config", "alpha"]]),
        (
            "asample",
            {"prompt": {"chunks": [{"type": "encoded_text", "tokens": [1]}, {"type": "image", "smell": 1}]}},
            [["prompt", "chunks", 1, "smell"]],
        ),
        ("asample", {"target_prompt_logprobs": {"data": [1], "unit": "bit"}}, [["target_prompt_logprobs", "unit"]]),
        (
            "forward_backward",
            {"forward_backward_input": {"data": [{"loss_fn_inputs": {}, "d": 2}]}, "m": 1},
            [
                ["forward_backward_input", "data", 0, "d"],
                ["m"],
            ],
        ),
        ("create_session", ["no object"], []),
    ],
)
def test_unknown_fields_are_found_at_any_depth(name: str, body: Any, found: list[list[Any]]) -> None:
    assert [where for where, _ in unknown_fields(ROUTES[name], json.dumps(body).encode())] == found


def test_what_is_no_json_has_no_unknown_fields() -> None:
    assert unknown_fields(ROUTES["create_session"], b"{") == []


@pytest.mark.parametrize(("strict", "quirks"), [(True, []), (False, ["old-fields"])])
async def test_a_strict_server_names_the_fields_it_does_not_know(
    tmp_path: Path, strict: bool, quirks: list[str]
) -> None:
    async with local_engine(tmp_path, strict=strict, quirks=quirks) as client:
        answer = await post(client, "create_session", {"tags": [], "user_metadata": {}, "sdk_version": "x", "hue": 3})
        assert answer.status == 422
        assert json.loads(answer.body) == {
            "detail": [
                {"type": "extra_forbidden", "loc": ["body", "hue"], "msg": "Extra inputs are not permitted", "input": 3}
            ]
        }


async def test_a_refused_form_leaves_its_number_free(tmp_path: Path) -> None:
    async with local_engine(tmp_path, quirks=["old-fields"]) as client:
        body = {"session_id": await client.session(), "model_seq_id": 0, "base_model": "tiny"}
        refused = await post(client, "create_model", body | {"optimizer_config": {"type": "adamw"}})
        assert json.loads(refused.body)["detail"][0]["loc"] == ["body", "optimizer_config"]
        promise = json.loads((await post(client, "create_model", body)).body)
        model_id = promise["model_id"]
        step = {"model_id": model_id, "seq_id": 1, "adam_params": {"learning_rate": 0.1}}
        assert (await post(client, "optim_step", step | {"optimizer_params": {"type": "adamw"}})).status == 422
        assert (await post(client, "optim_step", step)).status == 200


async def test_protobuf_can_crash_or_be_all_there_is(tmp_path: Path) -> None:
    async with local_engine(tmp_path / "a", quirks=["protobuf-crashes"]) as client:
        model_id = await client.model()
        request = encode_request(ROUTES["forward_backward"], pass_request(model_id, 1), HOSTED)
        answer = await client.transport.send(request)
        assert (answer.status, answer.body) == (500, b"Internal Server Error")
        assert answer.headers["content-type"].startswith("text/plain")
        client.dialect = JSON
        assert (await client.do("forward_backward", pass_request(model_id, 1))).metrics["loss:sum"] > 0
    async with local_engine(tmp_path / "b", quirks=["refuses-json"]) as client:
        model_id = await client.model()
        request = encode_request(ROUTES["forward_backward"], pass_request(model_id, 1), JSON)
        assert (await client.transport.send(request)).status == 415
        assert (await client.do("forward_backward", pass_request(model_id, 1))).metrics["loss:sum"] > 0
    async with local_engine(tmp_path / "c", without=["protobuf"]) as client:
        request = encode_request(ROUTES["forward_backward"], pass_request(await client.model(), 1), HOSTED)
        assert (await client.transport.send(request)).status == 415


@pytest.mark.parametrize("name", ["client_config", "dynamic_config", "telemetry", "retrieve_futures"])
async def test_a_route_that_is_missing_is_404(tmp_path: Path, name: str) -> None:
    async with local_engine(tmp_path, without=[name]) as client:
        assert (await post(client, name, {"sdk_version": "x"})).status == 404


async def test_metrics_can_be_empty(tmp_path: Path) -> None:
    async with local_engine(tmp_path, quirks=["empty-metrics"]) as client:
        model_id = await client.model()
        done = await client.do("forward_backward", pass_request(model_id, 1))
        assert (done.metrics, len(done.loss_fn_outputs)) == ({}, 2)
        assert not (await client.do("optim_step", step_request(model_id, 2))).metrics


async def test_samples_can_be_answered_otherwise(tmp_path: Path) -> None:
    params = types.SamplingParams(max_tokens=2, seed=1)
    lacking = {"without": ["sample_sequence_ids"], "quirks": ["short-prompt-logprobs"]}
    async with local_engine(tmp_path, **lacking) as client:  # type: ignore[arg-type]
        request = types.SampleRequest(
            sampling_session_id=await sampler_of(client),
            seq_id=0,
            prompt=types.ModelInput.from_ints([5, 6, 7]),
            sampling_params=params,
            prompt_logprobs=True,
        )
        promise = await client.call("asample", request)
        assert promise.sample_sequence_ids is None
        scored = await client.result("asample", promise)
        assert len(scored.prompt_logprobs) == 2
        assert all(value < 0 for value in scored.prompt_logprobs)


async def test_samples_can_be_asked_for_otherwise(tmp_path: Path) -> None:
    async with local_engine(tmp_path, quirks=["needs-max-tokens", "needs-stop-list"]) as client:
        sampler_id = await sampler_of(client)
        refused = await post(client, "asample", sample_body(sampler_id, stop="x"))
        assert refused.status == 422
        assert [problem["loc"][-1] for problem in json.loads(refused.body)["detail"]] == ["max_tokens", "stop"]
        assert (await post(client, "asample", sample_body(sampler_id, stop=["x"], max_tokens=2))).status == 200


async def test_a_checkpoint_can_need_a_model_to_be_loaded_into(tmp_path: Path) -> None:
    async with local_engine(tmp_path, quirks=["load-needs-model"]) as client:
        model_id = await client.model()
        saved = await client.do("save_weights", types.SaveWeightsRequest(model_id=model_id, seq_id=1, path="a"))
        load = types.LoadWeightsRequest(
            session_id=await client.session(), model_seq_id=0, path=saved.path, optimizer=True
        )
        with pytest.raises(UnprocessableEntityError, match="model_id"):
            await client.call("load_weights", load)
        into = types.LoadWeightsRequest(model_id=model_id, seq_id=2, path=saved.path, optimizer=True)
        assert (await client.do("load_weights", into)).model_id == model_id


@pytest.mark.parametrize("status", [201, 202])
async def test_promises_can_come_with_another_status(tmp_path: Path, status: int) -> None:
    async with local_engine(tmp_path, quirks=[f"submits-answer-{status}"]) as client:
        body = {"session_id": await client.session(), "model_seq_id": 0, "base_model": "tiny"}
        assert (await post(client, "create_model", body)).status == status
        assert (await post(client, "create_model", body | {"base_model": "huge"})).status == 400
        assert (await post(client, "get_info", {"model_id": f"{body['session_id']}:train:0"})).status == 200


async def test_paths_can_have_a_shape_of_their_own(tmp_path: Path) -> None:
    async with local_engine(tmp_path, quirks=["opaque-paths"]) as client:
        model_id = await client.model()
        saved = await client.do("save_weights", types.SaveWeightsRequest(model_id=model_id, seq_id=1, path="a"))
        assert saved.path == f"ckpt://{model_id}!weights!a"
        load = types.LoadWeightsRequest(
            session_id=await client.session(), model_seq_id=0, path=saved.path, optimizer=True
        )
        assert (await client.do("load_weights", load)).path == saved.path
        found = await client.call("list_user_checkpoints", types.ListCheckpointsRequest())
        assert [entry.tinker_path for entry in found.checkpoints] == [saved.path]
        info = await client.call("weights_info", types.WeightsInfoRequest(tinker_path=saved.path))
        assert info.lora_rank == 4


async def test_errors_can_be_plain_text(tmp_path: Path) -> None:
    async with local_engine(tmp_path, quirks=["plain-errors"]) as client:
        answer = await post(client, "get_info", {"model_id": "nobody:train:0"})
        assert (answer.status, answer.headers["content-type"]) == (404, "text/plain; charset=utf-8")
        assert answer.body.startswith(b"No session 'nobody'")
        assert int(answer.headers["content-length"]) == len(answer.body)


async def test_a_text_of_ours_is_left_alone_without_quirks(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        note = {"note": "ckpt://a!weights!b"}
        session = types.CreateSessionRequest(tags=[], user_metadata=note, sdk_version="x")
        session_id = (await client.call("create_session", session)).session_id
        found = await client.call("get_session", types.GetSessionRequest(), session_id=session_id)
        assert msgspec.to_builtins(found)["user_metadata"] == note


def test_the_reference_lists_every_quirk_and_provocation() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/pages/reference/engine-server.md").read_text()
    for name, meaning in {**QUIRKS, **STATES}.items():
        assert f"| `{name.replace('_', '-')}` | {meaning} |" in page
