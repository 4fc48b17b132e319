"""Holding it wrong raises the error that says what to do, before anything is sent."""

from __future__ import annotations

import asyncio
import pickle
import threading

import numpy as np
import pytest

from tests.plugins.counting_server import counting, datum
from tinkex_actors import (
    AdamParams,
    ClosedError,
    Config,
    ConfigError,
    CredentialsError,
    Datum,
    InputError,
    LocalWireError,
    ModelInput,
    RetryConfig,
    SamplingParams,
    ServiceClient,
    TinkerPathError,
    TinkexError,
    TokenizerNotLoadedError,
    WrongLoopError,
)
from tinkex_actors.testing import virtual_time
from tinkex_actors.types import ImageAssetPointerChunk


def test_a_remote_server_needs_a_key() -> None:
    with pytest.raises(CredentialsError, match=r"TINKER_API_KEY.*local://tiny"):
        ServiceClient(base_url="https://tinker.example/api")


def test_a_key_of_another_shape_is_refused_without_showing_it() -> None:
    with pytest.raises(CredentialsError, match="tml-") as caught:
        ServiceClient(base_url="https://tinker.example/api", api_key="sk-very-secret")

    assert "very-secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://localhost:8000", "http://127.0.0.1:1/base", "http://[::1]:80", "local://tiny"])
def test_a_local_server_needs_none(url: str) -> None:
    assert ServiceClient(base_url=url).config.base_url == url


def test_config_and_its_parts_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="config"):
        ServiceClient(base_url="local://tiny", config=Config(base_url="local://tiny"))


def test_a_config_never_shows_its_key() -> None:
    assert "tml-abc" not in repr(Config(api_key="tml-abc"))


@pytest.mark.parametrize(
    ("environ", "proxy"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ({"https_proxy": "http://p:1", "NO_PROXY": "other.example"}, "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1", "no_proxy": ".example"}, None),
        ({"HTTP_PROXY": "http://p:1"}, None),
    ],
)
def test_the_environment_names_the_proxy(environ: dict[str, str], proxy: str | None) -> None:
    config = Config.from_environment(base_url="https://tinker.example/api", environ=environ)

    assert config.proxy_for(config.base_url) == proxy


