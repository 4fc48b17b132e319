"""A model folder behind every door: in process, by its path, and on a port."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from tests.plugins.model_folder import model_config, write_model
from tests.plugins.wire_client import engine_config, local_engine
from tinkex_actors import AdamParams, Datum, ModelInput, SamplingParams, ServiceClient, types
from tinkex_actors.engine.models.place import place_of
from tinkex_actors.engine.serving import serve_model
from tinkex_actors.errors import ConfigError, ModelNotInstalledError
from tinkex_actors.runtime import ActorSystem
from tinkex_actors.transport import open_transport
from tinkex_actors.transport.server import Server

DATA = [
    Datum(
        model_input=ModelInput.from_ints([3, 4, 5, 6]),
        loss_fn_inputs={"target_tokens": [4, 5, 6, 7], "weights": [1.0] * 4},
    )
]


async def story(service: ServiceClient, name: str) -> list[object]:
    """Train a little, save, sample: what it returns depends on the model's arithmetic only."""
    training = await service.create_lora_training_client(name, rank=4, seed=1)
    losses = []
    for _ in range(4):
        losses.append((await training.forward_backward(DATA, "cross_entropy")).metrics["loss:sum"])
        await training.optim_step(AdamParams(learning_rate=1e-2))
    saved = await training.save_state("a")
    sampler = await training.save_weights_and_get_sampling_client()
    answer = await sampler.sample(ModelInput.from_ints([3, 4]), 1, SamplingParams(max_tokens=3, temperature=0.0))
    info = await training.get_info()
    assert losses[-1] < losses[0]
    assert saved.path.endswith("/weights/a")
    return [losses, answer.sequences[0].tokens, info.model_data.arch, info.model_data.model_name]


@pytest.mark.slow
async def test_a_folder_trains_and_samples_alike_in_process_and_on_a_port(tmp_path: Path) -> None:
    folder = tmp_path / "My Model"
    write_model(folder, model_config("Qwen2ForCausalLM", tie_word_embeddings=True))
    config = engine_config(tmp_path / "store")
    local = msgspec.structs.replace(config, base_url=f"local://{folder}")
    async with ServiceClient(config=local) as service:
        direct = await story(service, "My Model")
        capabilities = await service.get_server_capabilities()
        assert capabilities.supported_models[0].max_context_length == 512
        # By its path it is the same model, and its tokenizer is at hand.
        training = await service.create_lora_training_client(str(folder), rank=4)
        assert (await training.get_tokenizer()).encode("hello world") == [3, 4]
    assert direct[2:] == ["qwen2", "My Model"]
    up: asyncio.Future[Server] = asyncio.get_running_loop().create_future()
    serving = asyncio.ensure_future(
        serve_model(str(folder), config=engine_config(tmp_path / "other"), started=up.set_result)
    )
    try:
        await asyncio.wait([up, serving], return_when=asyncio.FIRST_COMPLETED)
        server = up.result()
        remote = msgspec.structs.replace(config, base_url=server.url, api_key="tml-x")
        async with ServiceClient(config=remote) as service:
            assert await story(service, "My Model") == direct
    finally:
        serving.cancel()
        await asyncio.wait([serving])


async def test_folders_of_one_name_have_stores_of_their_own(tmp_path: Path) -> None:
    for part in ("one", "two"):
        write_model(tmp_path / part / "model")
        async with local_engine(tmp_path / "store", model=str(tmp_path / part / "model")) as client:
            create = types.CreateModelRequest(session_id=await client.session(), model_seq_id=0, base_model="model")
            await client.do("create_model", create)
            listed = await client.call("list_training_runs", types.ListTrainingRunsRequest())
            assert len(listed.training_runs) == 1
    assert len(list((tmp_path / "store").iterdir())) == 2


@pytest.mark.parametrize("said", ["there is no such folder"])
async def test_a_folder_that_is_not_there_is_told_at_the_first_use(tmp_path: Path, said: str) -> None:
    async with ActorSystem() as system:
        url = f"local://{tmp_path / 'nothing'}"
        transport = open_transport(url, system=system, config=engine_config(tmp_path))
        with pytest.raises(ModelNotInstalledError, match=said):
            await transport.open()  # type: ignore[attr-defined]
        await transport.close()
        with pytest.raises(ConfigError, match="names no model"):
            open_transport("local:///", system=system, config=engine_config(tmp_path))


@pytest.mark.parametrize(
    ("asked", "name", "folder"),
    [
        ("tiny", "tiny", None),
        ("/models/q/", "q", "/models/q"),
        ("./q", "q", "q"),
        ("models/q", "q", "models/q"),
        ("~/q", "q", "~/q"),
    ],
)
def test_names_and_folders_are_told_apart_by_their_looks(asked: str, name: str, folder: str | None) -> None:
    place = place_of(asked)
    assert place.name == name
    assert place.folder == (None if folder is None else Path.cwd() / Path(folder).expanduser())
