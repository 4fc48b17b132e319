"""``doctor``: what is there, what a server was found to be like, and what is wrong, line by line."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import msgspec

from tinkex_actors.config import Config
from tinkex_actors.errors import TinkexError
from tinkex_actors.redaction import without_credentials

__all__ = ["Finding", "examine"]

_LIBRARIES = ("aiohttp", "msgspec", "numpy", "protobuf", "structlog", "uvloop", "tokenizers", "safetensors")


class Finding(msgspec.Struct, frozen=True):
    """One line of the report.

    Args:
        topic: what was looked at.
        state: ``ok``; ``note`` for what is merely good to know; ``bad`` for what will fail.
        text: what was found, and where it is bad, what to do.
    """

    topic: str
    state: Literal["ok", "note", "bad"]
    text: str

    def __str__(self) -> str:
        mark = {"ok": "ok  ", "note": "-   ", "bad": "BAD "}[self.state]
        return f"{mark} {self.topic:<10} {self.text}"


async def examine(
    base_url: str | None, *, probe: str | None = None, say: Callable[[Finding], object] = lambda _: None
) -> list[Finding]:
    """Look at this machine, at the settings, and at the server they name.

    A session is opened on the server and finished; nothing else is left there. Nothing is sent where a key is missing.

    Args:
        base_url: the server; None takes ``TINKER_BASE_URL`` or the hosted service.
        probe: a base model to try one training pass and one sample with, which finds out what the server's start does
            not tell. On a hosted service that costs a few tokens.
        say: called with each finding as it is made.
    """
    from tinkex_actors.cli.server_check import server_findings

    found: list[Finding] = []

    def note(finding: Finding) -> None:
        found.append(finding)
        say(finding)

    for finding in _versions():
        note(finding)
    try:
        config = Config.from_environment(base_url=base_url)
    except TinkexError as error:
        note(Finding("settings", "bad", str(error)))
        return found
    for finding in (*_settings(config), *_folders(config), *_computing(config)):
        note(finding)
    if any(finding.topic == "key" and finding.state == "bad" for finding in found):
        note(Finding("server", "note", f"{config.shown_url} was not asked: it wants a key"))
        return found
    findings: AsyncIterator[Finding] = server_findings(config, probe=probe)
    async for finding in findings:
        note(finding)
    return found


def _versions() -> Iterator[Finding]:
    yield Finding(
        "package",
        "ok",
        f"tinkex-actors {version('tinkex-actors')}, Python {platform.python_version()}, {platform.platform()}",
    )
    there = [f"{name} {_version(name)}" for name in _LIBRARIES if _version(name)]
    missing = [name for name in _LIBRARIES if not _version(name)]
    yield Finding("libraries", "ok", ", ".join(there))
    if missing:
        yield Finding("libraries", "note", f"not installed: {', '.join(missing)}")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _settings(config: Config) -> Iterator[Finding]:
    yield Finding("base_url", "ok", config.shown_url)
    if not config.needs_key:
        yield Finding(
            "key", "ok", "none needed: the server is on this machine" + ("" if not config.api_key else "; one is set")
        )
    else:
        try:
            config.require_key()
        except TinkexError as error:
            yield Finding("key", "bad", str(error))
        else:
            how = "set" if config.api_key else "from a command" if config.credential_command else "from a provider"
            yield Finding("key", "ok", how)
    proxy = config.proxy_for(config.base_url)
    if proxy is not None:
        yield Finding("proxy", "ok", without_credentials(proxy))
    elif config.proxy is not None:
        yield Finding("proxy", "note", f"{without_credentials(config.proxy)} is passed by for this server (no_proxy)")
    else:
        yield Finding("proxy", "ok", "none")
    yield Finding("telemetry", "ok", "sent" if config.telemetry else "off")


def _folders(config: Config) -> Iterator[Finding]:
    for topic, folder, variable in (
        ("store", config.engine_store, "TINKEX_ENGINE_STORE"),
        ("cache", config.cache_dir, "TINKEX_CACHE_DIR"),
        ("state", config.state_dir, "TINKEX_STATE_DIR"),
    ):
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not (existing.is_dir() and os.access(existing, os.W_OK)):
            yield Finding(topic, "bad", f"{folder} cannot be written: {existing} is in the way. Set {variable}.")
        elif existing != folder:
            yield Finding(topic, "ok", f"{folder} (not there yet)")
        else:
            yield Finding(topic, "ok", f"{folder} ({_size(folder)})")


def _size(folder: Path) -> str:
    total = files = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(path, name)).st_size
            except OSError:  # gone meanwhile
                continue
            files += 1
    return f"{files} files, {total / 1e6:.1f} MB"


def _computing(config: Config) -> Iterator[Finding]:
    from tinkex_actors.engine.devices import devices
    from tinkex_actors.engine.models.catalog import model_names

    found = devices()
    if found is None:
        yield Finding(
            "jax", "note", "not installed; local models and custom losses need it: pip install 'tinkex-actors[local]'"
        )
    else:
        yield Finding("jax", "ok", f"jax {found[0]} on {', '.join(found[1])}")
    for record in model_names(cache_dir=config.cache_dir):
        yield Finding("model", "ok" if record.installed else "note", f"{record.name}: {record.where}")
    yield Finding("loop", "ok", "uvloop" if "uvloop" in sys.modules else "asyncio's own")
