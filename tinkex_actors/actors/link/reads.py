"""Readings that several ask for at once, or that an earlier answer can stand in for (G-17, G-18).

Opt-in, and never training or sampling.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from tinkex_actors.actors.link.events import RequestCoalesced, StaleAnswerUsed
from tinkex_actors.errors import APIConnectionError, APIStatusError
from tinkex_actors.runtime.log import Logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from tinkex_actors.config import Config
    from tinkex_actors.runtime import ActorSystem
    from tinkex_actors.wire.routes import Route

__all__ = ["Reads"]

# Readings that are POSTs because their question is too long for a path.
_READING_POSTS = frozenset({"weights_info", "search_sessions"})
_KEPT = frozenset({"get_server_capabilities", "get_sampler"})
_MOST_KEPT = 256
_log = Logger("tinkex_actors.http")


class _Good(msgspec.Struct):
    answer: Any
    at: float


class Reads:
    """Shares answers under way, and keeps the last good ones.

    An answer that is shared is one object: do not change what you are given.

    Args:
        config: whether to do either.
        system: clock and events.
    """

    def __init__(self, config: Config, *, system: ActorSystem) -> None:
        self._coalesce = config.coalesce
        self._max_age = config.last_good_max_age
        self._system = system
        self._under_way: dict[str, asyncio.Future[Any]] = {}
        self._good: dict[str, _Good] = {}
        self.on = config.coalesce or config.last_good_max_age is not None

    async def read(
        self,
        route: Route,
        message: Any,
        path: Mapping[str, str],
        query: Mapping[str, object],
        send: Callable[[], Awaitable[Any]],
    ) -> Any:
        """Return the answer of ``send``, or one that serves as well."""
        if route.method != "GET" and route.name not in _READING_POSTS:
            return await send()
        key = f"{route.name} {msgspec.json.encode([message, dict(path), dict(query)], enc_hook=repr).decode()}"
        if self._max_age is None or route.name not in _KEPT:
            return await self._shared(route, key, send)
        try:
            answer = await self._shared(route, key, send)
        except (APIConnectionError, APIStatusError) as error:
            return self._stand_in(route, key, error)
        if len(self._good) >= _MOST_KEPT:
            del self._good[next(iter(self._good))]
        self._good[key] = _Good(answer, self._system.loop.time())
        return answer

    async def _shared(self, route: Route, key: str, send: Callable[[], Awaitable[Any]]) -> Any:
        if not self._coalesce:
            return await send()
        if key in self._under_way and self._system.events.active:
            self._system.events.publish(RequestCoalesced(route.name, self._system.loop.time()))
        while (leading := self._under_way.get(key)) is not None:
            await asyncio.wait([leading])
            if not leading.cancelled():
                return leading.result()
            # Whoever asked first gave up; that is no answer for the others, and one of them asks now.
        mine = self._under_way[key] = self._system.loop.create_future()
        try:
            answer = await send()
        except asyncio.CancelledError:
            mine.cancel()
            raise
        except Exception as error:
            mine.set_exception(error)
            mine.exception()  # nobody else may be waiting for it
            raise
        else:
            mine.set_result(answer)
            return answer
        finally:
            del self._under_way[key]

    def _stand_in(self, route: Route, key: str, error: APIConnectionError | APIStatusError) -> Any:
        good = self._good.get(key)
        now = self._system.loop.time()
        refused = isinstance(error, APIStatusError) and error.status_code < 500
        if good is None or refused or self._max_age is None or now - good.at > self._max_age:
            raise error
        age = now - good.at
        _log.warning("answer.stale", route=route.name, age=round(age, 1), error=str(error))
        if self._system.events.active:
            self._system.events.publish(StaleAnswerUsed(route.name, age, str(error), now))
        return good.answer
