"""Training over the local transport: order, repetition, failure, saving and loading."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from tests.plugins.wire_client import WireClient, batch, local_engine, pass_request, step_request
from tinkex_actors import types
from tinkex_actors.engine.service.rescue import numbers_of
from tinkex_actors.errors import (
    BadRequestError,
    ConflictError,
    GoneError,
    NotFoundError,
    RequestFailedError,
)
from tinkex_actors.testing import virtual_time
from tinkex_actors.wire._proto import tinker_public_pb2
from tinkex_actors.wire.answers import MetadataOnly, Ready, TryAgain
from tinkex_actors.wire.client import encode_request
from tinkex_actors.wire.dialect import HOSTED
from tinkex_actors.wire.exchange import Request
from tinkex_actors.wire.routes import ROUTES


async def loss(client: WireClient, model_id: str, seq_id: int) -> float:
    output = await client.do("forward_backward", pass_request(model_id, seq_id, forward_only=True))
    return float(output.metrics["loss:sum"])


async def train(client: WireClient, model_id: str, first: int, steps: int) -> None:
    for number in range(first, first + 2 * steps, 2):
        await client.call("forward_backward", pass_request(model_id, number))
        await client.do("optim_step", step_request(model_id, number + 1))


async def test_training_learns_and_answers_in_the_documented_shapes(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        model_id = await client.model()
        assert model_id.endswith(":train:0")
        first = await client.do("forward_backward", pass_request(model_id, 1))
        assert first.loss_fn_output_type == "ArrayRecord"
        assert [output["logprobs"].shape for output in first.loss_fn_outputs] == [[16], [16]]
        total = -sum(float(output["logprobs"].to_numpy().sum()) for output in first.loss_fn_outputs)
        assert first.metrics["loss:sum"] == pytest.approx(total, rel=1e-5)
        step = await client.do("optim_step", step_request(model_id, 2))
        assert all(name.count(":") == 1 for name in {**first.metrics, **step.metrics})
        await train(client, model_id, 3, 5)
        assert await loss(client, model_id, 13) < 0.3 * first.metrics["loss:sum"]


async def test_a_promise_is_answered_before_lower_numbers_came_and_runs_after_them(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        model_id, straight = await client.model(), await client.model()
        # The official client's order for two chunks and a step: the first chunk is posted last (protocol 6.3).
        second = await client.call("forward_backward", pass_request(model_id, 2, batch(30)))
        step = await client.call("optim_step", step_request(model_id, 3))
        first = await client.call("forward_backward", pass_request(model_id, 1, batch(10)))
        mixed = [await client.result("forward_backward", promise) for promise in (first, second)]
        await client.result("optim_step", step)

        ordered = [
            await client.do("forward_backward", pass_request(straight, 1, batch(10))),
            await client.do("forward_backward", pass_request(straight, 2, batch(30))),
        ]
        await client.do("optim_step", step_request(straight, 3))
        assert mixed == ordered
        assert await loss(client, model_id, 4) == await loss(client, straight, 4)


async def test_a_request_without_a_number_comes_after_all_that_came(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        model_id = await client.model()
        await client.call("forward_backward", pass_request(model_id, 1))
        promise = await client.call("optim_step", step_request(model_id, None))
        assert promise.request_id == f"{model_id}:2"
        assert (await client.result("optim_step", promise)).metrics["optim_steps:max"] == 1.0


async def test_a_request_sent_twice_runs_once(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        model_id = await client.model()
        passes = [await client.call("forward_backward", pass_request(model_id, 1)) for _ in range(2)]
        steps = [await client.call("optim_step", step_request(model_id, 2)) for _ in range(3)]
        assert len({promise.request_id for promise in passes}) == 1
        results = [await client.result("optim_step", promise) for promise in steps]
        assert [result.metrics["optim_steps:max"] for result in results] == [1.0] * 3
        late = await client.call("optim_step", step_request(model_id, 2))
        assert await client.result("optim_step", late) == results[0]


async def test_a_creation_sent_twice_makes_one_model(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        session_id = await client.session()
        first = await client.model(session_id, seed=None)
        assert await client.model(session_id, seed=None) == first


async def test_a_rejected_number_does_not_hold_up_the_next(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        model_id = await client.model()
        request = encode_request(ROUTES["optim_step"], step_request(model_id, 1), HOSTED)
        request.body = request.body.replace(b'"beta1":0.9', b'"beta1":"much"')
        answer = await client.transport.send(request)
        assert answer.status == 400
        assert int(answer.headers["content-length"]) == len(answer.body) > 0
        assert (await client.do("optim_step", step_request(model_id, 2))).metrics["optim_steps:max"] == 1.0
        # Sent again, a rejected number is rejected again, whatever it now holds.
        with pytest.raises(BadRequestError, match="beta1"):
            await client.call("optim_step", step_request(model_id, 1))


async def test_also_a_protobuf_request_that_makes_no_sense_completes_its_number(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        model_id = await client.model()
        request = encode_request(ROUTES["forward_backward"], pass_request(model_id, 1), HOSTED)
        message = tinker_public_pb2.ForwardBackwardRequest.FromString(request.body)
        message.data[0].loss_fn_inputs["weights"].dense = b"three"
        request.body = message.SerializeToString()
        assert (await client.transport.send(request)).status == 400
        assert (await client.do("optim_step", step_request(model_id, 2))).metrics["optim_steps:max"] == 1.0


@pytest.mark.parametrize(
    "body", [b"", b"\x0a", b"\x0a\x05ab", b"\x0a\x02ab", b"\x0a\x02\xff\xfe\x10\x01", b"\x12\x00", b"\x0a\x80\x80"]
)
def test_a_number_that_cannot_be_read_is_nobody_s(body: bytes) -> None:
    assert numbers_of(Request("POST", "/x", {"Content-Type": "application/x-protobuf"}, body)) == ("", None)
    assert numbers_of(Request("POST", "/x", {"Content-Type": "application/json"}, body)) == ("", None)


@virtual_time()
async def test_a_number_that_never_comes_fails_those_behind_it_by_name(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        model_id = await client.model()
        began = asyncio.get_running_loop().time()
        promise = await client.call("optim_step", step_request(model_id, 3))
        with pytest.raises(RequestFailedError, match=f"request 1 of {model_id} never arrived") as caught:
            await client.result("optim_step", promise)
        assert caught.value.category == "user"
        assert 60.0 <= asyncio.get_running_loop().time() - began <= 70.0
        with pytest.raises(BadRequestError, match="goes on with 4"):
            await client.call("optim_step", step_request(model_id, 2))
        assert (await client.do("optim_step", step_request(model_id, 4))).metrics["optim_steps:max"] == 1.0


@virtual_time()
async def test_a_poll_is_held_for_twenty_seconds_and_then_says_try_again(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        model_id = await client.model()
        promise = await client.call("optim_step", step_request(model_id, 2))
        began = asyncio.get_running_loop().time()
        assert await client.poll("optim_step", promise.request_id) == TryAgain("active")
        assert asyncio.get_running_loop().time() - began == 20.0
        await client.call("optim_step", step_request(model_id, 1))
        assert isinstance(await client.poll("optim_step", promise.request_id), Ready)


async def test_a_large_result_is_announced_before_it_is_sent(tmp_path: Path) -> None:
    many = np.tile(np.arange(1, 129), (64, 1))
    datum = types.Datum(
        model_input=types.ModelInput.from_ints(range(1, 65)),
        loss_fn_inputs={"target_tokens": many, "weights": np.ones(many.shape, np.float32)},
    )
    async with local_engine(tmp_path) as client:
        model_id = await client.model()
        promise = await client.call("forward_backward", pass_request(model_id, 1, [datum] * 40, forward_only=True))
        output = await client.result("forward_backward", promise)
        announced = await client.poll("forward_backward", promise.request_id, allow_metadata_only=True)
        assert isinstance(announced, MetadataOnly)
        assert announced.size_bytes > 40 * 64 * 128 * 4
        assert await client.result("forward_backward", promise) == output


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"loss_fn": "mse"}, "'mse' is not supported.*cross_entropy"),
        ({"data": []}, "data"),
        ({"data": batch(600)}, "datum 0"),
        ({"data": batch(10, 4096, 1)}, "datum 0"),
    ],
)
async def test_what_the_user_did_wrong_fails_the_promise_and_not_the_model(
    tmp_path: Path, change: dict[str, object], said: str
) -> None:
    async with local_engine(tmp_path) as client:
        model_id = await client.model()
        with pytest.raises(RequestFailedError, match=said) as caught:
            await client.do("forward_backward", pass_request(model_id, 1, **change))  # type: ignore[arg-type]
        assert caught.value.category == "user"
        assert np.isfinite(await loss(client, model_id, 2))


async def test_other_optimizers_are_refused(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        model_id = await client.model()
        request = types.OptimStepRequest(model_id=model_id, seq_id=1, optimizer_params={"type": "dimuon"})
        with pytest.raises(RequestFailedError, match="AdamW only, got optimizer 'dimuon'"):
            await client.do("optim_step", request)
        create = types.CreateModelRequest(
            session_id=await client.session(), model_seq_id=0, base_model="tiny", optimizer_config={"type": "dimuon"}
        )
        with pytest.raises(BadRequestError, match="AdamW only"):
            await client.call("create_model", create)


@pytest.mark.parametrize("name", ["tiny", "TINY"])
async def test_the_base_model_is_known_by_its_name_in_any_case(tmp_path: Path, name: str) -> None:
    async with local_engine(tmp_path) as client:
        session_id = await client.session()
        request = types.CreateModelRequest(session_id=session_id, model_seq_id=0, base_model=name)
        info = await client.call(
            "get_info", types.GetInfoRequest(model_id=(await client.do("create_model", request)).model_id)
        )
        assert (info.model_data.model_name, info.lora_rank, info.is_lora) == ("tiny", 32, True)


async def test_another_base_model_is_refused_with_the_name_there_is(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        request = types.CreateModelRequest(
            session_id=await client.session(), model_seq_id=0, base_model="Qwen/Qwen3-8B"
        )
        with pytest.raises(BadRequestError, match="'Qwen/Qwen3-8B' is not on this engine; it has 'tiny'"):
            await client.call("create_model", request)


# --- saving and loading ----------------------------------------------------------------------------------------------
def save(model_id: str, seq_id: int, name: str, **options: object) -> types.SaveWeightsRequest:
    return types.SaveWeightsRequest(model_id=model_id, seq_id=seq_id, path=name, **options)  # type: ignore[arg-type]


def load(session_id: str, path: str, number: int = 0, *, optimizer: bool = True) -> types.LoadWeightsRequest:
    return types.LoadWeightsRequest(session_id=session_id, model_seq_id=number, path=path, optimizer=optimizer)


async def test_a_later_engine_goes_on_exactly_where_an_earlier_one_saved(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        model_id = await client.model()
        await train(client, model_id, 1, 2)
        path = (await client.do("save_weights", save(model_id, 5, "mid"))).path
        assert path == f"tinker://{model_id}/weights/mid"
        await train(client, model_id, 6, 2)
        uninterrupted = await loss(client, model_id, 10)

    async with local_engine(tmp_path) as client:
        session_id = await client.session()
        made = await client.do("load_weights", load(session_id, path))
        resumed = f"{session_id}:train:0"
        assert (made.model_id, made.path) == (resumed, path)
        await train(client, resumed, 1, 2)
        assert await loss(client, resumed, 5) == uninterrupted

        await client.do("load_weights", load(session_id, path, 1, optimizer=False))
        fresh = f"{session_id}:train:1"
        await train(client, fresh, 1, 2)
        # Without moments the first step is another one.
        assert await loss(client, fresh, 5) != uninterrupted


async def test_weights_are_loaded_into_a_model_in_its_order(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        model_id = await client.model()
        before = await loss(client, model_id, 1)
        path = (await client.do("save_weights", save(model_id, 2, "start"))).path
        await train(client, model_id, 3, 2)
        request = types.LoadWeightsRequest(model_id=model_id, seq_id=7, path=path, optimizer=True)
        await client.call("load_weights", request)
        assert await loss(client, model_id, 8) == before

        other = await client.model(rank=8)
        request = types.LoadWeightsRequest(model_id=other, seq_id=1, path=path, optimizer=True)
        with pytest.raises(RequestFailedError, match=r"rank 4 .* the model's is rank 8"):
            await client.do("load_weights", request)


async def test_a_name_is_used_once_unless_overwritten(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        model_id = await client.model()
        await client.do("save_weights", save(model_id, 1, "a"))
        for _ in range(2):
            with pytest.raises(ConflictError, match="exists already"):
                await client.call("save_weights", save(model_id, 2, "a"))
        refused = encode_request(ROUTES["save_weights"], save(model_id, 2, "a"), HOSTED)
        assert (await client.transport.send(refused)).headers["x-should-retry"] == "false"
        again = await client.do("save_weights", save(model_id, 3, "a", overwrite=True))
        assert again.path.endswith("/weights/a")
        # Both are posted before the first has run: the second finds out when its turn comes.
        first = await client.call("save_weights", save(model_id, 4, "b"))
        second = await client.call("save_weights", save(model_id, 5, "b"))
        await client.result("save_weights", first)
        with pytest.raises(RequestFailedError, match="exists already"):
            await client.result("save_weights", second)
        with pytest.raises(BadRequestError, match="without '/'"):
            await client.call("save_weights", save(model_id, 6, "a/b"))
        with pytest.raises(BadRequestError, match="ttl_seconds"):
            await client.call("save_weights", save(model_id, 7, "c", ttl_seconds=5))
        assert np.isfinite(await loss(client, model_id, 8))


async def test_a_save_sent_twice_is_one_save_and_no_conflict(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        model_id = await client.model()
        first = await client.do("save_weights", save(model_id, 1, "a"))
        assert await client.do("save_weights", save(model_id, 1, "a")) == first


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("tinker://nobody:train:0/weights/x", "No checkpoint"),
        ("tinker://nobody:train:0/sampler_weights/x", "expected training weights"),
        ("weights/x", "tinker://"),
    ],
)
async def test_a_model_whose_checkpoint_is_not_there_fails_with_all_that_follows(
    tmp_path: Path, path: str, said: str
) -> None:
    async with local_engine(tmp_path) as client:
        session_id = await client.session()
        created = await client.call("load_weights", load(session_id, path))
        follower = await client.call("optim_step", step_request(f"{session_id}:train:0", 1))
        with pytest.raises(RequestFailedError, match=said):
            await client.result("load_weights", created)
        with pytest.raises(RequestFailedError, match="its creation failed"):
            await client.result("optim_step", follower)
        with pytest.raises(GoneError, match="its creation failed"):
            await client.call("optim_step", step_request(f"{session_id}:train:0", 2))


async def test_an_unloaded_model_finishes_its_work_and_is_gone(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        model_id = await client.model()
        step = await client.call("optim_step", step_request(model_id, 1))
        unload = types.UnloadModelRequest(model_id=model_id)
        assert (await client.do("unload_model", unload)).model_id == model_id
        assert (await client.result("optim_step", step)).metrics["optim_steps:max"] == 1.0
        with pytest.raises(GoneError, match="unloaded"):
            await client.call("optim_step", step_request(model_id, 2))
        assert (await client.do("unload_model", unload)).model_id == model_id


async def test_a_model_nobody_made_is_not_found(tmp_path: Path) -> None:
    async with local_engine(tmp_path) as client:
        session_id = await client.session()
        for model_id in (f"{session_id}:train:7", "elsewhere:train:0", "nonsense"):
            with pytest.raises(NotFoundError):
                await client.call("optim_step", step_request(model_id, 1))
            with pytest.raises(NotFoundError):
                await client.poll("optim_step", f"{model_id}:1")
