"""Which tokenizer of the hub a model has, and how it is found without and with a network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from tinkex_actors.tokenizers.hub import hub_name, hub_tokenizer


@pytest.mark.parametrize(
    ("base_model", "tokenizer_id", "expected"),
    [
        ("Qwen/Qwen3-8B", None, "Qwen/Qwen3-8B"),
        ("Qwen/Qwen3-8B:peft:262144", None, "Qwen/Qwen3-8B"),
        ("Qwen/Qwen3-8B", "org/other:2", "org/other"),
        ("meta-llama/Llama-3.1-8B", None, "thinkingmachineslabinc/meta-llama-3-instruct-tokenizer"),
        ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
        ("org/model/variant", None, "org/model"),
        ("moonshotai/Kimi-K2.5-Text-Only", None, "moonshotai/Kimi-K2.5"),
        ("tiny", None, "tiny"),
    ],
)
def test_the_names_of_tokenizers(base_model: str, tokenizer_id: str | None, expected: str) -> None:
    assert hub_name(base_model, tokenizer_id) == expected


def test_what_is_in_the_cache_is_loaded_without_a_network(tmp_path: Path) -> None:
    home = tmp_path / "hub" / "models--org--name"
    folder = home / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("abc")
    Tokenizer(models.WordLevel({"a": 0, "<end>": 1}, unk_token="a")).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<end>"}')

    tokenizer = hub_tokenizer("org/name", tmp_path)

    assert (tokenizer.encode("a"), tokenizer.eos_id) == ([0], 1)


@pytest.mark.slow
def test_what_cannot_be_fetched_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path\n"
        "from tinkex_actors.errors import ConfigError\n"
        "from tinkex_actors.tokenizers.hub import hub_tokenizer\n"
        "try:\n"
        f"    hub_tokenizer('org/name', Path({str(tmp_path)!r}))\n"
        "except ConfigError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )

    assert "tokenizer org/name: it is not in" in done.stdout
    assert "pass token ids" in done.stdout