@pytest.mark.parametrize("field", ["timeout", "connect_timeout", "poll_timeout", "stall_after"])
def test_a_config_refuses_durations_that_are_none(field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        Config(**{field: 0.0})


@pytest.mark.parametrize("field", ["progress_timeout", "retry_delay_base", "retry_delay_max", "jitter_factor"])
def test_a_retry_config_refuses_values_out_of_range(field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        RetryConfig(**{field: -1.0})


async def test_an_unknown_scheme_is_named() -> None:
    service = ServiceClient(base_url="gopher://hole")
    with pytest.raises(ConfigError, match="gopher"):
        service.explain()


@virtual_time()
async def test_bad_data_is_refused_at_the_call_and_takes_no_number() -> None:
    service, server = counting()
    async with service:
        training = await service.create_lora_training_client("m")
        prompt = ModelInput.from_ints([1, 2, 3])
        with pytest.raises(InputError, match="no data"):
            training.forward_backward([], "cross_entropy")
        with pytest.raises(InputError, match=r"data\[1\]"):
            training.forward_backward([datum(), "text"], "cross_entropy")  # type: ignore[list-item]
        with pytest.raises(InputError, match=r"datum 1.*target_tokens"):
            training.forward_backward([datum(), Datum(model_input=prompt)], "cross_entropy")
        with pytest.raises(InputError, match=r"ragged|shape|rectangular|same length"):
            Datum(model_input=prompt, loss_fn_inputs={"target_tokens": [[1], [2, 3]]})
        with pytest.raises(InputError, match=r"target_tokens.*2.*expected 3"):
            training.forward_backward(
                [Datum(model_input=prompt, loss_fn_inputs={"target_tokens": [1, 2], "weights": [1.0, 1.0]})],
                "cross_entropy",
            )
        with pytest.raises(InputError, match="AdamParams"):
            training.optim_step({"learning_rate": 1.0})  # type: ignore[arg-type]
        with pytest.raises(InputError, match="slash"):
            training.save_state("a/b")
        with pytest.raises(TinkerPathError, match="tinker://"):
            training.load_state("weights/a")
        await training.optim_step(AdamParams())

    assert server.posted[training.model_id] == [1]


@virtual_time()
async def test_what_cannot_be_encoded_is_refused_at_the_call_and_takes_no_number() -> None:
    service, server = counting()
    async with service:
        training = await service.create_lora_training_client("m")
        with pytest.raises(InputError, match=r"user_metadata\['a'\] must be .*object"):
            training.save_state("a", user_metadata={"a": object()})  # type: ignore[dict-item]
        with pytest.raises(InputError, match=r"loss_fn_config\['clip'\] must be .*list"):
            training.forward_backward([datum()], "cross_entropy", {"clip": [1.0]})  # type: ignore[dict-item]
        pointer = ImageAssetPointerChunk(location="s3://somewhere/a.png", format="png")
        with pytest.raises(LocalWireError, match="ImageAssetPointerChunk"):
            training.forward_backward([datum(), Datum(model_input=ModelInput(chunks=[pointer]))], "custom")
        await training.optim_step(AdamParams())

    assert server.posted[training.model_id] == [1]


@virtual_time()
async def test_a_learning_rate_may_be_a_numpy_number() -> None:
    service, server = counting()
    async with service:
        training = await service.create_lora_training_client("m")
        await training.optim_step(AdamParams(learning_rate=np.linspace(0.0, 1.0, 3)[1]))
        await training.optim_step(AdamParams(learning_rate=np.float32(0.5)))  # type: ignore[arg-type]

    assert server.posted[training.model_id] == [1, 2]


@virtual_time()
async def test_wrong_arguments_of_the_service_are_named() -> None:
    service, _ = counting()
    async with service:
        with pytest.raises(InputError, match="rank"):
            service.create_lora_training_client("m", rank=0)
        with pytest.raises(InputError, match="base_model"):
            service.create_lora_training_client("")
        with pytest.raises(InputError, match="neither"):
            service.create_sampling_client()
        with pytest.raises(InputError, match="both"):
            service.create_sampling_client(model_path="tinker://a/weights/b", base_model="m")
        with pytest.raises(TinkerPathError):
            service.create_sampling_client(model_path="/tmp/x")
        with pytest.raises(InputError, match="create_sampling_client"):
            service.create_training_client_from_state("tinker://a/sampler_weights/b")
        with pytest.raises(TypeError, match="colour"):
            service.create_training_client_from_state("tinker://a/weights/b", colour="red")
        with pytest.raises(InputError, match="status"):
            service.close("done")  # type: ignore[arg-type]
        with pytest.raises(InputError, match="training_run_id"):
            service.create_rest_client().list_checkpoints("")


@virtual_time()
async def test_wrong_arguments_of_a_sampler_are_named() -> None:
    service, server = counting()
    async with service:
        sampler = await service.create_sampling_client(base_model="m")
        prompt = ModelInput.from_ints([1])
        with pytest.raises(InputError, match="ModelInput"):
            sampler.sample([1, 2])  # type: ignore[arg-type]
        with pytest.raises(InputError, match="empty"):
            sampler.sample(ModelInput.from_ints([]))
        with pytest.raises(InputError, match="num_samples"):
            sampler.sample(prompt, 0)
        with pytest.raises(InputError, match="include_prompt_logprobs"):
            sampler.sample(prompt, prompt_logprobs_last_n=1)
        with pytest.raises(InputError, match="temperature"):
            SamplingParams(temperature=-1.0)
        with pytest.raises(TokenizerNotLoadedError, match="get_tokenizer"):
            _ = sampler.tokenizer

    assert server.seen["asample"] == 0


@virtual_time()
async def test_a_tokenizer_is_said_to_be_missing_until_it_is_loaded() -> None:
    service, _ = counting()
    async with service:
        training = await service.create_lora_training_client("m")
        with pytest.raises(TokenizerNotLoadedError, match=r"await training\.get_tokenizer\(\)"):
            _ = training.tokenizer


@virtual_time()
async def test_a_call_after_close_says_so() -> None:
    service, _ = counting()
    async with service:
        training = await service.create_lora_training_client("m")
        rest = service.create_rest_client()
    with pytest.raises(ClosedError, match="Make a new"):
        training.forward_backward([datum()], "cross_entropy")
    with pytest.raises(ClosedError):
        rest.list_training_runs()
    with pytest.raises(ClosedError):
        service.explain()


@virtual_time()
async def test_a_call_from_another_thread_says_so() -> None:
    service, _ = counting()
    async with service:
        training = await service.create_lora_training_client("m")
        caught: list[Exception] = []

        def call() -> None:
            try:
                training.optim_step(AdamParams())
            except WrongLoopError as error:
                caught.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()

    assert "event loop" in str(caught[0])


def test_a_call_without_a_loop_says_so() -> None:
    service = ServiceClient(base_url="local://tiny")
    with pytest.raises(WrongLoopError, match="event loop"):
        service.create_lora_training_client("tiny")


def test_errors_pickle_with_their_attributes() -> None:
    error = pickle.loads(pickle.dumps(CredentialsError("no key")))

    assert isinstance(error, TinkexError)
    assert str(error) == "no key"


def test_numpy_arrays_are_data_too() -> None:
    made = Datum(
        model_input=ModelInput.from_ints([1, 2]), loss_fn_inputs={"target_tokens": np.array([2, 3], dtype=np.int64)}
    )

    assert made.loss_fn_inputs["target_tokens"].tolist() == [2, 3]


def test_asyncio_is_not_started_by_making_a_client() -> None:
    service = ServiceClient(base_url="local://tiny")

    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
    assert "not started" in repr(service)
