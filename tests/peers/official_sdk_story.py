"""Run by ``test_official_sdk.py`` in a process of its own: the official SDK against the server whose URL is argument 1.

Prints one JSON object with what happened. The SDK owns a thread, a loop and warnings that are none of this suite's
business; a process keeps them apart.
"""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

warnings.simplefilter("ignore")

import tinker  # noqa: E402
from tinker import types  # noqa: E402

WAIT = 60.0


def counting(first: int) -> types.Datum:
    row = list(range(first, first + 17))
    return types.Datum(
        model_input=types.ModelInput.from_ints(row[:-1]),
        loss_fn_inputs={"target_tokens": row[1:], "weights": [1.0] * 16},
    )


def total(output: Any) -> float:
    return float(output.metrics["loss:sum"])


def main(url: str) -> dict[str, Any]:
    data = [counting(first) for first in (10, 20, 30)]
    prompt = types.ModelInput.from_ints([10, 11, 12])
    greedy = types.SamplingParams(max_tokens=4, temperature=0.0)
    found: dict[str, Any] = {}
    with tinker.ServiceClient(base_url=url) as service:
        models = service.get_server_capabilities().supported_models
        found["models"] = [model.model_name for model in models]
        training = service.create_lora_training_client(base_model="tiny", rank=8, seed=1).result(WAIT)
        info = training.get_info()
        found["info"] = [info.model_data.model_name, info.lora_rank, info.is_lora]

        losses = []
        for _ in range(12):
            # Both are submitted before either is awaited.
            forward = training.forward_backward(data, "cross_entropy")
            step = training.optim_step(types.AdamParams(learning_rate=1e-2))
            losses.append(total(forward.result(WAIT)))
            found["optim_metrics"] = dict(step.result(WAIT).metrics or {})
        found["losses"] = losses

        sampled = [
            types.Datum(
                model_input=types.ModelInput.from_ints([1, 2, 3]),
                loss_fn_inputs={"target_tokens": [2, 3, 4], "logprobs": [-1.0] * 3, "advantages": [0.0, 1.0, -1.0]},
            )
        ]
        for name in ("importance_sampling", "ppo"):
            found[name] = total(training.forward(sampled, name).result(WAIT))

        # More than one chunk holds: the SDK posts the first one last (protocol 6.3).
        many = training.forward(data * 400, "cross_entropy").result(WAIT)
        found["many"] = [len(many.loss_fn_outputs), total(many)]

        path = training.save_state("step-12").result(WAIT).path
        before = training.forward(data, "cross_entropy").result(WAIT)
        restored = service.create_training_client_from_state_with_optimizer(path).result(WAIT)
        after = restored.forward(data, "cross_entropy").result(WAIT)
        found["path"] = path
        found["forward"] = [total(before), total(after)]
        found["shapes"] = [list(output["logprobs"].shape) for output in before.loss_fn_outputs]

        sampler = training.save_weights_and_get_sampling_client().result(WAIT)
        answer = sampler.sample(prompt, num_samples=2, sampling_params=greedy).result(WAIT)
        found["answers"] = [list(sequence.tokens) for sequence in answer.sequences]
        found["sequence_ids"] = [sequence.sequence_id for sequence in answer.sequences]
        found["logprobs"] = sampler.compute_logprobs(prompt).result(WAIT)

        saved = training.save_weights_for_sampler("taught").result(WAIT).path
        by_path = service.create_sampling_client(model_path=saved).result(WAIT)
        again = by_path.sample(prompt, num_samples=1, sampling_params=greedy).result(WAIT)
        found["by_path"] = list(again.sequences[0].tokens)

        try:
            training.forward_backward(data, "stable_reinforce").result(WAIT)
        except tinker.RequestFailedError as error:
            found["refused"] = [str(error.category), str(error)]

        rest = tinker.RestClient(base_url=url)
        runs = rest.list_training_runs().result(WAIT)
        found["runs"] = [run.training_run_id for run in runs.training_runs]
        trained = types.ParsedCheckpointTinkerPath.from_tinker_path(path).training_run_id
        checkpoints = rest.list_checkpoints(trained).result(WAIT).checkpoints
        found["checkpoints"] = sorted(checkpoint.checkpoint_id for checkpoint in checkpoints)
        found["weights_info"] = rest.get_weights_info_by_tinker_path(path).result(WAIT).lora_rank
        rest.delete_checkpoint_from_tinker_path(saved).result(WAIT)
        found["kept"] = [entry.tinker_path for entry in rest.list_user_checkpoints().result(WAIT).checkpoints]
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
