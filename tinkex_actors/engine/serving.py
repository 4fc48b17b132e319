"""An engine on a port, for clients in other processes and in other languages."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING

from tinkex_actors.config import Config
from tinkex_actors.engine.service.call import EngineOptions
from tinkex_actors.engine.service.provocations import Provocations
from tinkex_actors.engine.transport import LocalTransport
from tinkex_actors.errors import ConfigError
from tinkex_actors.runtime import ActorSystem
from tinkex_actors.transport.server import Server, serve
from tinkex_actors.wire.dialect import HOSTED, JSON
from tinkex_actors.wire.quirks import NO_QUIRKS, Quirks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["serve_model"]

_DIALECTS = {dialect.name: dialect for dialect in (HOSTED, JSON)}


async def serve_model(
    name: str,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    dialect: str = "hosted",
    strict: bool = False,
    quirks: Quirks = NO_QUIRKS,
    provoke: Sequence[str] = (),
    config: Config | None = None,
    started: Callable[[Server], object] | None = None,
) -> None:
    """Serve a model until cancelled. Prints nothing.

    Args:
        name: the base model.
        host: the address to listen on.
        port: the port; 0 takes a free one.
        dialect: ``hosted`` (protobuf, today's service) or ``json`` (older and independent servers).
        strict: refuse what a careful server would (see :class:`EngineOptions`).
        quirks: what else is different about it.
        provoke: what it shall do wrong for a while, as :class:`Provocations` reads it.
        config: where the store and the cache are; default: from the environment.
        started: called with the server once it answers.

    Raises:
        ConfigError: no such model, its weights are missing, an unknown dialect or provocation, or an address that
            is taken.
    """
    if dialect not in _DIALECTS:
        raise ConfigError(f"dialect: expected one of {', '.join(_DIALECTS)}, got {dialect!r}.")
    config = config or Config.from_environment()
    options = EngineOptions(
        dialect=_DIALECTS[dialect], strict=strict, quirks=quirks, provocations=Provocations(provoke)
    )
    # Seeded from the system: a server's unseeded samples must not repeat those of its last start.
    async with ActorSystem(name="serve", seed=secrets.randbits(63)) as system:
        transport = LocalTransport(name, system=system, config=config, options=options)
        try:
            await transport.open()
            server = await serve(transport, host=host, port=port)
            try:
                if started is not None:
                    started(server)
                await asyncio.get_running_loop().create_future()
            finally:
                await server.close()
        finally:
            await transport.close()
