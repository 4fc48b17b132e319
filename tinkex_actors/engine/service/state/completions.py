"""Which samples are done, told to many waiters at once (protocol 4.7).

Each client of a sampling session (the original, and each clone) has its own numbered list of completions. A poll says
up to which number it has seen them, and is held until there is a later one.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from typing import TYPE_CHECKING

from tinkex_actors.types import FutureFailed, FutureFinished

if TYPE_CHECKING:
    from tinkex_actors.engine.service.state.promises import Promise
    from tinkex_actors.types import FutureCompletion

__all__ = ["Completions"]

# Protocol 7.2: a clone's numbers begin at its own number times this.
_NUMBERS_PER_CLONE = 1_000_000_000

# A client that never polls must not cost memory for ever: beyond these, the oldest completions go, and their results
# are still there for retrieve_future.
_MAX_COMPLETIONS = 100_000
_MAX_CLIENTS = 10_000


class _Client:
    __slots__ = ("completions", "cursor", "grown")

    def __init__(self) -> None:
        self.cursor = 0
        self.completions: deque[tuple[int, FutureCompletion]] = deque(maxlen=_MAX_COMPLETIONS)
        self.grown = asyncio.Event()


class Completions:
    """The completions of all sampling clients of an engine."""

    def __init__(self) -> None:
        self._clients: OrderedDict[tuple[str, int], _Client] = OrderedDict()

    def add(self, promise: Promise) -> None:
        """Note that a promise was settled; those that are no samples are ignored."""
        if promise.route != "asample":
            return
        sampler_id, _, number = promise.request_id.rpartition(":")
        clone = int(number) // _NUMBERS_PER_CLONE if number.isdecimal() else 0
        client = self._client(sampler_id, clone)
        client.cursor += 1
        completion: FutureCompletion = (
            FutureFailed(request_id=promise.request_id)
            if promise.state == "failed"
            else FutureFinished(
                request_id=promise.request_id, response_payload_uncompressed_size=max(promise.size_bytes, 1)
            )
        )
        client.completions.append((client.cursor, completion))
        client.grown.set()

    async def after(
        self, sampler_id: str, clone: int, cursor: int, patience: float
    ) -> tuple[list[FutureCompletion], int]:
        """Return the completions after ``cursor`` and the new cursor; what is at or before it is forgotten.

        Args:
            sampler_id: the sampling session.
            clone: the client's number in it.
            cursor: the last completion that the client has seen.
            patience: seconds to wait while there is none.
        """
        client = self._client(sampler_id, clone)
        while client.completions and client.completions[0][0] <= cursor:
            client.completions.popleft()
        if not client.completions and patience > 0:
            client.grown.clear()
            try:
                async with asyncio.timeout(patience):
                    await client.grown.wait()
            except TimeoutError:
                pass
        return [completion for number, completion in client.completions if number > cursor], client.cursor

    def forget(self, sampler_id: str) -> None:
        """Forget a sampling session that has ended."""
        for key in [key for key in self._clients if key[0] == sampler_id]:
            del self._clients[key]

    def _client(self, sampler_id: str, clone: int) -> _Client:
        key = (sampler_id, clone)
        client = self._clients.setdefault(key, _Client())
        self._clients.move_to_end(key)
        while len(self._clients) > _MAX_CLIENTS:
            self._clients.popitem(last=False)
        return client
