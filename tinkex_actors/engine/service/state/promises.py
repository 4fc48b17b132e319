"""Promises: what an asynchronous endpoint answers at once, and the result it stands for (protocol part 4).

A promise is found by its ``request_id``, which is made from the idempotency key of the request (appendix A.1 #6): a
request that is sent twice finds the same promise. Results may be read again and again (A.1 #19). They stay until their
session ends, within :data:`RETAINED_BYTES` for the whole engine: beyond it, those read longest ago go first, then
those never read; whoever asks for a dropped one is told 410.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from tinkex_actors.errors import GoneError, NotFoundError

__all__ = ["RETAINED_BYTES", "Promise", "Promises"]

# About 60 results of a 1024-datum batch of 1024 tokens each with float32 logprobs.
RETAINED_BYTES = 256 * 1024 * 1024

# What a settled promise holds beside its result: so counted, small results are bounded in number as well.
_OVERHEAD_BYTES = 1024

# Names of dropped results that can still be told from names that never were.
_REMEMBERED_DROPPED = 100_000


class Promise:
    """One asynchronous request and what became of it.

    Attributes:
        request_id: the id the client polls with.
        route: name of the route whose result this is, in :mod:`tinkex_actors.wire.routes`.
        session_id: the session it belongs to and ends with.
        model_id: the model, where there is one.
        digest: of the request's body, to tell a repetition from another request under the same number.
        state: ``pending``, ``done``, ``failed`` or, while somebody still polls it, ``dropped``.
        result: the typed result when done.
        error: what to tell the user when failed.
        category: ``user`` or ``server`` when failed.
        size_bytes: memory counted for it.
    """

    __slots__ = (
        "_settled",
        "category",
        "digest",
        "error",
        "model_id",
        "request_id",
        "result",
        "route",
        "session_id",
        "size_bytes",
        "state",
    )

    def __init__(
        self, request_id: str, route: str, session_id: str, *, model_id: str | None = None, digest: bytes = b""
    ) -> None:
        self.request_id = request_id
        self.route = route
        self.session_id = session_id
        self.model_id = model_id
        self.digest = digest
        self.state = "pending"
        self.result: Any = None
        self.error = ""
        self.category = "unknown"
        self.size_bytes = 0
        self._settled = asyncio.Event()

    async def wait(self, timeout: float) -> bool:
        """Wait until the promise is settled, for at most ``timeout`` seconds; return whether it is."""
        if self.state == "pending":
            try:
                async with asyncio.timeout(timeout):
                    await self._settled.wait()
            except TimeoutError:
                return False
        return True

    def settle(self, state: str) -> None:
        """Give it its last state and wake whoever waits. For :class:`Promises` only."""
        self.state = state
        self._settled.set()


class Promises:
    """All promises of an engine.

    Args:
        retained_bytes: memory that settled promises may hold together.
        settled: told of each promise that has got its result or its failure.
    """

    def __init__(
        self, retained_bytes: int = RETAINED_BYTES, settled: Callable[[Promise], None] = lambda promise: None
    ) -> None:
        self._retained_bytes = retained_bytes
        self._settled = settled
        self._by_id: dict[str, Promise] = {}
        self._by_session: dict[str, dict[str, None]] = {}
        self._unread: OrderedDict[str, None] = OrderedDict()
        self._read: OrderedDict[str, None] = OrderedDict()
        self._dropped: OrderedDict[str, None] = OrderedDict()
        self.held_bytes = 0

    def __len__(self) -> int:
        return len(self._by_id)

    def known(self, request_id: str) -> bool:
        """Whether a promise of that id was made, its result dropped or not."""
        return request_id in self._by_id or request_id in self._dropped

    def find(self, request_id: str) -> Promise | None:
        """Return the promise of that id, or None."""
        return self._by_id.get(request_id)

    def get(self, request_id: str) -> Promise:
        """Return the promise to poll.

        Raises:
            NotFoundError: no such promise.
            GoneError: its result was dropped to save memory.
        """
        if request_id in self._dropped:
            raise GoneError(
                f"The result of {request_id!r} was dropped: results may hold {self._retained_bytes} bytes together. "
                "Read results as they come; send the request again under a new number if it may be repeated.",
                status_code=410,
            )
        promise = self._by_id.get(request_id)
        if promise is None:
            raise NotFoundError(
                f"No promise {request_id!r}. It was never made here, or its session has ended; send the request again.",
                status_code=404,
            )
        return promise

    def add(self, promise: Promise) -> Promise:
        """Register a new promise."""
        self._by_id[promise.request_id] = promise
        self._by_session.setdefault(promise.session_id, {})[promise.request_id] = None
        return promise

    def resolve(self, promise: Promise, result: Any, size_bytes: int) -> None:
        """Settle with a result that holds ``size_bytes`` of memory. Ignored when settled already."""
        if promise.state == "pending":
            promise.result = result
            self._retain(promise, "done", size_bytes)

    def fail(self, promise: Promise, error: str, category: str) -> None:
        """Settle with a failure. Ignored when settled already."""
        if promise.state == "pending":
            promise.error = error
            promise.category = category
            self._retain(promise, "failed", len(error))

    def mark_read(self, promise: Promise) -> None:
        """Note that the result went out to the client: it may be dropped before those that did not."""
        if promise.request_id in self._by_id and promise.state != "pending":
            self._unread.pop(promise.request_id, None)
            self._read[promise.request_id] = None
            self._read.move_to_end(promise.request_id)

    def release(self, request_id: str, owner: str) -> None:
        """Drop a result that its client has read and will not ask for again (protocol 4.7). Others are ignored.

        Args:
            request_id: the promise.
            owner: what its id must begin with; nobody drops another's results.
        """
        promise = self._by_id.get(request_id)
        if promise is not None and promise.state != "pending" and request_id.startswith(f"{owner}:"):
            self._drop(request_id)

    def forget(self, promise: Promise) -> None:
        """Forget a promise that nobody but its owner knows of. Ignored when it is forgotten already."""
        if self._by_id.get(promise.request_id) is promise:
            self._forget(promise.request_id)

    def end_session(self, session_id: str) -> None:
        """Forget every promise of a session; whoever still polls one finds it dropped."""
        for request_id in list(self._by_session.get(session_id, ())):
            self._forget(request_id)

    def pending(self) -> list[Promise]:
        """Return the promises that are not settled."""
        return [promise for promise in self._by_id.values() if promise.state == "pending"]

    def _retain(self, promise: Promise, state: str, size_bytes: int) -> None:
        promise.size_bytes = size_bytes + _OVERHEAD_BYTES
        self.held_bytes += promise.size_bytes
        self._unread[promise.request_id] = None
        promise.settle(state)
        self._settled(promise)
        for queue in (self._read, self._unread):
            while self.held_bytes > self._retained_bytes and queue:
                request_id = next(iter(queue))
                # The newest result is kept whatever its size: nobody could have read it yet.
                if request_id == promise.request_id:
                    return
                self._drop(request_id)

    def _drop(self, request_id: str) -> None:
        self._forget(request_id)
        self._dropped[request_id] = None
        while len(self._dropped) > _REMEMBERED_DROPPED:
            self._dropped.popitem(last=False)

    def _forget(self, request_id: str) -> None:
        promise = self._by_id.pop(request_id)
        owned = self._by_session[promise.session_id]
        del owned[request_id]
        if not owned:
            del self._by_session[promise.session_id]
        self._unread.pop(request_id, None)
        self._read.pop(request_id, None)
        self.held_bytes -= promise.size_bytes
        promise.result = None
        promise.settle("dropped")
