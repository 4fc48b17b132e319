"""``serve``: the local engine on a port."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinkex_actors.transport.server import Server

__all__ = ["serve_until_stopped"]


async def serve_until_stopped(
    model: str,
    *,
    host: str,
    port: int,
    dialect: str,
    strict: bool,
    quirks: Sequence[str] = (),
    without: Sequence[str] = (),
    provoke: Sequence[str] = (),
) -> None:
    """Serve a model, print one line with the address when it is up, and return when a signal cancels this.

    Args:
        model: a name from ``models list``, or a folder.
        host: the address to listen on.
        port: the port; 0 takes a free one.
        dialect: ``hosted`` or ``json``.
        strict: refuse what a careful server would.
        quirks: names of differences (see ``tinkex_actors.wire.quirks``).
        without: routes and features that are missing; each text may be a list with commas.
        provoke: what to do wrong for a while (see ``tinkex_actors.engine.service.provocations``).

    Raises:
        ConfigError: no such model, its weights are missing, an unknown quirk, or an address that is taken.
    """
    from tinkex_actors.engine.serving import serve_model
    from tinkex_actors.wire.quirks import Quirks

    lacking = [name for text in without for name in text.split(",") if name]
    chosen = Quirks.named(list(quirks), lacking)

    def started(server: Server) -> None:
        print(f"serving {model} at {server.url} ({dialect} dialect), stop with Ctrl-C", flush=True)

    try:
        await serve_model(
            model,
            host=host,
            port=port,
            dialect=dialect,
            strict=strict,
            quirks=chosen,
            provoke=list(provoke),
            started=started,
        )
    except asyncio.CancelledError:
        # The signal asked for just this, and everything has stopped in order: a success, not an interruption.
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
