"""Run by ``test_every_method.py`` in a process of its own: every public method of the official SDK, once at least.

Argument 1 is the server's URL, argument 2 the base model. Prints one JSON object with what came back, ids replaced by
what they stand for, and the public methods that were not called.
"""

from __future__ import annotations

import asyncio
import base64
import inspect
import json
import pickle
import sys
import warnings
from datetime import UTC, datetime, timedelta
from typing import Any

warnings.simplefilter("ignore")

import numpy as np  # noqa: E402
import tinker  # noqa: E402
from tinker import types  # noqa: E402
from tinker.lib.api_future_impl import QueueState  # noqa: E402

WAIT = 60.0
CLIENTS = (
    tinker.ServiceClient,
    tinker.TrainingClient,
    tinker.SamplingClient,
    tinker.RestClient,
    tinker.AdminClient,
)
CALLED: set[tuple[str, str]] = set()


class Recording:
    """A client that notes which of its methods were called."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def __getattr__(self, name: str) -> Any:
        CALLED.add((type(self.client).__name__, name))
        return getattr(self.client, name)


def settle(answer: Any) -> Any:
    """The value of whatever a method returned: plain, a future, or a coroutine of either."""
    if inspect.iscoroutine(answer):
        answer = asyncio.run(answer)
    return answer.result(WAIT) if hasattr(answer, "result") else answer


def twice(client: Recording, name: str, *arguments: Any, **options: Any) -> Any:
    """Call a method that changes nothing, and its deprecated twin; both must answer alike."""
    first = settle(getattr(client, name)(*arguments, **options))
    if hasattr(client.client, f"{name}_async"):
        again = settle(getattr(client, f"{name}_async")(*arguments, **options))
        assert type(again) is type(first), name
    return first


def counting() -> list[types.Datum]:
    return [
        types.Datum(
            model_input=types.ModelInput.from_ints([3, 4, 5, 6]),
            loss_fn_inputs={"target_tokens": [4, 5, 6, 7], "weights": [1.0] * 4},
        )
    ]


def train(training: Recording, found: dict[str, Any]) -> None:
    data, adam = counting(), types.AdamParams(learning_rate=1e-2)
    passes = ("forward", "forward_async", "forward_backward", "forward_backward_async")
    losses = [settle(getattr(training, name)(data, "cross_entropy")).metrics["loss:sum"] for name in passes]
    settle(training.optim_step(adam))
    settle(training.optim_step_async(adam))
    losses.append(settle(training.forward(data, "cross_entropy")).metrics["loss:sum"])
    found["losses"] = losses
    refused = []
    for name in ("forward_backward_custom", "forward_backward_custom_async"):
        try:
            settle(getattr(training, name)(data, lambda data, logprobs: (logprobs[0].sum(), {})))
        except ImportError:
            refused.append(name)
    found["without torch"] = refused
    info = twice(training, "get_info")
    found["info"] = [info.model_data.arch, info.model_data.model_name, info.lora_rank, info.is_lora]
    found["tokens"] = list(training.get_tokenizer().encode("hello world"))
    found["console"] = training.get_console_url().startswith("https://")
    assert training.get_telemetry() is not None


def save(training: Recording, found: dict[str, Any]) -> dict[str, str]:
    paths = {
        "a": settle(training.save_state("a", ttl_seconds=7200, user_metadata={"k": "v"})).path,
        "b": settle(training.save_state_async("b")).path,
        "s": settle(training.save_weights_for_sampler("s")).path,
        "t": settle(training.save_weights_for_sampler_async("t")).path,
        "x": settle(training.save_weights_external("x")).path,
        "y": settle(training.save_weights_external_async("y")).path,
    }
    found["paths"] = {name: path.partition(":train:0/")[2] for name, path in paths.items()}
    for name in ("load_state", "load_state_async", "load_state_with_optimizer", "load_state_with_optimizer_async"):
        settle(getattr(training, name)(paths["a"]))
    found["loaded"] = settle(training.forward(counting(), "cross_entropy")).metrics["loss:sum"]
    return paths


def sample(service: Recording, training: Recording, paths: dict[str, str], found: dict[str, Any], base: str) -> str:
    prompt = types.ModelInput.from_ints([3, 4, 5])
    params = types.SamplingParams(max_tokens=3, temperature=0.0, seed=1)
    clients = {
        "snapshot": settle(training.save_weights_and_get_sampling_client()),
        "snapshot twin": settle(training.save_weights_and_get_sampling_client_async()),
        "by path": settle(training.create_sampling_client(paths["s"])),
        "by path twin": settle(training.create_sampling_client_async(paths["s"])),
        "service": settle(service.create_sampling_client(model_path=paths["t"])),
        "service twin": settle(service.create_sampling_client_async(base_model=base)),
    }
    found["sampled"] = {}
    for name, client in clients.items():
        answer = settle(Recording(client).sample(prompt, 1, params))
        found["sampled"][name] = list(answer.sequences[0].tokens)
    first = Recording(clients["by path"])
    targets = types.TensorData.from_numpy(np.array([[4], [5]], np.int64))
    scored = settle(
        first.sample_async(
            prompt,
            1,
            params,
            include_prompt_logprobs=True,
            topk_prompt_logprobs=2,
            topk_sample_logprobs=2,
            target_prompt_logprobs=targets,
            prompt_alt_tokens_k=2,
        )
    )
    found["scored"] = {
        "prompt": list(scored.prompt_logprobs),
        "topk": [[list(pair) for pair in row] if row else None for row in scored.topk_prompt_logprobs],
        "sampled topk": [[list(pair) for pair in row] for row in scored.sequences[0].topk_logprobs],
        "targets": scored.target_prompt_logprobs.to_numpy().reshape(-1).tolist(),
        "alternatives": scored.prompt_alt_tokens.tokens.to_numpy().tolist(),
    }
    found["logprobs"] = list(settle(first.compute_logprobs(prompt)))
    assert list(settle(first.compute_logprobs_async(prompt))) == found["logprobs"]
    assert twice(first, "get_base_model") == base
    assert first.get_telemetry() is not None
    first.on_queue_state_change(QueueState.ACTIVE, None)
    handle = first.get_sampler_handle()
    CALLED.add(("SamplingClient", "from_sampler_handle"))
    for clone in (tinker.SamplingClient.from_sampler_handle(handle), pickle.loads(pickle.dumps(clients["by path"]))):
        assert list(settle(clone.sample(prompt, 1, params)).sequences[0].tokens) == found["sampled"]["by path"]
    return json.loads(base64.urlsafe_b64decode(handle + "=="))["sampling_session_id"]


def look(rest: Recording, admin: Recording, paths: dict[str, str], sampler_id: str, found: dict[str, Any]) -> None:
    run = paths["a"].split("/")[2]
    session_id = run.partition(":")[0]
    found["capabilities"] = [model.model_name for model in settle(rest.get_server_capabilities()).supported_models]
    found["run"] = twice(rest, "get_training_run", run).lora_rank
    assert twice(rest, "get_training_run_by_tinker_path", paths["a"]).training_run_id == run
    weights = settle(rest.get_weights_info_by_tinker_path(paths["a"]))
    found["weights"] = [weights.lora_rank, weights.is_lora, weights.train_mlp, weights.train_attn]
    found["runs"] = len(twice(rest, "list_training_runs").training_runs)
    found["checkpoints"] = sorted(entry.checkpoint_id for entry in twice(rest, "list_checkpoints", run).checkpoints)
    found["external"] = sorted(twice(rest, "get_external_weights_urls", paths["x"]).urls)
    session = twice(rest, "get_session", session_id)
    found["session"] = [session.display_name, len(session.training_run_ids)]
    found["sessions"] = session_id in twice(rest, "list_sessions").sessions
    for name in ("assign_session_project", "assign_session_project_async"):
        settle(getattr(rest, name)(session_id, "project"))
    found["project"] = len(settle(rest.list_training_runs(project_id="project")).training_runs)
    found["trace"] = "/api/v1/files/" in twice(rest, "export_session_trace", session_id)
    found["sampler"] = twice(rest, "get_sampler", sampler_id).model_path == paths["s"]
    found["whoami"] = settle(rest.whoami()).user_urn
    search = types.SessionSearchRequest(display_name="every METHOD")
    found["search"] = [entry.session_id == session_id for entry in settle(rest.search_sessions(search)).sessions]
    assert rest.get_telemetry() is not None
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    for client in (rest, admin):
        assert list(twice(client, "get_audit_log").entries) == []
        assert list(twice(client, "get_billing_usage", now - timedelta(hours=2), now).data) == []
        usage = twice(client, "get_current_checkpoint_storage_usage").data
        assert sum(item.checkpoint_count for item in usage) >= 6
    assert admin.get_telemetry() is not None


def change(service: Recording, rest: Recording, paths: dict[str, str], found: dict[str, Any]) -> None:
    def state(path: str) -> Any:
        listed = twice(rest, "list_user_checkpoints").checkpoints
        return next((entry for entry in listed if entry.tinker_path == path), None)

    for twin in ("", "_async"):
        settle(getattr(rest, f"publish_checkpoint_from_tinker_path{twin}")(paths["b"]))
        assert state(paths["b"]).public
        settle(getattr(rest, f"unpublish_checkpoint_from_tinker_path{twin}")(paths["b"]))
        assert not state(paths["b"]).public
    settle(rest.set_checkpoint_ttl_from_tinker_path(paths["b"], 3600))
    assert state(paths["b"]).expires_at is not None
    settle(rest.set_checkpoint_ttl_from_tinker_path_async(paths["b"], None))
    assert state(paths["b"]).expires_at is None
    copies = [
        settle(rest.copy_weights(paths["b"], "other")),
        settle(rest.copy_weights_async(paths["b"], "other")),
        settle(service.copy_weights(paths["b"])),
    ]
    found["copies"] = len({copy.split("/")[2] for copy in copies})
    run = paths["t"].split("/")[2]
    settle(rest.delete_checkpoint(run, "sampler_weights/t"))
    settle(rest.delete_checkpoint_async(run, "external_weights/y"))
    settle(rest.delete_checkpoint_from_tinker_path(copies[0]))
    settle(rest.delete_checkpoint_from_tinker_path_async(copies[1]))
    assert all(state(path) is None for path in (paths["t"], paths["y"], *copies[:2]))


def main(url: str, base: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    own = tinker.ServiceClient(base_url=url, project_id="mine", display_name="Every method of it")
    service = Recording(own)
    models = twice(service, "get_server_capabilities").supported_models
    assert [model.model_name for model in models] == [base]
    training = Recording(settle(service.create_lora_training_client(base, rank=4, seed=1)))
    settle(service.create_lora_training_client_async(base, rank=4, seed=1))
    train(training, found)
    paths = save(training, found)
    restored = []
    for name in ("create_training_client_from_state", "create_training_client_from_state_with_optimizer"):
        for twin in ("", "_async"):
            client = settle(getattr(service, f"{name}{twin}")(paths["a"]))
            restored.append(settle(client.forward(counting(), "cross_entropy")).metrics["loss:sum"])
    found["restored"] = restored
    sampler_id = sample(service, training, paths, found, base)
    rest, admin = Recording(service.create_rest_client()), Recording(tinker.AdminClient(base_url=url))
    look(rest, admin, paths, sampler_id, found)
    change(service, rest, paths, found)
    try:
        settle(service.create_custom_loss(lambda logprobs: (logprobs.sum(), {}), {"logprobs": 1}))
    except ImportError:
        found["without torch"].append("create_custom_loss")
    assert service.get_telemetry() is not None
    assert service.get_console_url()
    settle(service.close("success", "done"))
    public = {(client.__name__, name) for client in CLIENTS for name in dir(client) if not name.startswith("_")}
    found["not called"] = sorted(f"{client}.{name}" for client, name in public - CALLED)
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2])))
