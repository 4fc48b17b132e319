"""Many samples as one thing: bounded, in order or as they come, each with its own error."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from tinkex_actors.types import SampleResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from typing import Self

    from tinkex_actors.actors.futures import ApiFuture
    from tinkex_actors.types import ModelInput

__all__ = ["SampleBatch", "SampleItem"]


class SampleItem(msgspec.Struct, frozen=True):
    """One of many samples, ended.

    Args:
        index: the place of its prompt, from 0.
        response: what the server sampled; None where it failed.
        error: why it failed; None where it did not.
    """

    index: int
    response: SampleResponse | None = None
    error: BaseException | None = None


class SampleBatch:
    """Many samples under way, made by ``SamplingClient.sample_many``.

    Await it for all of them in the prompts' order, or iterate over it (``async for``) for each :class:`SampleItem` as
    it ends. Prompts are taken from their iterable as there is room, so a generator of a million is never held whole.

    Attributes:
        submitted: prompts taken so far.
        ended: samples that have ended, well or not.
        failed: of those, how many failed.
    """

    def __init__(
        self,
        prompts: Iterable[ModelInput],
        submit: Callable[[ModelInput], ApiFuture[SampleResponse]],
        *,
        at_once: int,
        return_errors: bool,
        progress: Callable[[SampleBatch], object] | None,
    ) -> None:
        self.submitted = 0
        self.ended = 0
        self.failed = 0
        self._prompts: Iterator[ModelInput] | None = iter(prompts)
        self._submit = submit
        self._at_once = at_once
        self._return_errors = return_errors
        self._progress = progress
        self._under_way: dict[ApiFuture[SampleResponse], int] = {}
        self._items: deque[SampleItem] = deque()
        self._loop = asyncio.get_running_loop()
        self._bell: asyncio.Future[None] | None = None
        self._broken: Exception | None = None
        self._pump()

    def __await__(self) -> Generator[object, None, list[SampleResponse | BaseException]]:
        return self._all().__await__()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SampleItem:
        while not self._items:
            if self._broken is not None:
                raise self._broken
            if self._prompts is None and not self._under_way:
                raise StopAsyncIteration
            self._bell = self._loop.create_future()
            await self._bell
        item = self._items.popleft()
        self._pump()
        return item

    def cancel(self) -> None:
        """Take no more prompts, and give up what is under way; what has ended can still be taken."""
        self._prompts = None
        for future in list(self._under_way):
            future.cancel()

    async def _all(self) -> list[SampleResponse | BaseException]:
        found: dict[int, SampleResponse | BaseException] = {}
        try:
            async for item in self:
                if item.error is not None and not self._return_errors:
                    raise item.error
                ended = item.response if item.error is None else item.error
                assert ended is not None
                found[item.index] = ended
        except BaseException:
            self.cancel()
            raise
        return [found[index] for index in sorted(found)]

    def _pump(self) -> None:
        # What has ended and was not taken counts: who iterates slowly is not buried in results.
        while self._prompts is not None and len(self._under_way) + len(self._items) < self._at_once:
            try:
                prompt = next(self._prompts)
                future = self._submit(prompt)
            except StopIteration:
                self._prompts = None
                return
            except Exception as error:  # the prompts' own, or a prompt that nobody could sample
                self._prompts = None
                self._broken = error
                return
            self._under_way[future] = self.submitted
            self.submitted += 1
            future.add_done_callback(self._done)

    def _done(self, future: ApiFuture[SampleResponse]) -> None:
        index = self._under_way.pop(future)
        self.ended += 1
        error = asyncio.CancelledError() if future.cancelled() else future.exception()
        if error is not None:
            self.failed += 1
            self._items.append(SampleItem(index, error=error))
        else:
            self._items.append(SampleItem(index, response=future.settled()))
        self._pump()
        if self._progress is not None:
            self._progress(self)
        if self._bell is not None and not self._bell.done():
            self._bell.set_result(None)

    def __repr__(self) -> str:
        return f"<SampleBatch {self.ended} of {self.submitted} ended, {self.failed} failed>"
