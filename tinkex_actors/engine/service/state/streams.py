"""A sample that is read while it is drawn: its tokens as pieces, with the text that each adds."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tinkex_actors.engine.service.state.promises import Promise
from tinkex_actors.types import SampleStreamChunk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tinkex_actors.tokenizers import Tokenizer

__all__ = ["Speller", "Stream"]

# How a tokenizer shows bytes that are no text, or not yet: a character may come in several tokens.
_NOT_TEXT = "\ufffd"
# UTF-8 takes four bytes for a character, and a token has at least one: what is no text after four never will be.
_MOST_TOKENS_OF_A_CHARACTER = 4


class Speller:
    """Tells what text each token of a sequence adds; all of it joined is the text of the sequence.

    A token that ends inside a character adds nothing, and the one that completes it all of it.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        # Some tokenizers spell a token differently at the start of a text, so the last ones told are spelled along.
        self._context = self._told = 0

    def next(self, token: int, *, last: bool = False) -> str:
        """Return what a token adds; the ``last`` one brings along what is still open."""
        self._tokens.append(token)
        before = self._tokenizer.decode(self._tokens[self._context : self._told])
        text = self._tokenizer.decode(self._tokens[self._context :])
        held = len(self._tokens) - self._told
        if text.endswith(_NOT_TEXT) and not last and held < _MOST_TOKENS_OF_A_CHARACTER:
            return ""
        self._context, self._told = self._told, len(self._tokens)
        return text[len(before) :]


class Stream(Promise):
    """The promise of a sample whose pieces somebody reads.

    Args:
        request_id: its name.
        session_id: the session it belongs to.
        tokenizer: spells its tokens.
    """

    __slots__ = ("_grown", "_pieces", "_sent", "_spellers", "_tokenizer")

    def __init__(self, request_id: str, session_id: str, tokenizer: Tokenizer) -> None:
        super().__init__(request_id, "stream_sample", session_id)
        self._tokenizer = tokenizer
        self._grown = asyncio.Event()
        self._pieces: list[SampleStreamChunk] = []
        self._sent: dict[int, int] = {}
        self._spellers: dict[int, Speller] = {}

    def settle(self, state: str) -> None:
        """Give it its last state and wake its reader; a failure is its last piece."""
        super().settle(state)
        if state != "done":
            self._pieces.append(SampleStreamChunk(token=self.error or "its session has ended", event_type="error"))
        self._grown.set()

    def advance(self, answers: Sequence[Any]) -> None:
        """Note how far the answers got.

        Args:
            answers: each with ``tokens``, ``logprobs`` and ``stop_reason``, as the numeric core has them.
        """
        for index, answer in enumerate(answers):
            sent, size = self._sent.get(index, 0), len(answer.tokens)
            speller = self._spellers.setdefault(index, Speller(self._tokenizer))
            for at in range(sent, size):
                token = answer.tokens[at]
                text = speller.next(token, last=answer.stop_reason is not None and at == size - 1)
                self._pieces.append(
                    SampleStreamChunk(token=text, token_id=token, index=index, logprob=answer.logprobs[at])
                )
            if size > sent:
                self._sent[index] = size
                if answer.stop_reason is not None:
                    reason = answer.stop_reason
                    ended = SampleStreamChunk(index=index, finish_reason=reason, total_tokens=size, event_type="done")
                    self._pieces.append(ended)
        if self._pieces:
            self._grown.set()

    async def more(self, patience: float) -> list[SampleStreamChunk]:
        """Return the pieces since the last call; none where none came for ``patience`` seconds, or none is left."""
        if not self._pieces and self.state == "pending":
            self._grown.clear()
            try:
                async with asyncio.timeout(patience):
                    await self._grown.wait()
            except TimeoutError:
                pass
        pieces, self._pieces = self._pieces, []
        return pieces
