"""Where credentials come from when they are no fixed text: a command, or a function of the program's."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
from typing import TYPE_CHECKING

from tinkex_actors.errors import CredentialsError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tinkex_actors.config import Config

    Source = Callable[[], Awaitable[str]]

__all__ = ["credential_source"]

_COMMAND_SECONDS = 30.0


def credential_source(config: Config) -> Source | None:
    """Return what asks for a credential, or None where there is a fixed key or none at all.

    What it raises is always a :class:`CredentialsError`, which shows nothing of what came.
    """
    if (provider := config.credential_provider) is not None:
        return lambda: _from_provider(provider)
    if config.api_key is None and config.credential_command is not None:
        return command_source(config.credential_command)
    return None


def command_source(command: str) -> Source:
    """Return what runs a shell command and takes what it prints (protocol 5.7: its exit status says nothing)."""
    return lambda: _from_command(command)


async def _from_provider(provider: Callable[[], str | Awaitable[str]]) -> str:
    try:
        found = provider()
        if inspect.isawaitable(found):
            found = await found
    except Exception as error:
        raise CredentialsError(
            f"Config.credential_provider raised {type(error).__name__}. Correct it, or use api_key=."
        ) from error
    return _usable(found, "Config.credential_provider returned")


async def _from_command(command: str) -> str:
    # stderr stays the program's own, so that a command which asks a person for something can be heard.
    process = await asyncio.create_subprocess_shell(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        async with asyncio.timeout(_COMMAND_SECONDS):
            printed, _ = await process.communicate()
    except TimeoutError as error:
        raise CredentialsError(
            f"The credential command did not end within {_COMMAND_SECONDS:g} s. Check TINKER_CREDENTIAL_CMD."
        ) from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return _usable(
        printed.decode("utf-8", "replace").strip(),
        f"The credential command (TINKER_CREDENTIAL_CMD, exit status {process.returncode}) printed",
    )


def _usable(found: object, what: str) -> str:
    if not isinstance(found, str):
        raise CredentialsError(f"{what} {type(found).__name__}, expected a text.")
    if not found or not found.isascii() or not found.isprintable() or " " in found:
        raise CredentialsError(
            f"{what} {'nothing' if not found else 'a text that no header can carry'}; expected a credential."
        )
    return found
