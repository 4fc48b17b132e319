"""Names for actors beyond their paths. A registry belongs to a system, never to a module."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from tinkex_actors.errors import ConfigError
from tinkex_actors.runtime._core.cell import DEAD, Cell
from tinkex_actors.runtime.ref import ActorRef

__all__ = ["Registry"]


class Registry:
    """Keys to refs. A key is unique, or shared by all who register it as a duplicate; entries end with their owner."""

    def __init__(self) -> None:
        self._entries: dict[Hashable, dict[Cell, bool]] = {}

    def register(self, key: Hashable, ref: ActorRef[Any], *, duplicate: bool = False) -> None:
        """Give an actor a key.

        Args:
            key: any hashable value.
            ref: the owner; the entry is gone once it has ended for good, and stays while it restarts.
            duplicate: share the key with others who registered it as a duplicate.

        Raises:
            ConfigError: the key belongs to another actor, or the actor has ended.
        """
        if ref.state == DEAD:
            raise ConfigError(f"{ref.path} has ended and cannot be registered as {key!r}.")
        owners = self._entries.setdefault(key, {})
        for other, shared in owners.items():
            if other is not ref and not (shared and duplicate):
                raise ConfigError(
                    f"The key {key!r} belongs to {other.path}; unregister it, or use duplicate=True on both."
                )
        owners[ref] = duplicate
        ref.more().keys[key] = None

    def unregister(self, key: Hashable, ref: ActorRef[Any]) -> None:
        """Take a key back. Nothing happens if the actor does not have it."""
        if ref.rare is not None:
            ref.rare.keys.pop(key, None)
        self._remove(key, ref)

    def lookup(self, key: Hashable) -> ActorRef[Any] | None:
        """Return the owner of a key (the first, if it is shared), or None."""
        owners = self.lookup_all(key)
        return owners[0] if owners else None

    def lookup_all(self, key: Hashable) -> list[ActorRef[Any]]:
        """Return every owner of a key, in the order they registered."""
        return [ref for ref in self._entries.get(key, ()) if isinstance(ref, ActorRef)]

    def forget(self, cell: Cell) -> None:
        """Drop the entries of an actor that ended."""
        if cell.rare is None:
            return
        for key in cell.rare.keys:
            self._remove(key, cell)
        cell.rare.keys.clear()

    def _remove(self, key: Hashable, cell: Cell) -> None:
        owners = self._entries.get(key)
        if owners is not None:
            owners.pop(cell, None)
            if not owners:
                del self._entries[key]
