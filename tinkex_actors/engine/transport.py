"""``local://NAME`` and ``local:///path/of/a/model``: the engine as a transport, in this process.

One engine per system and name, shared and counted: the first transport's first request starts it, the last transport's
``close`` stops it. JAX is imported by the first request that computes, on the compute thread.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeVar

from tinkex_actors.engine.service.call import EngineOptions
from tinkex_actors.engine.service.host import EngineLease, lease
from tinkex_actors.engine.service.router import begin, handle
from tinkex_actors.errors import APIConnectionError, APITimeoutError, ConfigError
from tinkex_actors.wire.classification import classify
from tinkex_actors.wire.exchange import Response

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable

    from tinkex_actors.config import Config
    from tinkex_actors.engine.service.cell import EngineCell
    from tinkex_actors.runtime import ActorSystem
    from tinkex_actors.tokenizers import Tokenizer
    from tinkex_actors.wire.exchange import Request

__all__ = ["LocalTransport", "open_local"]

T = TypeVar("T")


class LocalTransport:
    """Carries requests to the engine in this process.

    Args:
        name: the base model: a name of the catalogue, or the path of a folder.
        system: owns the engine, its clock and its threads.
        config: where the store and the cache are.
        options: how the engine answers through this transport.
    """

    def __init__(self, name: str, *, system: ActorSystem, config: Config, options: EngineOptions | None = None) -> None:
        self._name = name
        self._system = system
        self._config = config
        self._options = options or EngineOptions()
        self._lease: EngineLease | None = None
        self._opening = asyncio.Lock()
        self._closed = False
        self._exchanges: set[asyncio.Timeout] = set()

    async def open(self) -> None:
        """Start the engine, or join it, and see that it can work. The first ``send`` does it where nobody did before.

        Raises:
            ConfigError: no such model, or its weights are not on this machine (``ModelNotInstalledError``).
        """
        async with self._opening:
            if self._lease is None:
                self._refuse_closed()
                taken = await lease(self._name, system=self._system, config=self._config)
                try:
                    await taken.cell.check_usable()
                except BaseException:
                    await taken.release()
                    raise
                self._lease = taken

    async def stream(self, request: Request) -> AsyncGenerator[bytes, None]:
        """Yield the pieces of an answer as they are computed.

        Raises:
            APIStatusError: the engine refused.
            APITimeoutError: nothing came for ``request.timeout`` seconds.
            APIConnectionError: the transport is closed, or was closed meanwhile.
            ConfigError: the engine cannot work as it is set up.
        """
        self._refuse_closed()
        answer = await self._within(request, self._begin(request))
        if isinstance(answer, Response):
            if not 200 <= answer.status < 300:
                raise classify(answer, f"{request.method} local://{self._name}{request.path}")
            yield answer.body
            return
        async with aclosing(answer):
            while piece := await self._within(request, anext(answer, b"")):
                yield piece
                self._refuse_closed()

    async def send(self, request: Request) -> Response:
        """Exchange one request for one response.

        Raises:
            APITimeoutError: ``request.timeout`` seconds passed.
            APIConnectionError: the transport is closed, or was closed meanwhile.
            ConfigError: the engine cannot work as it is set up.
        """
        self._refuse_closed()
        return await self._within(request, self._answer(request))

    async def _begin(self, request: Request) -> Response | AsyncGenerator[bytes, None]:
        return await begin(await self._cell(), request, self._options)

    async def _answer(self, request: Request) -> Response:
        return await handle(await self._cell(), request, self._options)

    async def _cell(self) -> EngineCell:
        if self._lease is None:
            await self.open()
        assert self._lease is not None
        return self._lease.cell

    async def _within(self, request: Request, work: Awaitable[T]) -> T:
        """Wait for a part of an exchange, no longer than the request says, and no longer than the transport is open."""
        try:
            async with asyncio.timeout(request.timeout) as budget:
                self._exchanges.add(budget)
                try:
                    return await work
                finally:
                    self._exchanges.discard(budget)
        except TimeoutError as error:
            self._refuse_closed()
            raise APITimeoutError(
                f"local://{self._name}: no answer to {request.method} {request.path.partition('?')[0]} within "
                f"{request.timeout:g} s. Send it again; raise Config.timeout if the machine is slow."
            ) from error

    async def tokenizer(self, base_model: str) -> Tokenizer:
        """Return the tokenizer of the engine's model, whatever name it was asked for by."""
        self._refuse_closed()
        return await (await self._cell()).tokenizer()

    async def close(self) -> None:
        """End waiting exchanges and give the engine back. Idempotent."""
        self._closed = True
        for budget in list(self._exchanges):
            budget.reschedule(0.0)
        async with self._opening:
            if self._lease is not None:
                held, self._lease = self._lease, None
                await held.release()

    def _refuse_closed(self) -> None:
        if self._closed:
            raise APIConnectionError(f"local://{self._name}: this transport is closed. Open a new client.")


def open_local(base_url: str, *, system: ActorSystem, config: Config) -> LocalTransport:
    """Return the transport for ``local://NAME``, or for a folder: ``local:///abs/folder``, ``local://./folder``.

    Sends nothing and starts nothing.

    Raises:
        ConfigError: no name in the URL.
    """
    name = base_url.partition("://")[2]
    if "/" not in name.rstrip("/"):
        # A plain name, perhaps with a slash behind it, as URLs have them.
        name = name.rstrip("/")
    if not name:
        raise ConfigError(
            f"base_url {base_url!r} names no model. Expected local://MODEL, for example local://tiny, or a folder: "
            "local:///path/to/model."
        )
    return LocalTransport(name, system=system, config=config)
