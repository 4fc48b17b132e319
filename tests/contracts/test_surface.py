"""The client's operations keep the official names and arguments, and return at once: none of them is a coroutine."""

from __future__ import annotations

import inspect

import pytest

from tinkex_actors import ApiFuture, RestClient, SamplingClient, ServiceClient, TrainingClient

# Operation -> its parameters in order. More may follow behind them, as keywords with defaults.
SERVICE = {
    "get_server_capabilities": [],
    "create_lora_training_client": [
        "base_model", "rank", "seed", "train_mlp", "train_attn", "train_unembed", "user_metadata", "optimizer_config",
    ],
    "create_training_client_from_state": ["path", "user_metadata"],
    "create_training_client_from_state_with_optimizer": ["path", "user_metadata"],
    "create_sampling_client": ["model_path", "base_model", "retry_config"],
    "create_rest_client": [],
    "explain": [],
    "close": ["status", "detail"],
}  # fmt: skip
TRAINING = {
    "forward": ["data", "loss_fn", "loss_fn_config"],
    "forward_backward": ["data", "loss_fn", "loss_fn_config"],
    "forward_backward_custom": ["data", "loss_fn"],
    "optim_step": ["optim_params"],
    "save_state": ["name", "ttl_seconds", "overwrite", "user_metadata"],
    "load_state": ["path"],
    "load_state_with_optimizer": ["path"],
    "save_weights_for_sampler": ["name", "ttl_seconds", "user_metadata"],
    "save_weights_and_get_sampling_client": ["kind", "retry_config"],
    "create_sampling_client": ["model_path", "retry_config"],
    "get_info": [],
    "get_tokenizer": [],
    "unload_model": [],
}
SAMPLING = {
    "sample": ["prompt", "num_samples", "sampling_params", "include_prompt_logprobs", "topk_prompt_logprobs"],
    "compute_logprobs": ["prompt", "prompt_logprobs_last_n"],
}
REST = {"list_training_runs": ["limit", "offset"], "list_checkpoints": ["training_run_id"]}

OPERATIONS = [
    pytest.param(client, name, parameters, id=f"{client.__name__}.{name}")
    for client, table in (
        (ServiceClient, SERVICE),
        (TrainingClient, TRAINING),
        (SamplingClient, SAMPLING),
        (RestClient, REST),
    )
    for name, parameters in table.items()
]


@pytest.mark.parametrize(("client", "name", "parameters"), OPERATIONS)
def test_an_operation_has_the_documented_parameters(client: type, name: str, parameters: list[str]) -> None:
    signature = inspect.signature(getattr(client, name))

    given = list(signature.parameters.values())[1:]
    assert [one.name for one in given][: len(parameters)] == parameters
    for extra in given[len(parameters) :]:
        assert extra.default is not inspect.Parameter.empty or extra.kind is inspect.Parameter.VAR_KEYWORD


@pytest.mark.parametrize(("client", "name", "parameters"), OPERATIONS)
def test_an_operation_is_called_without_await(client: type, name: str, parameters: list[str]) -> None:
    assert not inspect.iscoroutinefunction(getattr(client, name))


def test_a_service_client_takes_its_settings_by_keyword() -> None:
    parameters = inspect.signature(ServiceClient.__init__).parameters

    wanted = ("base_url", "api_key", "project_id", "user_metadata", "display_name", "config", "system")
    assert [name for name in wanted if parameters[name].kind is not inspect.Parameter.KEYWORD_ONLY] == []


def test_the_defaults_are_the_official_ones() -> None:
    lora = inspect.signature(ServiceClient.create_lora_training_client).parameters
    sample = inspect.signature(SamplingClient.sample).parameters

    assert {name: lora[name].default for name in ("rank", "seed", "train_mlp", "train_attn", "train_unembed")} == {
        "rank": 32,
        "seed": None,
        "train_mlp": True,
        "train_attn": True,
        "train_unembed": True,
    }
    assert (sample["num_samples"].default, sample["include_prompt_logprobs"].default) == (1, False)


def test_a_future_has_what_its_users_rely_on() -> None:
    for name in ("__await__", "cancel", "done", "exception", "explain", "result", "request_id"):
        assert name in dir(ApiFuture)
