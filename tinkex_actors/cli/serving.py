"""``serve``: the local engine on a port."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinkex_actors.transport.server import Server

__all__ = ["serve_until_stopped"]


async def serve_until_stopped(model: str, *, host: str, port: int, dialect: str, strict: bool) -> None:
    """Serve a model, print one line with the address when it is up, and return when a signal cancels this.

    Args:
        model: a name from ``models list``.
        host: the address to listen on.
        port: the port; 0 takes a free one.
        dialect: ``hosted`` or ``json``.
        strict: refuse what a careful server would.

    Raises:
        ConfigError: no such model, its weights are missing, or an address that is taken.
    """
    from tinkex_actors.engine.serving import serve_model

    def started(server: Server) -> None:
        print(f"serving {model} at {server.url} ({dialect} dialect), stop with Ctrl-C", flush=True)

    try:
        await serve_model(model, host=host, port=port, dialect=dialect, strict=strict, started=started)
    except asyncio.CancelledError:
        # The signal asked for just this, and everything has stopped in order: a success, not an interruption.
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
