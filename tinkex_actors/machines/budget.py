"""A byte budget that admits one oversize item (protocol 4.8).

An item waits while the balance is negative, and then takes its whole size, so the balance may go below zero by one
item: an item larger than the budget is slow, never stuck. Waiting items are served in order.
"""

from __future__ import annotations

from collections import OrderedDict

import msgspec

__all__ = ["Budget"]


class Budget(msgspec.Struct):
    """State: what is left, and who waits.

    Args:
        balance: bytes left; starts at the limit.
        waiting: sizes of the items that wait, by id, first come first served.
    """

    balance: int
    waiting: OrderedDict[int, int] = msgspec.field(default_factory=OrderedDict)

    def acquire(self, item: int, size_bytes: int) -> bool:
        """Take ``size_bytes`` for an item; False queues it until a release grants it.

        Raises:
            ValueError: a negative size, or an item that waits already.
        """
        if size_bytes < 0 or item in self.waiting:
            raise ValueError(
                f"item {item} of {size_bytes} bytes: expected a size of 0 or more and an item not yet waiting"
            )
        if self.waiting or self.balance < 0:
            self.waiting[item] = size_bytes
            return False
        self.balance -= size_bytes
        return True

    def release(self, size_bytes: int) -> list[int]:
        """Give bytes back; returns the items that now have theirs, in order."""
        self.balance += size_bytes
        return self._grant()

    def withdraw(self, item: int) -> list[int]:
        """Forget an item that waits (it was cancelled); returns the items that now have theirs."""
        self.waiting.pop(item, None)
        return self._grant()

    def _grant(self) -> list[int]:
        granted: list[int] = []
        while self.waiting and self.balance >= 0:
            item, size_bytes = self.waiting.popitem(last=False)
            self.balance -= size_bytes
            granted.append(item)
        return granted
