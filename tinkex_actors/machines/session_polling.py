"""The completions of one sampling session, asked for at once instead of promise by promise (protocol 4.7).

Rules:

1. Idle while nobody waits, nothing read is left to report, and the cursor is acknowledged.
2. With somebody waiting: a long poll. Otherwise, to report what was read: a poll that is answered at once.
3. An answer moves the cursor and settles what was reported with it. Its completions come once, so each is remembered
   until its result was read, whoever was killed between; those that nobody wants are reported at once.
4. 408, 409, 429, 5xx and no answer: once more after ``PAUSE`` seconds, or the server's hint up to a minute. 402: as
   long as the server's billing pause lasts, which all its requests share (`retry.Billing`). 400: three times in a row.
   Anything else is the end: who waits, and who will wait, polls singly.
5. Two answers without news come at least ``PAUSE`` apart, so that a server that does not hold polls is not flooded.
"""

from __future__ import annotations

from msgspec import Struct, field

__all__ = ["Ask", "SessionPolling"]

PAUSE = 1.0
_LONGEST_HINT = 60.0
_BAD_REQUESTS = 3
_LONG_POLL = 1.0


class Ask(Struct, frozen=True):
    """Ask the server now.

    Args:
        cursor: the last answer's.
        at_once: the server shall not hold the request.
        retrieved: promises whose results were read, sorted.
    """

    cursor: int
    at_once: bool
    retrieved: tuple[str, ...]


class SessionPolling(Struct):
    """State: mutated in place.

    Args:
        cursor: the last answer's.
        acknowledged: the last cursor that was sent.
        waiting: promises whose completion somebody waits for.
        done: completions whose results were not read yet, with their sizes in bytes, None where unknown or failed.
        unwanted: promises that were given up before they were done.
        retrieved: promises that were read, and not reported yet.
        bad_requests: 400s in a row.
        ended: polls singly from now on.
    """

    cursor: int = 0
    acknowledged: int = 0
    waiting: set[str] = field(default_factory=set)
    done: dict[str, int | None] = field(default_factory=dict)
    unwanted: set[str] = field(default_factory=set)
    retrieved: set[str] = field(default_factory=set)
    bad_requests: int = 0
    ended: bool = False

    def wait_for(self, request_id: str) -> bool:
        """Begin to wait for a promise; True where it need not, for it is done or is to be polled singly."""
        if self.ended or request_id in self.done:
            return True
        self.unwanted.discard(request_id)
        self.waiting.add(request_id)
        return False

    def size_of(self, request_id: str) -> int | None:
        """The size in bytes of a promise that is done, where it is known; nobody waits for it any more."""
        self.waiting.discard(request_id)
        return self.done.get(request_id)

    def give_up(self, request_id: str) -> None:
        """Nobody wants the promise any more."""
        self.waiting.discard(request_id)
        if request_id in self.done:
            self.read(request_id)
        elif not self.ended:
            self.unwanted.add(request_id)

    def read(self, request_id: str) -> None:
        """A promise that is done was read, its result or its error: the server may forget it."""
        self.done.pop(request_id, None)
        if not self.ended:
            self.retrieved.add(request_id)

    def next(self) -> Ask | None:
        """Return what to ask, or None while idle (rules 1 and 2)."""
        if self.ended or not (self.waiting or self.retrieved or self.cursor > self.acknowledged):
            return None
        return Ask(self.cursor, not self.waiting, tuple(sorted(self.retrieved)))

    def answered(self, asked: Ask, cursor: int, completions: dict[str, int | None], held: float) -> float:
        """Take an answer; returns the seconds until the next question (rule 5).

        Args:
            asked: the question.
            cursor: the answer's.
            completions: sizes in bytes by promise; None where unknown or failed.
            held: seconds the server took.
        """
        self.bad_requests = 0
        self.retrieved.difference_update(asked.retrieved)
        self.acknowledged = max(self.acknowledged, asked.cursor)
        news = cursor != self.cursor or bool(completions) or bool(asked.retrieved)
        self.cursor = cursor
        for request_id, size_bytes in completions.items():
            self.waiting.discard(request_id)
            if request_id in self.unwanted:
                self.unwanted.discard(request_id)
                self.retrieved.add(request_id)
            else:
                self.done.setdefault(request_id, size_bytes)
        return 0.0 if news or held >= _LONG_POLL else PAUSE

    def refused(
        self, status: int | None, hint: float | None = None, *, billing_pause: float | None = None
    ) -> float | None:
        """Take a failure; returns the seconds until the next question, or None at the end (rule 4).

        Args:
            status: of the answer; None where none came.
            hint: the server's, in seconds.
            billing_pause: for a 402, the seconds until the next attempt, or None where the server's pause is over.
        """
        again = status is None or status in (402, 408, 409, 429) or status >= 500
        if status == 402:
            again = billing_pause is not None
        if status == 400 and self.bad_requests < _BAD_REQUESTS:
            self.bad_requests += 1
            again = True
        if not again:
            self.ended = True
            for names in (self.waiting, self.unwanted, self.retrieved):
                names.clear()
            return None
        pause = billing_pause if status == 402 and billing_pause is not None else PAUSE
        return pause if hint is None else max(pause, min(hint, _LONGEST_HINT))
