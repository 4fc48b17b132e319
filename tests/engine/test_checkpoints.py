"""Checkpoints: exact continuation, another process, replacement, damage."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.plugins.numerics import adapter, cache_dir, next_token_example, tiny
from tinkex_actors.engine.checkpoints import (
    load_checkpoint,
    read_checkpoint_info,
    save_checkpoint,
)
from tinkex_actors.engine.core import AdamHyper, Adapter, BaseModel, LoraSpec, forward_backward, new_adapter, optim_step
from tinkex_actors.errors import ConfigError, InputError

# They compile, which takes seconds until the cache is warm.
pytestmark = pytest.mark.slow

SPEC = LoraSpec(rank=8, seed=3)


def train(held: Adapter, first: int, last: int) -> Adapter:
    for step in range(first, last):
        result = forward_backward(tiny(), held, [next_token_example(12, step)], "cross_entropy")
        held, _ = optim_step(result.adapter, AdamHyper(learning_rate=1e-3))
    return held


def bits(held: Adapter) -> tuple[bytes, bytes, bytes, int]:
    moments = (held.first_moment, held.second_moment)
    first, second = (b"" if moment is None else np.asarray(moment).tobytes() for moment in moments)
    return np.asarray(held.params).tobytes(), first, second, held.steps


def test_continuing_equals_never_stopping_in_every_bit(tmp_path: Path) -> None:
    straight = train(new_adapter(tiny(), SPEC), 0, 6)
    info = save_checkpoint(tmp_path, tiny(), train(new_adapter(tiny(), SPEC), 0, 3), optimizer=True, meta={"cursor": 3})
    spec, held, meta = load_checkpoint(tmp_path, tiny())
    assert (spec, meta, info.optimizer, info.steps) == (SPEC, {"cursor": 3}, True, 3)
    assert bits(train(held, 3, 6)) == bits(straight)


def test_without_the_optimizer_only_the_weights_come_back(tmp_path: Path) -> None:
    trained = train(new_adapter(tiny(), SPEC), 0, 2)
    info = save_checkpoint(tmp_path, tiny(), trained, optimizer=False)
    _, held, meta = load_checkpoint(tmp_path, tiny())
    assert (info.optimizer, info.steps, meta) == (False, 0, {})
    assert bits(held) == (np.asarray(trained.params).tobytes(), b"", b"", 0)
    assert bits(train(held, 2, 3)) != bits(train(trained, 2, 3))


def test_an_unused_gradient_is_not_saved(tmp_path: Path) -> None:
    pending = forward_backward(tiny(), adapter(), [next_token_example(12)], "cross_entropy").adapter
    save_checkpoint(tmp_path, tiny(), pending, optimizer=True)
    assert load_checkpoint(tmp_path, tiny())[1].gradient is None


def test_another_process_reads_the_same_bits(tmp_path: Path) -> None:
    held = train(new_adapter(tiny(), SPEC), 0, 1)
    save_checkpoint(tmp_path, tiny(), held, optimizer=True)
    script = (
        "import hashlib, sys; from pathlib import Path; import numpy as np\n"
        "from tinkex_actors.engine.checkpoints import load_checkpoint\n"
        "from tinkex_actors.engine.models.catalog import load_model\n"
        "base = load_model('tiny', cache_dir=Path(sys.argv[1]))\n"
        "held = load_checkpoint(Path(sys.argv[2]), base)[1]\n"
        "print(np.asarray(held.params).tobytes().hex() == sys.stdin.read(), held.steps)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(cache_dir()), str(tmp_path)],
        input=np.asarray(held.params).tobytes().hex(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["True", "1"]


def test_saving_again_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, tiny(), adapter(seed=1), optimizer=False, meta={"n": 1})
    save_checkpoint(tmp_path, tiny(), adapter(seed=2), optimizer=False, meta={"n": 2})
    assert read_checkpoint_info(tmp_path).meta == {"n": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["adapter.safetensors"]
    assert read_checkpoint_info(tmp_path).size_bytes == (tmp_path / "adapter.safetensors").stat().st_size


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, tiny(), adapter(), optimizer=False)
    base = tiny()
    other = BaseModel("other", base.config, base.tokenizer, base.weights)
    with pytest.raises(InputError, match="it adapts tiny, not other"):
        load_checkpoint(tmp_path, other)


def test_absent_and_damaged_checkpoints_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is none"):
        load_checkpoint(tmp_path / "absent", tiny())
    save_checkpoint(tmp_path, tiny(), adapter(), optimizer=False)
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ConfigError, match="not a checkpoint of ours"):
        load_checkpoint(tmp_path, tiny())


def test_an_adapter_of_another_shape_is_damage(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    save_checkpoint(tmp_path, tiny(), adapter(), optimizer=False)
    path = tmp_path / "adapter.safetensors"
    header = read_checkpoint_info(tmp_path)
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    tensors["lora.q.a"] = tensors["lora.q.a"][:, :-1].copy()
    save_file(tensors, path, metadata=metadata)
    assert header.spec.rank == 8
    with pytest.raises(ConfigError, match=r"lora\.q\.a is float32 .*, expected"):
        load_checkpoint(tmp_path, tiny())
