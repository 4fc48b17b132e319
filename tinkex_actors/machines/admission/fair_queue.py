"""Who is next: weighted shares between sampling sessions, and within one between priorities and sizes of prompts.

Start-time fair queueing (Goyal, Vin, Cheng 1996), twice: a session is served when its tag is the smallest, a tag grows
by ``cost / weight`` with each request served, and a session that comes back from idleness starts at the tag being
served, so it can neither save up shares nor owe them. Within a session its classes share in the same way. Every weight
is above 0, so every request is served after a bounded number of others: a low priority is slow, never stuck.

A refused request was charged already, so it goes ahead of everything that was not.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush

from msgspec import Struct

__all__ = ["FairQueue", "Ticket"]


class Ticket(Struct, eq=False):
    """One request in the queue.

    Args:
        id: the request.
        order: its place in the order of submission.
        size_bytes: its estimated size.
        cost: what serving it takes from its share, above 0.
        charge_bytes: what is held for it while it is being posted.
        epoch: which opening of the back-off window it was posted after.
        leaf: its class, while it waits for the first time.
    """

    id: int
    order: int
    size_bytes: int
    cost: float = 1.0
    charge_bytes: int = 0
    epoch: int = 0
    leaf: _Leaf | None = None


class _Leaf:
    __slots__ = ("branch", "finish", "live", "queue", "queued", "weight")

    def __init__(self, branch: _Branch, weight: float) -> None:
        self.branch = branch
        self.weight = weight
        self.finish = 0.0
        self.live = 0
        self.queued = False
        self.queue: deque[Ticket] = deque()

    def pop(self) -> Ticket:
        while True:
            ticket = self.queue.popleft()
            if ticket.leaf is self:  # else it was withdrawn
                ticket.leaf = None
                self.live -= 1
                return ticket


class _Branch:
    __slots__ = ("children", "finish", "heap", "latest", "live", "queued", "virtual", "weight")

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.finish = 0.0
        self.live = 0
        self.queued = False
        self.virtual = 0.0
        self.latest = 0.0
        self.heap: list[tuple[float, int, _Leaf | _Branch]] = []
        self.children: dict[tuple[str, bool], _Leaf] = {}

    def offer(self, child: _Leaf | _Branch, order: int) -> None:
        child.live += 1
        if not child.queued:
            child.queued = True
            heappush(self.heap, (max(self.virtual, child.finish), order, child))

    def pop(self) -> Ticket:
        while True:
            tag, _, child = heappop(self.heap)
            if not child.live:
                child.queued = False
                continue
            self.virtual = tag
            ticket = child.pop()
            if isinstance(child, _Branch):
                child.live -= 1
            child.finish = tag + ticket.cost / child.weight
            self.latest = max(self.latest, child.finish)
            child.queued = child.live > 0
            if child.queued:
                heappush(self.heap, (child.finish, ticket.order, child))
            elif not self.heap:
                self.virtual = self.latest  # nobody waits, so nobody is ahead or behind
            return ticket


# A request of high priority weighs as much as sixteen of low priority.
_WEIGHTS = {"low": 0.25, "normal": 1.0, "high": 4.0}
# Sessions of the past are forgotten when so many are known.
_MANY = 256


class FairQueue:
    """The waiting requests, in the order in which they may leave."""

    __slots__ = ("_refused", "_root", "_sessions", "_withdrawn")

    def __init__(self) -> None:
        self._root = _Branch(1.0)
        self._sessions: dict[str, _Branch] = {}
        self._refused: list[tuple[int, Ticket]] = []
        self._withdrawn: set[int] = set()  # orders of refused ones that nobody wants any more

    def __len__(self) -> int:
        return self._root.live + len(self._refused) - len(self._withdrawn)

    def push(self, ticket: Ticket, *, session: str, weight: float, priority: str, large: bool) -> None:
        """Queue a request behind those of its session and class.

        Args:
            ticket: the request.
            session: whose share it takes from.
            weight: of the session against other sessions, above 0; the last one given holds.
            priority: ``low``, ``normal`` or ``high``: a weight within the session.
            large: whether it belongs to the session's large prompts.

        Raises:
            ValueError: another priority, or a weight that is not above 0.
        """
        if priority not in _WEIGHTS or not 0.0 < weight < float("inf"):
            raise ValueError(
                f"request {ticket.id}: expected a priority of {', '.join(_WEIGHTS)} and a finite weight above 0, got "
                f"{priority!r} and {weight!r}"
            )
        branch = self._sessions.get(session)
        if branch is None:
            self._forget_idle()
            branch = self._sessions[session] = _Branch(weight)
        branch.weight = weight
        leaf = branch.children.get((priority, large))
        if leaf is None:
            leaf = branch.children[priority, large] = _Leaf(branch, _WEIGHTS[priority])
        ticket.leaf = leaf
        leaf.queue.append(ticket)
        branch.offer(leaf, ticket.order)
        self._root.offer(branch, ticket.order)
        self._root.live += 1

    def push_back(self, ticket: Ticket) -> None:
        """Queue a refused request again, at its old place among the refused, ahead of everything else."""
        heappush(self._refused, (ticket.order, ticket))

    def pop(self) -> Ticket:
        """Take the next one. There must be one."""
        while self._refused:
            order, ticket = heappop(self._refused)
            if order not in self._withdrawn:
                return ticket
            self._withdrawn.remove(order)
        self._root.live -= 1
        return self._root.pop()

    def withdraw(self, ticket: Ticket) -> None:
        """Take one out that waits, wherever it stands."""
        leaf, ticket.leaf = ticket.leaf, None
        if leaf is None:
            self._withdrawn.add(ticket.order)
            return
        leaf.live -= 1
        leaf.branch.live -= 1
        self._root.live -= 1
        if not leaf.live:
            leaf.queue.clear()

    def _forget_idle(self) -> None:
        if len(self._sessions) >= _MANY:
            self._sessions = {
                name: branch
                for name, branch in self._sessions.items()
                if branch.live or branch.finish > self._root.virtual
            }
