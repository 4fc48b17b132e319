"""What a client call returns at once: a loop-bound future that explains itself."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

from tinkex_actors.actors.attribution import calling
from tinkex_actors.actors.explanation import Explanation, OperationRecord
from tinkex_actors.errors import WrongLoopError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import TracebackType

__all__ = ["ApiFuture"]

T = TypeVar("T")

_PENDING, _RESOLVED, _FAILED, _CANCELLED = range(4)


class Keeper(Protocol):
    """Knows which futures are pending."""

    def ended(self, future: ApiFuture[Any]) -> None:
        """It has a result, has failed, or was cancelled; called once."""

    def lost(self, future: ApiFuture[Any]) -> None:
        """It failed, and was collected before anybody looked."""


class ApiFuture(Awaitable[T], Generic[T]):
    """The result of an operation that has already begun.

    Await it as often as you like: every await gives the same result. Cancelling an awaiter (a time-out around it, a
    task that is cancelled) leaves the operation alone; :meth:`cancel` gives it up. It belongs to the loop it was made
    on; from another thread use :meth:`result`.

    Attributes:
        operation: the client method's name, such as ``forward_backward``.
        ids: what identifies it: model id, sequence numbers, request ids, as far as known.
        caller: the public method that was called, such as ``TrainingClient.forward_backward``; None for our own.
        created_at: the loop's time at the call.
        deadline: the loop's time at which it fails by itself, or None.
    """

    __slots__ = (
        "__weakref__",
        "_callbacks",
        "_ledger",
        "_loop",
        "_on_cancel",
        "_on_seen",
        "_outcome",
        "_retrieved",
        "_state",
        "_thread",
        "_traceback",
        "_waiters",
        "_waits_for",
        "caller",
        "created_at",
        "deadline",
        "ids",
        "operation",
    )

    def __init__(
        self,
        operation: str,
        *,
        loop: asyncio.AbstractEventLoop,
        ids: dict[str, Any] | None = None,
        ledger: Keeper | None = None,
    ) -> None:
        self.operation = operation
        self.ids = {} if ids is None else ids
        self.caller = calling.get()
        self.created_at = loop.time()
        self.deadline: float | None = None
        self._loop = loop
        self._thread = threading.get_ident()
        self._state = _PENDING
        self._outcome: Any = None
        self._traceback: TracebackType | None = None
        self._retrieved = False
        self._callbacks: list[Callable[[ApiFuture[T]], object]] | None = None
        self._waiters: list[asyncio.Future[None]] | None = None
        self._on_cancel: Callable[[], bool] | None = None
        self._ledger = ledger
        self._on_seen: Callable[[], object] | None = None
        self._waits_for: Callable[[], str] | str = "being submitted"

    # --- for its owner's owner: the user -----------------------------------------------------------------------------
    def __await__(self) -> Generator[Any, None, T]:
        if self._state == _PENDING:
            yield from self.wait().__await__()
        return self._value()

    async def wait(self) -> None:
        """Wait until it has ended, however it ends; look at it afterwards.

        Raises:
            WrongLoopError: it is pending, and belongs to another loop.
        """
        if self._state != _PENDING:
            return
        if asyncio.get_running_loop() is not self._loop:
            raise WrongLoopError(
                f"{self!r} belongs to another event loop than the one that awaits it. Await it there; from another "
                "thread use future.result(timeout)."
            )
        waiter: asyncio.Future[None] = self._loop.create_future()
        if self._waiters is None:
            self._waiters = []
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if self._waiters is not None:
                self._waiters.remove(waiter)
            raise

    def done(self) -> bool:
        """Whether it has a result, has failed, or was cancelled."""
        return self._state != _PENDING

    def peek(self) -> BaseException | None:
        """The error it has failed with, if any; unlike :meth:`exception`, this does not count as having looked."""
        return cast(BaseException, self._outcome) if self._state == _FAILED else None

    def settled(self) -> T:
        """Its result, once it has ended; raises what it failed with.

        Raises:
            asyncio.InvalidStateError: it has not ended.
        """
        if self._state == _PENDING:
            raise asyncio.InvalidStateError(f"{self!r} has not ended yet; await it first.")
        return self._value()

    def cancelled(self) -> bool:
        """Whether :meth:`cancel` gave it up."""
        return self._state == _CANCELLED

    def cancel(self) -> bool:
        """Give the operation up; awaiters get ``CancelledError``. Returns False if it had ended.

        A training request that has reached the server still runs there: its number was sent, and the numbers after it
        rely on it.

        Raises:
            WrongLoopError: it is pending, and this is not its loop's thread.
        """
        if self._state != _PENDING:
            return False
        if threading.get_ident() != self._thread:
            raise WrongLoopError(
                f"{self!r}.cancel() was called from another thread than its event loop's. Use "
                "loop.call_soon_threadsafe(future.cancel)."
            )
        if self._on_cancel is not None:
            self._on_cancel()
        self._settle(_CANCELLED, None)
        return True

    def exception(self) -> BaseException | None:
        """The error it failed with, or None if it succeeded.

        Raises:
            asyncio.InvalidStateError: it has not ended.
            asyncio.CancelledError: it was cancelled.
        """
        if self._state == _PENDING:
            raise asyncio.InvalidStateError(f"{self!r} has not ended yet; await it first.")
        if self._state == _CANCELLED:
            raise asyncio.CancelledError
        self._look()
        return cast(BaseException, self._outcome) if self._state == _FAILED else None

    def result(self, timeout: float | None = None) -> T:
        """Wait for the result from another thread.

        Args:
            timeout: seconds to wait; None waits until it ends. The operation goes on after a time-out.

        Raises:
            WrongLoopError: called on its own loop's thread before it ended: that would block the loop for ever.
            TimeoutError: no result in time.
        """
        if self._state == _PENDING:
            if threading.get_ident() == self._thread:
                raise WrongLoopError(
                    f"{self!r}.result() would block the event loop it needs. Use `await future` here; "
                    "result() is for other threads."
                )
            ended: concurrent.futures.Future[None] = concurrent.futures.Future()

            def end(_: ApiFuture[T]) -> None:
                if not ended.done():
                    ended.set_result(None)

            self._loop.call_soon_threadsafe(self.add_done_callback, end)
            ended.result(timeout)
        return self._value()

    def explain(self) -> Explanation:
        """What it waits for, since when, and until when."""
        return Explanation(records=() if self._state != _PENDING else (self.record(),))

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop it belongs to."""
        return self._loop

    @property
    def request_id(self) -> str | None:
        """The server's name for it, once the server has answered; the last one if there are several."""
        known = self.ids.get("request_ids")
        return known[-1] if known else None

    def add_done_callback(self, callback: Callable[[ApiFuture[T]], object]) -> None:
        """Call ``callback(self)`` on the loop when it ends; at once (next turn) if it has ended."""
        if self._state != _PENDING:
            self._loop.call_soon(callback, self)
        elif self._callbacks is None:
            self._callbacks = [callback]
        else:
            self._callbacks.append(callback)

    def remove_done_callback(self, callback: Callable[[ApiFuture[T]], object]) -> None:
        """Forget a callback; unknown ones are ignored."""
        if self._callbacks and callback in self._callbacks:
            self._callbacks.remove(callback)

    # --- for its owner: the actors -----------------------------------------------------------------------------------
    def resolve(self, value: T) -> None:
        """End it with a result. Ignored if it has ended (it was cancelled meanwhile)."""
        if self._state == _PENDING:
            self._settle(_RESOLVED, value)

    def fail(self, error: BaseException) -> None:
        """End it with an error. Ignored if it has ended."""
        if self._state == _PENDING:
            self._traceback = error.__traceback__
            self._settle(_FAILED, error)

    def waits_for(self, words: Callable[[], str] | str) -> None:
        """Say what it waits for: words, or something that finds them when asked."""
        self._waits_for = words

    def on_cancel(self, hook: Callable[[], bool]) -> None:
        """Have ``hook`` called when the user cancels."""
        self._on_cancel = hook

    def on_seen(self, hook: Callable[[], object]) -> None:
        """Have ``hook`` called when somebody looks at its error, for the first time."""
        self._on_seen = hook

    def record(self) -> OperationRecord:
        """The plain record behind :meth:`explain`."""
        words = self._waits_for
        return OperationRecord(
            operation=self.operation,
            ids=dict(self.ids),
            state=words if isinstance(words, str) else words(),
            age=self._loop.time() - self.created_at,
            deadline=None if self.deadline is None else self.deadline - self._loop.time(),
        )

    def _settle(self, state: int, outcome: Any) -> None:
        self._state = state
        self._outcome = outcome
        self._on_cancel = None
        self._waits_for = "nothing: it has ended"
        if self._ledger is not None:
            self._ledger.ended(self)
        callbacks, self._callbacks = self._callbacks, None
        for callback in callbacks or ():
            # One turn later, so that whoever settles many futures is never run in the middle of it.
            self._loop.call_soon(callback, self)
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    def _look(self) -> None:
        self._retrieved = True
        hook, self._on_seen = self._on_seen, None
        if hook is not None:
            hook()

    def _value(self) -> T:
        if self._state == _RESOLVED:
            return cast(T, self._outcome)
        if self._state == _CANCELLED:
            raise asyncio.CancelledError
        self._look()
        # The same object for everybody who awaits: without this, its traceback would grow with each of them.
        raise self._outcome.with_traceback(self._traceback)

    def __del__(self) -> None:
        if self._state == _FAILED and not self._retrieved and self._ledger is not None:
            # Wherever the collector happens to run: a logger of the program's that fails is not that code's business.
            with contextlib.suppress(Exception):
                self._ledger.lost(self)

    def __repr__(self) -> str:
        state = ("pending", "resolved", "failed", "cancelled")[self._state]
        return f"<ApiFuture {self.operation} {state}>"
